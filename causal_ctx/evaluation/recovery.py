"""Whether learned concepts are the true ones up to an invertible affine map of each, the most that can be asked (the paper's theorem; spec section 8).

Letters: n samples, K concepts, w numbers in each. True and learned concepts [n, K, w] belong to the same n observations, in the same order.
"""

import numpy as np


def scores(true: np.ndarray, learned: np.ndarray) -> dict[str, list[float]]:
    """{"recovery", "correlation"}, each [K] in [0, 1], of every true concept and the learned one of the same place; 1 where it is recovered.

    "recovery" is R2 of the affine regression of one on the other, all directions of the former in equal units, and the smaller of the two ways round;
    "correlation" is the mean of the canonical correlations (MCC up to a linear map of each concept). Neither changes with an invertible affine map of a concept.
    """
    correlations = [canonical_correlations(true[:, k], learned[:, k]) for k in range(true.shape[1])]
    return {"recovery": [float((rho**2).mean()) for rho in correlations], "correlation": [float(rho.mean()) for rho in correlations]}


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of x [n, a] and y [n, b]: as many numbers as the one of more independent directions has, zeros for those that the other lacks; one zero where both are constant.

    The mean of their squares is R2 of the one with more directions given the other; the other way round R2 is larger or the same.
    """
    x, y = _whitened(x), _whitened(y)
    most = max(x.shape[1], y.shape[1], 1)
    found = np.linalg.svd(x.T @ y, compute_uv=False) if min(x.shape[1], y.shape[1]) else np.zeros(0)
    return np.clip(np.pad(found, (0, most - len(found))), 0, 1)


def in_units_of(c: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`others` [..., K, w] as [..., K w] in the affine map that gives all numbers of c [n, K, w] mean 0 and covariance I: up to a rotation, the same of any affine map of both."""
    flat = np.asarray(c, np.float64).reshape(len(c), -1)
    _, values, right = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    return (others.reshape(*others.shape[:-2], -1) - flat.mean(axis=0)) @ (right.T * len(c) ** 0.5 / np.maximum(values, 1e-9 * values[0]))


def _whitened(x: np.ndarray) -> np.ndarray:
    """An orthonormal basis [n, rank] of the centred columns of x [n, a]."""
    x = np.asarray(x, np.float64)
    left, values, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return left[:, values > 1e-9 * np.linalg.norm(x)]
