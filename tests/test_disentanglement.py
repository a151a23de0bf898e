"""Disentanglement scores against closed forms, brute force, scikit-learn and representations whose scores are known."""

import itertools
import json
import sys
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

from causal_ctx.evaluation import disentanglement, one_feature_svm
from causal_ctx.evaluation.disentanglement import (
    FAST, dci, dci_scores, discretise, disentanglement_scores, factor_vae, mig, mutual_information, one_code_accuracy, reduce_codes, sap)
from causal_ctx.evaluation.samplers import sampler, table_sampler, uniform_sampler

TINY = FAST._replace(train=300, test=200, variance=100, batch=16, stages=8, depth=2)
BINARY = np.array(list(itertools.product([0, 1], repeat=3)) * 25)  # three factors, exactly independent
MANY = np.array(list(itertools.product(range(2), range(3), range(4))) * 10)


class Grid(NamedTuple):
    """A factor data set without images: an index is the rank of its factors, the last one fastest."""

    factor_sizes: tuple[int, ...]

    def index(self, factors):
        return np.ravel_multi_index(np.asarray(factors).T, self.factor_sizes)

    def factors(self, indices):
        return np.stack(np.unravel_index(indices, self.factor_sizes), axis=1)


GRID = Grid((3, 4, 5))


def real(factors):
    return np.asarray(factors, np.float32)


def rotated(factors):
    """The first two factors, centred and of unit variance, turned by 45 degrees."""
    z = (factors - factors.mean(0)) / factors.std(0)
    return np.stack([z[:, 0] + z[:, 1], z[:, 0] - z[:, 1], *z.T[2:]], axis=1) * np.array([0.5**0.5, 0.5**0.5, *[1] * (z.shape[1] - 2)])[None]


def noise(n, d=5, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


# DCI


@pytest.mark.parametrize(("importance", "expected"), [
    (np.eye(4), (1, 1)),
    (np.eye(4)[[2, 0, 3, 1]] * np.array([1, 5, 2, 3])[None], (1, 1)),
    (np.ones((4, 3)), (0, 0)),
    (np.zeros((4, 3)), (0, 0)),
    (np.repeat(np.eye(2), 2, axis=0), (1, 0.5)),  # two of four codes share each factor: entropy log 2 of log 4
    (np.array([[1, 1, 0, 0], [0, 0, 1, 1]]), (0.5, 1)),
    (np.array([[2.0], [0.0]]), (1, 1)),
    (np.array([[2.0, 2.0]]), (0, 1)),
])
def test_importance_matrices_by_hand(importance, expected):
    scores = dci_scores(importance)
    np.testing.assert_allclose([scores["dci_disentanglement"], scores["dci_completeness"]], expected, atol=1e-6)


def test_importance_scores_are_the_published_formulas():
    r = np.random.default_rng(0).random((6, 3)) ** 4
    r[4] = 0
    rows, columns = 1 - scipy.stats.entropy(r.T + 1e-11, base=3), 1 - scipy.stats.entropy(r + 1e-11, base=6)
    scores = dci_scores(r)
    assert scores["dci_disentanglement"] == pytest.approx((rows * r.sum(1)).sum() / r.sum(), abs=1e-9)
    assert scores["dci_completeness"] == pytest.approx((columns * r.sum(0)).sum() / r.sum(), abs=1e-9)


def dci_of(represent, factors=MANY, settings=TINY):
    pytest.importorskip("sklearn")
    codes = represent(factors)
    scores = dci(codes, factors, codes, factors, settings)
    return [scores[f"dci_{name}"] for name in ("disentanglement", "completeness", "informativeness_test")]


@pytest.mark.parametrize("represent", [real, lambda f: f, lambda f: f[:, ::-1], lambda f: 5 - 3 * f], ids=["real", "ids", "permuted", "scaled"])
def test_dci_of_the_factors_themselves_is_one(represent):
    assert dci_of(represent) == pytest.approx([1, 1, 1], abs=1e-6)


def test_dci_of_nothing_is_zero_and_as_informative_as_the_majority():
    assert dci_of(lambda f: np.zeros((len(f), 3))) == pytest.approx([0, 0, np.mean([1 / 2, 1 / 3, 1 / 4])], abs=1e-6)


def test_dci_of_duplicates_is_disentangled_but_incomplete():
    disentangled, complete, informative = dci_of(lambda f: real(np.tile(f, (1, 3))))
    assert disentangled == pytest.approx(1, abs=1e-6) and informative == 1
    assert complete < 1 - 0.7 * np.log(3) / np.log(9)  # shared evenly by 3 of 9 codes it would be 1 - log 3 / log 9 = 0.5


def test_dci_of_turned_factors_is_low_and_noise_changes_nothing():
    sizes = np.array(list(itertools.product(range(4), range(4), range(2))) * 8)
    disentangled, complete, _ = dci_of(rotated, sizes)
    assert disentangled < 0.75 and complete < 0.75
    noisy = dci_of(lambda f: np.concatenate([real(f), noise(len(f))], axis=1))
    assert noisy == pytest.approx([1, 1, 1], abs=0.02)


def test_dci_on_fewer_dimensions_says_so():
    pytest.importorskip("sklearn")
    codes = np.concatenate([1e-3 * noise(len(MANY), 40), real(MANY), 1e-3 * noise(len(MANY), 7, seed=1)], axis=1)
    scores = dci(codes, MANY, codes, MANY, TINY._replace(reduction="variance", keep=3))
    assert scores["dci_disentanglement"] == pytest.approx(1, abs=1e-6)
    expected = {"train": len(MANY), "test": len(MANY), "stages": 8, "depth": 2, "reduction": "variance", "dimensions": 50, "dimensions_kept": 3}
    assert scores["parameters"].items() >= expected.items()


def test_reductions():
    codes = np.concatenate([noise(50, 3), 9 * noise(50, 2, seed=1)], axis=1)
    kept, kept_test = reduce_codes(codes, codes[:7], "variance", 2)
    np.testing.assert_array_equal(kept, codes[:, 3:])
    np.testing.assert_array_equal(kept_test, codes[:7, 3:])
    components, of_test = reduce_codes(codes, codes[:7], "pca", 3)
    largest = np.sort(np.linalg.eigvalsh(np.cov(codes.T)))[:1:-1]
    np.testing.assert_allclose(np.cov(components.T), np.diag(largest), atol=1e-8)
    np.testing.assert_allclose(of_test, components[:7], atol=1e-8)
    assert reduce_codes(codes, codes, "none", 2)[0] is codes and reduce_codes(codes, codes, "pca", 5)[0] is codes
    ids = np.stack([np.arange(50) % 2, np.zeros(50, int) + 99, np.arange(50)], axis=1)
    np.testing.assert_array_equal(reduce_codes(ids, ids, "variance", 2)[0], ids[:, [0, 2]])
    with pytest.raises(ValueError, match="no principal components"):
        reduce_codes(ids, ids, "pca", 2)
    with pytest.raises(ValueError, match="2 samples have fewer than 2 principal components"):
        reduce_codes(codes[:2], codes, "pca", 2)


# MIG


def test_information_of_a_small_joint_is_exact():
    """Counts 2, 1, 1, 4 of 8: I = sum p log(p / (row column)) in nats."""
    code, factor = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], [2, 1, 1, 4], axis=0).T
    p = np.array([[2, 1], [1, 4]]) / 8
    exact = (p * np.log(p / np.outer(p.sum(1), p.sum(0)))).sum()
    information, entropy = mutual_information(code[:, None], factor[:, None])
    assert information[0, 0] == pytest.approx(exact, abs=1e-12)
    assert entropy[0] == pytest.approx(scipy.stats.entropy([3, 5]), abs=1e-12)


def test_information_of_all_codes_at_once_is_that_of_each(monkeypatch):
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(0, 3, 200), 7 - 5 * rng.integers(0, 2, 200), rng.integers(0, 4, 200)], axis=1)
    codes = (factors[:, [0, 1, 2, 0, 2]] + rng.integers(0, 3, (200, 5))) % 6
    expected = np.empty((5, 3))
    for c, f in itertools.product(range(5), range(3)):
        p = np.histogram2d(codes[:, c], factors[:, f], (np.arange(7), np.arange(-1, 9)))[0] / 200
        expected[c, f] = scipy.stats.entropy(p.sum(1)) + scipy.stats.entropy(p.sum(0)) - scipy.stats.entropy(p.ravel())
    np.testing.assert_allclose(mutual_information(codes, factors)[0], expected, atol=1e-12)
    monkeypatch.setattr(disentanglement, "_NUMBERS", 1300)  # two codes at a time, the last one alone
    np.testing.assert_allclose(mutual_information(codes, factors)[0], expected, atol=1e-12)


def test_bins_are_those_of_a_histogram():
    x = np.concatenate([noise(500, 4), np.zeros((500, 1))], axis=1)
    expected = [np.digitize(column, np.histogram(column, 20)[1][:-1]) - 1 for column in x.T[:4]]
    np.testing.assert_array_equal(discretise(x, 20), np.stack([*expected, np.zeros(500)], axis=1))
    np.testing.assert_array_equal(discretise(np.array([[5, -2], [5, 90]]), 20), [[1, 0], [1, 2]])


RELABELLED = np.array([7, 0, 900, 3])


@pytest.mark.parametrize(("represent", "expected"), [
    (real, 1),
    (lambda f: f, 1),
    (lambda f: RELABELLED[f], 1),  # ids have no order
    (lambda f: -3 * real(f[:, ::-1]), 1),
    (lambda f: real(0 * f), 0),
    (lambda f: 0 * f, 0),
    (lambda f: real(np.tile(f, (1, 2))), 0),  # no gap to the copy
    (lambda f: np.concatenate([f, f[:, :1]], axis=1), 2 / 3),
    (lambda f: f[:, :1], 1 / 3),  # a single code has no rival
    (lambda f: (f[:, :1] * 3 + f[:, 1:2]) * 4 + f[:, 2:], 1),
    (lambda f: np.stack([f[:, 0] * 3 + f[:, 1], f[:, 2]], axis=1), 1),  # MIG lets one code hold two factors
])
def test_mig_by_hand(represent, expected):
    assert mig(represent(MANY), MANY)["mig"] == pytest.approx(expected, abs=1e-12)


def test_mig_of_turned_factors_is_low_and_noise_changes_nothing():
    assert mig(rotated(MANY), MANY)["mig"] < 0.6
    independent = np.array([(*f, a, b) for f in MANY[:24] for a in range(5) for b in range(3)])
    codes, factors = independent, independent[:, :3]
    assert mig(codes, factors)["mig"] == pytest.approx(1, abs=1e-12)
    sampled = np.random.default_rng(0).integers(0, GRID.factor_sizes, (5_000, 3))
    assert mig(np.concatenate([real(sampled), noise(5_000)], axis=1), sampled)["mig"] == pytest.approx(1, abs=0.01)
    assert mig(codes, factors)["parameters"] == {"samples": 360, "bins": "ids", "most_values": 5}
    assert mig(real(codes), factors, 10)["parameters"] == {"samples": 360, "bins": 10, "most_values": 10}


# SAP


def labelled(n, seed):
    """Features [n, 7] that tell something of two factors of unequal values and frequencies."""
    rng = np.random.default_rng(seed)
    factors = np.stack([rng.random(n) < 0.2, rng.choice(4, n, p=[0.1, 0.4, 0.3, 0.2])], axis=1).astype(int)
    scale = np.array([1, 0.5, 0.1, 3, 1, 0.01, 1])
    return rng.standard_normal((n, 7)) + factors[:, [0, 0, 0, 1, 1, 1, 1]] * scale[None], factors


def test_accuracies_are_those_of_scikit_learn(monkeypatch):
    svm = pytest.importorskip("sklearn.svm")
    (codes, factors), (codes_test, factors_test) = labelled(200, 0), labelled(150, 1)
    monkeypatch.setattr(disentanglement, "_NUMBERS", 6 * 200 * 3)  # three codes at a time, the last one alone
    accuracy = one_code_accuracy(codes, factors, codes_test, factors_test)
    for code, f in itertools.product(range(7), range(2)):
        single = svm.LinearSVC(C=0.01, class_weight="balanced", tol=1e-9, max_iter=100_000, dual=False).fit(codes[:, [code]], factors[:, f])
        assert accuracy[code, f] == single.score(codes_test[:, [code]], factors_test[:, f])


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_machines_of_one_feature_are_those_of_scikit_learn(c):
    svm = pytest.importorskip("sklearn.svm")
    codes, factors = labelled(200, 2)
    positive, weights = disentanglement._balanced(factors + np.array([[0, 2]]), np.array([0, 2]), 6)
    slope, offset = one_feature_svm.fit(10 * codes.T, positive, weights, c)
    for code in range(7):
        fits = [svm.LinearSVC(C=c, class_weight="balanced", tol=1e-10, max_iter=100_000, dual=False).fit(10 * codes[:, [code]], f) for f in factors.T]
        expected = [(-fits[0].coef_, -fits[0].intercept_), (fits[0].coef_, fits[0].intercept_), (fits[1].coef_, fits[1].intercept_)]
        np.testing.assert_allclose(slope[code], np.concatenate([w.ravel() for w, _ in expected]), atol=1e-5)
        np.testing.assert_allclose(offset[code], np.concatenate([b.ravel() for _, b in expected]), atol=1e-5)


def sap_of(represent, factors=BINARY):
    return sap(represent(factors), factors, represent(factors), factors)["sap"]


@pytest.mark.parametrize(("represent", "factors", "expected"), [
    (real, BINARY, 1 / 2),
    (lambda f: -5 * real(f[:, ::-1]), BINARY, 1 / 2),
    (lambda f: f, BINARY, 1 / 2),
    (lambda f: RELABELLED[f], MANY, np.mean([1 / 2, 2 / 3, 3 / 4])),  # a table tells all values, the second best code guesses
    (lambda f: real(0 * f), BINARY, 0),
    (lambda f: 0 * f, MANY, 0),
    (lambda f: real(np.tile(f, (1, 2))), BINARY, 0),
    (lambda f: np.tile(f, (1, 2)), MANY, 0),
    (lambda f: np.concatenate([f, f[:, :1]], axis=1), BINARY, 1 / 3),
])
def test_sap_by_hand(represent, factors, expected):
    assert sap_of(represent, factors) == pytest.approx(expected, abs=1e-12)


def test_sap_of_turned_factors_is_low_and_noise_changes_nothing():
    assert sap_of(rotated) < 0.35
    sample = lambda seed: np.random.default_rng(seed).integers(0, 2, (2_000, 3))
    train, test = sample(0), sample(1)
    with_noise = lambda f, seed: np.concatenate([real(f), noise(len(f), 3, seed)], axis=1)
    noisy = sap(with_noise(train, 2), train, with_noise(test, 3), test)
    assert noisy["sap"] == pytest.approx(0.5, abs=0.04) and noisy["parameters"] == {"train": 2_000, "test": 2_000, "classifier": "linear_svm", "c": 0.01}
    assert sap(train, train, test, test)["parameters"] == {"train": 2_000, "test": 2_000, "classifier": "table"}


def test_ids_and_values_without_training_samples():
    """Id 5 was never seen and is taken for the first value; value 9 is never predicted."""
    train, test = (np.array([[0], [0], [1], [1]]), np.array([[3], [3], [8], [8]])), (np.array([[0], [1], [5], [0]]), np.array([[3], [8], [3], [9]]))
    np.testing.assert_array_equal(one_code_accuracy(*train, *test), [[0.75]])


def test_tables_of_all_codes_at_once_are_those_of_each(monkeypatch):
    """Code c is factor c mod 2 in a share of the samples that falls with c; brute force over ids and values."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, (2, 4), (150, 2))
    ids = np.where(rng.random((150, 5)) < np.linspace(1, 0.2, 5)[None], factors[:, [0, 1, 0, 1, 0]], rng.integers(0, 6, (150, 5)))
    monkeypatch.setattr(disentanglement, "_NUMBERS", 2 * 100 * 2)  # two codes at a time, the last one alone
    accuracy = one_code_accuracy(ids[:100], factors[:100], ids[100:], factors[100:])
    for c, f in itertools.product(range(5), range(2)):
        code, factor = ids[:100, c], factors[:100, f]
        best = {i: max(range((2, 4)[f]), key=lambda v: (np.mean(code[factor == v] == i), -v)) for i in range(6)}
        assert accuracy[c, f] == np.mean([best[i] == v for i, v in zip(ids[100:, c], factors[100:, f])])


def test_a_table_weighs_values_evenly():
    """Id 0 has value 0 in 3 of 9 and value 1 in 2 of 3 samples: relative to its frequency, value 1 is the better answer."""
    ids, values = np.array([0] * 5 + [1] * 7)[:, None], np.array([0] * 3 + [1] * 2 + [0] * 6 + [1])[:, None]
    np.testing.assert_allclose(one_code_accuracy(ids, values, ids, values), [[8 / 12]])


# FactorVAE


def votes_of(represent, settings=TINY, grid=GRID):
    scores = factor_vae(lambda indices: represent(grid.factors(indices)), uniform_sampler(grid), len(grid.factor_sizes), settings)
    return scores["factor_vae_train"], scores["factor_vae_eval"], scores["factor_vae_active_dimensions"]


@pytest.mark.parametrize(("represent", "active"), [
    (real, 3),
    (lambda f: f, 3),
    (lambda f: -9 * real(f[:, [2, 0, 1]]) + 4, 3),
    (lambda f: np.stack([f[:, 1] * 100, f[:, 2] + 7, -f[:, 0]], axis=1), 3),
    (lambda f: real(np.concatenate([f, f], axis=1)), 6),
    (lambda f: np.concatenate([np.full((len(f), 1), 0.1), real(f)], axis=1), 3),  # a constant never wins
    (lambda f: np.concatenate([real(f), noise(len(f))], axis=1), 8),
    (lambda f: (f + 0.05 * noise(len(f), 3)) * np.array([[1, 300, 1]]), 3),  # a fixed factor varies more there than the others do
    (lambda f: f.reshape(-1, 1, 3, 1), 3),
], ids=["real", "ids", "permuted", "relabelled", "duplicated", "constant", "noise", "scaled", "axes"])
def test_factor_vae_of_separate_factors_is_one(represent, active):
    assert votes_of(represent) == (1, 1, active)


def test_factor_vae_of_nothing_is_zero():
    assert votes_of(lambda f: np.full((len(f), 4), 0.1)) == (0, 0, 0) and votes_of(lambda f: 0 * f) == (0, 0, 0)


def test_factor_vae_of_turned_factors_guesses_between_them():
    """Either factor fixed halves the variance of both dimensions; the third factor is still told."""
    train, evaluated, _ = votes_of(lambda f: np.stack([f[:, 0] + f[:, 1], f[:, 0] - f[:, 1], 9.0 * f[:, 2]], axis=1), TINY, Grid((4, 4, 4)))
    assert 0.5 < evaluated < 0.85 and abs(train - evaluated) < 0.15


def test_more_votes_than_one_call_represents(monkeypatch):
    monkeypatch.setattr(disentanglement, "_IMAGES_PER_CALL", 50)
    calls = []
    assert votes_of(lambda f: (calls.append(len(f)), real(f))[1]) == (1, 1, 3)
    assert sum(calls) == TINY.variance + (TINY.train + TINY.test) * TINY.batch and max(calls[1:]) <= 50


def test_the_sampler_fixes_one_factor_per_row():
    fixed = np.array([0, 1, 2, 0])
    factors = GRID.factors(uniform_sampler(GRID)(np.random.default_rng(0), fixed, 30).ravel()).reshape(4, 30, 3)
    np.testing.assert_array_equal((factors == factors[:, :1]).all(1), np.eye(3, dtype=bool)[fixed])
    assert uniform_sampler(GRID)(np.random.default_rng(0), None, 9).shape == (1, 9)


TABLE = np.array([[0, 1, 0], [0, 2, 0], [0, 2, 0], [1, 0, 0], [1, 0, 3], [1, 0, 3], [1, 2, 3]])  # few of the combinations, one of them twice


class Table(NamedTuple):
    """A factor data set of a few images with the rows of a table as their factors."""

    table: np.ndarray
    factor_sizes: tuple[int, ...]

    def factors(self, indices):
        return self.table[indices]


def test_a_table_gives_every_value_that_occurs_equally_often_and_every_image_that_has_it():
    fixed = np.arange(3).repeat(2000)
    indices = sampler(Table(TABLE, (2, 3, 4)))(np.random.default_rng(0), fixed, 5)
    assert indices.shape == (6000, 5)
    for factor, column in enumerate(TABLE.T):
        own = column[indices[fixed == factor]]
        np.testing.assert_array_equal(own, own[:, :1].repeat(5, axis=1))
        values, counts = np.unique(own[:, 0], return_counts=True)
        np.testing.assert_array_equal(values, np.unique(column))
        np.testing.assert_allclose(counts / 2000, 1 / len(values), atol=0.05)
        shares = np.bincount(indices[fixed == factor].ravel(), minlength=7) / 10_000
        np.testing.assert_allclose(shares, [1 / len(values) / np.sum(column == value) for value in column], atol=0.02)
    anywhere = table_sampler(TABLE)(np.random.default_rng(0), None, 7000)
    assert anywhere.shape == (1, 7000)
    np.testing.assert_allclose(np.bincount(anywhere[0]) / 1000, 1, atol=0.12)


def test_the_spread_of_ids_is_the_variance_of_their_one_hot_codes(monkeypatch):
    ids = np.random.default_rng(0).integers(-3, 4, (5, 11, 6))
    one_hot = (ids[..., None] == np.arange(-3, 4)).astype(float)
    with monkeypatch.context() as patch:
        patch.setattr(disentanglement, "_NUMBERS", 2 * 6 * 11)  # two rows at a time, the last one alone
        np.testing.assert_allclose(disentanglement._spreads(ids), one_hot.var(axis=1).sum(-1), atol=1e-12)
    np.testing.assert_allclose(disentanglement._spreads(ids), one_hot.var(axis=1).sum(-1), atol=1e-12)
    np.testing.assert_allclose(disentanglement._spreads(ids / 2), (ids / 2).var(axis=1, ddof=1), atol=1e-12)


# All of them


def test_all_scores_of_a_data_set():
    pytest.importorskip("sklearn")
    represent = lambda indices: GRID.factors(indices)
    scores = disentanglement_scores(represent, GRID, TINY, seed=1)
    parameters = scores.pop("parameters")
    assert parameters.keys() == {"dci", "mig", "sap", "factor_vae", "seed"} and parameters["dci"]["train"] == 300 and parameters["dci"]["seed"] == 1
    assert json.loads(json.dumps(scores)) == scores and all(type(value) in (float, int) for value in scores.values())
    assert scores["dci_disentanglement"] > 0.98 and scores["mig"] > 0.95 and scores["factor_vae_eval"] == 1
    assert disentanglement_scores(represent, GRID, TINY, seed=1) == scores | {"parameters": parameters}


def test_scores_of_a_table_that_lacks_combinations():
    table = np.array([f for f in itertools.product(range(3), range(4), range(2)) if sum(f) % 3] * 9)
    scores = disentanglement_scores(lambda indices: table[indices], Table(table, (3, 4, 2)), TINY, scores=("mig", "factor_vae"))
    assert scores["factor_vae_eval"] == 1 and scores["mig"] > 0.6
    assert scores.keys() == {"mig", "factor_vae_train", "factor_vae_eval", "factor_vae_active_dimensions", "parameters"}


@pytest.mark.parametrize(("codes", "factors", "message"), [
    (np.zeros(4), np.eye(4, dtype=int), r"shape \(4,\); a score needs samples by dimensions"),
    (np.zeros((4, 0)), np.eye(4, dtype=int), r"shape \(4, 0\)"),
    (np.full((4, 2), np.inf), np.eye(4, dtype=int), "8 of 8 values of the codes are not finite"),
    (np.zeros((3, 2)), np.eye(4, dtype=int), r"int64 of shape \(4, 4\); 3 samples of codes need integers \[3, V\]"),
    (np.zeros((4, 2)), np.eye(4), "Factors are float64"),
    (np.zeros((4, 2)), np.ones((4, 1), int), "Factor 0 has the value 1 in all 4 samples"),
])
def test_bad_samples_are_refused_with_a_sentence(codes, factors, message):
    for score in (mig, lambda *sample: sap(*sample, *sample)):
        with pytest.raises(ValueError, match=message):
            score(codes, factors)


def test_samples_of_different_kinds_are_refused():
    for train, test, message in (
        ((MANY, MANY), (MANY[:, :2], MANY), "3 dimensions and test samples 2"),
        ((MANY, MANY), (MANY, MANY[:, :2]), "3 factors and test samples 2"),
        ((MANY, MANY), (real(MANY), MANY), "Training codes are int64 and test codes float32"),
    ):
        with pytest.raises(ValueError, match=message):
            sap(*train, *test)


@pytest.mark.parametrize(("fields", "message"), [
    ({"train": 0}, "Settings.train is 0"),
    ({"batch": 1}, "batch 1"),
    ({"reduction": "umap"}, "'umap'; it must be one of none, variance, pca"),
])
def test_bad_settings_are_refused_before_anything_is_represented(fields, message):
    with pytest.raises(ValueError, match=message):
        factor_vae(None, None, 3, TINY._replace(**fields))
    with pytest.raises(ValueError, match=message):
        disentanglement_scores(None, GRID, TINY._replace(**fields))


def test_one_bin_is_refused():
    with pytest.raises(ValueError, match="at least 2, not 1"):
        mig(real(MANY), MANY, 1)


def test_without_scikit_learn_its_lack_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    for call in (lambda: dci(MANY, MANY, MANY, MANY), lambda: disentanglement_scores(None, GRID)):
        with pytest.raises(ModuleNotFoundError, match="needs scikit-learn, which is not installed; install it"):
            call()
    assert "scikit-learn" in disentanglement.why_no_dci()
    without = disentanglement_scores(GRID.factors, GRID, TINY, scores=("mig", "sap", "factor_vae"))
    assert without["factor_vae_eval"] == 1 and not [name for name in without if name.startswith("dci")]
