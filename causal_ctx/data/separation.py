"""How far the contexts of a data set lie apart, and whether that is more than chance: permutation tests of the sliced Wasserstein distance.

Letters: n images a side, d values per image, P directions, T divisions.

On the host alone, before anything is compiled. The distance is that of `causal_ctx.evaluation.wasserstein`, on projections that all comparisons share.
"""

import math
from typing import NamedTuple

import numpy as np

from causal_ctx.data.contexts import OBSERVATIONAL, ContextData

SIDE, DIRECTIONS, DIVISIONS = 400, 32, 200  # p-values are multiples of 1/200
LEAST_P = 0.05  # from which two contexts are called indistinguishable


class Comparison(NamedTuple):
    """Sliced Wasserstein distance of two samples of `side` images; p_value: the share of divisions of their pool, the true one too, at least as far apart."""

    distance: float
    p_value: float
    side: int

    @property
    def tells_apart(self) -> bool:
        """Whether so large a distance is unlikely between samples of one law."""
        return self.p_value <= LEAST_P


class Separation(NamedTuple):
    """Every context but "obs" against it, every context's own halves, and every single intervention against the one nearest to it."""

    from_obs: dict[str, Comparison]
    halves: dict[str, float]
    nearest: dict[tuple[str, str], Comparison]


def measure(dataset: ContextData) -> Separation:
    """The separation of the training images, and of the held-out ones of compositions; of 2 x `SIDE` images of a context at most.

    A side has `SIDE` images, in smaller contexts all; their halves are smaller then than what they are compared with. Rows are drawn separately in every
    context: where the same row of all contexts shows the same object, samples are nearly independent if the contexts are much larger than they, and else
    the test errs towards large p.
    """
    directions = np.random.default_rng(0).normal(size=(math.prod(dataset.image_shape), DIRECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    first, halves = {}, {}
    for seed, (context, images) in enumerate((dataset.train | {name: dataset.held_out[name] for name in dataset.compositions}).items()):
        projected = np.random.default_rng(seed).permutation(project(sample(images, 2 * SIDE, seed), directions), axis=1)
        half = max(1, projected.shape[1] // 2)
        first[context], halves[context] = projected[:, :SIDE], distance(projected[:, :half], projected[:, -half:])
    from_obs = {context: compare(first[OBSERVATIONAL], projected) for context, projected in first.items() if context != OBSERVATIONAL}
    pairs = set()
    for concept in dataset.concepts if len(dataset.concepts) > 1 else ():
        nearest = min((other for other in dataset.concepts if other != concept), key=lambda other: distance(first[concept], first[other]))
        pairs.add(tuple(sorted((concept, nearest), key=dataset.concepts.index)))
    return Separation(from_obs, halves, {(a, b): compare(first[a], first[b]) for a, b in sorted(pairs)})


def sample(images: np.ndarray, number: int, seed: int) -> np.ndarray:
    """`number` of the images [n, H, W, C], or all where there are no more, drawn without replacement by `seed`, in their order."""
    if len(images) <= number:
        return np.asarray(images)
    return np.asarray(images[np.sort(np.random.default_rng(seed).choice(len(images), number, replace=False))])


def project(images: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Projections float32 [P, n] of images uint8 [n, H, W, C], scaled to [0, 1], on `directions` [d, P]."""
    return (images.reshape(len(images), -1).astype(np.float32) @ directions).T / 255


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Sliced Wasserstein distance of projections x, y [P, n]; of the first ones of the larger sample."""
    side = min(x.shape[1], y.shape[1])
    return math.sqrt(np.mean(np.square(np.sort(x[:, :side], axis=1) - np.sort(y[:, :side], axis=1)), dtype=np.float64))


def compare(x: np.ndarray, y: np.ndarray) -> Comparison:
    """Distance and p-value of projections x, y [P, n]; of the first ones of the larger sample.

    Divided by labels, a pool that is sorted already leaves both sides sorted: all T divisions are one indexing of the sorted pool.
    """
    side = min(x.shape[1], y.shape[1])
    pool = np.concatenate([x[:, :side], y[:, :side]], axis=1)
    order = np.argsort(pool, axis=1)
    pool = np.take_along_axis(pool, order, axis=1)
    labels = np.tile(np.arange(2 * side) < side, (DIVISIONS, 1))
    labels[1:] = np.random.default_rng(0).permuted(labels[1:], axis=1)
    divided = labels[:, order]  # [T, P, 2n]
    pools, shape = np.broadcast_to(pool, divided.shape), (DIVISIONS, len(x), side)
    squared = np.square(pools[divided].reshape(shape) - pools[~divided].reshape(shape)).mean((1, 2))
    return Comparison(math.sqrt(squared[0]), float(np.mean(squared >= squared[0])), side)
