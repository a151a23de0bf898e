"""Sliced Wasserstein against POT, closed forms, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from causal_ctx.evaluation import wasserstein
from causal_ctx.evaluation.wasserstein import random_projections, sliced_wasserstein, sorted_projections

PATHS = {"host": wasserstein._sorted_on_host, "device": wasserstein._sorted_on_device}


@pytest.fixture(params=PATHS)
def distance(request, monkeypatch):
    """`sliced_wasserstein` by the CPU's and by the accelerator's path, in chunks smaller than the sample."""
    monkeypatch.setattr(wasserstein, "ROWS_PER_CHUNK", 64)
    monkeypatch.setattr(wasserstein, "_sorted_on_host", PATHS[request.param])
    return sliced_wasserstein


def samples(n=150, d=20, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((n, d), np.float32), rng.random((n, d), np.float32) ** 2


def test_projections_are_unit_columns_fixed_by_the_key(key):
    directions = random_projections(key, 30, 200)
    assert directions.shape == (30, 200) and directions.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(directions, random_projections(key, 30, 200))
    # Uniform on the sphere: E[theta theta^T] = I / d.
    np.testing.assert_allclose(directions @ directions.T / 200, np.eye(30) / 30, atol=0.015)


def test_equals_pot_with_the_same_projections(distance, key):
    x, y = samples()
    directions = random_projections(key, 20, 50)
    expected = ot.sliced.sliced_wasserstein_distance(x, y, projections=np.asarray(directions))
    assert distance(x, y, directions) == pytest.approx(expected, rel=1e-5)


def test_a_sample_that_was_sorted_before_gives_the_same_again_and_again(distance, key):
    x, y = samples()
    directions = random_projections(key, 20, 50)
    once = sorted_projections(y, directions)
    for sample in (x, y, x):
        assert distance(sample, once, directions) == distance(sample, y, directions)
    with pytest.raises(ValueError, match=r"x has shape \(149, 20\) and y \(150, 20\)"):
        distance(x[1:], once, directions)


def test_uint8_is_read_as_levels_of_255(distance, key):
    x, y = (np.round(255 * sample).astype(np.uint8) for sample in samples())
    directions = random_projections(key, 20, 50)
    expected = ot.sliced.sliced_wasserstein_distance(x / 255, y / 255, projections=np.asarray(directions, np.float64))
    assert distance(x, y, directions) == pytest.approx(expected, rel=1e-5)
    assert distance(x, (y / 255).astype(np.float32), directions) == pytest.approx(expected, rel=1e-5)


def test_a_shift_gives_the_mean_squared_shift_along_the_directions(distance, key):
    x, _ = samples()
    shift = np.linspace(0, 1, 20, dtype=np.float32)
    directions = random_projections(key, 20, 100)
    expected = np.sqrt(np.mean(np.square(shift @ np.asarray(directions))))
    assert distance(x, x + shift[None], directions) == pytest.approx(expected, rel=1e-5)


def test_shifted_gaussians_agree_with_the_closed_form(key):
    """W_2^2 between N(0, I) and N(mu, I) along theta is (theta . mu)^2, whose mean over the sphere is |mu|^2 / d."""
    d, n = 8, 10_000
    x_key, y_key, direction_key = jax.random.split(key, 3)
    mu = np.linspace(0.5, 1.5, d, dtype=np.float32)
    x, y = jax.random.normal(x_key, (n, d)), jax.random.normal(y_key, (n, d)) + mu[None]
    value = sliced_wasserstein(x, y, random_projections(direction_key, d, 2_000))
    assert value**2 == pytest.approx(float(mu @ mu) / d, rel=0.04)


def test_scaled_gaussians_agree_with_the_closed_form(key):
    """W_2 between N(0, I) and N(0, s^2 I) along any direction is s - 1: no help from means."""
    x_key, y_key, direction_key = jax.random.split(key, 3)
    x, y = jax.random.normal(x_key, (20_000, 4)), 1.5 * jax.random.normal(y_key, (20_000, 4))
    assert sliced_wasserstein(x, y, random_projections(direction_key, 4, 200)) == pytest.approx(0.5, rel=0.04)


def test_identity_symmetry_order_and_duplicates(distance, key):
    x, y = samples()
    directions = random_projections(key, 20, 50)
    value = distance(x, y, directions)
    assert distance(x, x, directions) == 0
    assert distance(x, x[::-1], directions) == pytest.approx(0, abs=1e-6)
    assert distance(y, x, directions) == pytest.approx(value, rel=1e-6)
    assert distance(np.tile(x, (3, 1)), np.tile(y, (3, 1)), directions) == pytest.approx(value, rel=1e-5)


def test_images_are_flattened(distance, key):
    x, y = samples(d=2 * 5 * 3)
    directions = random_projections(key, 30, 10)
    assert distance(x.reshape(-1, 2, 5, 3), y.reshape(-1, 2, 5, 3), directions) == distance(x, y, directions)


def test_memory_mapped_input_is_read_in_chunks(tmp_path, key):
    x, y = (np.round(255 * sample).astype(np.uint8) for sample in samples(n=2_300))
    mapped = np.memmap(tmp_path / "x", np.uint8, "w+", shape=x.shape)
    mapped[:] = x
    directions = np.asarray(random_projections(key, 20, 10), np.float64)
    expected = ot.sliced.sliced_wasserstein_distance(x / 255, y / 255, projections=directions)
    assert sliced_wasserstein(mapped, y, directions) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("x", "y", "directions", "message"), [
    (np.zeros((3, 4)), np.zeros((2, 4)), np.ones((4, 2)), r"x has shape \(3, 4\) and y \(2, 4\).*equal size"),
    (np.zeros(3), np.zeros(3), np.ones((4, 2)), r"x has shape \(3,\); .*images \[n, H, W, C\]"),
    (np.zeros((3, 4)), np.zeros((0, 4)), np.ones((4, 2)), r"y has shape \(0, 4\)"),
    (np.zeros((3, 4)), np.zeros((3, 4)), np.ones(4), r"projections have shape \(4,\)"),
    (np.zeros((3, 4)), np.zeros((3, 4)), np.ones((5, 2)), "5 rows .* 4 values"),
    (np.zeros((3, 4), int), np.zeros((3, 4)), np.ones((4, 2)), "x is int64"),
    (np.full((3, 4), np.nan), np.zeros((3, 4)), np.ones((4, 2)), "not finite"),
])
def test_bad_input_is_refused_with_a_sentence(x, y, directions, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(x, y, directions)
