"""The objective of the causal transition layer against values computed by hand and in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from causal_ctx.models.causal_transition import Transition
from causal_ctx.objectives import transition as objective


def outcome(n=3, codes=4, seed=0) -> Transition:
    rng = np.random.default_rng(seed)
    present = jnp.asarray(rng.random((2, n, n)), jnp.float32)
    log_probs = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, n, codes)), jnp.float32))
    return Transition(log_probs, jnp.array([[1.0, 0, 0], [1, 1, 0]]), present, 1 - present, (present > 0.5).astype(jnp.float32))


def test_code_nats_are_a_mean_over_nodes():
    log_probs = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    np.testing.assert_allclose(objective.code_nats(log_probs, jnp.array([[1, 2]])), [-(np.log(0.25) + np.log(0.8)) / 2], rtol=1e-6)


def test_code_nats_of_a_hopeless_code_still_have_a_gradient():
    """The reference clips probabilities at 1e-4, and below the target's gradient is gone (quirk Q10)."""
    logits = jnp.array([[0.0, 60.0]])
    nats, gradient = jax.value_and_grad(lambda x: objective.code_nats(jax.nn.log_softmax(x), jnp.array([0])))(logits)
    np.testing.assert_allclose(nats, 60, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1, 1]], atol=1e-6)


def test_identity_error_by_hand():
    """Off the identity: one missing loop and two edges of nine entries; then four of four."""
    np.testing.assert_allclose(objective.identity_error(jnp.array([[1.0, 1, 0], [0, 0, 0], [1, 0, 1]])), 3 / 9, rtol=1e-6)
    np.testing.assert_allclose(objective.identity_error(jnp.array([[[0.0, 1], [1, 0]]])), [1.0], rtol=1e-6)


def test_prior_kl_against_double_precision():
    rng = np.random.default_rng(0)
    present, uniform = rng.random((2, 5, 5)), rng.random((2, 5, 5))
    t, q = (scipy.special.softmax(x.reshape(2, -1), axis=1) for x in (uniform, present))
    ours = objective.prior_kl_nats(jnp.asarray(present, jnp.float32), jnp.asarray(uniform, jnp.float32))
    np.testing.assert_allclose(ours, scipy.stats.entropy(t, q, axis=1), rtol=1e-4)
    np.testing.assert_allclose(objective.prior_kl_nats(jnp.full((2, 2), 0.9), jnp.full((2, 2), 0.1)), 0, atol=1e-6)
    two = jnp.array([[np.log(3.0), 0.0]]), jnp.zeros((1, 2))  # q = (3/4, 1/4), t = (1/2, 1/2)
    np.testing.assert_allclose(objective.prior_kl_nats(*two), 0.5 * np.log(2 / 3) + 0.5 * np.log(2), rtol=1e-6)


def test_graph_size_is_the_root_of_the_number_of_edges():
    graph = jnp.array([[1.0, 0, 1], [0, 1, 0], [1, 1, 0]])
    size, gradient = jax.value_and_grad(objective.graph_size)(graph)
    np.testing.assert_allclose(size, np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(gradient, graph / np.sqrt(5), rtol=1e-6)
    size, gradient = jax.value_and_grad(objective.graph_size)(jnp.zeros((3, 3)))
    assert size == 0 and (gradient == 0).all()


def test_positive_trial_by_hand():
    """Rows that are empty with probabilities 0.5 * 0.2 and 0.4 * 0.9."""
    absent = jnp.array([[0.5, 0.2], [0.4, 0.9]])
    np.testing.assert_allclose(jnp.exp(objective.log_positive_trial(absent)), np.hypot(0.1, 0.36), rtol=1e-5)


@pytest.mark.parametrize("n, edge", [(64, 0.5), (256, 0.2), (256, 0.5)])
def test_positive_trial_does_not_underflow(n, edge):
    """log ||v|| of n rows with v = (1 - edge)^n, also where v or its square is no number of single precision."""
    absent = jnp.full((n, n), 1 - edge)
    value, gradient = jax.value_and_grad(objective.log_positive_trial)(absent)
    np.testing.assert_allclose(value, 0.5 * np.log(n) + n * np.log1p(-edge), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.full((n, n), 1 / n / (1 - edge)), rtol=1e-4)
    if edge == 0.2:
        assert jnp.linalg.norm(jnp.prod(absent, axis=1)) == 0, "the direct form underflows"
        np.testing.assert_allclose(jnp.exp(value), 16 * 0.8**256, rtol=1e-4)


def test_positive_trial_of_certain_edges_is_zero_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda a: jnp.exp(objective.log_positive_trial(a)))(jnp.zeros((256, 256)))
    assert value == 0 and jnp.isfinite(gradient).all()


def test_losses_are_the_weighted_sums_of_their_terms(key):
    out, codes = outcome(), jnp.array([[0, 1, 2], [3, 2, 1]])
    weigh = objective.Coefficients(gamma=2.0, identity=0.3, prior=0.5, size=0.7, positive=1.1)
    loss, terms = objective.base_loss(out, jnp.roll(out.log_probs, 1, axis=1), codes, weigh)
    nats = -np.take_along_axis(np.asarray(out.log_probs), np.asarray(codes)[..., None], axis=2).mean()
    alone = -np.take_along_axis(np.roll(out.log_probs, 1, axis=1), np.asarray(codes)[..., None], axis=2).mean()
    np.testing.assert_allclose(loss, 2 * (nats + 0.3 * (alone + ((np.asarray(out.graph) - np.eye(3)) ** 2).mean())), rtol=1e-5)
    np.testing.assert_allclose([terms["latent_nats"], terms["identity_nats"], terms["loss"]], [nats, alone, loss], rtol=1e-5)
    np.testing.assert_allclose([terms["mask_rate"], terms["edge_rate"]], [0.5, np.asarray(out.graph).mean()], rtol=1e-6)

    loss, terms = objective.action_loss(out, codes, weigh, key)
    sizes = np.sqrt(np.asarray(out.graph).sum((1, 2)))
    empty = np.linalg.norm(np.asarray(out.absent).prod(2), axis=1)
    np.testing.assert_allclose([terms["graph_size"], terms["positive_trial"]], [sizes.mean(), empty.mean()], rtol=1e-5)
    np.testing.assert_allclose(loss, 2 * (nats + 0.5 * terms["prior_kl_nats"] + 0.7 * sizes.mean() + 1.1 * empty.mean()), rtol=1e-5)
    assert terms["prior_kl_nats"] > 0
    assert objective.action_loss(out, codes, weigh, jax.random.key(1))[0] != loss, "the prior's target is drawn anew with every key"
    assert objective.action_loss(out, codes, weigh, key)[0] == loss


def test_retrieval_counts_actions_and_factors():
    """Four actions, two factors: actions 0 and 2 move the same one."""
    probs = jnp.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7], [0.1, 0.1, 0.2, 0.6]])
    loss, terms = objective.retrieval_loss(jnp.log(probs), jnp.array([0, 2, 1, 2]))
    np.testing.assert_allclose(loss, -np.log([0.7, 0.2, 0.1, 0.2]).mean(), rtol=1e-6)
    np.testing.assert_allclose([terms["action_accuracy"], terms["factor_accuracy"]], [1 / 4, 3 / 4], rtol=1e-6)
