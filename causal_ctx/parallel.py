"""Where arrays live: one mesh axis, "data", over all devices of all processes. The step itself never knows."""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices in one axis named "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int) -> NamedSharding:
    """Every device holds its share of `axis`."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def share(global_size: int, index: int, count: int) -> slice:
    """What process `index` of `count` takes of an axis of `global_size` examples, which the number of processes divides."""
    size = global_size // count
    return slice(index * size, (index + 1) * size)


def local_slice(global_size: int) -> slice:
    """This process's share of an axis of `global_size` examples, which the number of devices divides."""
    return share(global_size, jax.process_index(), jax.process_count())


def batch_rows(n: int, most: int) -> int:
    """How many of n rows a program takes at a time, the last ones filled up: a power of four, or `most`. Each number is a program to compile, so they are few."""
    size = 1
    while size < min(n, most):
        size *= 4
    return min(size, most)


def place(mesh: Mesh, array: np.ndarray, axis: int) -> jax.Array:
    """The global array of which this process holds its `local_slice` of `axis`."""
    return jax.make_array_from_process_local_data(split(mesh, axis), array)


class Memory(NamedTuple):
    """Bytes of a device: in all, and not in use."""

    limit: int
    free: int


def device_memory(device: jax.Device) -> Memory | None:
    """The memory of a device, where it tells: CPUs do not."""
    told = device.memory_stats() or {}
    return Memory(told["bytes_limit"], told["bytes_limit"] - told.get("bytes_in_use", 0)) if "bytes_limit" in told else None


def is_first_process() -> bool:
    """Whether this process writes text, tables and reports."""
    return jax.process_index() == 0
