"""Compiled programs, kept in the user's cache folder: the next start that needs the same one reads it in place of compiling."""

import hashlib
import platform
from pathlib import Path

import jax

from causal_ctx.data import cache

MOST_BYTES = 4 * 2**30  # kept; beyond, those go that were not used for longest
WORTH_SECONDS = 0.3  # of compiling: quicker ones are compiled again


def keep(cache_dir: str = "") -> None:
    """Keeps what this process compiles from now on below `cache.root(cache_dir)`, unless JAX_COMPILATION_CACHE_DIR or the like already says where."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.root(cache_dir) / "programs" / processor()))
        jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_SECONDS)


def processor() -> str:
    """A name for what this machine's processor can do: a program compiled for one may not run on another that shares the folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        described = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        described = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(described.encode()).hexdigest()[:8]}"
