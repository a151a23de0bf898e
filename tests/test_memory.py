"""One arena for all threads, where the C library has arenas."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THREADS = """
import ctypes, threading
from causal_ctx import memory
memory.share_one_arena()
held, meet = [], threading.Barrier(8)
def take():
    meet.wait(60)  # threads that are there together do not inherit arenas from one another
    held.append([bytes(1000) for _ in range(1000)])
    meet.wait(60)
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL("libc.so.6").malloc_stats()
"""


def has_arenas() -> bool:
    try:
        return hasattr(ctypes.CDLL("libc.so.6"), "malloc_stats")
    except OSError:
        return False


@pytest.mark.skipif(not has_arenas(), reason="the C library here is not glibc")
@pytest.mark.parametrize("asked, arenas", [(None, {1}), ("3", {2, 3})])
def test_threads_share_one_arena_unless_the_user_says_otherwise(asked, arenas):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | ({"MALLOC_ARENA_MAX": asked} if asked else {})
    done = subprocess.run([sys.executable, "-c", THREADS], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Arena ") in arenas, done.stderr
