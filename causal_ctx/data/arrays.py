"""Numbers from .npz and .npy files that others made: damaged, hostile and unreadable ones each end in one sentence."""

import zipfile
from pathlib import Path

import numpy as np

LIMIT_BYTES = 8 << 30  # of an array that is unpacked into memory, where nothing is known about it


def read(file: Path, key: str, limit_bytes: int = LIMIT_BYTES) -> np.ndarray:
    """Array `key` of an npz, or a whole npy as a memory map; nothing is unpickled, and no more than `limit_bytes` are unpacked.

    Raises ValueError, naming `file`, for whatever holds no array of numbers, OSError where the system refuses to read it.
    """
    try:
        with open(file, "rb") as opened:
            is_npz = opened.read(2) == b"PK"
        if is_npz:
            with zipfile.ZipFile(file) as members:
                size = members.getinfo(f"{key}.npy").file_size
            if size > limit_bytes:
                raise ValueError(f"it unpacks to {size:,} bytes, more than the {limit_bytes:,} that are read into memory")
            with np.load(file, allow_pickle=False) as arrays:
                given = arrays[key]
        else:
            given = np.load(file, mmap_mode="r", allow_pickle=False)
        if given.dtype.kind not in "uif":
            raise ValueError(f"it holds {given.dtype}")
        return given
    except Exception as error:  # readers of damaged files raise many kinds; those of the system carry a number
        if getattr(error, "errno", None) is not None:
            raise OSError(f"{file} cannot be read ({error.strerror}); allow reading it or remove it.") from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{file} holds no readable array {key!r} ({reason}); get it again, or write it as .npy with numpy.save from numbers.") from error
