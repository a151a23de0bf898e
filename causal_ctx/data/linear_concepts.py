"""Concepts of which everything is known: a small linear Gaussian causal model, seen through a nonlinear map (the setting of the paper's theorem; spec section 8).

Letters: K concepts, w numbers in each, d latents, n samples; targets t in {0, 1}^K as everywhere.

e = A e + noise with A strictly lower triangular by concepts; concept k is c_k = e[coordinates_k], and do(k) cuts the rows of A that belong to its coordinates and
gives them a noise of its own; where two that share a latent are intervened on, the later one has it. What is seen is x = A_2 s(A_1 e + a), s elementwise.
"""

from typing import NamedTuple

import numpy as np

K, WIDTH = 3, 2
BEND = 0.5  # s has slopes between 1 - BEND and 1 + BEND
STREAM = 2**16  # of truths among the random streams of a seed: those of samples and starts are others
CONDITIONS = ("", "dependent rows", "map not injective")


class World(NamedTuple):
    """One truth. edges [d, d]; coordinates int [K, w]; scale [K, w] and mean [K, w] of the noise under do(k), which otherwise is N(0, 1); first, second [d, d],
    offset [d]: of the map; folded: the map sees no sign of the first latent, so that it is not injective."""

    edges: np.ndarray
    coordinates: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    first: np.ndarray
    second: np.ndarray
    offset: np.ndarray
    folded: bool


def draw(seed: int, violated: str = "") -> World:
    """A world with effects of 0.3 to 0.9, interventions that shift by 1.5 and narrow to 0.3 to 0.55, and a map of matrices with singular values 0.7 to 1.4.

    violated: the condition of the theorem that it does not meet. With "dependent rows" the last concept shares a latent with the one before, so that the rows
    of all C_j are dependent and one latent is never intervened on. Raises ValueError for an unknown one.
    """
    if violated not in CONDITIONS:
        raise ValueError(f"violated is {violated!r}; choose from {', '.join(map(repr, CONDITIONS))}.")
    rng, d = np.random.default_rng([seed, STREAM]), K * WIDTH
    below = np.kron(np.tri(K, k=-1), np.ones((WIDTH, WIDTH)))
    edges = below * rng.uniform(0.3, 0.9, (d, d)) * rng.choice((-1, 1), (d, d))
    scale, mean = np.exp(rng.uniform(-1.2, -0.6, (K, WIDTH))), 1.5 * rng.choice((-1, 1), (K, WIDTH))
    first, second = well_conditioned(rng, d), well_conditioned(rng, d)
    coordinates = np.arange(d).reshape(K, WIDTH)
    if violated == "dependent rows":
        coordinates[-1, 0] = coordinates[-2, -1]
    return World(edges, coordinates, scale, mean, first, second, 0.3 * rng.standard_normal(d), violated == "map not injective")


def well_conditioned(rng: np.random.Generator, d: int) -> np.ndarray:
    """A random matrix [d, d] whose singular values lie between 0.7 and 1.4."""
    left, right = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    return left * rng.uniform(0.7, 1.4, d) @ right


def sample(world: World, targets: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(concepts [n, K, w], observations [n, d]) under targets [K]."""
    drawn, edges = rng.standard_normal((n, len(world.edges))), world.edges.copy()
    noise = drawn.copy()
    for k in np.flatnonzero(targets):
        own = world.coordinates[k]
        noise[:, own] = world.mean[k] + world.scale[k] * drawn[:, own]
        edges[own] = 0
    e = np.linalg.solve(np.eye(len(edges)) - edges, noise.T).T
    return e[:, world.coordinates], observe(world, e)


def compatible(world: World, targets: np.ndarray) -> bool:
    """Whether no latent belongs to two of the concepts that `targets` [K] intervene on: else what it would be is convention."""
    own = world.coordinates[np.asarray(targets) == 1]
    return len(np.unique(own)) == own.size


def observe(world: World, e: np.ndarray) -> np.ndarray:
    """x [n, d] of latents e [n, d]."""
    if world.folded:
        e = np.concatenate([np.abs(e[:, :1]), e[:, 1:]], axis=1)
    return bent(e @ world.first.T + world.offset) @ world.second.T


def bent(u):
    """s(u) = u + BEND sqrt(u^2 + 1), elementwise: smooth and increasing."""
    return u + BEND * (u**2 + 1) ** 0.5


def unbent(h):
    """The u with s(u) = h, elementwise, of NumPy or JAX arrays."""
    return (h - BEND * (h**2 + 1 - BEND**2) ** 0.5) / (1 - BEND**2)


def slope_of_unbent(h):
    """The derivative of `unbent`."""
    return (1 - BEND * h * (h**2 + 1 - BEND**2) ** -0.5) / (1 - BEND**2)
