"""Random images of a factor data set, with one factor fixed or none, as disentanglement scores ask for them.

Letters: N images in a data set, V factors, m rows of `batch` images each.

A sample is a function (rng, fixed int [m], batch) -> indices int [m, batch] in which all images of row i share the value of factor fixed[i]; with `fixed` None
it is one row of nothing fixed.
"""

from collections.abc import Callable

import numpy as np

Sample = Callable[[np.random.Generator, np.ndarray | None, int], np.ndarray]


def sampler(data) -> Sample:
    """What fits `data`: `table_sampler` where it has a table of factors, else `uniform_sampler`."""
    return uniform_sampler(data) if getattr(data, "table", None) is None else table_sampler(data.table)


def uniform_sampler(data) -> Sample:
    """For a full grid: uniform values of all factors. `data` has `factor_sizes` (V numbers) and `index(factors [n, V]) -> indices [n]`."""
    sizes = np.asarray(data.factor_sizes)

    def sample(rng: np.random.Generator, fixed: np.ndarray | None, batch: int) -> np.ndarray:
        factors = rng.integers(0, sizes, (1 if fixed is None else len(fixed), batch, len(sizes)))
        if fixed is not None:
            rows = np.arange(len(fixed))
            factors[rows, :, fixed] = factors[rows, :1, fixed]
        return np.asarray(data.index(factors.reshape(-1, len(sizes)))).reshape(factors.shape[:2])

    return sample


def table_sampler(table: np.ndarray) -> Sample:
    """For images whose factors, int [N, V], lack combinations or repeat them: uniform images. Those of a row come from among the images that share the value of
    its fixed factor, itself uniform among the values that occur."""
    orders = np.argsort(table, axis=0, kind="stable")
    starts = [np.unique(column[order], return_index=True)[1] for column, order in zip(table.T, orders.T)]
    bounds, counts = [np.append(own, len(table)) for own in starts], np.array([len(own) for own in starts])

    def sample(rng: np.random.Generator, fixed: np.ndarray | None, batch: int) -> np.ndarray:
        if fixed is None:
            return rng.integers(0, len(table), (1, batch))
        spans = np.array([bounds[factor][value : value + 2] for factor, value in zip(fixed, rng.integers(0, counts[fixed]))]).reshape(-1, 2)
        return orders[rng.integers(spans[:, :1], spans[:, 1:], (len(fixed), batch)), fixed[:, None]]

    return sample
