"""Transitions: the neighbour rule, expected numbers of pairs, splits, attributes, imbalance, several factors at once, the reference's files."""

import numpy as np
import pytest

from causal_ctx.data import dense_sets, factors, sprites, transition_files, transitions

SMALL = {"hue": 3, "scale": 2, "shape": 4}
SETS = {
    "cars3d": {"elevation": 4, "azimuth": 24, "object_type": 183},
    "shapes3d": dense_sets.SETS["shapes3d"].sizes,
    "dsprites": dense_sets.SETS["dsprites"].sizes,
    "sprites": sprites.SIZES,
    "smallnorb": dense_sets.SETS["smallnorb"].sizes,
}
# Spec section 5.5: unique pairs of every factor; section 5.4: images that train, that validate or test.
EXPECTED = {
    "cars3d": ([2683, 12545, 17472], 32.0e3, 1470),
    "shapes3d": ([8907, 8907, 8907, 6942, 2988, 13784], 49.4e3, 2270),
    "dsprites": ([1996, 4980, 37962, 30338, 30338], 103.5e3, 4750),
    "sprites": ([5995, 5995, 8990, 3998, 1999, 5995, 3998, 1999, 4997], 43.1e3, 1980),
    "smallnorb": ([3616, 3616, 6687, 12011, 4431], 29.8e3, 1370),
}
COUNTS = {"shapes3d": (336_000, 72_000), "cars3d": (12_298, 2_635), "dsprites": (516_096, 110_592), "smallnorb": (17_010, 3_645)}
COUNTS["sprites"] = (3_241_350, 694_575)


def dense(sizes: dict[str, int] = SMALL, name: str = "small") -> factors.FactorData:
    return factors.composed(name, sizes, (1, 1, 1), lambda values: np.zeros((len(values), 1, 1, 1), np.uint8))


def faces(count: int = 200, attributes: int = 4) -> factors.FactorData:
    rng = np.random.default_rng(1)
    table = (rng.random((count, attributes)) < 0.4).astype(np.uint8)
    partition = rng.choice(3, size=count, p=[0.6, 0.2, 0.2]).astype(np.uint8)
    names = [f"{index:06d}.jpg" for index in range(1, count + 1)]
    sizes = {f"attribute{index}": 2 for index in range(attributes)}
    return factors.from_array("faces", sizes, np.zeros((count, 1, 1, 3), np.uint8), table=table, partition=partition, file_names=names)


def directed(found: transitions.Transitions) -> set[tuple[int, int]]:
    return set(zip(found.inputs.tolist(), found.outputs.tolist()))


def test_every_transition_moves_its_factor_by_one_and_no_other():
    data = dense()
    splits = transitions.random_splits(len(data), seed=3)
    found = transitions.make(data, splits, samples=5, seed=3)
    before, after = data.factors(found.inputs), data.factors(found.outputs)
    for row, action in enumerate(found.actions):
        move = np.zeros(3, int)
        move[action % 3] = 1 if action < 3 else -1
        assert np.array_equal(after[row] - before[row], move)
    assert np.array_equal(splits[found.inputs], found.splits) and np.array_equal(splits[found.outputs], found.splits)
    both = directed(found)
    assert len(both) == len(found.inputs) and {(b, a) for a, b in both} == both
    assert set(found.actions) == set(range(6))


def test_moving_by_actions():
    data = dense()
    found = transitions.make(data)
    assert np.array_equal(transitions.moved(data, found.inputs, found.actions), found.outputs)
    corner = data.index(np.array([[2, 0, 3]]))  # hue and shape at their upper ends, scale at its lower one
    assert transitions.moved(data, corner.repeat(6), np.arange(6)).tolist() == [-1, 23, -1, 11, -1, 18]
    for action, shown in ((6, "6"), (-1, "-1"), (0.5, "float64")):
        with pytest.raises(ValueError, match=f"small has 3 factors and so the actions 0 to 5, got {shown}; give whole numbers"):
            transitions.moved(data, corner, np.array([action]))


def test_all_pairs_are_found_when_samples_abound():
    data = dense()
    found = transitions.neighbour_pairs(data, samples_per_value=300)
    assert np.bincount(found.factor).tolist() == [2 * 8, 1 * 12, 3 * 6]
    every = transitions.both_ways(found, np.zeros(len(data), np.uint8), 3)
    assert len(every.inputs) == 2 * 46 and not every.splits.any()
    assert transitions.action_names(data.factor_names)[:4] == ("hue up", "scale up", "shape up", "hue down")


def test_pairs_of_a_table_that_lacks_combinations():
    whole = np.stack(np.unravel_index(np.arange(24), (3, 2, 4)), axis=-1)
    table = whole[np.random.default_rng(0).permutation(24)[:15]]
    data = factors.from_array("gaps", SMALL, np.zeros((15, 1, 1, 1), np.uint8), table=table)
    found = transitions.neighbour_pairs(data, samples_per_value=400)
    apart = np.abs(table[:, None] - table[None]).sum(-1)
    assert data.identified and len(found.low) == (apart == 1).sum() / 2
    assert (table[found.high] - table[found.low] == np.eye(3, dtype=int)[found.factor]).all()


@pytest.mark.parametrize("name", list(SETS))
def test_numbers_of_pairs_are_those_expected(name):
    """Of N combinations, s draws find N (1 - (1 - 1/N)^s); the variance is that of occupied boxes."""
    sizes = np.array(list(SETS[name].values()))
    others = np.prod(sizes, dtype=float) / sizes
    expected = (sizes - 1) * others * -np.expm1(1000 * np.log1p(-1 / others))
    rate = 1000 / others
    deviation = np.sqrt((sizes - 1) * others * np.maximum(np.exp(-rate) - (1 + rate) * np.exp(-2 * rate), 0)) + 1
    assert np.allclose(expected, EXPECTED[name][0], rtol=0, atol=1)
    data = dense(SETS[name], name)
    pairs = transitions.neighbour_pairs(data, seed=1)
    counts = np.bincount(pairs.factor)
    assert (np.abs(counts - expected) < 4.5 * deviation).all(), (counts, expected)
    splits = transitions.random_splits(len(data), seed=1)
    assert np.bincount(splits).tolist() == [COUNTS[name][0], COUNTS[name][1], COUNTS[name][1]]
    found = transitions.both_ways(pairs, splits, data.num_factors)
    per_split = np.bincount(found.splits)
    for count, about in zip(per_split[[0, 2]], EXPECTED[name][1:]):
        assert abs(count - about) < 4.5 * np.sqrt(2 * about) + 0.01 * about, (count, about)


def test_a_share_is_rounded():
    assert np.bincount(transitions.random_splits(37)).tolist() == [25, 6, 6]


def test_seeds():
    data = dense(SETS["cars3d"], "cars3d")
    first, again, other = (transitions.make(data, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert directed(first) != directed(other)
    few = transitions.neighbour_pairs(dense({"elevation": 4, "azimuth": 24, "other": 183}), 1000, 0)
    assert np.array_equal(few.low, transitions.neighbour_pairs(data, 1000, 0).low)  # names do not matter


@pytest.mark.parametrize("count", [200, 25])  # of 25, some groups have one side only
def test_attributes_pair_images_that_share_all_others(count):
    data = faces(count)
    pairs = transitions.attribute_pairs(data, samples_per_group=3, seed=5)
    low, high = data.factors(pairs.low), data.factors(pairs.high)
    assert (high - low == np.eye(4, dtype=int)[pairs.factor]).all()
    assert len(set(zip(pairs.low, pairs.high))) == len(pairs.low)
    for factor in range(4):
        others = np.delete(np.arange(4), factor)
        groups = {tuple(row): [set(), set()] for row in data.table[:, others]}
        chosen = pairs.factor == factor
        for a, b in zip(pairs.low[chosen], pairs.high[chosen]):
            groups[tuple(data.table[a, others])][0].add(a)
            groups[tuple(data.table[a, others])][1].add(b)
        for group, (without, with_it) in groups.items():
            members = data.table[(data.table[:, others] == group).all(1), factor]
            both = 0 < members.sum() < len(members)
            assert bool(without) == bool(with_it) == both and len(without) <= 3 and len(with_it) <= 3
        assert chosen.sum() == sum(len(a) * len(b) for a, b in groups.values())  # all pairs across
    made = transitions.make(data, seed=5)
    assert not data.identified and (data.partition[made.inputs] == made.splits).all() and (data.partition[made.outputs] == made.splits).all()
    single = faces(20, attributes=1)
    assert len(transitions.attribute_pairs(single, 300).low) == single.table.sum() * (1 - single.table.astype(int)).sum()


def test_attributes_must_be_binary():
    table = np.array([[0, 2], [1, 0], [1, 0]])
    data = factors.from_array("odd", {"a": 2, "b": 3}, np.zeros((3, 1, 1, 1), np.uint8), table=table)
    with pytest.raises(ValueError, match=r"odd has no table of binary attributes \(b\); pair its neighbouring values"):
        transitions.make(data, np.zeros(3, np.uint8))


def test_imbalance_takes_whole_pairs_from_training():
    data = dense(SETS["smallnorb"], "smallnorb")
    found = transitions.make(data)
    fewer, least = (transitions.keep_fractions(found, {3: fraction}, 5) for fraction in (0.5, 0.1))
    count = lambda x, factor, split: ((x.actions % 5 == factor) & (x.splits == split)).sum()
    assert count(least, 3, 0) == 2 * round(0.1 * count(found, 3, 0) / 2) and count(fewer, 3, 0) == 2 * round(0.5 * count(found, 3, 0) / 2)
    for factor in range(5):
        for split in range(3):
            assert count(least, factor, split) == count(found, factor, split) or (factor, split) == (3, 0)
    assert directed(least) < directed(fewer) < directed(found)
    assert {(b, a) for a, b in directed(least)} == directed(least)
    everywhere = transitions.keep_fractions(found, {3: 0.1}, 5, splits=transitions.SPLITS)
    assert count(everywhere, 3, 2) == pytest.approx(0.1 * count(found, 3, 2), abs=10)
    assert count(transitions.keep_fractions(found, {0: 0.0, 3: 1.0}, 5), 0, 0) == 0
    for fractions in ({5: 0.5}, {0: 1.5}):
        with pytest.raises(ValueError, match="shall keep .* of its pairs; factors are 0 to 4, fractions lie in"):
            transitions.keep_fractions(found, fractions, 5)


def test_several_factors_at_once():
    data = dense(SETS["cars3d"], "cars3d")
    splits = transitions.random_splits(len(data))
    found = transitions.joint_transitions(data, ("object_type", "elevation"), 2000, splits)
    move = data.factors(found.outputs) - data.factors(found.inputs)
    assert (move[:, 1] == 0).all() and (np.abs(move[:, [2, 0]]) == 1).all()
    assert np.array_equal(found.actions, np.where(move[:, [2, 0]] > 0, [2, 0], [5, 3]))
    assert (splits[found.inputs] == found.splits).all() and (splits[found.outputs] == found.splits).all()
    assert len(set(zip(found.inputs, found.outputs))) == len(found.inputs) == pytest.approx(0.535 * 2000, abs=120)
    assert len({tuple(row) for row in found.actions}) == 4
    for names, message in (((), "at least one, got none"), (("azimuth", "azimuth"), "different ones"), (("size",), "has no factor 'size'")):
        with pytest.raises(ValueError, match=message):
            transitions.joint_transitions(data, names, 10)


def test_select_limit_and_batches():
    found = transitions.make(dense(SETS["smallnorb"], "smallnorb"))
    parts = [transitions.select(found, split) for split in transitions.SPLITS]
    assert sum(len(part.inputs) for part in parts) == len(transitions.select(found, "all").inputs) == len(found.inputs)
    assert [set(part.splits) for part in parts] == [{0}, {1}, {2}]
    with pytest.raises(ValueError, match="no split 'valid'; choose one of train, validation, test, all"):
        transitions.select(found, "valid")
    few = transitions.limit(found, 100, seed=2)
    assert len(few.inputs) == 100 and directed(few) < directed(found) and len(transitions.limit(found, 10**6).inputs) == len(found.inputs)
    draw = lambda step: transitions.draw_batch(0, step, (10, 1000), (2, 16), (0.5, 0.5, 0))
    drawn = [draw(step) for step in range(100)]
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(drawn, map(draw, range(3))))
    modes, rows = (np.concatenate(part) for part in zip(*drawn))
    assert modes.shape == (200,) and rows.shape == (200, 16)
    assert 60 < (modes == 0).sum() < 140 and not (modes == 2).any()
    assert rows[modes == 0].max() < 10 < 900 < rows[modes == 1].max() < 1000
    with pytest.raises(ValueError, match="mix of modes must be 3 weights"):
        transitions.draw_batch(0, 0, (10, 10), (1, 4), (0, 0, 0))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: transitions.random_splits(3), "leaves training, validation or test without one"),
    (lambda: transitions.random_splits(10, share=0.5), "share of 0.5 of 10 images"),
    (lambda: transitions.make(dense(), seed=-1), "must not be negative, got -1"),
    (lambda: transitions.make(dense(), samples=0), "samples_per_value must be positive, got 0"),
    (lambda: transitions.make(dense(), np.zeros(7, np.uint8)), "for each of its 24 images, got 7"),
    (lambda: transitions.make(dense(), np.full(24, 3)), "got 24 of the values 3"),
])  # fmt: skip
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The reference's files


def variations(found: transitions.Transitions, data: factors.FactorData, name=str) -> list[str]:
    factor = found.actions % data.num_factors
    rows = np.arange(len(factor))
    source, target = data.factors(found.inputs)[rows, factor], data.factors(found.outputs)[rows, factor]
    columns = zip(rows, map(name, found.inputs), map(name, found.outputs), factor, source, target, found.splits)
    return [",Inputs,Outputs,Variations,Sources,Targets,Splits", *(",".join(map(str, row)) for row in columns)]


@pytest.fixture
def write(tmp_path):
    def write(lines, name="file.txt"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write


def test_variation_files_of_indices_and_of_file_names(write):
    for data, name in ((dense(), str), (faces(), lambda index: f"{index + 1:06d}.jpg")):
        splits = data.partition if data.partition is not None else transitions.random_splits(len(data))
        found = transitions.make(data, splits, samples=4)
        read = transition_files.read_transitions(write(variations(found, data, name)), data, splits)
        assert all(np.array_equal(a, b) for a, b in zip(found, read))


def test_partition_files(write):
    data = dense()
    splits = transitions.random_splits(24, seed=4)
    order = np.random.default_rng(0).permutation(24)
    lines = ["row,Id,Split", *(f"{row},{index},{splits[index]}" for row, index in enumerate(order))]
    assert np.array_equal(transition_files.read_partition(write(lines), data), splits)
    people = faces()
    lines = [f"{name} {split}" for name, split in zip(people.file_names, people.partition)]
    assert np.array_equal(transition_files.read_partition(write(lines), people), people.partition)
    for spoilt, message in (
        (lines[:-1], r"has a split for 199 images and faces has 200; give the file of this data set\."),
        (lines[:5] + lines[:1], "line 6, gives image 000001.jpg a split for the second time"),
        (["portrait.jpg 0"], "line 1, names 'portrait.jpg', which is no image of faces"),
        (["000001.jpg 3"], "line 1, has 3 as Split, which must be a whole number from 0 to 2"),
        (["000001.jpg x"], "line 1, has 'x' as Split, which is no number"),
        (["a,Id"], "lacks the columns Split"),
        (["a,Id,Split", "0,000001.jpg"], "line 2, has 2 columns instead of 3"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            transition_files.read_partition(write(spoilt), people)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("row", "message"), [
    ("0,0,8,0,0,2,0", "moves 'hue' from 0 to 2, which are no neighbours"),
    ("0,0,8,0,1,2,0", "says that 'hue' is 1 in image 0, whose factors are hue 0, scale 0, shape 0"),
    ("0,0,0,0,0,1,0", "says that 'hue' is 1 in image 0"),
    ("0,0,9,0,0,1,0", "moves 'hue', but its images also differ in 'shape'"),
    ("0,0,8,3,0,1,0", "has 3 as Variations, which must be a whole number from 0 to 2"),
    ("0,0,24,0,0,1,0", "has 24 as Id, which must be a whole number from 0 to 23"),
    ("0,0,-8,0,0,1,0", "has -8 as Id"),
    ("0,0,8,0,0,1,1", "is in split 1 and its images in 0 and 0"),
])  # fmt: skip
def test_variations_that_do_not_fit(row, message, write):
    path = write([",Inputs,Outputs,Variations,Sources,Targets,Splits", "0,0,1,2,0,1,0", row])
    with pytest.raises(ValueError, match=f"line 3, {message}.*; give the file of this data set") as caught:
        transition_files.read_transitions(path, dense(), np.zeros(24, np.uint8))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path, write):
    with pytest.raises(FileNotFoundError, match="There is no file .*nowhere.txt with the columns Id, Split"):
        transition_files.read_partition(tmp_path / "nowhere.txt", dense())
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no CSV file"):
        transition_files.read_transitions(tmp_path / "binary.txt", dense())
    with pytest.raises(ValueError, match="has 0 rows and lacks the columns Id, Split"):
        transition_files.read_partition(write([]), dense())
