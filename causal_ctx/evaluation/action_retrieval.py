"""Statistics of action retrieval: which action, of A, turned one image of a pair into the other (spec sections 6.2, 6.3)?

Letters: n test pairs, V factors, A = 2V actions, R noise seeds, N values of a code. Action f raises factor f and action f + V lowers it, so the factor
of action a is a mod V. Codes are integers [n, ...], of which the further axes are the nodes of the graph. All functions are pure and return plain
numbers for JSON; what cannot be told, such as the accuracy on an action without pairs, is None. Errors are ValueErrors.
"""

import math
from collections.abc import Iterable

import numpy as np
from scipy.special import entr, ndtri

CLIP = 1e-4  # least probability of a code in the published cross-entropy
_ROWS = 1000  # images held as floats at a time


def retrieval_accuracy(predicted: np.ndarray, actions: np.ndarray, num_factors: int, independent_pairs: int | None = None) -> dict[str, dict]:
    """{"action": {"mean", "standard_error", "interval", "per_seed"}, "factor": {...}} of predicted actions [R, n] or [n] for true actions [n].

    The mean is over pairs and noise seeds and the standard error that of the mean over seeds, None for a single one (a deterministic prediction).
    "interval" is the 95 % Wilson interval of the mean as if it came from `independent_pairs` draws, by default n: seeds add no pairs, and where every pair
    is there in both directions, n / 2 is the careful number.
    """
    predicted, actions = _checked(predicted, actions, 2 * num_factors)
    scores = {}
    for level, modulus in (("action", 2 * num_factors), ("factor", num_factors)):
        per_seed = np.mean(predicted % modulus == actions % modulus, axis=1)
        pairs = len(actions) if independent_pairs is None else independent_pairs
        scores[level] = mean_and_error(per_seed) | {"interval": wilson_interval(per_seed.mean() * pairs, pairs), "per_seed": per_seed.tolist()}
    return scores


def mean_and_error(values: Iterable[float | None]) -> dict[str, float | None]:
    """{"mean", "standard_error"} over independent runs; None values are left out, and a number that too few are left for is None."""
    known = np.array([value for value in values if value is not None], np.float64)
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None
    return {"mean": float(known.mean()) if len(known) else None, "standard_error": error}


def wilson_interval(successes: float, number: int, confidence: float = 0.95) -> list[float] | None:
    """Wilson's score interval [low, high] of a probability after `successes` (whole or not) in `number` draws; None without a draw."""
    if not 0 <= successes <= number or not 0 < confidence < 1:
        raise ValueError(f"{successes} successes in {number} draws at confidence {confidence}: give 0 <= successes <= draws and 0 < confidence < 1.")
    if not number:
        return None
    z, p = ndtri((1 + confidence) / 2), successes / number
    centre, half = p + z**2 / (2 * number), z * math.sqrt(p * (1 - p) / number + (z / (2 * number)) ** 2)
    low, high = ((centre + side * half) / (1 + z**2 / number) for side in (-1, 1))
    return [float(max(low, 0)), float(min(high, 1))]


def floors(actions: np.ndarray, num_factors: int) -> dict[str, dict[str, float]]:
    """{"chance": {"action", "factor"}, "majority": {...}}: accuracy of guessing evenly, and of always naming the most frequent of the true actions [n].

    The majority is that of the scored pairs themselves, the best that any constant answer does on them; action and factor each have their own.
    """
    _, actions = _checked(actions, actions, 2 * num_factors)
    majority = lambda modulus: float(np.bincount(actions % modulus).max() / len(actions))
    chance = {"action": 1 / (2 * num_factors), "factor": 1 / num_factors}
    return {"chance": chance, "majority": {"action": majority(2 * num_factors), "factor": majority(num_factors)}}


def per_action_accuracy(predicted: np.ndarray, actions: np.ndarray, num_factors: int, train_actions: np.ndarray) -> list[dict]:
    """One dict per action: {"action", "factor", "frequency", "train_pairs", "test_pairs", "accuracy", "standard_error", "interval", "factor_accuracy"}.

    Predicted actions [R, n] or [n] for true actions [n]; "frequency" is the action's share of the training pairs `train_actions` [t]. The standard error
    is that over pairs of their mean over seeds, the interval is Wilson's; both measure the test pairs alone, so runs of several training seeds are to be
    joined by `mean_and_error` of their accuracies. Without pairs, None.
    """
    number = 2 * num_factors
    predicted, actions = _checked(predicted, actions, number)
    train = _counts(train_actions, number)
    right, right_factor = ((predicted % m == actions % m).mean(0) for m in (number, num_factors))
    rows = []
    for action in range(number):
        own, factor = right[actions == action], mean_and_error(right_factor[actions == action])["mean"]
        row = {"action": action, "factor": action % num_factors, "frequency": float(train[action] / train.sum()), "train_pairs": int(train[action])}
        row |= {"test_pairs": len(own), "accuracy": (score := mean_and_error(own))["mean"], "standard_error": score["standard_error"]}
        rows.append(row | {"interval": wilson_interval(min(own.sum(), len(own)), len(own)), "factor_accuracy": factor})
    return rows


def confusion(predicted: np.ndarray, actions: np.ndarray, num_actions: int) -> np.ndarray:
    """How often true action (row) was taken for action (column), int [A, A], over all seeds of predicted actions [R, n] or [n]."""
    predicted, actions = _checked(predicted, actions, num_actions)
    return np.bincount((actions * num_actions + predicted).ravel(), minlength=num_actions**2).reshape(num_actions, num_actions)


def upper_bounds(codes_x: np.ndarray, codes_y: np.ndarray, actions: np.ndarray, num_factors: int) -> dict:
    """What retrieval from codes [n, ...] of first and second images can reach, under three definitions from strict to loose, for true actions [n].

    {"identical": share of pairs whose codes coincide at every node, and "chance", "majority", "same_codes": {"action", "factor"} each}

    * chance: all pairs whose codes changed are right, and those that coincide are guessed evenly: 1 - identical + identical / A (or / V).
    * majority: the same, but those that coincide are all answered by their most frequent action, as an action that hides more often is the better guess.
    * same_codes: pairs are answered by the most frequent action of those that share the codes of both images. No function of the codes, however well it
      knows these very pairs, does better; pairs with codes of their own count as right, so it is loose where codes are many.
    """
    x, y = _nodes(codes_x, codes_y)
    actions = _actions_of(x, actions, 2 * num_factors)
    hidden = (x == y).all(1)
    identical = float(hidden.mean())
    group = np.unique(np.concatenate([x, y], axis=1), axis=0, return_inverse=True)[1].ravel()
    chance, majority, same = {}, {}, {}
    for level, number in (("action", 2 * num_factors), ("factor", num_factors)):
        cells, counts = np.unique(group * number + actions % number, return_counts=True)
        most = np.zeros(group.max() + 1, np.int64)
        np.maximum.at(most, cells // number, counts)
        guessed = np.bincount(actions[hidden] % number, minlength=1).max()
        chance[level], majority[level] = 1 - identical + identical / number, float((~hidden).mean() + guessed / len(actions))
        same[level] = float(most.sum() / len(actions))
    return {"identical": identical, "chance": chance, "majority": majority, "same_codes": same}


def code_changes(codes_x: np.ndarray, codes_y: np.ndarray, actions: np.ndarray | None = None, num_actions: int = 0) -> dict:
    """How many nodes differ between codes [n, ...] of first and second images.

    {"identical": share of pairs without a changed node, "changed_nodes": mean, "changed_nodes_median", "changed_nodes_most", "nodes", "changed": share of
    nodes}, and with actions [n] also "per_action": {"identical", "changed_nodes"} or None for each of A = `num_actions`.
    """
    x, y = _nodes(codes_x, codes_y)
    changed = (x != y).sum(1)
    result = {"identical": float(np.mean(changed == 0)), "changed_nodes": float(changed.mean()), "changed_nodes_median": float(np.median(changed))}
    result |= {"changed_nodes_most": int(changed.max()), "nodes": x.shape[1], "changed": float(changed.mean() / x.shape[1])}
    if actions is not None:
        actions = _actions_of(x, actions, num_actions)
        own = [changed[actions == action] for action in range(num_actions)]
        result["per_action"] = [{"identical": float(np.mean(c == 0)), "changed_nodes": float(c.mean())} if len(c) else None for c in own]
    return result


def copy_image_mse(images_x: np.ndarray, images_y: np.ndarray) -> float:
    """Mean squared error per value of taking the first image for the second: images [n, H, W, C], uint8 (read as levels of 255) or floats in [0, 1]."""
    x, y = np.asarray(images_x), np.asarray(images_y)
    if x.shape != y.shape or x.dtype != y.dtype or not x.size:
        raise ValueError(f"Images {x.dtype} {x.shape} and {y.dtype} {y.shape} are no pairs; give two arrays of one type and shape, not empty.")
    scale = 1 / 255 if x.dtype == np.uint8 else 1.0
    parts = (slice(start, start + _ROWS) for start in range(0, len(x), _ROWS))
    return float(sum(np.square(x[part].astype(np.float64) - y[part]).sum() for part in parts) * scale**2 / x.size)


def copy_code_nats(codes_x: np.ndarray, codes_y: np.ndarray, num_embeddings: int, clip: float = CLIP) -> dict[str, float]:
    """Cross-entropy in nats per node of taking codes [n, ...] of the first images for those of the second: {"clipped", "calibrated", "changed"}.

    * clipped, as published: probability 1 for the node's own code and `clip` for the N - 1 others, over their sum Z = 1 + (N - 1) clip. A kept node costs
      log Z and a changed one log Z - log clip, so it depends on the clip.
    * calibrated, the harder one to beat: the best of all such pairs of probabilities, 1 - r and r / (N - 1) for the share r of changed nodes, that is
      H(r) + r log(N - 1). No clip enters.
    """
    x, y = _nodes(codes_x, codes_y)
    if num_embeddings < 2 or not 0 < clip <= 1:
        raise ValueError(f"A cross-entropy needs at least 2 codes and 0 < clip <= 1, not {num_embeddings} codes and clip {clip}.")
    r = float(np.mean(x != y))
    clipped = math.log(1 + (num_embeddings - 1) * clip) - r * math.log(clip)
    return {"clipped": clipped, "calibrated": float(entr(r) + entr(1 - r) + r * math.log(num_embeddings - 1)), "changed": r}


def _checked(predicted: np.ndarray, actions: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted [R, n] and true actions [n] as int64."""
    predicted, actions = np.asarray(predicted), np.asarray(actions)
    if actions.ndim != 1 or not len(actions) or predicted.ndim not in (1, 2) or predicted.shape[-1] != len(actions) or not len(predicted):
        raise ValueError(f"Predicted actions {predicted.shape} do not fit true ones {actions.shape}; give [R, n] or [n] for [n], n at least 1.")
    for name, array in (("Predicted", predicted), ("True", actions)):
        _counts(array, number, name)
    return np.atleast_2d(predicted).astype(np.int64), actions.astype(np.int64)


def _counts(actions: np.ndarray, number: int, name: str = "Training") -> np.ndarray:
    """Pairs of each of `number` actions, [A]."""
    actions = np.asarray(actions)
    if actions.dtype.kind not in "iu" or not actions.size or actions.min() < 0 or actions.max() >= number:
        span = f" from {actions.min()} to {actions.max()}" if actions.size else ", none at all"
        raise ValueError(f"{name} actions are {actions.dtype}{span}; they must be integers from 0 to {number - 1}.")
    return np.bincount(actions.ravel(), minlength=number)


def _actions_of(codes: np.ndarray, actions: np.ndarray, number: int) -> np.ndarray:
    """True actions [n] of codes [n, nodes]."""
    if len(actions) != len(codes):
        raise ValueError(f"{len(actions)} actions do not fit codes of {len(codes)} pairs; give one action per pair.")
    return _checked(actions, actions, number)[1]


def _nodes(codes_x: np.ndarray, codes_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both codes as [n, nodes]."""
    x, y = np.asarray(codes_x), np.asarray(codes_y)
    if x.shape != y.shape or x.ndim < 2 or not x.size or x.dtype.kind not in "iu" or y.dtype.kind not in "iu":
        raise ValueError(f"Codes {x.dtype} {x.shape} and {y.dtype} {y.shape} are no pairs; give two integer arrays of one shape [n, ...], not empty.")
    return x.reshape(len(x), -1), y.reshape(len(y), -1)
