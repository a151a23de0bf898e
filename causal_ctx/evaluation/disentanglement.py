"""Disentanglement scores of a representation: DCI, MIG, SAP and FactorVAE (spec section 6.1), as functions of samples and their factors.

Letters: n samples, d dimensions of the representation ("codes"), V factors, S values of all factors together, B values of discrete codes.

Codes are real features [n, d] or integer ids, as a vector quantiser gives them; further axes are flattened. Ids have neither order nor distance, so MIG
takes them as the bins, SAP classifies by a table over them, and FactorVAE measures their Gini impurity, the total variance of the one-hot code. DCI's
trees cut them as numbers: a tree can single out any id, but needs more cuts for it. Factors are integers [n, V], at least two values each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from causal_ctx.evaluation import one_feature_svm
from causal_ctx.evaluation.samplers import Sample, sampler

SCORES = ("dci", "mig", "sap", "factor_vae")
REDUCTIONS = ("none", "variance", "pca")
SVM_C = 0.01  # SAP's LinearSVC
LEARNING_RATE = 0.1  # of DCI's gradient boosting
_NUMBERS = 2**21  # held at a time in one array of counts, slacks or ids
_IMAGES_PER_CALL = 4096  # that `represent` is asked for by FactorVAE, or one vote
_TINY = 1e-11  # added to importances before entropies


class Settings(NamedTuple):
    """Sizes of the four scores. `dci` reads stages, depth, reduction and keep, `factor_vae` its votes, `disentanglement_scores` all of them."""

    train: int  # samples to fit DCI and SAP on and to measure MIG on, and training votes of FactorVAE
    test: int  # samples to test DCI and SAP on, and evaluation votes of FactorVAE
    variance: int  # samples of FactorVAE's global variance
    batch: int  # samples per vote of FactorVAE, which represents variance + (train + test) * batch samples in all
    stages: int  # boosting stages of DCI, each of one tree per factor value
    depth: int = 3  # of these trees
    bins: int = 20  # of MIG per real feature, equally wide from its least to its greatest value
    reduction: str = "none"  # DCI on fewer dimensions, in which its cost is linear: those that vary most, or principal components
    keep: int = 64  # dimensions that are then left


FAST = Settings(train=1_000, test=500, variance=512, batch=16, stages=20)
FULL = Settings(train=10_000, test=5_000, variance=10_000, batch=64, stages=100)  # the standard protocol


def disentanglement_scores(
    represent: Callable[[np.ndarray], np.ndarray], data, settings: Settings = FAST, seed: int = 0, scores: Sequence[str] = SCORES
) -> dict:
    """All of `scores` of `represent` (dataset indices [n] -> codes [n, ...]) on images of `data` as its `sampler` draws them.

    `data` has `factor_sizes` (V numbers), `index(factors [n, V]) -> indices [n]` and `factors(indices) -> factors`, and may have a table of factors. Returns
    the numbers of `dci`, `mig`, `sap` and `factor_vae` in one dict, and {"parameters": {score: its parameters}} with the seed.
    """
    _check_settings(settings)
    if "dci" in scores:
        _gradient_boosting()  # refused before anything is represented
    rng, sample = np.random.default_rng(seed), sampler(data)
    drawn = [sample(rng, None, number)[0] for number in (settings.train, settings.test)]
    (train, test), (codes, codes_test) = ([np.asarray(read(indices)) for indices in drawn] for read in (data.factors, represent))
    functions = {
        "dci": lambda: dci(codes, train, codes_test, test, settings, seed),
        "mig": lambda: mig(codes, train, settings.bins),
        "sap": lambda: sap(codes, train, codes_test, test),
        "factor_vae": lambda: factor_vae(represent, sample, train.shape[1], settings, seed),
    }
    found = {name: functions[name]() for name in scores}
    parameters = {name: score.pop("parameters") for name, score in found.items()}
    return {key: value for score in found.values() for key, value in score.items()} | {"parameters": parameters | {"seed": seed}}


def why_no_dci() -> str | None:
    """One sentence that says what DCI lacks here, None where it can be had."""
    try:
        _gradient_boosting()
    except ModuleNotFoundError as error:
        return str(error)


def dci(
    codes_train: np.ndarray, factors_train: np.ndarray, codes_test: np.ndarray, factors_test: np.ndarray, settings: Settings = FAST, seed: int = 0
) -> dict:
    """Disentanglement, completeness, informativeness (Eastwood and Williams 2018) by gradient boosted trees, one classifier per factor.

    {"dci_disentanglement", "dci_completeness", "dci_informativeness_train", "dci_informativeness_test", "parameters"}; informativeness is mean accuracy.
    Cost is about stages x S x d x n: hours for thousands of dimensions, for which `settings.reduction` is there.
    Raises ModuleNotFoundError without scikit-learn, ValueError for samples that do not fit.
    """
    classifier = _gradient_boosting()
    _check_settings(settings)
    train, test = _samples(codes_train, factors_train), _samples(codes_test, factors_test)
    dimensions = _check_pair(train, test)
    codes, codes_test = reduce_codes(train[0], test[0], settings.reduction, settings.keep)
    importance, accuracies = [], []
    for factor, factor_test in zip(train[1].T, test[1].T):
        trees = classifier(n_estimators=settings.stages, max_depth=settings.depth, learning_rate=LEARNING_RATE, random_state=seed).fit(codes, factor)
        importance.append(trees.feature_importances_)
        accuracies.append([np.mean(trees.predict(c) == f) for c, f in ((codes, factor), (codes_test, factor_test))])
    on_train, on_test = np.mean(accuracies, axis=0)
    parameters = {"train": len(codes), "test": len(codes_test), "stages": settings.stages, "depth": settings.depth, "learning_rate": LEARNING_RATE}
    parameters |= {"reduction": settings.reduction, "dimensions": dimensions, "dimensions_kept": codes.shape[1], "seed": seed}
    informativeness = {"dci_informativeness_train": float(on_train), "dci_informativeness_test": float(on_test)}
    return dci_scores(np.stack(importance, axis=1)) | informativeness | {"parameters": parameters}


def dci_scores(importance: np.ndarray) -> dict[str, float]:
    """{"dci_disentanglement", "dci_completeness"} of an importance matrix R [d, V] >= 0.

    Disentanglement is sum_c rho_c (1 - H_V(R_c.)), completeness sum_f rho_f (1 - H_d(R_.f)): entropies of the normalised rows and columns, with 1e-11
    added, in units of log V and log d, weighted by row and column mass; R = 0 counts as uniform. A single factor or code has entropy 0.
    """
    r = np.asarray(importance, np.float64)
    r = r if r.sum() > 0 else np.ones_like(r)
    mass = lambda axis: r.sum(axis) / r.sum()
    order = lambda axis: 1 - entr((r + _TINY) / (r + _TINY).sum(axis, keepdims=True)).sum(axis) / np.log(max(2, r.shape[axis]))
    return {"dci_disentanglement": float(mass(1) @ order(1)), "dci_completeness": float(mass(0) @ order(0))}


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> dict:
    """Mutual information gap (Chen et al. 2018): {"mig", "parameters"}; mean over factors of (best - second best code's information) / H(factor).

    Real features are cut into `bins`, ids are their own bins. The plug-in estimate is biased upwards by about (B - 1)(values - 1) / 2n nats per code,
    which the gap largely cancels. With a single code the second best is 0. Raises ValueError for samples that do not fit.
    """
    codes, factors = _samples(codes, factors)
    discrete = discretise(codes, bins)
    information, entropy = mutual_information(discrete, factors)
    best, second = _two_best(information)
    parameters = {"samples": len(codes), "bins": bins if _real(codes) else "ids", "most_values": int(discrete.max()) + 1}
    return {"mig": float(np.mean((best - second) / entropy)), "parameters": parameters}


def discretise(codes: np.ndarray, bins: int = 20) -> np.ndarray:
    """Codes [n, d] as numbers 0, 1, ... [n, d]: real ones by `bins` equally wide intervals of each dimension's range, ids by rank among all ids."""
    if not _real(codes):
        return np.unique(codes, return_inverse=True)[1].reshape(codes.shape)
    if bins < 2:
        raise ValueError(f"MIG cuts features into bins, at least 2, not {bins}.")
    low, high = codes.min(0), codes.max(0)
    # A value at the upper end of the range belongs to the last interval, and a constant to the first.
    return np.minimum((codes - low) / np.where(high > low, high - low, 1) * bins, bins - 1).astype(np.int32)


def mutual_information(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """I(code; factor) [d, V] and H(factor) [V] in nats, of the counts of codes [n, d] (integers from 0) and factors [n, V] (integers)."""
    columns, _, starts, size = _numbered(factors, factors)
    information = np.empty((codes.shape[1], len(starts)))
    for part, counts in _joint_counts(codes, columns, size):
        p = counts / len(codes)
        of_code = entr(np.add.reduceat(p, starts, axis=2)[:, :, 0]).sum(1)
        of_factor = np.add.reduceat(entr(p.sum(1)), starts, axis=1)
        together = np.add.reduceat(entr(p).sum(1), starts, axis=1)
        information[part] = np.maximum(of_code[:, None] + of_factor - together, 0)
    return information, of_factor[0]


def sap(codes_train: np.ndarray, factors_train: np.ndarray, codes_test: np.ndarray, factors_test: np.ndarray, c: float = SVM_C) -> dict:
    """Separated attribute predictability (Kumar et al. 2018): {"sap", "parameters"}; mean over factors of the best minus the second best code's accuracy.

    See `one_code_accuracy`. The second best code guesses, so an ideal representation scores 1 - 1 / values, and real features, whose lines hardly tell
    middle values from the rest, reach it for two values only. With a single code the second best is 0. Raises ValueError for samples that do not fit.
    """
    best, second = _two_best(one_code_accuracy(codes_train, factors_train, codes_test, factors_test, c))
    real = _real(np.asarray(codes_train))
    parameters = {"train": len(codes_train), "test": len(codes_test), "classifier": "linear_svm" if real else "table"} | ({"c": c} if real else {})
    return {"sap": float(np.mean(best - second)), "parameters": parameters}


def one_code_accuracy(codes_train: np.ndarray, factors_train: np.ndarray, codes_test: np.ndarray, factors_test: np.ndarray, c: float = SVM_C) -> np.ndarray:
    """Test accuracy [d, V] of predicting each factor from each single code.

    Real features: a linear support vector machine, one value against the rest, weighted as scikit-learn's LinearSVC(C=c, class_weight="balanced").
    Ids: the value that is most frequent under the id in training, relative to its frequency there (the first value for an id never seen).
    """
    train, test = _samples(codes_train, factors_train), _samples(codes_test, factors_test)
    dimensions = _check_pair(train, test)
    columns, columns_test, starts, size = _numbered(train[1], test[1])
    ends = [*starts[1:], size]
    hit = lambda scores: [np.mean(scores[:, a:b].argmax(1) + a == truth, axis=-1) for a, b, truth in zip(starts, ends, columns_test.T)]
    accuracy = np.empty((dimensions, len(starts)))
    if _real(train[0]):
        positive, weights = _balanced(columns, starts, size)
        for part in _parts(dimensions, size * max(len(train[0]), len(test[0]))):
            slope, offset = one_feature_svm.fit(train[0][:, part].T, positive, weights, c)
            accuracy[part] = np.transpose(hit(slope[..., None] * test[0][:, part].T[:, None] + offset[..., None]))
        return accuracy
    ids = discretise(np.concatenate([train[0], test[0]]))
    ids, ids_test = ids[: len(train[0])], ids[len(train[0]) :]
    for part, counts in _joint_counts(ids, columns, size, int(ids_test.max()) + 1):
        relative = np.swapaxes(counts / counts.sum(1, keepdims=True), 1, 2)
        for code, index in zip(relative, range(*part.indices(dimensions))):
            accuracy[index] = np.concatenate(hit(code[None, :, ids_test[:, index]]))
    return accuracy


def factor_vae(
    represent: Callable[[np.ndarray], np.ndarray],
    sample: Sample,
    num_factors: int,
    settings: Settings = FAST,
    seed: int = 0,
) -> dict:
    """The metric of Kim and Mnih 2018: {"factor_vae_train", "factor_vae_eval", "factor_vae_active_dimensions", "parameters"}.

    A vote fixes a random factor in a batch and names the dimension whose variance there is least, relative to its global variance; every dimension stands
    for the factor it is named for most often in `settings.train` votes, and the scores are the accuracies of that table on them and on `settings.test`
    others. A dimension that is constant never wins; if all are, both accuracies are 0.
    `represent(indices [n]) -> codes [n, ...]`; `sample(rng, fixed [m], batch) -> indices [m, batch]`, factor fixed[i] being the same all along row i, and
    with fixed None one row of nothing fixed: see `samplers`. Raises ValueError for settings or codes that do not fit.
    """
    _check_settings(settings)
    rng = np.random.default_rng(seed)
    spread = _spreads(_codes(represent(sample(rng, None, settings.variance).ravel()))[None])[0]
    active, number = spread > 0, settings.train + settings.test
    parameters = {"train_votes": settings.train, "eval_votes": settings.test, "batch": settings.batch, "variance": settings.variance, "seed": seed}
    if not active.any():
        return {"factor_vae_train": 0.0, "factor_vae_eval": 0.0, "factor_vae_active_dimensions": 0, "parameters": parameters}
    fixed, winners = rng.integers(0, num_factors, number), []
    for rows in _parts(number, settings.batch, _IMAGES_PER_CALL):
        indices = sample(rng, fixed[rows], settings.batch)
        codes = _codes(represent(indices.ravel()))
        local = _spreads(codes.reshape(*indices.shape, -1))
        winners.append(np.where(active, local / np.where(active, spread, 1), np.inf).argmin(1))
    winners = np.concatenate(winners)
    votes = np.zeros((len(spread), num_factors), np.int64)
    np.add.at(votes, (winners[: settings.train], fixed[: settings.train]), 1)
    right = votes.argmax(1)[winners] == fixed
    scores = {"factor_vae_train": float(right[: settings.train].mean()), "factor_vae_eval": float(right[settings.train :].mean())}
    return scores | {"factor_vae_active_dimensions": int(active.sum()), "parameters": parameters}


def reduce_codes(train: np.ndarray, test: np.ndarray, reduction: str, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n, d] and [k, d] on at most `keep` dimensions, chosen by the first: those that vary most, in their order, or its principal components.

    Components turn the axes, so what DCI then scores is another representation. Nothing happens where d <= keep. Ids vary by Gini impurity and have no
    principal components. Raises ValueError for what cannot be done.
    """
    if reduction == "none" or train.shape[1] <= keep:
        return train, test
    if reduction == "variance":
        chosen = np.sort(np.argsort(-_spreads(train[None])[0], kind="stable")[:keep])
        return train[:, chosen], test[:, chosen]
    if not _real(train):
        raise ValueError("Ids have no principal components; reduce them by 'variance'.")
    if keep >= len(train):
        raise ValueError(f"{len(train)} samples have fewer than {keep} principal components; take more samples or keep fewer.")
    from scipy.sparse.linalg import svds

    mean = train.mean(0, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(min(train.shape))
    _, strength, components = svds(train - mean, k=keep, v0=start)
    axes = components[np.argsort(-strength)].T
    return (train - mean) @ axes, (test - mean) @ axes


def _gradient_boosting():
    try:
        from sklearn.ensemble import GradientBoostingClassifier
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("DCI needs scikit-learn, which is not installed; install it with pip.") from error
    return GradientBoostingClassifier


def _real(codes: np.ndarray) -> bool:
    return codes.dtype.kind not in "iub"


def _codes(codes: np.ndarray) -> np.ndarray:
    """Codes [n, ...] flattened to [n, d], real ones as float32 or float64."""
    codes = np.asarray(codes)
    if codes.ndim < 2 or 0 in codes.shape:
        raise ValueError(f"Codes have shape {codes.shape}; a score needs samples by dimensions, [n, d], neither of them 0.")
    codes = codes.reshape(len(codes), -1)
    codes = codes.astype(np.float32) if _real(codes) and codes.dtype not in (np.float32, np.float64) else codes
    if not np.isfinite(codes).all():
        raise ValueError(f"{(~np.isfinite(codes)).sum()} of {codes.size} values of the codes are not finite; a model that has diverged has no score.")
    return codes


def _samples(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n, d] and factors [n, V] that fit each other."""
    codes, factors = _codes(codes), np.asarray(factors)
    if factors.ndim != 2 or factors.dtype.kind not in "iu" or len(factors) != len(codes) or not factors.shape[1]:
        raise ValueError(f"Factors are {factors.dtype} of shape {factors.shape}; {len(codes)} samples of codes need integers [{len(codes)}, V].")
    return codes, factors


def _check_pair(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> int:
    """The number of dimensions that both samples have."""
    for name, a, b in zip(("dimensions", "factors"), train, test):
        if a.shape[1] != b.shape[1]:
            raise ValueError(f"Training samples have {a.shape[1]} {name} and test samples {b.shape[1]}; both come from one representation.")
    if _real(train[0]) != _real(test[0]):
        raise ValueError(f"Training codes are {train[0].dtype} and test codes {test[0].dtype}; both must be real features or both ids.")
    _numbered(train[1], test[1])
    return train[0].shape[1]


def _check_settings(settings: Settings) -> None:
    if least := [name for name in ("train", "test", "variance", "batch", "stages", "depth", "keep") if getattr(settings, name) < 1]:
        raise ValueError(f"Settings.{least[0]} is {getattr(settings, least[0])}; it must be at least 1.")
    if settings.batch < 2 or settings.variance < 2:
        raise ValueError(f"A variance needs 2 samples; Settings has batch {settings.batch} and variance {settings.variance}.")
    if settings.reduction not in REDUCTIONS:
        raise ValueError(f"Settings.reduction is {settings.reduction!r}; it must be one of {', '.join(REDUCTIONS)}.")


def _numbered(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Values of all factors numbered 0 .. S - 1, those of one factor side by side.

    Returns the numbers of the samples `train` [n, V] and `test` [k, V] (-1: a value without a training sample), where each factor starts [V], and S.
    """
    values = [np.unique(column) for column in train.T]
    if constant := [f for f, v in enumerate(values) if len(v) < 2]:
        raise ValueError(f"Factor {constant[0]} has the value {values[constant[0]][0]} in all {len(train)} samples; a score needs factors that vary.")
    starts = np.cumsum([0, *map(len, values)])
    ranks = lambda column, v: np.minimum(np.searchsorted(v, column), len(v) - 1)
    number = lambda column, v, start: np.where(v[ranks(column, v)] == column, ranks(column, v) + start, -1)
    numbers = lambda factors: np.stack([number(*args) for args in zip(factors.T, values, starts)], axis=1)
    return numbers(train), numbers(test), starts[:-1], int(starts[-1])


def _parts(number: int, each: int, most: int | None = None) -> Iterator[slice]:
    """Slices of 0 .. number - 1 of as many as hold `most` numbers (None: _NUMBERS), of which one needs `each`."""
    step = max(1, (most or _NUMBERS) // each)
    return (slice(start, min(start + step, number)) for start in range(0, number, step))


def _joint_counts(codes: np.ndarray, columns: np.ndarray, size: int, values: int = 0) -> Iterator[tuple[slice, np.ndarray]]:
    """How often code and factor value meet, some codes at a time: slices of m codes with counts [m, B, S].

    Codes [n, d] are integers from 0, of which there are at least `values`; columns [n, V] number the factor values 0 .. S - 1, S = size.
    """
    b = max(values, int(codes.max()) + 1)
    for part in _parts(codes.shape[1], max(columns.size, b * size)):
        some = codes[:, part].astype(np.int64)
        m = some.shape[1]
        cells = ((np.arange(m) * b + some) * size)[:, :, None] + columns[:, None, :]
        yield part, np.bincount(cells.ravel(), minlength=m * b * size).reshape(m, b, size)


def _balanced(columns: np.ndarray, starts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which samples have a value, bool [S, n], and what they weigh in telling it from the rest, [S, n], of numbers `columns` [n, V].

    As in LIBLINEAR: the value weighs n / (values x its samples), the rest 1, and the two values of a binary factor weigh so both.
    """
    n = len(columns)
    positive = np.zeros((size, n), bool)
    positive[columns, np.arange(n)[:, None]] = True
    values, count = np.repeat(np.diff([*starts, size]), np.diff([*starts, size])), positive.sum(1)
    rest = np.where(values == 2, n / (2 * (n - count)), 1.0)
    return positive, np.where(positive, (n / (values * count))[:, None], rest[:, None])


def _spreads(codes: np.ndarray) -> np.ndarray:
    """Variance (ddof 1), of ids Gini impurity 1 - sum_b p_b^2, of each dimension in each batch: codes [m, n, d] -> [m, d]."""
    if _real(codes):  # of differences, so that a constant has exactly 0
        return (codes - codes[:, :1]).var(axis=1, ddof=1, dtype=np.float64)
    low, (m, n, d) = int(codes.min()), codes.shape
    b, impurities = int(codes.max()) - low + 1, np.empty((m, d))
    for rows in _parts(m, d * max(b, n)):
        ids = codes[rows].astype(np.int64) - low
        cells = np.arange(len(ids) * d).reshape(-1, 1, d) * b + ids
        counts = np.bincount(cells.ravel(), minlength=len(ids) * d * b).reshape(-1, d, b)
        impurities[rows] = 1 - np.square(counts / n).sum(-1)
    return impurities


def _two_best(scores: np.ndarray) -> np.ndarray:
    """The greatest and the second greatest of scores [d, V] >= 0 per factor, [2, V]; 0 stands for what is missing."""
    return np.sort(np.concatenate([scores, np.zeros((1, scores.shape[1]))]), axis=0)[:-3:-1]
