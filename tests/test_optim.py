"""The schedule and the projection."""

import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx import optim


def rate_of(warmup_steps, total_steps):
    return lambda step: optim.learning_rate(jnp.int32(step), jnp.float32(1e-3), jnp.float32(1e-5), warmup_steps, total_steps)


def test_schedule_warms_up_linearly_and_ends_at_the_final_rate():
    rate = rate_of(warmup_steps=200, total_steps=1_000)
    np.testing.assert_allclose([rate(0), rate(50), rate(200), rate(1_000)], [0, 2.5e-4, 1e-3, 1e-5], rtol=1e-5)
    np.testing.assert_allclose(rate(600), 1e-5 + 0.5 * (1e-3 - 1e-5), rtol=1e-5)  # half of the cosine
    np.testing.assert_allclose(rate_of(warmup_steps=200, total_steps=40)(10), 1e-3, rtol=1e-5)


@pytest.mark.parametrize("warmup, total", [(0, 10), (200, 1), (200, 3)])
def test_schedule_of_very_short_runs_is_finite(warmup, total):
    rate = rate_of(warmup, total)
    assert all(0 <= rate(step) <= 1e-3 * (1 + 1e-6) for step in range(total + 1))


def test_only_causal_weights_are_clamped():
    params = {"context_module": {"causal_obs": jnp.array([-1.0, 0.5, 2.0]), "causal_bias": jnp.array([-1.0, 2.0])}}
    clamped = optim.clamp_causal_weights(params)["context_module"]
    np.testing.assert_array_equal(clamped["causal_obs"], [0, 0.5, 1])
    np.testing.assert_array_equal(clamped["causal_bias"], [-1, 2])
