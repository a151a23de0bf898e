"""Transitions: pairs of images that differ by one step of one factor, and the action that leads from one to the other.

Letters: N images in a data set, V factors, A = 2V actions, P pairs, T transitions (a pair is two of them, one in each direction), B examples of a batch.

Action f raises factor f by one value, action f + V lowers it. Only neighbouring values are paired, so that a circular factor (a hue,
an azimuth) has two ends (spec/ctvae.md section 5.5). Both images of a pair are in the same split. All draws are pure functions of
a seed, each purpose with a stream of its own (quirk Q15: the reference draws other pairs at every start).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from causal_ctx.data.factors import FactorData, check_splits

SPLITS = ("train", "validation", "test")  # the position of a name is its number
ALL = "all"
MODES = ("base", "action", "retrieval")  # spec section 3; all examples of a micro-batch share one

_STREAMS = ("split", "neighbours", "attributes", "joint", "keep", "limit", "batch")


class Transitions(NamedTuple):
    """T transitions: indices of the images before and after, int64 [T]; the action, int64 [T] in 0..A-1; the split, uint8 [T] in 0..2."""

    inputs: np.ndarray
    outputs: np.ndarray
    actions: np.ndarray
    splits: np.ndarray


class JointTransitions(NamedTuple):
    """T transitions by F actions at once, one on each of F factors: as `Transitions`, but for actions int64 [T, F]."""

    inputs: np.ndarray
    outputs: np.ndarray
    actions: np.ndarray
    splits: np.ndarray


class Pairs(NamedTuple):
    """P pairs: indices of the images with the lower and with the higher value of a factor, int64 [P] each, and that factor, int64 [P]."""

    low: np.ndarray
    high: np.ndarray
    factor: np.ndarray


def action_names(factor_names: Sequence[str]) -> tuple[str, ...]:
    """Names of the A actions in the order of their numbers: "hair up" .., "hair down" .."""
    return tuple(f"{name} {way}" for way in ("up", "down") for name in factor_names)


def moved(data: FactorData, indices: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The images that actions [n] lead to from images [n], int64 [n]; -1 where a factor is at its end or no image is there.

    Raises ValueError for an action that is no integer of 0..A-1.
    """
    indices, actions = np.asarray(indices), np.asarray(actions)
    count = 2 * data.num_factors
    wrong = (actions < 0) | (actions >= count)
    if wrong.any() or not np.issubdtype(actions.dtype, np.integer):
        found = actions[np.argmax(wrong)] if wrong.any() else actions.dtype
        raise ValueError(f"{data.name} has {data.num_factors} factors and so the actions 0 to {count - 1}, got {found}; give whole numbers in that range.")
    values, rows, factor = data.factors(indices), np.arange(len(indices)), actions % data.num_factors
    values[rows, factor] += np.where(actions < data.num_factors, 1, -1)
    there = (values >= 0).all(axis=1) & (values < np.array(data.factor_sizes)).all(axis=1)
    result = np.full(len(indices), -1)
    result[there] = data.find(values[there])
    return result


def random_splits(count: int, seed: int = 0, share: float = 0.15) -> np.ndarray:
    """The split of each of `count` images, uint8 [count]: round(share * count) each validate and test, the others train (spec section 5.4).

    Raises ValueError for a share that leaves a part empty.
    """
    held = round(share * count)
    if not 0 < 2 * held < count:
        raise ValueError(f"A share of {share} of {count} images leaves training, validation or test without one; use another share or more images.")
    order = _stream(seed, "split").permutation(count)
    splits = np.zeros(count, np.uint8)
    splits[order[:held]] = SPLITS.index("validation")
    splits[order[held : 2 * held]] = SPLITS.index("test")
    return splits


def make(data: FactorData, splits: np.ndarray | None = None, samples: int | None = None, seed: int = 0) -> Transitions:
    """The transitions of a data set: neighbouring values where factors identify the images, else attributes (`attribute_pairs`).

    splits: uint8 [N]; None: the data set's own partition, or random ones of the same seed. samples: those of the pairs rule, None for the paper's.
    """
    if splits is None:
        splits = random_splits(len(data), seed) if data.partition is None else data.partition
    check_splits(data.name, splits, len(data))
    if data.identified:
        pairs = neighbour_pairs(data, 1000 if samples is None else samples, seed)
    else:
        pairs = attribute_pairs(data, 8 if samples is None else samples, seed)
    return both_ways(pairs, splits, data.num_factors)


def neighbour_pairs(data: FactorData, samples_per_value: int = 1000, seed: int = 0) -> Pairs:
    """Pairs of images whose values v and v + 1 of one factor are neighbours, all others being equal (spec section 5.5).

    For every factor and every v but its last, `samples_per_value` combinations of the other factors are drawn uniformly; every pair is kept once.
    Sorted by factor, then by the image with the lower value. Raises ValueError for a number of samples that is not positive.
    """
    _check_positive("samples_per_value", samples_per_value)
    found = [_neighbours(data, factor, samples_per_value, _stream(seed, "neighbours", factor)) for factor in range(data.num_factors)]
    return Pairs(*map(np.concatenate, zip(*found)))


def attribute_pairs(data: FactorData, samples_per_group: int = 8, seed: int = 0) -> Pairs:
    """Pairs of images that differ in one binary attribute, for sets that hold many images of the same attributes, as CelebA (spec section 5.6).

    For every attribute, images that share all others are a group; of a group up to `samples_per_group` images without the attribute and as many with
    it are drawn, with replacement, and all pairs across are taken, each once. Such a pair shares the attributes of the table and nothing else: in
    CelebA the two are different people in different poses (quirk Q24). Raises ValueError for factors that are not binary.
    """
    _check_positive("samples_per_group", samples_per_group)
    wrong = [name for name, size in zip(data.factor_names, data.factor_sizes) if size != 2]
    if wrong or data.table is None:
        raise ValueError(f"{data.name} has no table of binary attributes ({', '.join(wrong) or 'it is dense'}); pair its neighbouring values instead.")
    found = [_attributes(data, factor, samples_per_group, _stream(seed, "attributes", factor)) for factor in range(data.num_factors)]
    return Pairs(*map(np.concatenate, zip(*found)))


def both_ways(pairs: Pairs, splits: np.ndarray, num_factors: int) -> Transitions:
    """The transitions of pairs whose images are in the same split: all that raise a factor, then the same pairs lowered."""
    same = splits[pairs.low] == splits[pairs.high]
    low, high, factor = (field[same] for field in pairs)
    return Transitions(
        inputs=np.concatenate([low, high]),
        outputs=np.concatenate([high, low]),
        actions=np.concatenate([factor, factor + num_factors]),
        splits=np.tile(splits[low], 2).astype(np.uint8),
    )


def joint_transitions(data: FactorData, factors: Sequence[str], count: int, splits: np.ndarray | None = None, seed: int = 0) -> JointTransitions:
    """Up to `count` transitions in which every factor of `factors` (F names) moves by one step, up or down with equal chance, and no other moves.

    Ways that lead there one action at a time pass through images that need not be in the same split. Drawn uniformly; repeated ones are dropped, and
    with `splits` uint8 [N] those whose ends are in different splits (without, all count as train). Raises ValueError for unknown or repeated factors.
    """
    _check_positive("count", count)
    chosen = [_position(data, name) for name in factors]
    if len(set(chosen)) < max(1, len(chosen)):
        raise ValueError(f"The factors to move together must be different ones, at least one, got {', '.join(factors) or 'none'}; name each once.")
    rng = _stream(seed, "joint", *sorted(chosen))
    sizes = np.array(data.factor_sizes)
    before = rng.integers(sizes, size=(count, len(sizes)))
    before[:, chosen] = rng.integers(sizes[chosen] - 1, size=(count, len(chosen)))
    down = rng.integers(2, size=(count, len(chosen)))
    after = before.copy()
    before[:, chosen] += down
    after[:, chosen] += 1 - down
    inputs, outputs = data.find(before), data.find(after)
    kept = (inputs >= 0) & (outputs >= 0)
    if splits is not None:
        check_splits(data.name, splits, len(data))
        kept &= splits[inputs] == splits[outputs]
    _, first = np.unique(inputs[kept] * len(data) + outputs[kept], return_index=True)
    rows = np.flatnonzero(kept)[np.sort(first)]
    found = splits[inputs[rows]] if splits is not None else np.zeros(len(rows))
    return JointTransitions(inputs[rows], outputs[rows], (np.array(chosen) + down * data.num_factors)[rows], found.astype(np.uint8))


def select(transitions: Transitions, split: str) -> Transitions:
    """The transitions of "train", "validation", "test", or of "all" (quirk Q16). Raises ValueError for other names."""
    if split == ALL:
        return transitions
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}, {ALL}.")
    return take(transitions, transitions.splits == SPLITS.index(split))


def take(transitions: Transitions, rows: np.ndarray) -> Transitions:
    """The transitions at `rows`, a mask [T] or indices."""
    return transitions._replace(**{name: field[rows] for name, field in transitions._asdict().items()})


def limit(transitions: Transitions, count: int, seed: int = 0) -> Transitions:
    """A random subset of `count` transitions in their order (spec section 4.3), or all where there are fewer."""
    _check_positive("count", count)
    order = _stream(seed, "limit").permutation(len(transitions.inputs))
    return take(transitions, np.sort(order[:count]))


def keep_fractions(
    transitions: Transitions, fractions: Mapping[int, float], num_factors: int, splits: Sequence[str] = ("train",), seed: int = 0
) -> Transitions:
    """Imbalance: keeps a random fraction of the pairs of some factors, {factor: fraction in [0, 1]}, both directions of a pair or neither.

    Only pairs of `splits` are taken away, so that a test set keeps its precision. What a smaller fraction keeps, a larger one keeps too.
    Raises ValueError for factors or fractions that cannot be.
    """
    kept = np.ones(len(transitions.inputs), bool)
    reducible = np.isin(transitions.splits, [SPLITS.index(split) for split in splits])
    for factor, fraction in fractions.items():
        if not (0 <= factor < num_factors and 0 <= fraction <= 1):
            raise ValueError(
                f"Factor {factor} shall keep {fraction} of its pairs; factors are 0 to {num_factors - 1}, fractions lie in [0, 1]; give such ones."
            )
        rows = np.flatnonzero(reducible & (transitions.actions % num_factors == factor))
        ends = np.sort(np.stack([transitions.inputs[rows], transitions.outputs[rows]]), axis=0)
        _, pair = np.unique(ends, axis=1, return_inverse=True)
        count = int(pair.max(initial=-1)) + 1
        chosen = _stream(seed, "keep", factor).permutation(count) < round(fraction * count)
        kept[rows] = chosen[pair.reshape(-1)]
    return take(transitions, kept)


def draw_batch(seed: int, step: int, sizes: tuple[int, int], shape: tuple[int, int], mix: Sequence[float] = (1, 1, 1)) -> tuple[np.ndarray, np.ndarray]:
    """(modes int [R], rows int64 [R, B]) of one step, shape (R, B), as a pure function of (seed, step): nothing to save (spec section 4.3).

    Every micro-batch has one of MODES. sizes: numbers of images (base mode draws rows of these) and of transitions (the two others). mix: relative
    frequencies of the modes; the reference's are its numbers of batches, (images, transitions, transitions). Rows are uniform, with replacement.
    """
    weights = np.asarray(mix, np.float64)
    if weights.shape != (len(MODES),) or not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError(f"The mix of modes must be {len(MODES)} weights ({', '.join(MODES)}), not all zero, got {tuple(mix)}; give such ones.")
    rng = _stream(seed, "batch", step)
    modes = rng.choice(len(MODES), p=weights / weights.sum(), size=shape[0])
    return modes, rng.integers(np.array(sizes)[np.minimum(modes, 1), None], size=shape)


def _neighbours(data: FactorData, factor: int, samples: int, rng: np.random.Generator) -> Pairs:
    sizes = np.array(data.factor_sizes)
    values = np.repeat(np.arange(sizes[factor] - 1), samples)
    drawn = rng.integers(sizes, size=(len(values), len(sizes)))
    drawn[:, factor] = values
    low = data.find(drawn)
    drawn[:, factor] += 1
    high = data.find(drawn)
    there = (low >= 0) & (high >= 0)
    low, first = np.unique(low[there], return_index=True)  # the lower image determines the higher one
    return Pairs(low, high[there][first], np.full(len(low), factor))


def _attributes(data: FactorData, factor: int, samples: int, rng: np.random.Generator) -> Pairs:
    others = [column for column in range(data.num_factors) if column != factor]
    group = np.ravel_multi_index(tuple(data.table[:, others].T), (2,) * len(others)) if others else np.zeros(len(data), np.int64)
    side = 2 * group + data.table[:, factor]
    order = np.argsort(side, kind="stable")
    counts = np.bincount(side, minlength=2 << len(others)).reshape(-1, 2)
    starts = np.concatenate([[0], counts.ravel().cumsum()[:-1]]).reshape(-1, 2)
    both = counts.all(axis=1)
    drawn = order[starts[both, :, None] + rng.integers(counts[both, :, None], size=(both.sum(), 2, samples))]
    low, high = np.broadcast_arrays(drawn[:, 0, :, None], drawn[:, 1, None, :])
    low, high = np.divmod(np.unique(low.ravel() * len(data) + high.ravel()), len(data))
    return Pairs(low, high, np.full(len(low), factor))


def _stream(seed: int, purpose: str, *more: int) -> np.random.Generator:
    if seed < 0:
        raise ValueError(f"The seed of transitions must not be negative, got {seed}; use 0 or more.")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(purpose), *more)))


def _position(data: FactorData, name: str) -> int:
    if name not in data.factor_names:
        raise ValueError(f"{data.name} has no factor {name!r}; choose from {', '.join(data.factor_names)}.")
    return data.factor_names.index(name)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be positive, got {value}; use 1 or more.")
