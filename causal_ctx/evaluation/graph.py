"""How near learned causal blocks come to the true graph: structural Hamming distance, precision, recall and AUROC. Pure functions of arrays.

Letters: K concepts, w concept width. In every matrix [K, K] the row is the hearing (affected) concept and the column the one whose noise speaks, in the
order of the data set's concepts. Diagonals are left out everywhere: a concept hears its own noise by construction.

The causal layer imposes no order on the concepts: under "obs" all K (K - 1) blocks off the diagonal are free. Under do(k) the row of k is zero by
construction, in the truth as well, and every column but that of k is the one of obs, so that scoring each context would count zeros that nobody learned,
and learned blocks many times (under the composition rule "structural" the other columns change as well: less of them came through k). `learned_once` takes every block once, and no such zero.
"""

import numpy as np

THRESHOLD = 0.3  # of the largest: the weakest true effect of quad_dependent is 0.32 of the strongest, so a perfect learner is scored as perfect


def block_norms(blocks: np.ndarray) -> np.ndarray:
    """Frobenius norms [..., K, K] of the blocks of causal matrices [..., K, w, K, w]."""
    return np.linalg.norm(np.asarray(blocks), axis=(-3, -1))


def learned_once(matrices: np.ndarray) -> dict[str, np.ndarray]:
    """Of matrices [1 + K, K, K] under "obs" and every single intervention, in the order of the concepts: {"obs": the first, "interventions": [K, K]}.

    Column k of the latter is that of do(k): who hears the noise of concept k when it is intervened on.
    """
    observational, *single = matrices
    return {"obs": observational, "interventions": np.stack([matrix[:, k] for k, matrix in enumerate(single)], axis=1)}


def edges(magnitudes: np.ndarray, fraction: float = THRESHOLD) -> np.ndarray:
    """Whether magnitudes [K, K] are above `fraction` of the largest one off the diagonal: bool [K, K]; False on the diagonal, and everywhere if all are 0."""
    apart = _apart(magnitudes)
    return apart & (magnitudes > fraction * np.max(magnitudes, where=apart, initial=0))


def structural_hamming_distance(found: np.ndarray, truth: np.ndarray) -> int:
    """How many edges must be added, removed or reversed to make one graph of the other; bool [K, K] both, diagonals ignored.

    A reversed edge counts 1, as in Tsamardinos, Brown and Aliferis (2006); an edge in both directions where the truth has one counts 1, where it has none 2.
    """
    apart = _apart(truth)
    added, missing = found & ~truth & apart, truth & ~found & apart
    return int(added.sum() + missing.sum() - (added & missing.T).sum())


def auroc(magnitudes: np.ndarray, truth: np.ndarray) -> float | None:
    """Probability that a true edge has a larger magnitude than a pair without one, ties half, over the K (K - 1) ordered pairs; None where all are of one kind.

    magnitudes, truth (bool): [K, K]. By ranks, the statistic of Mann and Whitney: 0.5 is chance, 1 perfect.
    """
    apart = _apart(truth)
    true = truth[apart]
    _, places, counts = np.unique(magnitudes[apart], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    positive, negative = int(true.sum()), int((~true).sum())
    return float((ranks[true].sum() - positive * (positive + 1) / 2) / (positive * negative)) if positive and negative else None


def scores(magnitudes: np.ndarray, truth: np.ndarray, fraction: float = THRESHOLD) -> dict[str, float | None]:
    """{"auroc", "shd", "precision", "recall", "true_edges"} of magnitudes [K, K] against the graph truth, bool [K, K].

    AUROC needs no threshold; the others take magnitudes above `fraction` of the largest for `edges`. Precision is None where there is none of these, recall
    where nothing is true. Raises ValueError unless both are [K, K].
    """
    magnitudes, truth = np.asarray(magnitudes), np.asarray(truth, bool)
    if magnitudes.shape != truth.shape or magnitudes.shape != (len(truth),) * 2:
        raise ValueError(f"Magnitudes and truth must both be [K, K], got {magnitudes.shape} and {truth.shape}; give them for the same concepts.")
    found, true = edges(magnitudes, fraction), truth & _apart(truth)
    right = int((found & true).sum())
    return {
        "auroc": auroc(magnitudes, true),
        "shd": structural_hamming_distance(found, true),
        "precision": right / int(found.sum()) if found.any() else None,
        "recall": right / int(true.sum()) if true.any() else None,
        "true_edges": int(true.sum()),
    }


def _apart(matrix: np.ndarray) -> np.ndarray:
    return ~np.eye(len(matrix), dtype=bool)
