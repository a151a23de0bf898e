"""Where arrays live: one mesh axis, "data", over all devices of all processes. The step itself never knows."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh() -> Mesh:
    """All devices in one axis named "data", those of a process side by side, so that its share of an axis is one piece."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


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


def own_share(array: np.ndarray, axis: int) -> np.ndarray:
    """What this process takes of `axis` of an array that all processes have whole."""
    return array[(slice(None),) * axis + (local_slice(array.shape[axis]),)]


def batch_rows(n: int, most: int) -> int:
    """How many of n rows a program takes at a time, the last ones filled up: a power of four, or `most`. Each number is a program to compile, so they are few."""
    size = 1
    while size < min(n, most):
        size *= 4
    return min(size, most)


def place(mesh: Mesh, array: np.ndarray, axis: int) -> jax.Array:
    """The global array of which this process holds its `local_slice` of `axis`."""
    return jax.make_array_from_process_local_data(split(mesh, axis), array)


def place_rows(mesh: Mesh, array: np.ndarray) -> jax.Array:
    """The global array of an array that all processes have whole: split along its first axis where the devices divide it, else whole on every device."""
    return everywhere(mesh, array) if len(array) % mesh.size else place(mesh, own_share(array, 0), axis=0)


class Memory(NamedTuple):
    """Bytes of a device: in all, and not in use."""

    limit: int
    free: int


def device_memory(device: jax.Device) -> Memory | None:
    """The memory of a device, where it tells: CPUs do not."""
    told = device.memory_stats() or {}
    return Memory(told["bytes_limit"], told["bytes_limit"] - told.get("bytes_in_use", 0)) if "bytes_limit" in told else None


def everywhere(mesh: Mesh, tree):
    """A tree of arrays, equal in all processes, on every device of the mesh."""
    held = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, held)

    def whole(leaf: jax.Array) -> jax.Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(whole(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(held, np.asarray(leaf), leaf.shape)

    return jax.tree.map(whole, tree)


def laid_out(tree, sharding: NamedSharding):
    """A tree of arrays of these devices with another sharding."""
    return jax.device_put(tree, sharding) if jax.process_count() == 1 else _same(sharding)(tree)


@functools.cache
def _same(sharding: NamedSharding) -> Callable:
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def on_host(tree):
    """A tree of global arrays as arrays on the host, whole in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    spread = lambda leaf: isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
    whole = lambda leaf: multihost_utils.process_allgather(leaf, tiled=True) if spread(leaf) else leaf
    return jax.device_get(jax.tree.map(whole, tree))


def agree(flag: bool) -> bool:
    """Whether `flag` holds in any process."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


def of_first(number: int) -> int:
    """Process 0's `number`, in all."""
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def meet(name: str) -> None:
    """Waits until all processes are here: what process 0 wrote before is there for all after."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_first_process() -> bool:
    """Whether this process writes text, tables and reports."""
    return jax.process_index() == 0
