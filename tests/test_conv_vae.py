"""The lightweight VAE: shapes and sizes of the paper, and which statistics move when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx import config as configs
from causal_ctx.models import build_model, latent_width


def variables_of(config, k, shape):
    model = build_model(config, k, shape)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((2, *shape)), jnp.zeros((2, k)), jax.random.key(1), True)
    return model, init


@pytest.mark.parametrize("backbone, shape, k", [("conv64", (64, 64, 3), 6), ("conv28", (28, 28, 1), 6)])
@pytest.mark.parametrize("method", ["cm_end_to_end", "base_pooled"])
def test_shapes(backbone, shape, k, method):
    config = configs.default()
    config.model.backbone, config.method = backbone, method
    model, init = variables_of(config, k, shape)
    variables = jax.eval_shape(init)
    images, targets = jnp.zeros((5, *shape)), jnp.zeros((5, k))
    logits, posterior, generated = jax.eval_shape(lambda v: model.apply(v, images, targets, jax.random.key(0), False), variables)
    assert logits.shape == (5, *shape) and generated is None
    assert posterior.mean.shape == posterior.log_variance.shape == (5, latent_width(config, k))


def test_number_of_parameters_is_the_papers():
    """Spec section 2: about 2.6 M with the module at K = 6, w_in 32, w_out 8, D 2."""
    _, init = variables_of(configs.default(), 6, (64, 64, 3))
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init)["params"]))
    assert 2.5e6 < count < 2.7e6


@pytest.mark.parametrize("module, backbone, moved", [
    ("generated", "generated", {"context_module", "decoder"}),
    ("generated", "batch", {"context_module"}),
    ("batch", "generated", {"decoder"}),
    ("batch", "batch", set()),
    ("generated", "group", {"context_module"}),
    ("batch", "group", set()),
])
def test_calibration_replaces_the_statistics_of_generated_layers_only(key, module, backbone, moved):
    config = configs.resize(configs.default(), "tiny")
    config.model.module_normalisation, config.model.backbone_normalisation = module, backbone
    k, shape = 3, (16, 16, 3)
    _, init = variables_of(config, k, shape)
    variables = jax.jit(init)()
    calibrating = build_model(config, k, shape, calibrating=True)
    z, targets = 3 * jax.random.normal(key, (32, latent_width(config, k))), jnp.ones((32, k))
    _, updated = calibrating.apply(variables, z, targets, train=True, mutable=["batch_stats"], method="decode")
    before, after = variables["batch_stats"], updated.get("batch_stats", {})
    different = lambda name: any((a != b).any() for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name])))
    assert after.keys() == before.keys() and {name for name in after if different(name)} == moved


def test_calibrated_features_are_standardised(key):
    """With the statistics of its own batch, a generated batch leaves the module's first normalisation with mean 0 and variance 1."""
    config = configs.resize(configs.default(), "tiny")
    k, shape = 3, (16, 16, 3)
    model, init = variables_of(config, k, shape)
    variables = jax.jit(init)()
    calibrating = build_model(config, k, shape, calibrating=True)
    z, targets = 2 + 3 * jax.random.normal(key, (64, latent_width(config, k))), jnp.ones((64, k))
    _, updated = calibrating.apply(variables, z, targets, train=True, mutable=["batch_stats"], method="decode")
    _, state = model.apply(variables | updated, z, targets, method="decode", capture_intermediates=True, mutable=["intermediates"])
    (normalised,) = state["intermediates"]["context_module"]["norm_0"]["__call__"]
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(normalised.var(0), 1, atol=2e-2)
