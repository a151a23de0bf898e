"""Linear support vector machines of one feature each, all fitted at once: what the SAP score asks of every code and factor.

Letters: m features, n samples, S classes of all factors together.

scikit-learn's LinearSVC (squared hinge, penalised offset, one class against the rest) solves one factor from one code per call. Here a problem has two
unknowns, slope and offset, so Newton's method is a 2 x 2 system in closed form, all m S problems go side by side, and SAP needs no further package.
"""

import numpy as np

_MOST_STEPS = 100
_TOLERANCE = 1e-12  # of the objective's value


def fit(x: np.ndarray, positive: np.ndarray, weights: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and offsets, each [m, S], that minimise (slope^2 + offset^2) / 2 + c sum_i weight_i max(0, 1 - y_i (slope x_i + offset))^2.

    Features x [m, n]; y_i is 1 where `positive` [S, n] and -1 elsewhere; weights [S, n] >= 0. The objective is convex and quadratic between samples that
    reach the margin, so a Newton step is the exact minimum of a piece; it is halved where it would not descend. Holds about 6 m S n floats.
    Raises RuntimeError should a hundred steps not do.
    """
    x, sign = np.asarray(x, np.float64), np.where(positive, 1.0, -1.0)
    powers = np.stack([np.ones_like(x), x, x * x], axis=-1)
    state = np.zeros((2, len(x), len(sign)))
    value, target = _descend(state, x, powers, sign, weights, c)
    length = np.ones(value.shape)
    for _ in range(_MOST_STEPS):
        trial = state + length * (target - state)
        trial_value, trial_target = _descend(trial, x, powers, sign, weights, c)
        better = trial_value <= value * (1 + _TOLERANCE)
        settled = better & (value - trial_value <= _TOLERANCE * value)
        state, target = np.where(better, trial, state), np.where(better, trial_target, target)
        value, length = np.where(better, trial_value, value), np.where(better, 1.0, length / 2)
        if settled.all():
            return state[0], state[1]
    raise RuntimeError(f"{(~settled).sum()} of {settled.size} support vector machines did not settle in {_MOST_STEPS} steps; scale the features to about 1.")


def _descend(state: np.ndarray, x: np.ndarray, powers: np.ndarray, sign: np.ndarray, weights: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """The objective [m, S] at (slope, offset) = state [2, m, S] and the minimum [2, m, S] of its quadratic piece there."""
    slope, offset = state
    slack = 1 - sign * (slope[..., None] * x[:, None] + offset[..., None])
    active = np.where(slack > 0, weights, 0.0)
    value = (slope**2 + offset**2) / 2 + c * np.einsum("msn,msn,msn->ms", active, slack, slack)
    s0, s1, s2 = np.moveaxis(2 * c * (active @ powers), -1, 0)
    t0, t1 = np.moveaxis(2 * c * ((active * sign) @ powers[..., :2]), -1, 0)
    determinant = (1 + s0) * (1 + s2) - s1**2
    return value, np.stack([(1 + s0) * t1 - s1 * t0, (1 + s2) * t0 - s1 * t1]) / determinant
