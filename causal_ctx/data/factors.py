"""Images described by factors of a few ordered values each, the ground that transitions are made on.

Letters: n images asked for, N images in all, V factors, H height, W width, C channels.

A dense set holds one image for every combination of values; its index is the row-major (C order) rank of the factors, the last
factor fastest (spec/ctvae.md section 5.2). Any other set comes with a table of factors, which may lack combinations or repeat them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

NUM_SPLITS = 3  # train, validation, test


@dataclasses.dataclass(frozen=True, eq=False)
class FactorData:
    """A data set of N images of V factors; make one with `from_array` or `composed`, which check it.

    factor_names, factor_sizes: V names, and how many values each factor has. The order of the factors is that of the actions.
    image_shape: (H, W, C).
    read: checked indices int64 [n] -> images uint8 [n, H, W, C].
    table: factors of every image, [N, V]; None for a dense set.
    partition: split of every image as published, uint8 [N] of 0 (train), 1 (validation), 2 (test); None where there is none.
    file_names: N names that partition and variation files use in place of indices; None where they use indices.
    """

    name: str
    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]
    image_shape: tuple[int, int, int]
    read: Callable[[np.ndarray], np.ndarray]
    table: np.ndarray | None = None
    partition: np.ndarray | None = None
    file_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return int(np.prod(self.factor_sizes)) if self.table is None else len(self.table)

    @property
    def num_factors(self) -> int:
        """V."""
        return len(self.factor_names)

    @functools.cached_property
    def identified(self) -> bool:
        """Whether no two images have the same factors."""
        ranks, _ = self._sorted_ranks
        return self.table is None or bool((np.diff(ranks) > 0).all())

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Images uint8 [n, H, W, C] of indices [n]. Raises ValueError for indices that are no integers of 0..N-1."""
        return self.read(self._checked(indices))

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """Factors int64 [n, V] of indices [n]. Raises ValueError for indices that are no integers of 0..N-1."""
        indices = self._checked(indices)
        if self.table is None:
            return np.stack(np.unravel_index(indices, self.factor_sizes), axis=-1)
        return self.table[indices].astype(np.int64)

    def find(self, factors: np.ndarray) -> np.ndarray:
        """Indices int64 [n] of factors [n, V], the first of several; -1 where no image has them. Raises ValueError for values that a factor does not have."""
        factors = np.asarray(factors)
        check_factors(self.name, self.factor_names, self.factor_sizes, factors)
        ranks = np.ravel_multi_index(tuple(factors.T), self.factor_sizes)
        if self.table is None:
            return ranks
        known, order = self._sorted_ranks
        places = np.minimum(np.searchsorted(known, ranks), len(known) - 1)
        return np.where(known[places] == ranks, order[places], -1)

    def index(self, factors: np.ndarray) -> np.ndarray:
        """Indices int64 [n] of factors [n, V], the first of several. Raises ValueError for factors that no image has."""
        indices = self.find(factors)
        if (indices < 0).any():
            missing = np.asarray(factors)[np.argmin(indices)]
            raise ValueError(f"{self.name} holds no image with the factors {describe(self.factor_names, missing)}; ask for others.")
        return indices

    @functools.cached_property
    def _sorted_ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of the table's rows in ascending order, int64 [N], and the image of each; empty for a dense set."""
        if self.table is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        ranks = np.ravel_multi_index(tuple(self.table.T), self.factor_sizes)
        order = np.argsort(ranks, kind="stable")
        return ranks[order], order

    def _checked(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(f"Indices into {self.name} must be integers [n], got {indices.dtype} {indices.shape}; give an array of them.")
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            raise ValueError(f"{self.name} holds images 0 to {len(self) - 1}, and {indices.min()} to {indices.max()} were asked for; stay inside.")
        return indices.astype(np.int64)


def from_array(
    name: str,
    sizes: dict[str, int],
    images: np.ndarray,
    rows: np.ndarray | None = None,
    table: np.ndarray | None = None,
    partition: np.ndarray | None = None,
    file_names: Sequence[str] | None = None,
) -> FactorData:
    """A data set over an array or memory map uint8 [N, H, W, C]; `sizes` are the factors in their order, {name: number of values}.

    rows: row of the array that holds each index, int [N], where that is another order. The others: see `FactorData`.
    Raises ValueError (one sentence) for images, rows, factors or splits that do not fit one another.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"Images of {name} must be uint8 [n, H, W, C], got {images.dtype} {images.shape}; convert them.")
    _check_count(name, sizes, len(images), table)
    if table is not None:
        check_factors(name, tuple(sizes), tuple(sizes.values()), table)
    if rows is not None and not (np.shape(rows) == (len(images),) and np.array_equal(np.sort(rows), np.arange(len(images)))):
        raise ValueError(f"The rows of {name} must name each of its {len(images)} images once; check the factors they were made from.")
    if partition is not None:
        check_splits(name, partition, len(images))
    if file_names is not None and len(set(file_names)) != len(images):
        raise ValueError(f"{name} has {len(images)} images and {len(set(file_names))} different file names; give one each.")
    read = (lambda indices: images[indices]) if rows is None else (lambda indices: images[rows[indices]])
    names = None if file_names is None else tuple(file_names)
    return FactorData(name, tuple(sizes), tuple(sizes.values()), images.shape[1:], read, table, partition, names)


def composed(name: str, sizes: dict[str, int], image_shape: tuple[int, int, int], compose: Callable[[np.ndarray], np.ndarray]) -> FactorData:
    """A dense data set whose images are made when asked for: `compose` takes factors int64 [n, V] to images uint8 [n, H, W, C]."""
    values = tuple(sizes.values())
    read = lambda indices: compose(np.stack(np.unravel_index(indices, values), axis=-1))
    return FactorData(name, tuple(sizes), values, image_shape, read)


def check_factors(name: str, factor_names: tuple[str, ...], factor_sizes: tuple[int, ...], factors: np.ndarray) -> None:
    """Raises ValueError (one sentence that names the factor) unless `factors` are integers [n, V], each below its factor's size."""
    if factors.ndim != 2 or factors.shape[1] != len(factor_sizes) or not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(
            f"Factors of {name} must be integers [n, {len(factor_sizes)}] ({', '.join(factor_names)}), got {factors.dtype} {factors.shape}; give these."
        )
    wrong = (factors < 0) | (factors >= np.array(factor_sizes))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"Factor {factor_names[column]!r} of {name} is {factors[row, column]} in row {row}, "
            f"and its values are 0 to {factor_sizes[column] - 1}; check the table of factors."
        )


def check_splits(name: str, splits: np.ndarray, count: int) -> None:
    """Raises ValueError unless `splits` holds 0, 1 or 2 for each of `count` images."""
    if np.shape(splits) != (count,) or not np.isin(splits, range(NUM_SPLITS)).all():
        found = ", ".join(map(str, np.unique(splits)[:5]))
        raise ValueError(
            f"The splits of {name} must be 0 (train), 1 (validation) or 2 (test) for each of its {count} images, "
            f"got {np.size(splits)} of the values {found}; check the partition."
        )


def describe(factor_names: tuple[str, ...], values: np.ndarray) -> str:
    """"hair 3, eyes 0"."""
    return ", ".join(f"{name} {value}" for name, value in zip(factor_names, values))


def _check_count(name: str, sizes: dict[str, int], count: int, table: np.ndarray | None) -> None:
    combinations = int(np.prod(tuple(sizes.values())))
    if table is None and combinations != count:
        product = " x ".join(map(str, sizes.values()))
        raise ValueError(
            f"{name} has {count} images, but its factors ({', '.join(sizes)}) have {product} = {combinations} combinations; "
            "give all images in the order of the factors, or a table of factors."
        )
    if table is not None and len(table) != count:
        raise ValueError(f"{name} has {count} images and factors for {len(table)}; give one row of factors for every image.")
