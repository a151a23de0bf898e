"""BatchNorm and GroupNorm are Flax's, in value, gradient and statistics."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx.models.normalisation import BatchNorm, GroupNorm, Norm


@pytest.fixture
def pair(key):
    """(ours, Flax's, variables that fit both, features of uneven scale)."""
    ours = lambda train: BatchNorm(use_running_average=not train, momentum=0.9)
    theirs = lambda train: nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    x = jax.random.normal(key, (6, 4, 5, 7)) * jnp.arange(1.0, 8.0)[None, None, None] + jnp.arange(7.0)[None, None, None]
    variables = {
        "params": {"scale": jnp.linspace(0.5, 2.0, 7), "bias": jnp.linspace(-1.0, 1.0, 7)},
        "batch_stats": {"mean": jnp.linspace(0.0, 3.0, 7), "var": jnp.linspace(1.0, 4.0, 7)},
    }
    return ours, theirs, variables, x


def test_it_is_flax_batchnorm_in_training(pair, key):
    ours, theirs, variables, x = pair
    probe = jax.random.normal(key, x.shape)

    def value(layer, params, x):
        y, updated = layer(True).apply(variables | {"params": params}, x, mutable=["batch_stats"])
        return (y**2 * probe).sum(), (y, updated)

    found, wanted = (jax.jit(jax.value_and_grad(lambda p, x, l=l: value(l, p, x), argnums=(0, 1), has_aux=True))(variables["params"], x) for l in (ours, theirs))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_it_is_flax_batchnorm_over_running_averages_and_at_its_start(pair, key):
    ours, theirs, variables, x = pair
    np.testing.assert_allclose(ours(False).apply(variables, x), theirs(False).apply(variables, x), rtol=1e-5, atol=1e-5)
    for train in (True, False):
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), ours(train).init(key, x), theirs(train).init(key, x)))


def test_bfloat16_is_standardised_in_float32(pair):
    """A thousand features far from zero: sums in bfloat16 would be wrong in the first digit."""
    ours, _, variables, _ = pair
    x = (100 + jax.random.normal(jax.random.key(3), (1000, 7))).astype(jnp.bfloat16)
    variables = variables | {"params": jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables["params"])}
    loss = lambda params, x: ours(True).apply(variables | {"params": params}, x, mutable=["batch_stats"])[0].astype(jnp.float32).var()
    gradients = jax.grad(loss, argnums=(0, 1))(variables["params"], x)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}
    y, updated = ours(True).apply(variables, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16 and updated["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(y.astype(jnp.float32).mean(axis=0), variables["params"]["bias"].astype(jnp.float32), atol=0.02)
    np.testing.assert_allclose(y.astype(jnp.float32).std(axis=0), variables["params"]["scale"].astype(jnp.float32), rtol=0.02)


@pytest.mark.parametrize("shape, groups", [((6, 4, 5, 12), 1), ((6, 4, 5, 12), 3), ((6, 4, 5, 12), 12), ((6, 12), 1), ((6, 12), 3)])
def test_it_is_flax_groupnorm(shape, groups, key):
    theirs, ours = nn.GroupNorm(num_groups=groups, epsilon=1e-5), GroupNorm(groups)
    x = jax.random.normal(key, shape) * jnp.arange(1.0, 13.0).reshape(*[1] * (len(shape) - 1), 12) + 3
    params = {"scale": jnp.linspace(0.5, 2.0, 12), "bias": jnp.linspace(-1.0, 1.0, 12)}
    probe = jax.random.normal(jax.random.key(5), shape)
    value = lambda layer: lambda p, x: (layer.apply({"params": p}, x) ** 2 * probe).sum()
    found, wanted = (jax.jit(jax.value_and_grad(value(layer), argnums=(0, 1)))(params, x) for layer in (ours, theirs))
    assert jax.tree.structure(found) == jax.tree.structure(wanted) and jax.tree.structure(ours.init(key, x)) == jax.tree.structure(theirs.init(key, x))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


def test_bfloat16_is_standardised_in_float32_by_groups(key):
    """Features far from zero, of two scales; the gradient of scale and bias is summed over examples before it is rounded."""
    scales = jnp.repeat(jnp.array([1.0, 4.0]), 4)
    x = (100 + scales[None, None] * jax.random.normal(key, (64, 500, 8))).astype(jnp.bfloat16)
    layer, params = GroupNorm(2), {"scale": jnp.full(8, 2.0, jnp.bfloat16), "bias": jnp.full(8, 0.5, jnp.bfloat16)}
    y = layer.apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    of_groups = np.asarray(y, np.float32).reshape(64, 500, 2, 4)
    np.testing.assert_allclose(of_groups.mean(axis=(1, 3)), 0.5, atol=0.02)
    np.testing.assert_allclose(of_groups.std(axis=(1, 3)), 2.0, rtol=0.02)
    probe = jax.random.normal(jax.random.key(5), x.shape)
    loss = lambda params, x: (layer.apply({"params": params}, x).astype(jnp.float32) * probe).sum()
    rounded, exact = jax.grad(loss)(params, x), jax.grad(loss)(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), x)
    assert rounded["bias"].dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded["bias"].astype(jnp.float32), exact["bias"], rtol=2**-8)


def test_groups_make_an_example_independent_of_its_batch(key):
    x = jax.random.normal(key, (5, 3, 3, 8))
    layer = Norm("group", groups=4)
    variables = layer.init(key, x, True)
    np.testing.assert_allclose(layer.apply(variables, x, True)[:1], layer.apply(variables, x[:1], False), rtol=1e-6, atol=1e-6)
    assert set(variables) == {"params"}


def test_features_that_fall_into_no_groups_are_refused(key):
    with pytest.raises(ValueError, match="10 features do not fall into 4 groups"):
        GroupNorm(4).init(key, jnp.zeros((2, 10)))
