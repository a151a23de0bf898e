"""Cars3D: 183 cars from 4 elevations and 24 azimuths (Reed et al. 2015; spec/ctvae.md sections 5.2, 5.3). No TFDS builder exists.

Letters: N = 17,568 images, R resolution.

Read from one of
    nips2015-analogy-data.tar.gz    data/cars/list.txt and data/cars/*.mat, nothing of which is unpacked onto the disk
    a folder with these files       or with data/cars or cars below it
    an array file                   17,568 images in the order of the factors, key "images"

A .mat file holds one car as "im", uint8 [128, 128, 3, 24, 4]: rows, columns, channels, azimuths, elevations. list.txt names the cars in their order;
where it is missing, the sorted names of the files do. MAT files hold numbers here; the header is looked at before anything is decoded.
"""

import functools
import io
import math
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.io

from causal_ctx.data import array_files, cache, dense_sets, factors, preprocessing
from causal_ctx.progress import Progress

SIZES = {"elevation": 4, "azimuth": 24, "object_type": 183}
CAR = (128, 128, 3, SIZES["azimuth"], SIZES["elevation"])
KEY = "im"
SOURCE = "www.scottreed.info/files/nips2015-analogy-data.tar.gz"

_LIST = "list.txt"
_LIMIT_BYTES = 64 << 20  # of a file; a car has 4.5 MiB
_TAR = (".tar.gz", ".tgz", ".tar")


def load(config) -> factors.FactorData:
    """Cars3D at `config.resolution` as `config.preprocess` says, from the disk cache where the same files were read before.

    Raises FileNotFoundError that says what to fetch and where to put it, ValueError (naming the file) for damaged files, other shapes or other numbers of
    cars, OSError for a cache that cannot be written.
    """
    preprocessing.check(config.preprocess, config.resolution)
    path = Path(config.path).expanduser()
    if not config.path or not path.exists():
        wanted = f"fetch {SOURCE} and set data.path to it, to the folder it unpacks to, or to an npz file of its images"
        raise FileNotFoundError(f"Cars3D is not at data.path={config.path!r}; {wanted}.")
    finish = functools.partial(preprocessing.apply, resolution=config.resolution, kind=config.preprocess)
    if path.is_file() and path.suffix.lower() in array_files.SUFFIXES:
        return _from_array(config, path, finish)
    return _from_cars(config, path, finish)


def read_car(name: str, content: bytes) -> np.ndarray:
    """The images of one .mat file, uint8 [elevation * azimuth, 128, 128, 3], azimuth fastest. Raises ValueError, naming it, for any other content."""
    try:
        headers = {key: (shape, kind) for key, shape, kind in scipy.io.whosmat(io.BytesIO(content))}
        if headers.get(KEY) != (CAR, "uint8"):
            raise ValueError(f"its arrays are {', '.join(f'{key} {shape} {kind}' for key, (shape, kind) in headers.items()) or 'none'}")
        views = scipy.io.loadmat(io.BytesIO(content), variable_names=[KEY])[KEY]
    except Exception as error:  # readers of damaged files raise many kinds
        raise ValueError(f"{name} holds no array {KEY!r} of uint8 {CAR} ({error}); fetch {SOURCE} again.") from error
    return views.transpose(4, 3, 0, 1, 2).reshape(-1, *CAR[:3])


def _from_array(config, path: Path, finish: Callable[[np.ndarray], np.ndarray]) -> factors.FactorData:
    found = array_files.shape(path)
    count = math.prod(SIZES.values())
    if (found[0], found[3]) != (count, 3):
        product = " x ".join(map(str, SIZES.values()))
        raise ValueError(f"{path} holds images {found}, and Cars3D has {product} = {count} of 3 channels; give that array, or {SOURCE}.")
    parts = {"images": cache.Part((count, config.resolution, config.resolution, 3), np.uint8, lambda: map(finish, array_files.blocks(path)))}
    arrays = cache.load(dense_sets.cache_folder(config, array_files.mark([path])), parts)
    return factors.from_array(config.name, SIZES, arrays["images"])


def _from_cars(config, path: Path, finish: Callable[[np.ndarray], np.ndarray]) -> factors.FactorData:
    """In the cache cars stay in the order they are read in; "rows" says where each index went."""
    files = [path] if path.is_file() else _files(path)
    views = SIZES["elevation"] * SIZES["azimuth"]
    count, names, listed = math.prod(SIZES.values()), [], []

    def images() -> Iterator[np.ndarray]:
        names.clear(), listed.clear()
        with Progress("Reading Cars3D: cars", SIZES["object_type"]) as progress:
            for name, content in _members(path) if path.is_file() else _contents(files):
                if name == _LIST:
                    listed.extend(_stems(content))
                elif len(names) < SIZES["object_type"]:
                    names.append(PurePosixPath(name).stem)
                    yield finish(read_car(f"{name} in {path}", content))
                    progress.advance(1)
                else:
                    raise ValueError(f"{path} holds more than {SIZES['object_type']} cars, {name} after them; keep those of Cars3D.")
        if len(names) < SIZES["object_type"]:
            raise ValueError(f"{path} holds {len(names)} cars instead of {SIZES['object_type']}; fetch {SOURCE} again.")

    def rows() -> Iterator[np.ndarray]:
        stored = np.array([names.index(name) for name in _order(path, names, listed)])
        places = stored * views + np.arange(views)[:, None]
        yield places.reshape(-1)

    parts = {
        "images": cache.Part((count, config.resolution, config.resolution, 3), np.uint8, images),
        "rows": cache.Part((count,), np.int64, rows),  # after the images, whose names it needs
    }
    arrays = cache.load(dense_sets.cache_folder(config, array_files.mark(files)), parts)
    return factors.from_array(config.name, SIZES, arrays["images"], np.array(arrays["rows"]))


def _order(path: Path, names: list[str], listed: list[str]) -> list[str]:
    """The cars in the order of list.txt, which must name all of them; sorted without it."""
    if not listed:
        return sorted(names)
    if sorted(listed) != sorted(names):
        odd = sorted(set(listed) ^ set(names)) or ["one twice"]
        raise ValueError(f"{_LIST} in {path} and the .mat files beside it disagree about {', '.join(odd[:3])}; fetch {SOURCE} again.")
    return listed


def _stems(content: bytes) -> list[str]:
    return [PurePosixPath(line.strip()).name.removesuffix(".mat") for line in content.decode("utf-8", "replace").splitlines() if line.strip()]


def _files(folder: Path) -> list[Path]:
    """The files of a folder that matter."""
    place = next((place for place in (folder, folder / "data" / "cars", folder / "cars") if list(place.glob("*.mat"))), None)
    if place is None:
        raise FileNotFoundError(f"data.path={folder} holds no .mat files, nor does data/cars or cars in it; fetch {SOURCE} and unpack it there.")
    return [file for file in sorted(place.iterdir()) if file.name == _LIST or file.suffix == ".mat"]


def _contents(files: list[Path]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        if file.stat().st_size > _LIMIT_BYTES:
            raise ValueError(f"{file} has {file.stat().st_size:,} bytes, far more than a car; fetch {SOURCE} again.")
        yield file.name, file.read_bytes()


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of the cars and their list in a tar, read as a stream: nothing is written, links are passed over."""
    if not archive.name.endswith(_TAR):
        raise ValueError(f"{archive} is neither an array file ({', '.join(array_files.SUFFIXES)}) nor a tar ({', '.join(_TAR)}); give {SOURCE}.")
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                name = PurePosixPath(member.name)
                if not member.isreg() or name.parent.name != "cars" or (name.name != _LIST and name.suffix != ".mat") or name.name.startswith("."):
                    continue
                if member.size > _LIMIT_BYTES:
                    raise ValueError(f"{member.name} in {archive} has {member.size:,} bytes, far more than a car; fetch {SOURCE} again.")
                yield name.name, members.extractfile(member).read()
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise ValueError(f"{archive} is damaged or cut short ({error}); fetch {SOURCE} again.") from error
