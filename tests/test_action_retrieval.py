"""Statistics of action retrieval on small cases computed by hand."""

import json
import math

import numpy as np
import pytest

from causal_ctx.evaluation.action_retrieval import (
    code_changes, confusion, copy_code_nats, copy_image_mse, floors, mean_and_error, per_action_accuracy, retrieval_accuracy, upper_bounds, wilson_interval)

ACTIONS = np.array([0, 1, 2, 3])  # of V = 2 factors: 0 and 2 move the first, 1 and 3 the second


def test_accuracy_over_noise_seeds():
    """Right actions 4, 2 and 3 of 4; where 2 is taken for 0, the factor is right."""
    predicted = np.array([[0, 1, 2, 3], [0, 1, 0, 0], [2, 1, 2, 3]])
    scores = retrieval_accuracy(predicted, ACTIONS, 2)
    assert scores["action"]["per_seed"] == [1, 0.5, 0.75] and scores["factor"]["per_seed"] == [1, 0.75, 1]
    assert scores["action"]["mean"] == pytest.approx(0.75) and scores["action"]["standard_error"] == pytest.approx(0.25 / math.sqrt(3))
    assert scores["action"]["interval"] == pytest.approx(wilson_interval(3, 4))
    assert scores["factor"]["interval"] == pytest.approx(wilson_interval(11 / 3, 4))
    careful = retrieval_accuracy(predicted, ACTIONS, 2, independent_pairs=2)["action"]
    assert careful["interval"] == pytest.approx(wilson_interval(1.5, 2)) and careful["mean"] == scores["action"]["mean"]
    assert json.loads(json.dumps(scores)) == scores


def test_a_deterministic_prediction_has_no_error_over_seeds():
    scores = retrieval_accuracy(np.array([0, 1, 2, 1], np.uint8), ACTIONS.astype(np.int8), 2)
    assert scores["action"]["standard_error"] is None and scores["action"]["mean"] == 0.75 and scores["factor"]["mean"] == 1


@pytest.mark.parametrize(("successes", "number", "expected"), [
    (0, 10, (0, 0.27753279)),  # high end z^2 / (n + z^2)
    (10, 10, (0.72246720, 1)),
    (5, 10, (0.23659309, 0.76340691)),
    (81, 263, (0.25529, 0.36621)),  # Newcombe 1998: 0.2553 to 0.3662
    (15, 148, (0.06236, 0.16052)),  # Newcombe 1998: 0.0624 to 0.1605
    (1, 29, (0.00611, 0.17176)),  # Newcombe 1998: 0.0061 to 0.1718
])
def test_wilson_intervals(successes, number, expected):
    assert wilson_interval(successes, number) == pytest.approx(expected, abs=5e-5)


def test_wilson_intervals_solve_their_equation():
    """At both ends (p - q)^2 = z^2 q (1 - q) / n, with z = 1.6448536 at 90 %."""
    for q in wilson_interval(7.5, 40, confidence=0.9):
        assert (7.5 / 40 - q) ** 2 == pytest.approx(1.6448536**2 * q * (1 - q) / 40, rel=1e-6)
    assert wilson_interval(0, 0) is None
    with pytest.raises(ValueError, match="3 successes in 2 draws"):
        wilson_interval(3, 2)


def test_means_leave_out_what_is_missing():
    assert mean_and_error([1.0, None, 3.0]) == {"mean": 2, "standard_error": pytest.approx(1)}
    assert mean_and_error([2.0]) == {"mean": 2, "standard_error": None}
    assert mean_and_error([None]) == {"mean": None, "standard_error": None}


def test_floors_of_unequal_actions():
    """Counts 3, 2, 0, 2: the most frequent action has 3 of 7, the more frequent factor 4 of 7."""
    rows = floors(np.array([0, 0, 0, 1, 1, 3, 3]), 2)
    assert rows == {"chance": {"action": 0.25, "factor": 0.5}, "majority": {"action": 3 / 7, "factor": 4 / 7}}


def test_accuracy_per_action_beside_its_frequency():
    actions = np.array([0, 0, 1, 1, 1, 3])
    predicted = np.array([[0, 2, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1]])
    rows = per_action_accuracy(predicted, actions, 2, np.array([0] * 6 + [1] * 3 + [2]))
    assert [row["accuracy"] for row in rows] == [0.75, pytest.approx(5 / 6), None, 0] and [row["test_pairs"] for row in rows] == [2, 3, 0, 1]
    assert [row["frequency"] for row in rows] == [0.6, 0.3, 0.1, 0] and [row["train_pairs"] for row in rows] == [6, 3, 1, 0]
    assert [row["factor"] for row in rows] == [0, 1, 0, 1] and [row["factor_accuracy"] for row in rows] == [1, pytest.approx(5 / 6), None, 1]
    # per pair over seeds: 1 and 1/2; 1, 1 and 1/2; nothing; a single 0
    errors = [pytest.approx(0.25), pytest.approx(np.std([1, 1, 0.5], ddof=1) / math.sqrt(3)), None, None]
    assert [row["standard_error"] for row in rows] == errors
    assert rows[2]["interval"] is None and rows[3]["interval"] == pytest.approx(wilson_interval(0, 1))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_confusion_counts_true_rows_and_taken_columns():
    matrix = confusion(np.array([[0, 1, 1], [2, 1, 0]]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(matrix, [[1, 0, 1], [0, 2, 0], [1, 1, 0]])
    assert confusion(ACTIONS, ACTIONS, 4).trace() == 4


X = np.array([[0, 1], [0, 1], [2, 2], [0, 1], [0, 1], [3, 3]])
Y = np.array([[0, 1], [0, 1], [2, 2], [5, 1], [5, 1], [3, 4]])


def test_upper_bounds_of_pairs_whose_codes_coincide():
    """Half of six pairs coincide, their actions 0, 2 and 1; two others have the first image of the former two and the same action, 3."""
    bounds = upper_bounds(X.reshape(6, 1, 1, 2), Y.reshape(6, 1, 1, 2), np.array([0, 2, 1, 3, 3, 3]), 2)
    assert bounds["identical"] == 0.5
    assert bounds["chance"] == {"action": 0.5 + 0.5 / 4, "factor": 0.5 + 0.5 / 2}
    assert bounds["majority"] == {"action": pytest.approx(4 / 6), "factor": pytest.approx(5 / 6)}  # factors 0, 0 and 1 coincide
    assert bounds["same_codes"] == {"action": pytest.approx(5 / 6), "factor": 1}  # groups of actions 0 and 2, 1, 3 and 3, 3
    assert json.loads(json.dumps(bounds)) == bounds


def test_upper_bounds_where_all_or_no_codes_change():
    assert upper_bounds(X, X, np.array([0, 0, 0, 0, 0, 1]), 3)["chance"] == {"action": pytest.approx(1 / 6), "factor": pytest.approx(1 / 3)}
    assert upper_bounds(X, X, np.array([0, 0, 0, 0, 0, 1]), 3)["majority"] == {"action": pytest.approx(5 / 6), "factor": pytest.approx(5 / 6)}
    bounds = upper_bounds(np.arange(4)[:, None], np.arange(1, 5)[:, None], ACTIONS, 2)
    one = {"action": 1, "factor": 1}
    assert bounds == {"identical": 0, "chance": one, "majority": one, "same_codes": one}


def test_changes_of_codes():
    changes = code_changes(X, Y, np.array([0, 0, 1, 1, 1, 3]), 4)
    assert changes.pop("per_action") == [
        {"identical": 1, "changed_nodes": 0}, {"identical": pytest.approx(1 / 3), "changed_nodes": pytest.approx(2 / 3)}, None,
        {"identical": 0, "changed_nodes": 1}]
    assert changes == {"identical": 0.5, "changed_nodes": 0.5, "changed_nodes_median": 0.5, "changed_nodes_most": 1, "nodes": 2, "changed": 0.25}
    assert "per_action" not in code_changes(X, Y)


def test_copying_images():
    x, y = np.array([0, 255, 100, 100], np.uint8).reshape(2, 1, 1, 2), np.array([255, 255, 151, 100], np.uint8).reshape(2, 1, 1, 2)
    assert copy_image_mse(x, y) == pytest.approx((1 + 0.2**2) / 4) and copy_image_mse(x, x) == 0
    assert copy_image_mse(x / 255, y / 255) == pytest.approx(copy_image_mse(x, y))
    many = np.random.default_rng(0).random((2, 2_100, 2, 2, 1))
    assert copy_image_mse(*many) == pytest.approx(np.mean((many[0] - many[1]) ** 2))


def test_copying_codes():
    """3 of 12 nodes change. Clipped: -log of 1 / Z or clip / Z; calibrated: no other error rate costs less."""
    n, clip, z = 7, 1e-4, 1 + 6e-4
    scores = copy_code_nats(X, Y, n)
    cost = np.where(X == Y, -math.log(1 / z), -math.log(clip / z))
    assert scores["clipped"] == pytest.approx(cost.mean()) and scores["changed"] == 0.25
    of = lambda e: -(0.75 * math.log(1 - e) + 0.25 * math.log(e / (n - 1)))
    assert scores["calibrated"] == pytest.approx(of(0.25)) and scores["calibrated"] < min(of(0.24), of(0.26), scores["clipped"])
    assert copy_code_nats(X, Y, n, clip=0.01)["clipped"] == pytest.approx(np.where(X == Y, math.log(1.06), math.log(106)).mean())
    same = copy_code_nats(X, X, n)
    assert same == {"clipped": pytest.approx(math.log(z)), "calibrated": 0, "changed": 0}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: retrieval_accuracy(np.array([0, 4]), np.array([0, 1]), 2), "Predicted actions are int64 from 0 to 4; they must be integers from 0 to 3"),
    (lambda: retrieval_accuracy(np.array([0, 1]), np.array([0, -1]), 2), "True actions are int64 from -1 to 0"),
    (lambda: retrieval_accuracy(np.array([0.0, 1]), np.array([0, 1]), 2), "Predicted actions are float64"),
    (lambda: retrieval_accuracy(np.zeros((2, 3), int), np.zeros(2, int), 2), r"\(2, 3\) do not fit true ones \(2,\)"),
    (lambda: confusion(np.zeros(0, int), np.zeros(0, int), 2), r"n at least 1"),
    (lambda: per_action_accuracy(ACTIONS, ACTIONS, 2, np.zeros(0, int)), "Training actions are int64, none at all"),
    (lambda: upper_bounds(X, Y, ACTIONS, 2), "4 actions do not fit codes of 6 pairs"),
    (lambda: code_changes(X, Y, ACTIONS, 4), "4 actions do not fit codes of 6 pairs"),
    (lambda: upper_bounds(X, Y[:3], ACTIONS, 2), r"int64 \(6, 2\) and int64 \(3, 2\) are no pairs"),
    (lambda: code_changes(X / 2, Y), "float64"),
    (lambda: copy_image_mse(np.zeros((2, 1)), np.zeros((2, 2))), "are no pairs"),
    (lambda: copy_code_nats(X, Y, 1), "at least 2 codes and 0 < clip <= 1, not 1 codes"),
])
def test_bad_input_is_refused_with_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
