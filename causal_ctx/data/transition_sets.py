"""What CT-VAE learns on: a factor data set, its images by split, and the transitions between them, as `config.data` asks for them.

Letters: n images, V factors, A = 2V actions, T transitions, H, W, C image.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from causal_ctx.data import factor_sets, transition_files, transitions
from causal_ctx.data.factors import FactorData
from causal_ctx.data.transitions import SPLITS, Transitions


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Images uint8 [n, H, W, C] of a data set at `rows` int64 [n], read when asked for by a slice or an array of positions."""

    data: FactorData
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: slice | np.ndarray) -> np.ndarray:
        return self.data.images(self.rows[positions])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, H, W, C)."""
        return (len(self.rows), *self.data.image_shape)

    @property
    def dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all the images together."""
        return int(np.prod(self.shape))


@dataclasses.dataclass(frozen=True, eq=False)
class TransitionData:
    """images: of each of SPLITS, those that the autoencoder and base mode see. transitions: those of all splits, as indices into `factors`.

    balanced_transitions: how many transitions there were of every action before the imbalance that `data.keep` asks for, int64 [A].
    encoded: codes that users of the data have made and want to keep with it.
    """

    factors: FactorData
    images: Mapping[str, Images]
    transitions: Transitions
    balanced_transitions: np.ndarray
    encoded: dict[tuple, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the factor data set."""
        return self.factors.name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.factors.image_shape

    @property
    def num_factors(self) -> int:
        """V."""
        return self.factors.num_factors

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the A actions: action f raises factor f, action f + V lowers it."""
        return transitions.action_names(self.factors.factor_names)

    def pairs(self, split: str) -> Transitions:
        """The transitions of one split."""
        return transitions.select(self.transitions, split)


def load(config) -> TransitionData:
    """The data that `config`, a run's `config.data`, describes. Everything random is a function of `config.seed`.

    Raises ValueError (one sentence) for what cannot be made or read, and where a split is left without images or transitions.
    """
    data = factor_sets.load(config)
    shares = fractions(config.keep, data)
    splits = _splits(config, data)
    if config.variations:
        made = transition_files.read_transitions(Path(config.variations), data, splits)
    else:
        made = transitions.make(data, splits, config.samples or None, config.seed)
    kept = transitions.keep_fractions(made, shares, data.num_factors, seed=config.seed)
    _refuse_empty(data.name, kept)
    limits = (config.train_images, config.held_out_images, config.held_out_images)
    rows = {split: _rows(splits, number, limit, config.seed) for number, (split, limit) in enumerate(zip(SPLITS, limits))}
    balanced = np.bincount(transitions.select(made, "train").actions, minlength=2 * data.num_factors)
    return TransitionData(data, {split: Images(data, chosen) for split, chosen in rows.items()}, kept, balanced)


def fractions(keep: str, data: FactorData) -> dict[int, float]:
    """{factor: fraction of its training pairs that stays} of "hair=0.1+eyes=0.5", {} of "all". Raises ValueError for another form, unknown or
    repeated factors, and fractions outside [0, 1]."""
    found = {}
    for part in filter(None, ("" if keep == "all" else keep).replace(" ", "").split("+")):
        name, _, number = part.partition("=")
        if name not in data.factor_names:
            raise ValueError(f"data.keep names the factor {name!r}, which {data.name} does not have; choose from {', '.join(data.factor_names)}.")
        if (factor := data.factor_names.index(name)) in found:
            raise ValueError(f"data.keep names the factor {name!r} twice; give it one fraction.")
        try:
            found[factor] = float(number)
        except ValueError:
            raise ValueError(f"data.keep is {keep!r}; write it as factor=fraction, with + between, for example {data.factor_names[0]}=0.1.") from None
        if not 0 <= found[factor] <= 1:
            raise ValueError(f"data.keep gives {name} the fraction {number}; a share of its pairs lies from 0 to 1.")
    return found


def _splits(config, data: FactorData) -> np.ndarray:
    """Split of every image, uint8 [N]: read from `config.partition`, else the data set's own, else random."""
    if config.partition:
        return transition_files.read_partition(Path(config.partition), data)
    if config.variations and data.partition is None:
        raise ValueError(f"data.variations is {config.variations!r} without data.partition, and {data.name} has no splits of its own; give both files.")
    return transitions.random_splits(len(data), config.seed) if data.partition is None else data.partition


def _rows(splits: np.ndarray, number: int, limit: int, seed: int) -> np.ndarray:
    """Indices of the images of a split in their order, at most `limit` of them (0: all), drawn at random."""
    rows = np.flatnonzero(splits == number)
    if not limit or len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng([seed, number]).choice(rows, limit, replace=False))


def _refuse_empty(name: str, made: Transitions) -> None:
    counts = np.bincount(made.splits, minlength=len(SPLITS))
    empty = [split for split, count in zip(SPLITS, counts) if not count]
    if empty:
        raise ValueError(f"{name} has no transitions in {', '.join(empty)}; raise data.samples, keep more of the pairs, or give another partition.")
