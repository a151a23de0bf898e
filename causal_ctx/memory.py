"""How the C library hands out memory to the threads of a process."""

import ctypes
import os

M_ARENA_MAX = -8  # of glibc's mallopt


def share_one_arena() -> None:
    """Has all threads take memory from one arena of glibc, unless MALLOC_ARENA_MAX says otherwise; other C libraries are left alone.

    By default every thread that writes a checkpoint gets an arena of its own, and what it frees there no other can use: a process that trains at size tiny
    holds 1.2 GB in place of 0.65. Call before there are threads.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    try:
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 1)
    except (OSError, AttributeError):
        pass
