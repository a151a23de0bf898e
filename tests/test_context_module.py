"""The context module against its equations: causal structure by gradients, brute force, and mixed batches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx.models import context_module as cm

K, W_IN, W_OUT, E = 4, 5, 3, 7
TARGETS = {"none": (0, 0, 0, 0), "single": (0, 1, 0, 0), "double": (1, 0, 1, 0), "all": (1, 1, 1, 1)}


def build(**fields):
    module = cm.ContextModule(K, W_IN, W_OUT, depth=3, out_features=E, **{"normalisation": "batch"} | fields)
    variables = module.init(jax.random.key(0), jnp.zeros((2, K * W_IN)), jnp.zeros((2, K)), False)
    return module, variables


def weights(key):
    shape = (K, W_OUT, K, W_OUT)
    return tuple(jax.random.normal(jax.random.fold_in(key, i), shape) for i in range(2))


@pytest.mark.parametrize("composition", cm.QUIRK_RULES)
@pytest.mark.parametrize("name", TARGETS)
def test_causal_structure_by_gradients(key, name, composition):
    """Block (i, j) of the Jacobian is what the structural equations say, and exactly zero where they cut."""
    t, (obs, ivn) = np.array(TARGETS[name]), weights(key)
    layer = lambda eps: cm.causal_layer(eps[None], obs, ivn, jnp.asarray(t)[None], composition)[0]
    jacobian = jax.jacobian(layer)(jax.random.normal(key, (K, W_OUT)))
    for i, j in itertools.product(range(K), repeat=2):
        if i == j:
            expected = np.eye(W_OUT)
        elif t[j] and not (composition == "cut" and t[i]):
            expected = ivn[i, :, j]
        elif t[j] or t[i]:
            expected = np.zeros((W_OUT, W_OUT))
        else:
            expected = obs[i, :, j]
        block = jacobian[i, :, j]
        if not expected.any():
            assert (block == 0).all(), f"concept {i} hears noise {j}"
        np.testing.assert_allclose(block, expected, atol=1e-6)


@pytest.mark.parametrize("name", TARGETS)
def test_structural_equations_hold_and_an_intervention_stops_what_came_through_its_concept(key, name):
    """Without cycles: every concept is its noise and what it hears of the others' values, an intervened one its noise alone."""
    t, (edges, ivn) = np.array(TARGETS[name]), weights(key)
    edges = edges * jnp.tri(K, k=-1)[:, None, :, None]
    eps = jax.random.normal(key, (5, K, W_OUT))
    layer = lambda eps, ivn=ivn: cm.causal_layer(eps, edges, ivn, jnp.broadcast_to(jnp.asarray(t), (len(eps), K)), "structural")
    c = layer(eps)
    heard = jnp.einsum("ivjw,bjw->biv", edges, c) * (1 - t)[None, :, None]
    np.testing.assert_allclose(c, eps + heard, atol=1e-5)
    np.testing.assert_array_equal(c, layer(eps, 2 * ivn))  # unused
    jacobian = jax.jacobian(lambda one: layer(one[None])[0])(eps[0])
    passes = lambda i, j: i == j or any(not t[i] and i > m and passes(m, j) for m in range(K))
    for i, j in itertools.product(range(K), repeat=2):
        assert bool(jacobian[i, :, j].any()) == passes(i, j), f"concept {i}, noise {j}"


def test_with_cycles_an_intervened_concept_is_still_its_noise_and_effects_end_after_all_but_one_step(key):
    (edges, ivn), eps = weights(key), jax.random.normal(key, (1, K, W_OUT))
    c = cm.causal_layer(eps, edges, ivn, jnp.array([TARGETS["single"]]), "structural")
    np.testing.assert_array_equal(c[:, 1], eps[:, 1])
    hears = cm.without_diagonal(edges).at[1].set(0).reshape(K * W_OUT, K * W_OUT)
    steps = sum(np.linalg.matrix_power(np.asarray(hears, np.float64), length) for length in range(K))
    np.testing.assert_allclose(c.reshape(-1), steps @ np.asarray(eps, np.float64).reshape(-1), rtol=1e-4)


@pytest.mark.parametrize("composition", cm.COMPOSITION)
def test_effective_blocks_are_the_matrix_of_the_layer(key, composition):
    obs, ivn = weights(key)
    targets = jnp.array(list(itertools.product((0, 1), repeat=K)))
    eps = jax.random.normal(key, (len(targets), K, W_OUT))
    blocks = cm.effective_causal_blocks(obs, ivn, targets, composition)
    assert blocks.shape == (2**K, K, W_OUT, K, W_OUT)
    expected = jnp.einsum("bivjw,bjw->biv", blocks, eps)
    np.testing.assert_allclose(cm.causal_layer(eps, obs, ivn, targets, composition), expected, atol=1e-5)


@pytest.mark.parametrize("mixing", cm.NOISE_MIXING)
@pytest.mark.parametrize("name", TARGETS)
def test_noise_layer_against_brute_force(key, name, mixing):
    t = np.array(TARGETS[name])
    obs, ivn = (np.asarray(jax.random.normal(jax.random.fold_in(key, i), (K, W_IN, K, W_IN))) for i in range(2))
    z = np.asarray(jax.random.normal(key, (K, W_IN)))
    expected = np.stack([(ivn if t[k] else obs)[k, :, k] @ z[k] for k in range(K)])
    if mixing == "reference" and not t.any():
        expected = np.einsum("kvjw,jw->kv", obs, z)
    np.testing.assert_allclose(cm.noise_layer(z[None], obs, ivn, jnp.asarray(t)[None], mixing)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["batch", "group"])
@pytest.mark.parametrize("mixing", cm.NOISE_MIXING)
def test_whole_module_hides_unintervened_noise_from_an_intervened_concept(key, mixing, normalisation):
    """Before unpooling, through noise, expressive and causal layers: zero effect of noise 0, 2, 3 on intervened concept 1; some effect the other way."""
    module, variables = build(noise_mixing=mixing, normalisation=normalisation)
    params = variables["params"] | {"unpool": {"linear": {"kernel": jnp.eye(K * W_OUT), "bias": jnp.zeros(K * W_OUT)}}}
    module = module.clone(out_features=K * W_OUT)
    targets = jnp.array([TARGETS["single"]])
    concepts = lambda z: module.apply(variables | {"params": params}, z[None], targets, False)[0].reshape(K, W_OUT)
    jacobian = np.asarray(jax.jacobian(concepts)(jax.random.normal(key, (K * W_IN,))))
    effect = np.abs(jacobian).reshape(K, W_OUT, K, W_IN).sum((1, 3))
    np.testing.assert_array_equal(effect[1] > 0, [False, True, False, False])
    assert (effect[:, 1] > 0).all()
    assert (effect[[0, 2, 3]][:, [0, 2, 3]] > 0).all(), "an un-intervened concept keeps hearing the others"


@pytest.mark.parametrize("normalisation", ["batch", "group"])
@pytest.mark.parametrize("mixing", cm.NOISE_MIXING)
def test_mixed_batch_equals_one_by_one_and_vmapped_compositions(key, mixing, normalisation):
    module, variables = build(noise_mixing=mixing, normalisation=normalisation)
    targets = jnp.array(list(itertools.product((0, 1), repeat=K)))
    z = jax.random.normal(key, (len(targets), K * W_IN))
    apply = lambda z, t: module.apply(variables, z, t, False)
    together = apply(z, targets)
    assert together.shape == (2**K, E)
    one_by_one = jnp.concatenate([apply(z[i : i + 1], targets[i : i + 1]) for i in range(len(z))])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    vmapped = jax.vmap(lambda t: apply(z[:1], t[None])[0])(targets)
    same_noise = apply(jnp.tile(z[:1], (len(z), 1)), targets)
    np.testing.assert_allclose(vmapped, same_noise, atol=1e-5)


def test_expressive_widths_are_those_of_the_paper():
    assert cm.expressive_widths(32, 10, 5) == (32, 26, 21, 15, 10)
    assert cm.expressive_widths(448, 50, 6) == (448, 368, 288, 209, 129, 50)


def test_single_concept_wrong_widths_and_unknown_rules():
    module = cm.ContextModule(1, W_IN, W_OUT, depth=2, out_features=E, normalisation="group")
    variables = module.init(jax.random.key(0), jnp.zeros((2, W_IN)), jnp.zeros((2, 1)), False)
    assert module.apply(variables, jnp.zeros((3, W_IN)), jnp.ones((3, 1)), False).shape == (3, E)
    with pytest.raises(ValueError, match=r"z must be \[B, 5\]"):
        module.apply(variables, jnp.zeros((3, 4)), jnp.ones((3, 1)), False)
    for wrong in ({"composition": "perfect"}, {"noise_mixing": "Block"}, {"normalisation": "layer"}):
        (name, given), = wrong.items()
        with pytest.raises(ValueError, match=f"{name} is '{given}'; give one of"):
            cm.ContextModule(2, W_IN, W_OUT, depth=2, out_features=E, **wrong).init(jax.random.key(0), jnp.zeros((2, 2 * W_IN)), jnp.zeros((2, 2)), False)
