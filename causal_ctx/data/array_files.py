"""Images from one array file, a block at a time, however large it is: .npz, .npy or, where h5py is installed, .h5 and .hdf5.

Letters: N images, n of a block, H height, W width, C channels.
"""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")
KEYS = ("images", "imgs")  # names of the array, the first that is there

_ROWS = 512  # images of a block
_LARGEST = 512  # pixels a side; a header that promises more would fill the memory


def shape(path: Path, keys: Sequence[str] = KEYS) -> tuple[int, int, int, int]:
    """(N, H, W, C) from the file's header. Raises ValueError (one sentence, naming the file) for anything but uint8 images, FileNotFoundError for none."""
    with _opened(path, keys) as (found, _):
        return found


def blocks(path: Path, keys: Sequence[str] = KEYS) -> Iterator[np.ndarray]:
    """The images in their order, uint8 [n, H, W, C] at a time. Raises as `shape` does, and ValueError for a file that is damaged or cut short."""
    with _opened(path, keys) as (found, read):
        for start in range(0, found[0], _ROWS):
            count = min(_ROWS, found[0] - start)
            yield read(start, count).reshape(count, *found[1:])


def mark(files: Sequence[Path]) -> str:
    """Checksum of paths, sizes and times of files, eight hexadecimal digits, for the name of a cache."""
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{zlib.crc32(repr(stamps).encode()):08x}"


@contextlib.contextmanager
def _opened(path: Path, keys: Sequence[str]) -> Iterator[tuple[tuple[int, int, int, int], Callable[[int, int], np.ndarray]]]:
    """The shape, and (start, count) -> images; blocks are read in their order."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; check the path.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no array file; give one of {', '.join(SUFFIXES)}.")
    with contextlib.ExitStack() as stack:
        try:
            found, dtype, read = {".npz": _npz, ".npy": _npy}.get(path.suffix.lower(), _h5)(stack, path, keys)
            whole = (*found, 1) if len(found) == 3 else found
            if dtype != np.uint8 or len(whole) != 4 or not math.prod(whole) or max(whole[1:3]) > _LARGEST or whole[3] not in (1, 3):
                raise ValueError(f"it is {dtype} {found}, not uint8 [N, H, W] or [N, H, W, 1 or 3] of at most {_LARGEST} pixels a side")
            yield whole, read
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = str(error).strip("'\"").rstrip(".")
            remedy = "fetch it again, or write it with numpy.savez(file, images=array)"
            raise ValueError(f"{path} holds no usable array of images ({reason}); {remedy}.") from error


def _npz(stack: contextlib.ExitStack, path: Path, keys: Sequence[str]) -> tuple[tuple[int, ...], np.dtype, Callable]:
    """One member of the zip, decompressed as it is read, never as a whole."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [f"{key}.npy" for key in keys if f"{key}.npy" in archive.namelist()]
    if not names:
        raise ValueError(f"it lacks {' and '.join(map(repr, keys))} among {', '.join(archive.namelist()[:5])}")
    stream = stack.enter_context(archive.open(names[0]))
    found, dtype = _header(stream)
    size = math.prod(found[1:])
    return found, dtype, lambda start, count: np.frombuffer(_exactly(stream, count * size), np.uint8)


def _npy(stack: contextlib.ExitStack, path: Path, keys: Sequence[str]) -> tuple[tuple[int, ...], np.dtype, Callable]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.shape, array.dtype, lambda start, count: np.array(array[start : start + count])


def _h5(stack: contextlib.ExitStack, path: Path, keys: Sequence[str]) -> tuple[tuple[int, ...], np.dtype, Callable]:
    try:
        import h5py
    except ImportError as error:
        raise ValueError("reading HDF5 needs the package h5py, which is not installed") from error
    try:
        file = stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise ValueError(str(error)) from error
    array = next((file[key] for key in keys if key in file), None)
    if array is None:
        raise ValueError(f"it lacks {' and '.join(map(repr, keys))} among {', '.join(list(file)[:5])}")
    return array.shape, array.dtype, lambda start, count: array[start : start + count]


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its format {version} is unknown")
    found, fortran, dtype = readers[version](stream)
    if fortran:
        raise ValueError("it is stored column by column")
    return found, dtype


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError(f"it is cut short by {size - len(content)} bytes")
    return content
