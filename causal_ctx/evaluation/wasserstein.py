"""Sliced Wasserstein distance between two samples of images or latents.

Letters: n samples per side, d values per sample, P directions.

Per direction the one-dimensional W_2^2 of two equally large samples is the mean squared difference of
their sorted projections; the distance is the square root of its mean over directions (Bonneel et al. 2015).
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ROWS_PER_CHUNK = 1000


class NonFiniteImagesError(ValueError):
    """A sample holds values that are infinite or not numbers."""


def random_projections(key: jax.Array, d: int, P: int) -> jax.Array:
    """[d, P] float32: P directions uniform on the unit sphere of R^d, one per column."""
    directions = jax.random.normal(key, (d, P))
    return directions / jnp.linalg.norm(directions, axis=0, keepdims=True)


def sliced_wasserstein(x, y, projections) -> float:
    """Sliced Wasserstein-2 distance between the samples x [n, d] and y [n, d] along projections [d, P].

    Images [n, H, W, C] are flattened. Floats are taken as they are (images: values in [0, 1]); uint8 is scaled by 1/255. At most 1,000 rows
    are held as floats at a time, so x and y may be memory-mapped; beside them it needs 8 n P bytes. Of a sample that is compared with many, y may be
    `sorted_projections` along the same directions.
    It equals POT's `ot.sliced.sliced_wasserstein_distance(x, y, projections=projections)`.

    Raises ValueError for unequal or wrong shapes and other types, NonFiniteImagesError for non-finite values.
    """
    x, y = _flat("x", x, projections), y if isinstance(y, Sorted) else _flat("y", y, projections)
    if tuple(x.shape) != tuple(y.shape):
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}; sliced_wasserstein compares samples of equal size, so cut the larger one.")
    ours, theirs = (sample if isinstance(sample, Sorted) else sorted_projections(sample, projections) for sample in (x, y))
    value = math.sqrt(_mean_squared_difference(ours.values, theirs.values))
    if not math.isfinite(value):
        raise NonFiniteImagesError("The images hold values that are not finite; what generated them has diverged, try a lower learning rate.")
    return value


class Sorted(NamedTuple):
    """What the distance needs of a sample of `shape` (n, d): `values` float32 [P, n], its projections, sorted along every direction."""

    values: np.ndarray | jax.Array
    shape: tuple[int, int]


def sorted_projections(sample, projections) -> Sorted:
    """The sample [n, d], or images [n, H, W, C], along projections [d, P]: 4 n P bytes. Raises ValueError as `sliced_wasserstein`."""
    sample = _flat("The sample", sample, projections)
    sort = _sorted_on_host if jax.default_backend() == "cpu" else _sorted_on_device
    return Sorted(sort(sample, projections), tuple(sample.shape))


def _flat(name: str, sample, projections):
    """The sample as [n, d], checked."""
    if sample.ndim < 2 or 0 in sample.shape:
        raise ValueError(f"{name} has shape {tuple(sample.shape)}; sliced_wasserstein needs [n, d] or images [n, H, W, C], none of them empty.")
    flat = sample.reshape(len(sample), -1)
    if projections.ndim != 2 or 0 in projections.shape:
        raise ValueError(f"projections have shape {tuple(projections.shape)}; sliced_wasserstein needs [d, P], one direction per column.")
    if projections.shape[0] != flat.shape[1]:
        raise ValueError(f"projections have {projections.shape[0]} rows and the samples {flat.shape[1]} values each; "
                         f"draw them with random_projections(key, {flat.shape[1]}, P).")
    if flat.dtype != np.uint8 and not jnp.issubdtype(flat.dtype, jnp.floating):
        raise ValueError(f"{name} is {flat.dtype}; sliced_wasserstein takes floating point values or uint8 images.")
    return flat


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + ROWS_PER_CHUNK, n)) for start in range(0, n, ROWS_PER_CHUNK)]


def _scale(dtype) -> np.float32:
    return np.float32(1 / 255 if dtype == np.uint8 else 1)


def _sorted_on_host(sample, projections) -> np.ndarray:
    """NumPy's vectorised sort in threads: about 40 times as fast as XLA's sort on a CPU."""
    directions = np.asarray(projections, np.float32)
    projected = np.empty((directions.shape[1], sample.shape[0]), np.float32)
    for rows in _chunks(sample.shape[0]):
        projected[:, rows] = (np.asarray(sample[rows], np.float32) @ directions).T
    projected *= _scale(sample.dtype)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda part: part.sort(axis=1), np.array_split(projected, 4 * (os.cpu_count() or 1))))
    return projected


def _sorted_on_device(sample, projections) -> jax.Array:
    directions = jnp.asarray(projections, jnp.float32)
    return jnp.sort(jnp.concatenate([_project(sample[rows], directions) for rows in _chunks(sample.shape[0])], axis=1), axis=1)


@jax.jit
def _project(rows, directions):
    # Full float32: the default of GPUs and TPUs rounds the factors, which moves distances near the data floor.
    return jnp.matmul(rows.astype(jnp.float32), directions, precision="highest").T * _scale(rows.dtype)


def _mean_squared_difference(x_sorted, y_sorted) -> float:
    if isinstance(x_sorted, np.ndarray):
        return float(np.mean(np.square(np.subtract(x_sorted, y_sorted, out=x_sorted), out=x_sorted), dtype=np.float64))  # which x is no longer needed for
    return float(jnp.mean(jnp.square(x_sorted - y_sorted)))
