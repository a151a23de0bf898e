"""Scores of CT-VAE with a predictor whose codes are the factors, so that a perfect, a copying and a random transition have known scores."""

import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from causal_ctx.data import factors, transitions
from causal_ctx.data.transition_sets import Images, TransitionData
from causal_ctx.evaluation import disentanglement
from causal_ctx.evaluation import transitions as evaluation
from causal_ctx.evaluation.codes import Acted, CodePredictor
from causal_ctx.evaluation.transitions import autoencoder_scores, number_of_parts, own_actions, scored_pairs, transition_scores, validation_scores
from causal_ctx.models.causal_transition import CausalTransition
from causal_ctx.models.mcq_vae import MCQVAE, Decoder, Encoder
from causal_ctx.models.quantiser import Quantiser

SIZES, V, N, STEP = {"hue": 6, "scale": 5, "shape": 6, "side": 4}, 4, 6, 40  # a value more is 40 levels more of the factor's pixel
SETTINGS = {"noise_seeds": 3, "pairs": 100, "images": 50, "disentanglement": "off", "reduction": "variance", "keep": 64, "chain_steps": 5}
ONE_STEP = (STEP / 255) ** 2 / V  # squared error of an image one step away
TINY = disentanglement.FAST._replace(train=200, test=100, variance=100, batch=16, stages=4, depth=2)


def settings(**fields):
    return ml_collections.ConfigDict(SETTINGS | fields)


def render(values):
    """Images uint8 [n, 1, V, 1]: one pixel for every factor."""
    return (STEP * values[:, None, :, None]).astype(np.uint8)


def with_transitions(own, samples=100):
    splits = transitions.random_splits(len(own), 0, 0.3) if own.partition is None else own.partition
    made = transitions.make(own, splits, samples)
    images = {split: Images(own, np.flatnonzero(splits == number)) for number, split in enumerate(transitions.SPLITS)}
    return TransitionData(own, images, made, 3 * np.bincount(transitions.select(made, "train").actions, minlength=2 * own.num_factors))


DATA = with_transitions(factors.composed("small", SIZES, (1, V, 1), render))
A = 2 * V


class Factors:
    """A predictor whose codes [n, 1, 1, V] are the factors; `offset` is added to its images, which makes them wrong by so much."""

    def __init__(self, rule="perfect", offset=0.0):
        self.rule, self.offset, self.seen = rule, offset, 0
        self.model = SimpleNamespace(quantiser=SimpleNamespace(num_codes=N))

    def random(self, seed):
        return np.random.default_rng(99 if seed is None else seed)

    def encode(self, images):
        images = images[:]
        self.seen += len(images)
        return np.round(images / STEP).astype(np.uint8).reshape(len(images), 1, 1, -1)

    def represent(self, images):
        codes = self.encode(images)
        return codes, codes.reshape(len(codes), -1).astype(np.float32)

    def decode(self, codes):
        return (codes.reshape(len(codes), 1, -1, 1) * STEP / 255 + self.offset).astype(np.float32)

    def act(self, codes, actions, after=None, seed=None):
        moved = codes.astype(int)
        if self.rule == "perfect" and actions is not None:
            moved[np.arange(len(codes)), 0, 0, actions % V] += np.where(actions < V, 1, -1)
        if self.rule == "random":
            moved = self.random(seed).integers(0, N, codes.shape)
        wrong = np.full(len(codes), np.nan) if after is None else (moved != after).mean((1, 2, 3)) + (0.25 * seed if seed else 0)
        return Acted(moved, np.full(codes.shape, 0.5 if seed is None else 0.25), wrong)

    def predict(self, codes, actions, after=None, draws=5, seed=0, images=True):
        drawn = [self.act(codes, actions, after, seed * draws + draw) for draw in range(draws)]
        probabilities = np.mean([one.codes[..., None] == np.arange(N) for one in drawn], axis=0)
        mask, nats = (np.mean([getattr(one, name) for one in drawn], axis=0) for name in ("mask", "nats"))
        return Acted(probabilities.argmax(-1), mask, nats, self.decode_expected(probabilities) if images else None)

    def decode_expected(self, probabilities):
        return self.decode(probabilities @ np.arange(N))

    def retrieve(self, before, after, seed=None):
        if self.rule == "random":
            return self.random(seed).normal(size=(len(before), A))
        change = (after.astype(int) - before).reshape(len(before), V)
        change = np.where(abs(change).sum(1, keepdims=True) == 1, change, 0)  # other than one step tells nothing: the first action
        return np.concatenate([change, -change], axis=1).astype(float)


def scores_of(rule, **fields):
    told, own = [], settings(**fields)
    advance = lambda amount, name: told.extend([name] * amount)
    scores = transition_scores(own, DATA, Factors(rule), advance)
    autoencoder_scores(own, DATA, Factors(rule), advance)
    assert len(told) == number_of_parts(own, transition=True) and {"retrieval", "actions", "no action", "test images"} < set(told)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    return scores


def test_a_perfect_transition():
    scores = scores_of("perfect")
    assert scores["pairs"] == {"train": len(DATA.pairs("train").actions), "test": len(DATA.pairs("test").actions), "scored": 100, "independent": 50}
    for kind in ("sampled", "deterministic"):
        assert scores["retrieval"][kind]["action"]["mean"] == scores["retrieval"][kind]["factor"]["mean"] == 1
        assert scores["retrieval"][kind]["action"]["interval"] == pytest.approx([0.92865, 1], abs=1e-4)  # Wilson's of 50 of 50
    assert len(scores["retrieval"]["sampled"]["action"]["per_seed"]) == 3 and scores["retrieval"]["chance"] == {"action": 1 / A, "factor": 1 / V}
    assert scores["retrieval"]["upper_bound"]["same_codes"] == {"action": 1, "factor": 1}
    found = scores["action"]
    assert found["expected_mse"] == pytest.approx(0, abs=1e-12) and found["reconstruction_mse"] == pytest.approx(0, abs=1e-12)
    assert found["copy_mse"] == pytest.approx(ONE_STEP) and found["copy_reconstruction_mse"] == pytest.approx(ONE_STEP)
    difference = found["minus_copy"]["expected_mse"]
    assert difference["mean"] == pytest.approx(-ONE_STEP) and difference["standard_error"] == pytest.approx(0, abs=1e-9)
    assert found["minus_copy"].keys() == {name for name in found if name.endswith("_mse")} - {"copy_mse"}
    assert found["changed_pixels"]["copy_mse"] == pytest.approx(V * ONE_STEP) and found["changed_pixels"]["share"] == 1 / V
    others = [found[f"{name}_mse"] for name in ("likeliest", "drawn", "deterministic")]
    assert [found["changed_pixels"]["expected_mse"], *others] == pytest.approx([0] * 4, abs=1e-12)
    assert found["code_accuracy"] == found["changed_code_accuracy"] == 1 and found["mask_rate"] == 0.25
    assert found["latent_nats"] == {"predicted": 0.25, "sampled": {"mean": 0.25, "standard_error": pytest.approx(0.25 / 3**0.5)}, "deterministic": 0}
    assert found["copy_nats"]["changed"] == 1 / V
    assert scores["base"]["code_accuracy"] == 1 and scores["base"]["latent_nats"]["deterministic"] == 0
    assert scores["base"]["images"] == len(np.unique(scored_pairs(DATA.pairs("test"), 100)[0].inputs)) < 100
    assert scores["code_changes"]["changed_nodes"] == 1 and len(scores["code_changes"]["per_action"]) == A


def test_actions_one_by_one():
    scores, train = scores_of("perfect"), DATA.pairs("train").actions
    rows = scores["per_action"]
    assert [row["name"] for row in rows] == list(DATA.actions) and [row["action"] for row in rows] == list(range(A))
    assert [row["train_pairs"] for row in rows] == np.bincount(train, minlength=A).tolist()
    assert [row["balanced_train_pairs"] for row in rows] == (3 * np.bincount(train, minlength=A)).tolist()
    counts = [row["test_pairs"] for row in rows]
    assert sum(counts) == 100 and counts[:V] == counts[V:]
    assert scores["confusion"] == np.diag([3 * count for count in counts]).tolist()


def test_a_perfect_transition_agrees_with_itself_all_along_the_chain():
    scores = scores_of("perfect")
    own = scores["self_consistency"]
    assert own["images"] == 96 and own["action"]["mean"] == own["factor"]["mean"] == 1
    assert [(row["name"], row["images"], row["accuracy"]) for row in own["per_action"]] == [(name, 12, 1) for name in DATA.actions]
    chain = scores["chain"]
    assert [row["step"] for row in chain] == [1, 2, 3, 4, 5] and [row["action"]["mean"] for row in chain] == [1] * 5
    indices, actions = own_actions(DATA, 100)
    value = DATA.factors.factors(indices)[np.arange(len(actions)), actions % V]
    room = np.where(actions < V, np.array(list(SIZES.values()))[actions % V] - 1 - value, value)
    assert [row["images"] for row in chain] == [(room >= step).sum() for step in (1, 2, 3, 4, 5)]
    for row in chain:
        assert row["mse"] == pytest.approx(0, abs=1e-12) and row["copy_mse"] == pytest.approx(row["step"] ** 2 * ONE_STEP)


def test_a_chain_is_as_long_as_asked_or_as_the_factors_are():
    assert [row["step"] for row in scores_of("perfect", chain_steps=2)["chain"]] == [1, 2]
    assert [row["step"] for row in scores_of("perfect", chain_steps=9)["chain"]] == [1, 2, 3, 4, 5]


def test_a_copying_transition():
    scores = scores_of("copy")
    found = scores["action"]
    assert found["expected_mse"] == pytest.approx(ONE_STEP) and found["minus_copy"]["expected_mse"]["interval"] == pytest.approx([0, 0], abs=1e-9)
    assert found["changed_pixels"]["expected_mse"] == pytest.approx(V * ONE_STEP)
    assert found["code_accuracy"] == 1 - 1 / V and found["changed_code_accuracy"] == 0 and scores["base"]["code_accuracy"] == 1
    assert scores["retrieval"]["deterministic"]["action"]["mean"] == 1  # that sees the true images
    assert scores["self_consistency"]["action"]["mean"] == 1 / A and scores["self_consistency"]["factor"]["mean"] == 1 / V
    assert [row["accuracy"] for row in scores["self_consistency"]["per_action"]] == [1] + [0] * (A - 1)
    for row in scores["chain"]:
        assert row["mse"] == pytest.approx(row["copy_mse"]) and row["copy_mse"] == pytest.approx(row["step"] ** 2 * ONE_STEP)


def test_what_the_decoder_gets_wrong_is_told_from_what_the_transition_does():
    found = transition_scores(settings(), DATA, Factors(offset=0.05))["action"]
    assert [found[name] for name in ("expected_mse", "reconstruction_mse", "copy_mse")] == pytest.approx([0.0025, 0.0025, ONE_STEP], rel=1e-4)
    assert [found["changed_pixels"][name] for name in ("expected_mse", "reconstruction_mse", "copy_mse")] == pytest.approx([0.0025, 0.0025, V * ONE_STEP], rel=1e-4)
    assert found["minus_copy"]["expected_mse"]["mean"] == pytest.approx(0.0025 - ONE_STEP, rel=1e-4)


def test_the_expected_image_averages_over_draws():
    """Of a transition that does the right thing in three draws of four and nothing in the fourth."""
    class Wavering(Factors):
        def act(self, codes, actions, after=None, seed=None):
            self.rule = "copy" if seed in (None, 0) else "perfect"
            return super().act(codes, actions, after, seed)

    found = transition_scores(settings(noise_seeds=4), DATA, Wavering())["action"]
    assert found["expected_mse"] == pytest.approx(ONE_STEP / 16) and found["minus_copy"]["expected_mse"]["mean"] == pytest.approx(-ONE_STEP * 15 / 16)
    assert found["likeliest_mse"] == pytest.approx(0, abs=1e-12) and found["code_accuracy"] == 1
    assert found["drawn_mse"] == found["deterministic_mse"] == pytest.approx(ONE_STEP, rel=1e-6) and found["minus_copy"]["drawn_mse"]["mean"] == pytest.approx(0, abs=1e-9)


def test_a_hedged_copy_doubts_every_code_by_the_share_that_change():
    found = scores_of("copy")["action"]
    before, after = (DATA.factors.factors(rows) for rows in (scored_pairs(DATA.pairs("test"), 100)[0][:2]))
    own = np.where(before[..., None] == np.arange(N), 1 - 1 / V, 1 / V / (N - 1)) @ np.arange(N)
    assert found["hedged_copy_mse"] == pytest.approx(np.square((own - after) * STEP / 255).mean(), rel=1e-5)


def test_a_random_transition_is_at_chance():
    scores = scores_of("random", noise_seeds=20, pairs=400)
    action, factor = (scores["retrieval"]["sampled"][level] for level in ("action", "factor"))
    assert abs(action["mean"] - 1 / A) < 4 * action["standard_error"] < 0.06 and abs(factor["mean"] - 1 / V) < 4 * factor["standard_error"] < 0.06
    assert scores["action"]["code_accuracy"] == pytest.approx(1 / N, abs=0.04) and scores["action"]["changed_code_accuracy"] == pytest.approx(1 / N, abs=0.08)
    assert scores["base"]["code_accuracy"] == pytest.approx(1 / N, abs=0.06)
    found = scores["action"]
    assert found["drawn_mse"] > 4 * ONE_STEP and found["expected_mse"] < found["drawn_mse"] and found["minus_copy"]["expected_mse"]["interval"][0] > 0
    assert scores["self_consistency"]["action"]["mean"] == pytest.approx(1 / A, abs=0.07)


def test_images_are_compared_in_many_parts_as_in_one(monkeypatch):
    whole = scores_of("random")
    monkeypatch.setattr(evaluation, "_ROWS", 7)
    parts = scores_of("random")
    for name in ("drawn_mse", "copy_mse"):  # which draws come after another number of parts
        assert parts["action"]["changed_pixels"][name] == pytest.approx(whole["action"]["changed_pixels"][name])
    low, high = (one["action"]["minus_copy"]["drawn_mse"] for one in (whole, parts))
    assert low.pop("interval") == pytest.approx(high.pop("interval")) and low == pytest.approx(high)
    assert parts["chain"][0]["mse"] == pytest.approx(whole["chain"][0]["mse"]) and parts["retrieval"] == whole["retrieval"]


def test_images_that_are_nowhere_have_no_error():
    every = DATA.factors.factors(np.arange(len(DATA.factors)))
    table = every[(every[:, 0] != 2) | (every[:, 1] == 0)]  # few images have the third hue
    chain = transition_scores(settings(), with_transitions(factors.from_array("gaps", SIZES, render(table), table=table)), Factors())["chain"]
    assert chain[1]["copy_mse"] == pytest.approx(4 * ONE_STEP) and chain[1]["action"]["mean"] == 1

    table = np.random.default_rng(0).integers(0, 2, (400, V))
    faces = with_transitions(factors.from_array("faces", dict.fromkeys("abcd", 2), render(table), table=table), 3)
    told = []
    scores = transition_scores(settings(), faces, Factors(), lambda amount, name: told.append((amount, name)))
    assert told[-4:] == [(1, "chains, step 1"), (settings().chain_steps - 1, "chains"), (1, "actions"), (1, "no action")]  # there are two values alone
    assert len(scores["chain"]) == 1 and scores["chain"][0]["mse"] is None and scores["self_consistency"]["action"]["mean"] == 1


def test_scored_pairs_keep_both_directions_together():
    test = DATA.pairs("test")
    for most, count in ((40, 20), (41, 21), (10**6, len(test.actions) // 2), (0, len(test.actions) // 2)):
        pairs, groups = scored_pairs(test, most)
        assert len(pairs.actions) == min(most or 10**6, len(test.actions)) and len(np.unique(groups)) == count == groups.max() + 1
        ends = [tuple(sorted(pair)) for pair in zip(pairs.inputs, pairs.outputs)]
        assert len(set(ends)) == count and len({*zip(ends, groups)}) == count
        assert len({*zip(pairs.inputs, pairs.outputs)}) == len(groups)
    first, again = (scored_pairs(test, 40)[0] for _ in range(2))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert len(np.unique(first.actions)) > 4 and first.inputs.max() > np.quantile(test.inputs, 0.8)  # drawn from all


def test_the_error_of_a_mean_is_that_over_pairs():
    values = np.random.default_rng(0).normal(3, 1, 60)
    twice = evaluation._grouped_mean(np.repeat(values, 2), np.repeat(np.arange(60), 2))
    assert twice["mean"] == pytest.approx(values.mean()) and twice["standard_error"] == pytest.approx(values.std(ddof=1) / 60**0.5)
    low, high = twice["interval"]
    assert (high - low) / 2 / twice["standard_error"] == pytest.approx(2.001, abs=1e-3)  # Student's t of 59
    assert evaluation._grouped_mean(np.ones(2), np.zeros(2, int)) == {"mean": 1, "standard_error": None, "interval": None}


def test_own_actions_are_valid_and_balanced():
    indices, actions = own_actions(DATA, 80)
    np.testing.assert_array_equal(np.bincount(actions), [10] * A)
    assert (transitions.moved(DATA.factors, indices, actions) >= 0).all() and np.isin(indices, DATA.images["test"].rows).all()
    assert len({*zip(indices, actions)}) == 80


# The autoencoder


def test_reconstructions_and_codes(monkeypatch):
    monkeypatch.setattr(evaluation, "_ROWS", 32)
    scores = autoencoder_scores(settings(images=0), DATA, Factors(offset=0.1))
    assert scores.keys() == {"reconstruction", "codes"} and json.loads(json.dumps(scores, allow_nan=False)) == scores
    found, (train, test) = scores["reconstruction"], (DATA.images[split][:] / 255 for split in ("train", "test"))
    assert [found[f"{split}_mse"] for split in transitions.SPLITS] == pytest.approx([0.01] * 3, rel=1e-4)
    assert found["test_psnr_db"] == pytest.approx(20, abs=1e-3)
    assert found["mean_image_mse"] == pytest.approx(np.square(test - train.mean(0, keepdims=True)).mean()) and found["test_images"] == len(test)
    counts = np.bincount(np.round(test * 255 / STEP).astype(int).ravel(), minlength=N)
    shares = counts / counts.sum()
    entropy = -(shares * np.log(np.maximum(shares, 1e-9))).sum()
    np.testing.assert_allclose(scores["codes"].pop("shares"), [shares])
    assert scores["codes"] == pytest.approx({"perplexity_codes": np.exp(entropy), "dead_codes": 0, "code_bits_per_image": V * entropy / np.log(2)})


def test_a_share_of_the_images_and_a_perfect_autoencoder():
    predictor, test = Factors(), DATA.images["test"]
    rows = evaluation._some(test, 50).rows
    assert len(np.unique(rows)) == 50 and np.isin(rows, test.rows).all() and rows[-1] > test.rows[60] and evaluation._some(test, 0) is test
    scores = autoencoder_scores(settings(images=50), DATA, predictor)
    assert predictor.seen == 150 and scores["reconstruction"]["test_images"] == 50
    assert autoencoder_scores(settings(images=50), DATA, Factors()) == scores
    assert scores["reconstruction"]["test_mse"] < 1e-12
    exact = SimpleNamespace(model=predictor.model, encode=predictor.encode, decode=lambda codes: codes.reshape(-1, 1, V, 1) * STEP / 255)
    assert autoencoder_scores(settings(), DATA, exact)["reconstruction"]["test_psnr_db"] is None  # infinite


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(evaluation.DISENTANGLEMENT, "fast", TINY)


def test_disentanglement_of_codes_and_features(tiny):
    pytest.importorskip("sklearn")
    predictor = Factors()
    told, own = [], settings(disentanglement="fast", reduction="pca", keep=2)
    found = autoencoder_scores(own, DATA, predictor, lambda amount, name: told.append(name))["disentanglement"]
    assert told[-2:] == ["disentanglement of features", "disentanglement of codes"] and len(told) == number_of_parts(own, transition=False)
    assert found["codes"]["factor_vae_eval"] == found["features"]["factor_vae_eval"] == 1 and found["codes"]["mig"] > 0.8
    kept = [found[kind]["parameters"]["dci"] for kind in ("codes", "features")]
    assert [(own["reduction"], own["dimensions"], own["dimensions_kept"]) for own in kept] == [("variance", V, 2), ("pca", V, 2)]
    assert predictor.seen <= 150 + len(DATA.factors)  # every image once


def test_features_too_large_to_be_kept(tiny, monkeypatch):
    whole = evaluation.disentanglement_of(DATA.factors, Factors(), TINY)
    monkeypatch.setattr(evaluation, "_KEPT_BYTES", 0)
    assert evaluation.disentanglement_of(DATA.factors, Factors(), TINY) == whole


def test_disentanglement_without_scikit_learn_lacks_dci_alone(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    found = autoencoder_scores(settings(disentanglement="fast"), DATA, Factors())["disentanglement"]
    for own in found.values():
        assert "needs scikit-learn" in own["skipped"]["dci"] and own["factor_vae_eval"] == 1 and not [name for name in own if name.startswith("dci_")]


def test_disentanglement_of_faces(tiny):
    table = np.random.default_rng(0).integers(0, 2, (400, V))
    own = factors.from_array("faces", dict.fromkeys("abcd", 2), render(table), table=table)
    assert evaluation.disentanglement_of(own, Factors(), TINY)["codes"]["factor_vae_eval"] == 1


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="disentanglement is 'slow'; choose one of off, fast, full"):
        autoencoder_scores(settings(disentanglement="slow"), DATA, Factors())


# Validation, and the true predictor


def test_validation(monkeypatch):
    test = DATA.pairs("test")
    before, after = (Factors().encode(DATA.factors.images(indices)) for indices in (test.inputs, test.outputs))
    perfect = validation_scores(Factors(), before, after, test.actions, 0.25)
    change = (after.astype(int) - before).reshape(-1, V)  # its log-probabilities
    assert perfect == {"action_nats": 0, "retrieval_nats": -1, "action_accuracy": 1, "factor_accuracy": 1, "loss_nats": -1} and abs(change).sum() == len(change)
    copy = validation_scores(Factors("copy"), before, after, test.actions, 0.25)
    assert (copy["action_nats"], copy["loss_nats"]) == (1 / V, 0.25 / V - 1)
    monkeypatch.setattr(evaluation, "VALIDATION", 64)
    calls, random = [], Factors("random")
    for name in ("act", "retrieve"):
        function = getattr(random, name)
        monkeypatch.setattr(random, name, lambda *arguments, f=function: (calls.append((len(arguments[0]), arguments[-1])), f(*arguments))[1])
    first, again = (validation_scores(random, before, after, test.actions, 0.25) for _ in range(2))
    assert calls == [(64, evaluation.SEED)] * 4 and first == again and first["loss_nats"] == 0.25 * first["action_nats"] + first["retrieval_nats"]
    assert first["factor_accuracy"] >= first["action_accuracy"]


@pytest.mark.slow
def test_scores_of_a_model():
    jax.config.update("jax_disable_most_optimizations", True)  # every program runs a few times
    try:
        model, layer = MCQVAE(Encoder((6,), 6, blocks=1), Quantiser(6, N, 2), Decoder((6,), 1, blocks=1)), CausalTransition(N, A, (5, 3))
        rng = np.random.default_rng(0)
        fill = lambda shapes: jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), leaf.dtype), shapes)
        variables = fill(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1))))
        predictor = CodePredictor(model, variables, layer, fill(jax.eval_shape(layer.init, jax.random.key(0)))["params"])
        images = lambda values: np.broadcast_to(render(values).transpose(0, 2, 1, 3), (len(values), 4, 4, 1)).copy()
        data = with_transitions(factors.composed("small", SIZES, (4, 4, 1), images))
        few = settings(noise_seeds=2, pairs=16, images=16, chain_steps=2)
        scores = autoencoder_scores(few, data, predictor) | transition_scores(few, data, predictor)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert np.shape(scores["codes"]["shares"]) == (2, N) and np.shape(scores["confusion"]) == (A, A) and scores["code_changes"]["nodes"] == 8
    assert scores["action"]["latent_nats"]["sampled"]["mean"] > 0 and scores["pairs"]["scored"] == 16 and len(scores["self_consistency"]["per_action"]) == A
