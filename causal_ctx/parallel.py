"""Where arrays live: one mesh axis, "data", over all devices of all processes. The step itself never knows."""

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


def local_slice(global_size: int) -> slice:
    """This process's share of an axis of `global_size` examples, which the number of devices divides."""
    share = global_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def place(mesh: Mesh, array: np.ndarray, axis: int) -> jax.Array:
    """The global array of which this process holds its `local_slice` of `axis`."""
    return jax.make_array_from_process_local_data(split(mesh, axis), array)


def is_first_process() -> bool:
    """Whether this process writes text, tables and reports."""
    return jax.process_index() == 0
