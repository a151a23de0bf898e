"""Scores of learned causal blocks against the true graph: graphs made by hand, brute force, and a module's own blocks."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from causal_ctx import data, parallel
from causal_ctx.data import quad_scm
from causal_ctx.evaluation import graph, protocols
from causal_ctx.evaluation.predict import build_predictor
from causal_ctx.methods import METHODS
from causal_ctx.models.context_module import effective_causal_blocks
from causal_ctx.start import initial_state
from tests import tiny

CHAIN = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)  # concept 1 hears 0, concept 2 hears 1
NONE, FULL = np.zeros((3, 3), bool), ~np.eye(3, dtype=bool)


def changed(truth, *entries):
    """`truth` with the entries (row, column) turned over."""
    found = truth.copy()
    for entry in entries:
        found[entry] = ~found[entry]
    return found


@pytest.mark.parametrize(
    "found, truth, distance",
    [
        (CHAIN, CHAIN, 0),
        (NONE, CHAIN, 2),
        (CHAIN, NONE, 2),
        (FULL, NONE, 6),
        (FULL, CHAIN, 4),
        (changed(CHAIN, (1, 0), (0, 1)), CHAIN, 1),  # reversed
        (CHAIN.T, CHAIN, 2),  # both reversed
        (changed(CHAIN, (0, 2)), CHAIN, 1),  # one too many
        (changed(CHAIN, (1, 0)), CHAIN, 1),  # missing
        (changed(CHAIN, (0, 1)), CHAIN, 1),  # in both directions where one is true
        (changed(NONE, (0, 1), (1, 0)), NONE, 2),  # in both where none is
        (changed(CHAIN, (1, 0), (0, 2)), CHAIN, 2),  # missing here and too many there are no reversal
        (CHAIN | np.eye(3, dtype=bool), CHAIN, 0),  # the diagonal is no edge
    ],
)
def test_structural_hamming_distance_by_hand(found, truth, distance):
    assert graph.structural_hamming_distance(found, truth) == distance


def test_structural_hamming_distance_is_the_length_of_the_shortest_way_of_edits():
    """Breadth first over all 64 graphs of three concepts, one edge added, removed or reversed at a time."""
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    flip = lambda edges, *which: edges ^ frozenset(which)

    def neighbours(edges):
        yield from (flip(edges, pair) for pair in pairs)
        yield from (flip(edges, pair, pair[::-1]) for pair in edges if pair[::-1] not in edges)

    matrix = lambda edges: np.array([[(i, j) in edges for j in range(3)] for i in range(3)])
    everything = [frozenset(edges) for size in range(7) for edges in itertools.combinations(pairs, size)]
    for start in everything[::5]:
        steps, rim = {start: 0}, [start]
        while rim:
            rim = [n for edges in rim for n in set(neighbours(edges)) if n not in steps and not steps.update({n: steps[edges] + 1})]
        assert all(graph.structural_hamming_distance(matrix(start), matrix(other)) == steps[other] for other in everything)


def test_edges_are_above_a_fraction_of_the_largest_magnitude_off_the_diagonal():
    magnitudes = np.array([[9.0, 0.3, 0.31], [1.0, 9.0, 0.0], [0.29, 0.5, 9.0]])
    np.testing.assert_array_equal(graph.edges(magnitudes, 0.3), [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(graph.edges(magnitudes, 0.5), [[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert not graph.edges(np.eye(3)).any() and not graph.edges(np.ones((1, 1))).any()


def test_auroc_counts_pairs_of_an_edge_and_no_edge():
    rng = np.random.default_rng(0)
    for K in (2, 3, 6) * 10:
        truth = rng.random((K, K)) < 0.4
        magnitudes = rng.integers(0, 4, (K, K)) / 4  # many ties
        apart = ~np.eye(K, dtype=bool)
        pairs = list(itertools.product(magnitudes[apart & truth], magnitudes[apart & ~truth]))
        expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]) if pairs else None
        assert graph.auroc(magnitudes, truth) == (pytest.approx(expected) if pairs else None)


def test_auroc_of_the_truth_its_opposite_and_no_difference():
    assert graph.auroc(CHAIN.astype(float), CHAIN) == 1 and graph.auroc(1.0 - CHAIN, CHAIN) == 0 and graph.auroc(np.ones((3, 3)), CHAIN) == 0.5
    assert graph.auroc(np.ones((3, 3)), NONE) is None and graph.auroc(np.ones((3, 3)), FULL) is None


def test_chance_spreads_auroc_as_the_page_says():
    truth = data.total_effects("quad_dependent") != 0
    by_chance = [graph.auroc(np.random.default_rng(seed).random((6, 6)), truth) for seed in range(2000)]
    assert np.std(by_chance) == pytest.approx(0.12, abs=0.005) and np.mean(by_chance) == pytest.approx(0.5, abs=0.01)


def test_scores_of_graphs_made_by_hand():
    perfect = {"auroc": 1.0, "shd": 0, "precision": 1.0, "recall": 1.0, "true_edges": 2}
    assert graph.scores(CHAIN * 0.7, CHAIN) == perfect
    assert graph.scores(np.zeros((3, 3)), CHAIN) == {"auroc": 0.5, "shd": 2, "precision": None, "recall": 0.0, "true_edges": 2}
    assert graph.scores(np.ones((3, 3)), CHAIN) == {"auroc": 0.5, "shd": 4, "precision": 2 / 6, "recall": 1.0, "true_edges": 2}
    assert graph.scores(np.ones((3, 3)), np.eye(3)) == {"auroc": None, "shd": 6, "precision": 0.0, "recall": None, "true_edges": 0}
    half = np.array([[0, 0.2, 0], [0.9, 0, 0], [0, 0.1, 0]])  # one edge found, a wrong one too weak to count, a true one too
    assert graph.scores(half, CHAIN) == {"auroc": 7 / 8, "shd": 1, "precision": 1.0, "recall": 0.5, "true_edges": 2}
    assert graph.scores(half, CHAIN, 0.15)["precision"] == 0.5


def test_scores_do_not_depend_on_the_order_of_the_concepts_or_on_the_unit():
    rng = np.random.default_rng(1)
    magnitudes, truth, order = rng.random((6, 6)), rng.random((6, 6)) < 0.3, rng.permutation(6)
    expected = graph.scores(magnitudes, truth)
    assert graph.scores(magnitudes[np.ix_(order, order)], truth[np.ix_(order, order)]) == expected == graph.scores(7 * magnitudes, truth)
    assert graph.scores(magnitudes[order], truth) != expected


def test_scores_of_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must both be \[K, K\], got \(3, 3\) and \(2, 2\); give them"):
        graph.scores(np.ones((3, 3)), np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"got \(3, 4\) and \(3, 4\)"):
        graph.scores(np.ones((3, 4)), np.ones((3, 4)))


def test_block_norms_are_roots_of_summed_squares():
    blocks = np.random.default_rng(0).normal(size=(2, 3, 4, 3, 4))
    assert graph.block_norms(blocks)[1, 2, 0] == pytest.approx(np.sqrt((blocks[1, 2, :, 0] ** 2).sum()))


def test_every_learned_block_is_taken_once_and_no_zero_of_the_construction():
    obs, ivn = np.random.default_rng(0).random((2, 3, 2, 3, 2)).astype(np.float32)
    matrices = graph.block_norms(effective_causal_blocks(obs, ivn, np.concatenate([np.zeros((1, 3)), np.eye(3)])))
    learned = graph.learned_once(matrices)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(learned["obs"][off], graph.block_norms(obs)[off], rtol=1e-6)
    np.testing.assert_allclose(learned["interventions"][off], graph.block_norms(ivn)[off], rtol=1e-6)


def test_whoever_learned_the_true_effects_is_scored_as_perfect():
    effects = np.stack([data.total_effects("quad_dependent", names) for names in ((), *((c,) for c in quad_scm.CONCEPTS))])
    for kind, magnitudes in graph.learned_once(np.abs(effects)).items():
        assert graph.scores(magnitudes, magnitudes > 0) == {"auroc": 1.0, "shd": 0, "precision": 1.0, "recall": 1.0, "true_edges": 9}, kind


def predictor_of(method):
    """(config, data whose truth is the chain light > red > dark, predictor with initial weights)."""
    config = tiny.config(method=method)
    effects = {"obs": [[1, 0, 0], [0.5, 1, 0], [0.2, 0.4, 1]], "light": [[1, 0, 0], [0.5, 1, 0], [0.2, 0.4, 1]],
               "red": [[1, 0, 0], [0, 1, 0], [0, 0.4, 1]], "dark": [[1, 0, 0], [0.5, 1, 0], [0, 0, 1]]}
    dataset = dataclasses.replace(tiny.dataset(), total_effects={context: np.array(effect) for context, effect in effects.items()})
    return config, dataset, build_predictor(config, dataset, initial_state(config, dataset, parallel.data_mesh()))


def test_a_module_is_scored_by_its_own_weights():
    config, dataset, untrained = predictor_of("cm_end_to_end")
    module = untrained.variables["params"]["context_module"]
    shape = module["causal_obs"].shape
    blocks = lambda rows: np.array(rows, np.float32)[:, None, :, None] * np.ones(shape, np.float32)
    learned = {"causal_obs": blocks([[0, 0.1, 0], [1, 0, 0], [1, 1, 0]]), "causal_ivn": blocks([[0, 1, 0], [0, 0, 0], [0.5, 1, 0]])}
    params = jax.tree.map(np.asarray, untrained.variables["params"]) | {"context_module": module | learned}
    best = untrained._replace(variables=untrained.variables | {"params": params})
    found = protocols.graph(config, dataset, best, untrained)
    assert found["threshold"] == graph.THRESHOLD and set(found) == {"threshold", "obs", "interventions", "untrained"}
    assert found["obs"] == {"auroc": 1.0, "shd": 0, "precision": 1.0, "recall": 1.0, "true_edges": 3}
    # True blocks have norms 0, 0.5 and 1, the others 1, 0 and 0; light > red is missing and red > light there instead, which is one reversal.
    wins = (0 + 0.5 + 0.5) + (0 + 1 + 1) + (0.5 + 1 + 1)
    assert found["interventions"] == {"auroc": pytest.approx(wins / 9), "shd": 1, "precision": 2 / 3, "recall": 2 / 3, "true_edges": 3}
    initial = {kind: graph.block_norms(module[name]) for kind, name in (("obs", "causal_obs"), ("interventions", "causal_ivn"))}
    assert found["untrained"] == {kind: graph.scores(norms, np.tri(3, k=-1)) for kind, norms in initial.items()}


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.system == "context"])
def test_graphs_are_scored_for_modules_and_known_truths(method):
    config, dataset, predictor = predictor_of(method)
    module, told = METHODS[method].module, METHODS[method].targets
    found = protocols.graph(config, dataset, predictor, predictor)
    assert set(found) == ({"threshold", "obs", "untrained"} | ({"interventions"} if told else set()) if module else set())
    assert protocols.graph(config, tiny.dataset(), predictor, predictor) == {}
