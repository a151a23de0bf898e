"""Trained weights behind arrays: batches that are filled up, seeds, kept codes, and the layers that are behind them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from causal_ctx import parallel
from causal_ctx.data import factors
from causal_ctx.data.transition_sets import Images
from causal_ctx.evaluation import codes
from causal_ctx.evaluation.codes import CodePredictor, in_batches
from causal_ctx.models import causal_transition
from causal_ctx.models.causal_transition import CausalTransition
from causal_ctx.models.mcq_vae import MCQVAE, Decoder, Encoder
from causal_ctx.models.quantiser import Quantiser

K, N, A, WIDTHS, D = 2, 6, 4, (8,), 8
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
CODES = RNG.integers(0, N, (11, K, 4, 4), dtype=np.uint8)
AFTER = np.where(RNG.random(CODES.shape) < 0.3, RNG.integers(0, N, CODES.shape), CODES).astype(np.uint8)
ACTIONS = RNG.integers(0, A, 11)


def random(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype), shapes)


@pytest.fixture(scope="module", autouse=True)
def compile_fast():
    """Every program here runs once or twice."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def predictor():
    """Random weights of a model so small that compiling it takes longest."""
    model = MCQVAE(Encoder(WIDTHS, D, blocks=1), Quantiser(D, N, K), Decoder(WIDTHS, 3, blocks=1))
    transition = CausalTransition(N, A, (5, 3))
    variables = random(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))))
    return CodePredictor(model, variables, transition, random(jax.eval_shape(transition.init, jax.random.key(0)))["params"])


@pytest.fixture
def small_batches(monkeypatch):
    """Four at a time: eleven take three batches, the last of three."""
    monkeypatch.setattr(codes, "BATCH", 4)
    monkeypatch.setattr(in_batches, "__kwdefaults__", {"size": 4})


@pytest.mark.parametrize(("n", "most", "rows"), [(0, 256, 1), (1, 256, 1), (2, 256, 4), (16, 256, 16), (17, 256, 64), (200, 256, 256), (999, 100, 100)])
def test_programs_for_few_rows_are_few(n, most, rows):
    assert parallel.batch_rows(n, most) == rows


@pytest.mark.parametrize(("n", "sizes"), [(11, [4, 4, 4]), (8, [4, 4]), (3, [4]), (1, [1]), (0, [1])])
def test_batches_are_filled_up_and_cut_again(n, sizes):
    seen, x = [], np.arange(10, 10 + 2 * n).reshape(n, 2)
    function = lambda part: (seen.append(len(part)), (part.sum(1), part * 2))[1]
    total, double = in_batches(function, x, size=4)
    assert seen == sizes
    np.testing.assert_array_equal(total, x.sum(1))
    np.testing.assert_array_equal(double, 2 * x)


def test_images_are_codes_and_features_of_the_model(predictor):
    z = jax.jit(partial(predictor.model.apply, method="encode"))(predictor.autoencoder, jnp.asarray(IMAGES, jnp.float32) / 255)
    found, features = predictor.represent(IMAGES)
    np.testing.assert_allclose(features, z.reshape(11, 4 * 4 * D), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(features, predictor.features(IMAGES))
    np.testing.assert_array_equal(found, predictor.model.apply(predictor.autoencoder, jnp.asarray(IMAGES, jnp.float32) / 255, method="codes"))
    assert found.dtype == np.uint8 and found.shape == (11, K, 4, 4) and len(np.unique(found)) > 2
    np.testing.assert_array_equal(found, predictor.encode(IMAGES))


def test_images_that_are_read_when_asked_for(predictor, small_batches):
    data = factors.from_array("own", {"number": 11}, IMAGES)
    np.testing.assert_array_equal(predictor.encode(Images(data, np.arange(10, -1, -1))), predictor.encode(IMAGES)[::-1])
    np.testing.assert_array_equal(predictor.represent(Images(data, np.arange(10, -1, -1)))[0], predictor.encode(IMAGES)[::-1])


def test_kept_codes_are_those_of_every_batch(predictor, small_batches):
    kept = predictor.encode(IMAGES)
    for rows in (slice(0, 1), slice(2, 9), np.array([10, 3])):
        np.testing.assert_array_equal(predictor.encode(IMAGES[rows]), kept[rows])


def test_codes_become_images(predictor, small_batches):
    images = predictor.decode(CODES)
    expected = predictor.model.apply(predictor.autoencoder, jnp.asarray(CODES, jnp.int32), method="decode_codes")
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    np.testing.assert_array_equal(predictor.reconstruct(IMAGES), predictor.decode(predictor.encode(IMAGES)))


def layer(predictor, method, *arrays):
    """The layer on all examples at once, without chance."""
    run = lambda *arrays: predictor.transition.apply({"params": predictor.params}, *arrays, None, "deterministic", method=method)
    return jax.jit(run)(*arrays)


def flat(array):
    return jnp.asarray(array.reshape(11, -1), jnp.int32)


def test_actions_without_chance_are_those_of_the_layer(predictor, small_batches):
    out = layer(predictor, "action", flat(CODES), jnp.asarray(ACTIONS))
    acted = predictor.act(CODES, ACTIONS, AFTER)
    np.testing.assert_array_equal(acted.codes.reshape(11, -1), out.log_probs.argmax(-1))
    np.testing.assert_array_equal(acted.mask.reshape(11, -1), out.mask)
    np.testing.assert_allclose(acted.nats, causal_transition.code_nats(out.log_probs, flat(AFTER)), rtol=1e-4)
    assert acted.codes.shape == acted.mask.shape == CODES.shape and np.isnan(predictor.act(CODES, ACTIONS).nats).all()
    graphs = predictor.graphs(CODES, ACTIONS)
    np.testing.assert_allclose(graphs.present, out.present, atol=1e-5)
    np.testing.assert_array_equal(graphs.mask, out.mask)


@pytest.mark.slow
def test_a_prediction_is_the_mean_over_draws_and_its_image_that_of_the_mean_latents(predictor, small_batches):
    found = predictor.predict(CODES[:4], ACTIONS[:4], AFTER[:4], draws=3, seed=2)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2), 0), 3)
    act = lambda key: predictor.transition.apply({"params": predictor.params}, flat(CODES)[:4], ACTIONS[:4], key, "sampled", method="action")
    drawn = [jax.jit(act)(key) for key in keys]
    probabilities = np.mean([np.exp(one.log_probs) for one in drawn], axis=0)
    assert np.std([one.log_probs for one in drawn], axis=0).max() > 1e-3
    np.testing.assert_array_equal(found.codes.reshape(4, -1), probabilities.argmax(-1))
    np.testing.assert_allclose(found.mask.reshape(4, -1), np.mean([one.mask for one in drawn], axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.nats, causal_transition.code_nats(jnp.log(probabilities), flat(AFTER)[:4]), rtol=1e-4)
    np.testing.assert_allclose(found.images, predictor.decode_expected(probabilities.reshape(*CODES[:4].shape, N)), atol=1e-5)
    assert predictor.predict(CODES[:4], ACTIONS[:4], images=False).images is None
    certain = (CODES[..., None] == np.arange(N)).astype(np.float32)
    np.testing.assert_allclose(predictor.decode_expected(certain), predictor.decode(CODES), atol=1e-5)
    latents = predictor.model.apply(predictor.autoencoder, CODES[:2].astype(np.int32), method="latents")
    between = predictor.model.apply(predictor.autoencoder, latents.mean(0, keepdims=True), method="decode")
    np.testing.assert_allclose(predictor.decode_expected(certain[:2].mean(0, keepdims=True)), np.clip(between, 0, 1), atol=1e-5)


def test_no_action_is_base_mode(predictor, small_batches):
    out = layer(predictor, "base", flat(CODES))[0]
    acted = predictor.act(CODES, None, CODES)
    np.testing.assert_allclose(acted.nats, causal_transition.code_nats(out.log_probs, flat(CODES)), rtol=1e-4)
    np.testing.assert_array_equal(acted.codes.reshape(11, -1), out.log_probs.argmax(-1))
    assert not acted.mask.any()


@pytest.mark.slow
def test_retrieval_without_chance_is_what_actions_cost(predictor, small_batches):
    nats = np.stack([predictor.act(CODES, np.full(11, action), AFTER).nats for action in range(A)], axis=1)
    np.testing.assert_allclose(predictor.retrieve(CODES, AFTER), scipy.special.log_softmax(-nats, axis=1), atol=1e-4)


def test_retrieval_takes_fewer_examples_at_a_time_the_more_actions_there_are(predictor, monkeypatch):
    sizes = []
    monkeypatch.setattr(codes, "in_batches", lambda function, *arrays, size=None: sizes.append(size))
    for at_once in (0, 2, 100):
        settings = predictor.transition.settings._replace(actions_at_once=at_once)
        predictor._replace(transition=predictor.transition.clone(settings=settings)).retrieve(CODES, AFTER)
    assert sizes == [codes.BATCH // A, codes.BATCH // 2, codes.BATCH // A]


@pytest.mark.slow
def test_draws_are_functions_of_the_seed_and_differ_between_batches(predictor, small_batches):
    alike = np.repeat(CODES[:1], 11, axis=0)
    run = lambda seed, n=11: predictor.act(alike[:n], np.zeros(n, int), alike[:n], seed)
    first, again, other = run(3), run(3), run(4)
    np.testing.assert_array_equal(first.nats, again.nats)
    assert not np.array_equal(first.mask, other.mask)
    assert not np.array_equal(first.mask[:4], first.mask[4:8])
    np.testing.assert_array_equal(run(3, 6).mask, first.mask[:6])  # more examples change nothing for those before them
    assert not np.array_equal(predictor.retrieve(CODES, AFTER, 3), predictor.retrieve(CODES, AFTER, 4))
    np.testing.assert_array_equal(predictor.retrieve(CODES, AFTER, 3), predictor.retrieve(CODES, AFTER, 3))


def test_nothing_in_gives_nothing_out(predictor):
    none = CODES[:0]
    assert predictor.encode(IMAGES[:0]).shape == none.shape and predictor.decode(none).shape == (0, 8, 8, 3)
    acted, predicted = predictor.act(none, ACTIONS[:0]), predictor.predict(none, ACTIONS[:0])
    assert acted.codes.shape == predicted.codes.shape == acted.mask.shape == none.shape and predicted.images.shape == (0, 8, 8, 3)
    assert predictor.decode_expected(np.zeros((*none.shape, N), np.float32)).shape == (0, 8, 8, 3) and predictor.retrieve(none, none).shape == (0, A)
