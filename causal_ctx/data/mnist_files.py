"""The files that MNIST contexts are made from or read from: raw digits (IDX) and the published archive (CSV).

Letters: n digits.

Raw digits are files named *images-idx3-ubyte*, gzipped or not, as MNIST has always been distributed; those of the training half come first.
The published archive is normalized_mnist_concepts.tar.gz or a folder that holds its files: normalized_mnist_<context>.csv for obs and every concept, no
header, one image per line: 784 pixels in [0, 1] and two more columns, which are dropped. Row i shows digit i in every file. It is read from the tar
as it stands: nothing is unpacked.
"""

import contextlib
import gzip
import io
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from causal_ctx.data import cache, download, unpack
from causal_ctx.progress import Progress

SIDE = 28  # pixels
RAW = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
MD5 = {"train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873", "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3"}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
ARCHIVE = "normalized_mnist_concepts.tar.gz"

_MAGIC = 2051  # IDX: unsigned bytes, three axes
_PIXELS = SIDE * SIDE
_LINE_LIMIT = 64 * 1024  # bytes; longer lines are no images
_ROWS = 1000  # parsed at a time
_MANY = 1_000_000  # digits; a header that promises more is damaged
_LIMIT_BYTES = 8 << 30  # of the unpacked archive, which has 1.4 GB: foreign members are unpacked to be passed over
_DAMAGE = (EOFError, OverflowError, RecursionError, gzip.BadGzipFile, zlib.error, tarfile.TarError)


def raw_files(path: str, cache_dir: str = "") -> list[Path]:
    """The raw files to read: those of `path`, a folder or a file; where it is empty, those of the cache or of TFDS, else downloaded into the cache.

    Raises FileNotFoundError, naming what to fetch and where to put it.
    """
    if path:
        given = Path(path).expanduser()
        found = [given] if given.is_file() else _raw_in(given, "*")
        if not found:
            wanted = f"neither raw digits ({' or '.join(f'{name}.gz' for name in RAW)}) nor the published archive ({ARCHIVE})"
            raise FileNotFoundError(f"data.path={path} holds {wanted}; put one there or name another folder.")
        return found
    own = cache.root(cache_dir) / "mnist"
    downloads = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / "downloads"
    return _raw_in(own, "*") or _raw_in(downloads, "**/*") or [_download(own)]


def is_published(path: str) -> bool:
    """Whether `path` names the published archive, a tar or a folder with its files, and not raw digits."""
    given = Path(path).expanduser()
    return _tar_in(given) is not None or bool(_csv_in(given))


def fingerprint(files: list[Path]) -> str:
    """Checksum of the contents of files, eight hexadecimal digits."""
    checksum = 0
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def published_files(path: str) -> list[Path]:
    """The tar, or the CSV files of a folder, in the order of their names."""
    given = Path(path).expanduser()
    tar = _tar_in(given)
    return [tar] if tar else sorted(_csv_in(given).values())


def read_raw(files: list[Path]) -> np.ndarray:
    """Digits uint8 [n, 28, 28] of IDX files, one after another. Raises ValueError for files that are damaged or hold something else."""
    return np.concatenate([_read_idx(file) for file in files])


def read_published(path: str, names: tuple[str, ...], count: int) -> dict[str, np.ndarray]:
    """The first `count` images of every context, uint8 [count, 28, 28].

    Raises FileNotFoundError for contexts without a file; ValueError, naming file and line, for short rows, values that are no numbers of [0, 1] and
    files with fewer rows.
    """
    images: dict[str, np.ndarray] = {}
    with Progress("Reading the published MNIST contexts: images", len(names) * count) as progress:
        try:
            for name, file, stream in _published_streams(path, names):
                images[name] = _read_csv(file, stream, count, lambda rows: progress.advance(rows, name))
        except _DAMAGE as error:
            raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again.") from error
    missing = [f"normalized_mnist_{name}.csv" for name in names if name not in images]
    if missing:
        raise FileNotFoundError(f"The archive at data.path={path} lacks {', '.join(missing)}; fetch it again, or leave data.path empty to make the contexts.")
    return images


def _raw_in(folder: Path, pattern: str) -> list[Path]:
    """One file per half, training half first; of several copies the first by name. TFDS writes its own names around the original one."""
    named = sorted(file for file in folder.glob(f"{pattern}images?idx3-ubyte*") if file.is_file() and _is_whole(file.relative_to(folder)))
    halves: dict[str, Path] = {}
    for file in named:
        halves.setdefault("train" if "train-images" in file.name else "t10k" if "t10k-images" in file.name else file.name, file)
    return [halves[name] for name in sorted(halves, key=lambda name: (name != "train", name))]


def _is_whole(file: Path) -> bool:
    """Whether a name is that of data, neither a note or lock beside them nor what an interrupted download left (.part, .part.tag; TFDS: .tmp., incomplete)."""
    unfinished = any(part.startswith(".") or ".tmp." in part or "incomplete" in part for part in file.parts)
    return file.suffix != ".INFO" and ".part" not in file.suffixes and not unfinished


def _download(folder: Path) -> Path:
    """The training digits, fetched from one of the mirrors."""
    name = f"{RAW[0]}.gz"
    try:
        return _fetch(name, folder)
    except OSError as error:  # says what to fetch and where to put it
        remedy = "or set data.path to the folder that holds it, or the published archive"
        raise FileNotFoundError(f"The MNIST digits are not on this machine: {str(error).rstrip('.')}, {remedy}.") from error


def _fetch(name: str, folder: Path) -> Path:
    return download.fetch([f"{mirror}/{name}" for mirror in MIRRORS], folder, md5=MD5[name])


def _read_idx(file: Path) -> np.ndarray:
    try:
        with file.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"  # not by its name: TFDS keeps ".gz" when it unpacks
        with (gzip.open if zipped else open)(file, "rb") as stream:
            start = stream.read(16)
            magic, count, *shape = struct.unpack(">4I", start.ljust(16, b"\0"))
            if magic != _MAGIC or shape != [SIDE, SIDE] or not 0 < count <= _MANY:
                found = f"its first bytes are {start.hex() or 'missing'}"
                raise ValueError(f"{file} is no IDX file of {SIDE} x {SIDE} images ({found}); name a file of MNIST images.")
            content = stream.read(count * _PIXELS)
    except _DAMAGE as error:
        raise ValueError(f"{file} cannot be read ({error}); fetch it again.") from error
    if len(content) < count * _PIXELS:
        raise ValueError(f"{file} is cut short: it promises {count} images and holds {len(content) // _PIXELS}; fetch it again.")
    return np.frombuffer(content, np.uint8).reshape(-1, SIDE, SIDE)


def _tar_in(given: Path) -> Path | None:
    if given.is_file():
        return given if given.name.endswith((".tar.gz", ".tgz", ".tar")) else None
    tar = given / ARCHIVE
    return tar if tar.is_file() and not _csv_in(given) else None


def _csv_in(given: Path) -> dict[str, Path]:
    """{context: CSV file} of a folder or of one folder below it."""
    files = [*given.glob("normalized_mnist_*.csv"), *given.glob("*/normalized_mnist_*.csv")] if given.is_dir() else []
    return {_context_of(file.name): file for file in reversed(files)}


def _context_of(name: str) -> str:
    return PurePosixPath(name).name.removeprefix("normalized_mnist_").removesuffix(".csv")


def _published_streams(path: str, names: tuple[str, ...]) -> Iterator[tuple[str, str, BinaryIO]]:
    """(context, name to show, open file) of every wanted CSV, the first of several."""
    given = Path(path).expanduser()
    tar = _tar_in(given)
    if tar is None:
        for name, file in _csv_in(given).items():
            if name in names:
                with file.open("rb") as stream:
                    yield name, str(file), stream
        return
    wanted = {f"normalized_mnist_{name}.csv": name for name in names}
    with tarfile.open(tar, "r|*", tarinfo=unpack.Member) as members:
        for member in members:
            members.members.clear()  # else the names of all are kept
            if member.offset_data + member.size > _LIMIT_BYTES:
                raise OverflowError(f"{member.name!r} ends beyond {_LIMIT_BYTES:,} bytes")
            name = wanted.pop(PurePosixPath(member.name).name, None) if member.isfile() else None
            if name:
                yield name, f"{member.name} in {tar}", io.BufferedReader(members.extractfile(member), 1 << 20)
            if not wanted:
                return


def _read_csv(file: str, stream: BinaryIO, count: int, advance: Callable[[int], None]) -> np.ndarray:
    """The first `count` rows as images uint8 [count, 28, 28]."""
    images = np.empty((count, _PIXELS), np.uint8)
    for start in range(0, count, _ROWS):
        lines = [stream.readline(_LINE_LIMIT) for _ in range(min(_ROWS, count - start))]
        for row, line in enumerate(lines, start):
            if not line:
                raise ValueError(f"{file} has {row} rows, fewer than data.train_per_context + data.held_out_per_context = {count}; lower one of them.")
            if line.count(b",") != _PIXELS + 1:
                raise ValueError(f"{file}, line {row + 1}, has {line.count(b',') + 1} columns instead of {_PIXELS + 2}; fetch the archive again.")
        images[start : start + len(lines)] = np.round(255 * _parse(file, lines, start))
        advance(len(lines))
    return images.reshape(-1, SIDE, SIDE)


def _parse(file: str, lines: list[bytes], start: int) -> np.ndarray:
    """Pixels float32 [len(lines), 784]; ValueError for the first one that is no number of [0, 1]."""
    pixels = [line.rsplit(b",", 2)[0].decode("latin-1") for line in lines]
    with contextlib.suppress(ValueError):
        values = np.loadtxt(pixels, np.float32, delimiter=",", comments=None, ndmin=2)
        if ((values >= 0) & (values <= 1)).all():
            return values
    for row, line in enumerate(pixels, start):
        for text in line.split(","):
            if not 0 <= _number(text) <= 1:
                raise ValueError(f"{file}, line {row + 1}, holds {text.strip()[:20]!r} where a pixel in [0, 1] belongs; fetch the archive again.")
    raise ValueError(f"{file}, lines {start + 1} to {start + len(lines)}, cannot be read as numbers; fetch the archive again.")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
