"""The latents of quad, dependent: a linear-Gaussian structural causal model (paper, appendix on quad; spec section 4).

Letters: n rows, 8 latents in the order of `LATENTS`.

x_j = sum_i W_ij x_i + noise_j, standardised with the observational mean and standard deviation. We take the analytic
moments, not those of one sample: the samples then do not depend on how many are drawn, and agree in the limit.
A perfect intervention on a latent removes its incoming edges and draws it from a normal law of its own.
"""

import math
from collections.abc import Iterable

import numpy as np

LATENTS = ("quad1", "quad2", "quad3", "quad4", "size", "color", "shape", "orientation")
CONCEPTS = ("quad1", "quad2", "quad3", "quad4", "size", "orientation")  # color and shape are hidden causes

EDGES = {
    ("quad2", "quad1"): -1.23,
    ("quad3", "quad2"): 1.56,
    ("quad4", "quad1"): 1.34,
    ("quad4", "quad3"): -0.72,
    ("color", "quad1"): -0.95,
    ("color", "size"): 1.67,
    ("shape", "quad2"): 0.58,
    ("shape", "color"): -1.34,
    ("orientation", "quad1"): 1.12,
    ("orientation", "size"): -0.81,
    ("orientation", "shape"): 1.45,
}
NOISE_VARIANCES = (1.3855493, 1.16426732, 1.00502177, 1.95646855, 1.27482347, 1.42, 1.31, 1.18)
INTERVENTION_MEANS = (1.16920556, 1.47496736, -1.60596209, -1.96578519, 1.0117071, -0.85, 1.23, -0.67)
INTERVENTION_VARIANCES = (1.94878138, 1.35886756, 1.57343313, 1.1021785, 1.30511067, 1.52, 1.41, 1.26)


def sample_latents(rng: np.random.Generator, n: int, interventions: Iterable[str] = (), strength: float = 1.0) -> np.ndarray:
    """Standardised latents, float64 [n, 8], under perfect interventions on a set of `CONCEPTS`.

    `strength` multiplies the interventional means. The first rows do not depend on n. Raises ValueError for a name
    outside `CONCEPTS`.
    """
    return latents(noise(rng, n), interventions, strength)


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """Exogenous noise float64 [n, 8], standard normal. The first rows do not depend on n."""
    return rng.standard_normal((n, len(LATENTS)))


def latents(noise: np.ndarray, interventions: Iterable[str] = (), strength: float = 1.0) -> np.ndarray:
    """What `sample_latents` makes of exogenous noise [n, 8]: column j is the own noise of latent j, of whatever mechanism it has."""
    weights, means, variances = _mechanisms(interventions, strength)
    own = means + np.sqrt(variances) * noise
    raw = np.linalg.solve((np.eye(len(LATENTS)) - weights).T, own.T).T
    mean, deviation = _observational_moments()
    return (raw - mean) / deviation


def mean_covariance(interventions: Iterable[str] = (), strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Analytic mean [8] and covariance [8, 8] of `sample_latents`. Raises ValueError for a name outside `CONCEPTS`."""
    mean, covariance = _raw_mean_covariance(interventions, strength)
    centre, deviation = _observational_moments()
    return (mean - centre) / deviation, covariance / np.outer(deviation, deviation)


def total_effects(interventions: Iterable[str] = ()) -> np.ndarray:
    """Standardised total effects [6, 6] among `CONCEPTS` under perfect interventions: row the affected concept, column the one whose noise moves it.

    Entry (i, j) is how far latent i moves, in its observational standard deviations as `sample_latents` counts, when noise j rises by the one standard
    deviation that it has under the interventions: the sum over all directed paths from j to i, those through the hidden color and shape too, of the product
    of their weights. 0 exactly where there is no path. The noises of color and shape have no column. Raises ValueError for a name outside `CONCEPTS`.
    """
    weights, _, variances = _mechanisms(interventions, 1.0)
    paths = sum(np.linalg.matrix_power(weights, length) for length in range(len(LATENTS)))  # (I - W)^-1, but with zeros that are exact
    _, deviation = _observational_moments()
    concepts = [LATENTS.index(name) for name in CONCEPTS]
    return (np.sqrt(variances)[:, None] * paths / deviation).T[np.ix_(concepts, concepts)]


def factors(latents: np.ndarray) -> np.ndarray:
    """Renderer factors [n, 8] in [0, 1] of standardised latents [n, 8]: the normal distribution function."""
    complement = np.frompyfunc(lambda x: 0.5 * math.erfc(-x * math.sqrt(0.5)), 1, 1)
    return complement(latents).astype(np.float64)


def _observational_moments() -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = _raw_mean_covariance((), 1.0)
    return mean, np.sqrt(np.diag(covariance))


def _raw_mean_covariance(interventions: Iterable[str], strength: float) -> tuple[np.ndarray, np.ndarray]:
    weights, means, variances = _mechanisms(interventions, strength)
    mixing = np.linalg.inv(np.eye(len(LATENTS)) - weights)  # rows: x = noise (I - W)^-1
    return means @ mixing, mixing.T @ (variances[:, None] * mixing)


def _mechanisms(interventions: Iterable[str], strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edge weights [8, 8], noise means [8] and noise variances [8] under interventions."""
    weights, means, variances = np.zeros((8, 8)), np.zeros(8), np.array(NOISE_VARIANCES)
    for (cause, effect), weight in EDGES.items():
        weights[LATENTS.index(cause), LATENTS.index(effect)] = weight
    for index in intervened(interventions):
        weights[:, index] = 0
        means[index] = strength * INTERVENTION_MEANS[index]
        variances[index] = INTERVENTION_VARIANCES[index]
    return weights, means, variances


def intervened(interventions: Iterable[str]) -> list[int]:
    """Positions of intervened concepts in `LATENTS`. Raises ValueError for a name outside `CONCEPTS`."""
    names = set(interventions)
    if not names <= set(CONCEPTS):
        wrong = min(names - set(CONCEPTS))
        raise ValueError(f"quad has no concept {wrong!r} to intervene on; choose from {', '.join(CONCEPTS)}.")
    return sorted(LATENTS.index(name) for name in names)
