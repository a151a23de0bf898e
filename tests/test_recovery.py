"""Recovery of concepts up to an affine map of each: perfect, rotated, permuted, merged and destroyed representations."""

import numpy as np
import pytest

from causal_ctx.evaluation import recovery

N, K, WIDTH = 4_000, 3, 2


@pytest.fixture(scope="module")
def true():
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((N, K * WIDTH)) @ rng.standard_normal((K * WIDTH, K * WIDTH))
    return mixed.reshape(N, K, WIDTH)


@pytest.fixture(scope="module")
def apart():
    return np.random.default_rng(1).standard_normal((N, K, WIDTH))


def of(found):
    return np.array(found["recovery"]), np.array(found["correlation"])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_concept_in_any_affine_map_of_its_own_is_recovered(true, scale):
    maps = scale * np.random.default_rng(2).standard_normal((K, WIDTH, WIDTH))
    learned = np.einsum("nkw,kvw->nkv", true, maps) + 7
    for value in of(recovery.scores(true, learned)):
        np.testing.assert_allclose(value, 1, atol=1e-6)


def test_permuted_concepts_are_not_recovered(apart):
    r2, correlation = of(recovery.scores(apart, apart[:, [1, 2, 0]]))
    assert r2.max() < 0.01 and correlation.max() < 0.1


def test_noise_is_no_concept_and_a_constant_neither(apart):
    r2, _ = of(recovery.scores(apart, np.random.default_rng(3).standard_normal(apart.shape)))
    assert r2.max() < 0.01
    for constant in (0.0, 5.0):
        assert of(recovery.scores(apart, np.full(apart.shape, constant))) == (pytest.approx(np.zeros(K)), pytest.approx(np.zeros(K)))


def test_half_a_concept_counts_half(apart):
    learned = apart.copy()
    learned[:, 0, 1] = learned[:, 0, 0]  # one direction, twice
    learned[:, 1, 1] = learned[:, 2, 0]  # and one of another concept
    r2, correlation = of(recovery.scores(apart, learned))
    np.testing.assert_allclose(r2, [0.5, 0.5, 1], atol=0.01)
    np.testing.assert_allclose(correlation, [0.5, 0.5, 1], atol=0.02)


def test_recovery_is_the_r2_of_least_squares(true):
    learned = true + np.random.default_rng(4).standard_normal(true.shape)
    x, y = (c[:, 0] - c[:, 0].mean(axis=0) for c in (learned, true))
    y = np.linalg.svd(y, full_matrices=False)[0]
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert recovery.scores(true, learned)["recovery"][0] == pytest.approx(1 - (residual**2).sum() / (y**2).sum(), abs=1e-9)


def test_units_are_those_of_any_affine_map(true):
    """Distances between points are the same, and of the points that give the units the covariance is one."""
    own = recovery.in_units_of(true, true)
    np.testing.assert_allclose(np.cov(own.T, bias=True), np.eye(K * WIDTH), atol=1e-8)
    np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-8)
    moved = np.einsum("nkw,kvw->nkv", true, np.random.default_rng(5).standard_normal((K, WIDTH, WIDTH))) - 3
    between = lambda points: np.linalg.norm(points[:50, None] - points[None, 50:100], axis=-1)
    np.testing.assert_allclose(between(recovery.in_units_of(moved, moved[:100])), between(own[:100]), atol=1e-8)
    assert recovery.in_units_of(true, true.reshape(4, -1, K, WIDTH)).shape == (4, N // 4, K * WIDTH)
