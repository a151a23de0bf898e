"""The quantiser against brute force, hand-computed losses and averages, and its gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx.models import quantiser
from causal_ctx.models.quantiser import Quantiser

CODEBOOKS = pytest.mark.parametrize("k", [1, 2, 4])


def latents_and_codebooks(k, n=5, d=3):
    """Also a probe of the latents' shape, so that gradients of a sum with it are told apart."""
    rng = np.random.default_rng(k)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return draw(2, 3, 4, k * d), draw(k, n, d), draw(2, 3, 4, k * d)


def nearest_codes(z, codebooks):
    return quantiser.lookup(quantiser.nearest(z, codebooks), codebooks)


def brute_force(z, codebooks):
    """Indices and codes by loops, in float64."""
    z, codebooks = np.asarray(z, np.float64), np.asarray(codebooks, np.float64)
    k, _, d = codebooks.shape
    b, h, w, _ = z.shape
    indices, q = np.empty((b, k, h, w), int), np.empty_like(z)
    for example, book, row, column in np.ndindex(b, k, h, w):
        channels = slice(book * d, (book + 1) * d)
        distances = [((z[example, row, column, channels] - code) ** 2).sum() for code in codebooks[book]]
        indices[example, book, row, column] = best = int(np.argmin(distances))
        q[example, row, column, channels] = codebooks[book, best]
    return indices, q


@CODEBOOKS
def test_nearest_codes_are_those_of_brute_force(k):
    z, codebooks, _ = latents_and_codebooks(k)
    expected, codes = brute_force(z, codebooks)
    indices, q = jax.jit(lambda z, c: (quantiser.nearest(z, c), nearest_codes(z, c)))(z, codebooks)
    assert indices.dtype == jnp.int32
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(q, codes.astype(np.float32))


def test_of_equally_near_codes_the_first_is_taken():
    codebooks = jnp.array([[[3.0], [1.0], [-1.0], [1.0]]])
    np.testing.assert_array_equal(jax.jit(quantiser.nearest)(jnp.zeros((1, 1, 1, 1)), codebooks), [[[[1]]]])


def test_straight_through_has_the_value_of_the_codes_and_the_gradient_of_the_latents():
    z, codebooks, probe = latents_and_codebooks(2)

    def probed(z, codebooks):
        through = quantiser.straight_through(z, nearest_codes(z, codebooks))
        return (through * probe).sum(), through

    (to_z, to_codebooks), through = jax.jit(jax.grad(probed, argnums=(0, 1), has_aux=True))(z, codebooks)
    np.testing.assert_array_equal(through, jax.jit(nearest_codes)(z, codebooks))
    np.testing.assert_array_equal(to_z, probe)
    np.testing.assert_array_equal(to_codebooks, 0)


@CODEBOOKS
def test_gradient_of_the_lookup_is_the_sum_over_the_nodes_of_a_code(k):
    z, codebooks, probe = latents_and_codebooks(k)
    indices, _ = brute_force(z, codebooks)
    expected, d = np.zeros_like(codebooks), codebooks.shape[2]
    for example, book, row, column in np.ndindex(indices.shape):
        expected[book, indices[example, book, row, column]] += probe[example, row, column, book * d : (book + 1) * d]
    gradient = jax.jit(jax.grad(lambda c: (quantiser.lookup(indices, c) * probe).sum()))(codebooks)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


def test_losses_and_their_gradients_by_hand():
    z, q = np.array([[[[1.0, 2.0, 3.0, 4.0]]]], np.float32), np.array([[[[0.0, 0.0, 1.0, 1.0]]]], np.float32)

    @jax.jit
    def of(z, q):
        total = lambda *args: quantiser.losses(*args, 2, 0.5).sum()
        return quantiser.losses(z, q, 2, beta=0.5), quantiser.losses(z, q, 1, beta=0.5), jax.grad(total, argnums=(0, 1))(z, q)

    two_codebooks, one_codebook, (to_z, to_q) = of(z, q)
    np.testing.assert_allclose(two_codebooks, [[1.5 * (1 + 4) / 2, 1.5 * (4 + 9) / 2]])
    np.testing.assert_allclose(one_codebook, [[1.5 * (1 + 4 + 4 + 9) / 4]])
    np.testing.assert_allclose(to_z, 0.5 * (z - q))  # beta * 2 (z - q) / d
    np.testing.assert_allclose(to_q, q - z)  # 2 (q - z) / d
    np.testing.assert_allclose(of(np.concatenate([z, 0 * z]), np.concatenate([q, 0 * q]))[0], [two_codebooks[0], [0, 0]])  # per example


@CODEBOOKS
def test_slices_are_disjoint_and_cover_every_channel(k):
    """Quirk Q1: with the reference's overlapping slices 93 of 128 channels get no gradient at K = 4."""
    z, codebooks, _ = latents_and_codebooks(k)
    to_z = jax.jit(jax.grad(lambda z: quantiser.losses(z, nearest_codes(z, codebooks), k, 0.25).sum()))(z)
    assert (np.abs(to_z).max(axis=(0, 1, 2)) > 0).all()
    d, nearest = codebooks.shape[2], jax.jit(quantiser.nearest)
    for book in range(k):
        moved = z.copy()
        moved[..., book * d : (book + 1) * d] *= -1
        changed = (np.asarray(nearest(moved, codebooks)) != nearest(z, codebooks)).any(axis=(0, 2, 3))
        np.testing.assert_array_equal(changed, np.arange(k) == book)


def test_usage_of_even_collapsed_and_mixed_codebooks():
    indices = np.array([[0, 1, 2, 3], [2, 2, 2, 2], [0, 0, 1, 2]]).reshape(1, 3, 2, 2)
    shares = jax.jit(quantiser.code_shares, static_argnums=1)(indices, 4)
    np.testing.assert_allclose(shares, [[0.25, 0.25, 0.25, 0.25], [0, 0, 1, 0], [0.5, 0.25, 0.25, 0]])
    used = jax.jit(quantiser.usage)(shares)
    np.testing.assert_allclose(used.entropy_bits, [2, 0, 1.5], atol=1e-6)
    np.testing.assert_allclose(used.perplexity_codes, [4, 1, 2**1.5], rtol=1e-6)
    np.testing.assert_array_equal(used.dead_codes, [0, 3, 1])


def tracked(q, variables, z, steps, key=None):
    """The variables after `steps` training steps on the same latents."""

    @jax.jit
    def step(variables, key):
        _, updated = q.apply(variables, method=lambda q: q.track(z, q.indices(z), key), mutable=["batch_stats"])
        return variables | updated

    for _ in range(steps):
        variables = step(variables, key)
    return jax.device_get(variables)


def test_moving_averages_by_hand():
    """Two codes at -0.5 and 0.5 with share 1/2 each; latents -1, 2, 4 and decay 0.9."""
    q = Quantiser(width=1, num_codes=2, update="ema", decay=0.9)
    z = np.array([-1.0, 2.0, 4.0], np.float32).reshape(1, 1, 3, 1)
    stats = {"codebooks": np.float32([[[-0.5], [0.5]]]), "sums": np.float32([[[-0.25], [0.25]]]), "shares": np.float32([[0.5, 0.5]])}
    new = jax.tree.map(np.ravel, tracked(q, {"batch_stats": stats}, z, steps=1)["batch_stats"])
    shares = np.array([0.9 * 0.5 + 0.1 * 1 / 3, 0.9 * 0.5 + 0.1 * 2 / 3])
    sums = np.array([0.9 * -0.25 + 0.1 * -1 / 3, 0.9 * 0.25 + 0.1 * 6 / 3])
    np.testing.assert_allclose(new["shares"], shares, rtol=1e-6)
    np.testing.assert_allclose(new["sums"], sums, rtol=1e-6)
    np.testing.assert_allclose(new["codebooks"], sums / shares, rtol=1e-6)


def test_moving_averages_settle_on_the_mean_of_their_latents_and_unseen_codes_stay():
    """Latents around 1 and around 3; the third code, far away, is never the nearest and keeps its place while its share vanishes."""
    q = Quantiser(width=1, num_codes=3, update="ema", decay=0.5)
    z = np.array([0.9, 1.1, 2.5, 3.5], np.float32).reshape(1, 2, 2, 1)
    codebooks = np.float32([[[0.0], [2.0], [100.0]]])
    stats = {"codebooks": codebooks, "sums": codebooks / 3, "shares": np.full((1, 3), 1 / 3, np.float32)}
    stats = tracked(q, {"batch_stats": stats}, z, steps=60)["batch_stats"]
    np.testing.assert_allclose(stats["codebooks"].ravel(), [1.0, 3.0, 100.0], rtol=1e-5)
    np.testing.assert_allclose(stats["shares"].ravel(), [0.5, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize("update", quantiser.UPDATES)
def test_dead_codes_move_to_current_latents_of_their_own_slice(key, update):
    """The latents of codebook 0 lie near 10, those of codebook 1 near -10: few codes of each are used, the others go where the latents are."""
    k, n, d = 2, 4, 2
    q = Quantiser(width=k * d, num_codes=n, num_codebooks=k, update=update, decay=0.5, revival=True)
    z = (np.repeat([10.0, -10.0], d) + np.random.default_rng(0).normal(0, 0.1, (2, 3, 3, k * d))).astype(np.float32)
    home = "params" if update == "gradient" else "batch_stats"
    codebooks = np.random.default_rng(1).uniform(-0.25, 0.25, (k, n, d)).astype(np.float32)
    stats = {"shares": np.full((k, n), 1 / n, np.float32), "candidates": np.zeros_like(codebooks)}
    variables = {"params": {"codebooks": codebooks}, "batch_stats": stats}
    if update == "ema":
        variables = {"batch_stats": stats | {"codebooks": codebooks, "sums": codebooks / n}}
    variables = tracked(q, variables, z, steps=5, key=key)
    before, dead = variables[home]["codebooks"], variables["batch_stats"]["shares"] < 0.5 / n
    assert (dead.sum(axis=1) > 0).all() and (dead.sum(axis=1) < n).all()
    params, stats = jax.device_get(jax.jit(quantiser.revive)(variables.get("params", {}), variables["batch_stats"], 0.5))
    after = (params if update == "gradient" else stats)["codebooks"]
    np.testing.assert_array_equal(after[~dead], before[~dead])
    np.testing.assert_allclose(stats["shares"][dead], 1 / n)
    latents = z.reshape(-1, k, d)
    for book, code in zip(*np.nonzero(dead)):
        assert (latents[:, book] == after[book, code]).all(-1).any()
    if update == "ema":  # the averages agree with the place, so that without new latents the code stays there
        np.testing.assert_allclose((stats["sums"] / stats["shares"][..., None])[dead], after[dead], rtol=1e-5)
    kept = jax.jit(quantiser.revive)(variables.get("params", {}), variables["batch_stats"], 0.0)
    jax.tree.map(np.testing.assert_array_equal, kept, (variables.get("params", {}), variables["batch_stats"]))


def test_candidates_depend_on_the_key_and_stay_in_their_slice():
    z, _, _ = latents_and_codebooks(2)
    draw = jax.jit(lambda seed: quantiser.candidates(jax.random.key(seed), z, 2, 6))
    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).any()
    pool = z.reshape(-1, 2, 3)
    assert all((pool[:, book] == np.asarray(code)).all(-1).any() for book in range(2) for code in draw(3)[book])


def test_the_papers_setting_keeps_nothing_but_codebooks(key):
    q, z = Quantiser(width=4, num_codes=16, num_codebooks=2), np.ones((1, 2, 2, 4), np.float32)
    first = jax.jit(partial(q.init, method="indices"))(key, z)
    assert jax.tree.map(jnp.shape, first) == {"params": {"codebooks": (2, 16, 2)}}
    jax.tree.map(np.testing.assert_array_equal, tracked(q, first, z, steps=1), first)
    codebooks = np.asarray(first["params"]["codebooks"])
    assert -1 / 16 <= codebooks.min() < -0.8 / 16 and 0.8 / 16 < codebooks.max() <= 1 / 16


@pytest.mark.parametrize("fields, says", [
    ({"num_codebooks": 3}, "Latents 4 wide cannot be split evenly among 3 codebooks"),
    ({"num_codebooks": 0}, "among 0 codebooks"),
    ({"update": "momentum"}, "cannot be updated by 'momentum'; choose one of gradient, ema"),
])
def test_what_cannot_be_built_is_refused(key, fields, says):
    with pytest.raises(ValueError, match=says):
        Quantiser(**{"width": 4, "num_codes": 8} | fields).init(key, np.ones((1, 2, 2, 4)), method="indices")


def test_misuse_is_refused():
    z, q = np.ones((1, 2, 2, 4), np.float32), Quantiser(width=4, num_codes=8, revival=True)
    codes = np.zeros((1, 8, 4), np.float32)
    variables = {"params": {"codebooks": codes}, "batch_stats": {"shares": codes[..., 0], "candidates": codes}}
    with pytest.raises(ValueError, match="give the model a key"):
        tracked(q, variables, z, steps=1)
    with pytest.raises(ValueError, match="6 wide and the quantiser takes 4"):
        q.apply(variables, np.ones((1, 2, 2, 6), np.float32), method="indices")
    with pytest.raises(ValueError, match="build it with revival=True"):
        quantiser.revive({}, {"shares": codes[..., 0]}, 0.1)
