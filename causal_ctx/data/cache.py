"""A folder of .npy files that is either complete and intact or made again.

Files are written into a private folder beside the final one, checksummed, and published by one rename: a reader sees
all or nothing, and two processes that make the same folder do not disturb one another.
"""

import contextlib
import dataclasses
import errno
import glob
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"

_STALE_SECONDS = 24 * 3600  # a private folder this old belongs to a process that was killed


@dataclasses.dataclass(frozen=True)
class Part:
    """One array of a cached folder: its shape, its type, and a function that yields its rows in blocks."""

    shape: tuple[int, ...]
    dtype: type
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def root(cache_dir: str = "") -> Path:
    """Where caches live: `cache_dir`, else $CAUSAL_CTX_CACHE, else ~/.cache/causal_ctx."""
    return Path(cache_dir or os.environ.get("CAUSAL_CTX_CACHE") or "~/.cache/causal_ctx").expanduser()


def stamp(file: Path) -> tuple[int, int]:
    """Bytes and time of the last change (ns) of a file, by which later starts know it again. OSError (one sentence) where there is none."""
    try:
        status = file.stat()
    except OSError as error:
        raise OSError(f"{file} cannot be read ({error.strerror}); a broken link? Repair or remove it.") from error
    return status.st_size, status.st_mtime_ns


def load(folder: Path, parts: Mapping[str, Part]) -> dict[str, np.ndarray]:
    """The arrays of `folder` as read-only memory maps; made first where the folder is absent, damaged or incomplete.

    Raises OSError (one sentence) where the folder cannot be written or its disk is full.
    """
    if folder.exists():
        problem = damage(folder, parts)
        if problem is None:
            return _open(folder, parts)
        LOG.warning("Cached data in %s is damaged (%s); it is made again.", folder, problem)
    needed = sum(part.num_bytes for part in parts.values())
    try:
        return _make(folder, parts, needed)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(folder, needed) from error
        if error.errno is None:
            raise
        raise OSError(f"The data cache {folder} cannot be written ({error.strerror}); set data.cache_dir to a folder that can.") from error


def damage(folder: Path, parts: Mapping[str, Part]) -> str | None:
    """What is wrong with a cached folder, or None: every file must have the manifest's size and checksum."""
    try:
        files = json.loads((folder / MANIFEST).read_text())
        if set(files) != set(parts):
            return f"{MANIFEST} lists other files"
        for name, entry in files.items():
            size = _path(folder, name).stat().st_size
            if size != entry["bytes"]:
                return f"{name}.npy has {size} bytes instead of {entry['bytes']}"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            sums = pool.map(lambda name: _checksum(_path(folder, name)), files)
            for name, checksum in zip(files, sums):
                if checksum != files[name]["crc32"]:
                    return f"{name}.npy has another checksum"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable: {error}"
    return None


def remove_stale(folder: Path) -> None:
    """Removes what killed processes left of making `folder`: private folders beside it, .NAME-*, that are a day old."""
    for private in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it, too
            if time.time() - private.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(private, ignore_errors=True)


def _make(folder: Path, parts: Mapping[str, Part], needed: int) -> dict[str, np.ndarray]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    if folder.exists():
        _remove(folder)
    if shutil.disk_usage(folder.parent).free < needed:
        raise _full(folder, needed)
    private = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        LOG.info("Making %s (%d bytes); later starts read it.", folder, needed)
        manifest = {name: _write(_path(private, name), part) for name, part in parts.items()}
        (private / MANIFEST).write_text(json.dumps(manifest, indent=1))
        arrays = _open(private, parts)  # before the rename: memory maps outlive whatever happens to the name
        _publish(private, folder, parts)
        return arrays
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _publish(private: Path, folder: Path, parts: Mapping[str, Part]) -> None:
    """Renames `private` to `folder`, unless another process has published an intact one meanwhile."""
    while True:
        try:
            return os.rename(private, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        if folder.is_dir() and damage(folder, parts) is None:
            return
        _remove(folder)


def _remove(folder: Path) -> None:
    """Takes a damaged folder away in one step; another process may be doing the same."""
    aside = tempfile.mkdtemp(prefix=f".{folder.name}-damaged-", dir=folder.parent)
    try:
        os.rename(folder, Path(aside) / folder.name)
    except FileNotFoundError:
        pass
    shutil.rmtree(aside, ignore_errors=True)


def _write(path: Path, part: Part) -> dict[str, int]:
    """Writes one .npy file block by block; returns its size and checksum."""
    with open(path, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(part.dtype)), "fortran_order": False, "shape": part.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        checksum = zlib.crc32(path.read_bytes())
        for block in part.blocks():
            data = memoryview(np.ascontiguousarray(block)).cast("B")
            file.write(data)
            checksum = zlib.crc32(data, checksum)
    return {"bytes": path.stat().st_size, "crc32": checksum}


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while data := file.read(1 << 22):
            checksum = zlib.crc32(data, checksum)
    return checksum


def _open(folder: Path, parts: Mapping[str, Part]) -> dict[str, np.ndarray]:
    return {name: np.load(_path(folder, name), mmap_mode="r", allow_pickle=False) for name in parts}


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _full(folder: Path, needed: int) -> OSError:
    free = shutil.disk_usage(folder.parent).free
    return OSError(
        f"The data cache {folder} needs {needed:,} bytes and its disk has {free:,} free; free some space or set data.cache_dir to another disk."
    )
