"""The mode `doctor`: what this machine and installation are, whether all hosts are there, and the data card of a config. Trains nothing, writes nothing.

Data that are generated or unpacked are cached on the way, as any start does.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from causal_ctx import parallel, systems
from causal_ctx import workdir as workdirs
from causal_ctx.data import cache
from causal_ctx.run import load_data

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")
HOSTS = ("TPU_WORKER_HOSTNAMES", "SLURM_NTASKS", "JAX_NUM_PROCESSES")  # in which launchers announce processes: their number, or their names


def run(config: ml_collections.ConfigDict | None, workdir: Path) -> None:
    """Prints the state of the machine, then loads and validates the data of `config`, if given. ConfigError (exit status 1) for data with errors."""
    del workdir  # nothing is written
    print("\n".join(f"{name:<20} {value}" for name, value in machine(config.data.cache_dir if config else "")))
    if config is None:
        return
    dataset = load_data(config)
    described = systems.of(config).describe(config, dataset)
    print(f"\n{systems.of(config).describe_text(described)}")
    workdirs.refuse_errors(described)


def machine(cache_dir: str = "") -> Iterator[tuple[str, str]]:
    """(what, how it is), line by line."""
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield package, version(package)
    yield "tensorflow", "present, not needed" if importlib.util.find_spec("tensorflow") else "absent, not needed"
    yield "cores", f"{usable_cores()} usable of {os.cpu_count()}"
    yield "memory", amount(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    yield from processes(os.environ)
    yield from devices()
    yield from caches(cache_dir)


def version(package: str) -> str:
    """The installed version of a distribution."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING: install causal_ctx again"


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """How many processes take part, whether each answers, and whether the launcher announced more."""
    count = jax.process_count()
    answered = np.unique(multihost_utils.process_allgather(np.int32(jax.process_index()))) if count > 1 else [0]
    yield "processes", f"{count}, of which {len(answered)} answered; {jax.device_count()} devices, {jax.local_device_count()} of them here"
    for name in HOSTS:
        value = environment.get(name, "")
        announced = int(value) if value.isdecimal() else len(value.split(","))
        if announced > count:
            yield "WARNING", f"{name} announces {announced} processes, but {count} take part; start every one with the same command."


def devices() -> Iterator[tuple[str, str]]:
    """Every device of this process, with its memory where it tells."""
    for device in jax.local_devices():
        memory = parallel.device_memory(device)
        told = f"{amount(memory.free)} free of {amount(memory.limit)}" if memory else "in the machine's memory"
        yield f"device {device.id}", f"{device.platform}, {device.device_kind}, {told}"


def caches(cache_dir: str) -> Iterator[tuple[str, str]]:
    """Folder, size and free disk of the caches of data and of compiled programs."""
    programs = jax.config.jax_compilation_cache_dir
    for name, folder in {"data cache": cache.root(cache_dir), "compiled programs": Path(programs) if programs else None}.items():
        yield name, f"{folder}: {amount(size(folder))}, {amount(free_disk(folder))} of disk free" if folder else "not cached"


def size(folder: Path) -> int:
    """Bytes of the files below `folder`; 0 where it does not exist."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process has taken it away meanwhile
                status = os.lstat(os.path.join(parent, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is or would be made."""
    folder = folder.resolve()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def amount(num_bytes: int) -> str:
    """Bytes as a person says them: "312 MiB", "23.5 GiB"."""
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:.1f} GiB"
