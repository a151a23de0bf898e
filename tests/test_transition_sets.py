"""What CT-VAE learns on, from a config: limits, imbalance, the reference's files, and sentences for what cannot be."""

import ml_collections
import numpy as np
import pytest

from causal_ctx.data import factor_sets, factors, transitions
from causal_ctx.data.transition_sets import Images, fractions, load

SIZES = {"hue": 6, "scale": 4, "shape": 8}
FIELDS = {"name": "small", "samples": 30, "seed": 0, "keep": "all", "partition": "", "variations": "", "train_images": 0, "held_out_images": 0}


def render(values):
    """Images uint8 [n, 2, 2, 3] that tell the factors [n, 3]: every pixel is the values, tenfold."""
    return np.broadcast_to(10 * values[:, None, None], (len(values), 2, 2, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The data set that every config here names."""
    data = factors.composed("small", SIZES, (2, 2, 3), render)
    monkeypatch.setattr(factor_sets, "load", lambda config: data)
    return data


def config(**fields):
    return ml_collections.ConfigDict(FIELDS | fields)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_images_and_pairs_of_a_split_are_those_of_its_images(small):
    data = load(config())
    splits = transitions.random_splits(192, 0)
    for number, split in enumerate(transitions.SPLITS):
        np.testing.assert_array_equal(data.images[split].rows, np.flatnonzero(splits == number))
        own = data.pairs(split)
        assert len(own.inputs) and (splits[own.inputs] == number).all() and (splits[own.outputs] == number).all()
    assert sum(len(data.pairs(split).inputs) for split in transitions.SPLITS) == len(data.transitions.inputs)
    assert (data.name, data.image_shape, data.num_factors) == ("small", (2, 2, 3), 3)
    assert data.actions == ("hue up", "scale up", "shape up", "hue down", "scale down", "shape down")
    assert same(data.transitions, transitions.make(small, splits, 30, 0))


def test_images_are_read_by_slices_and_positions(small):
    images = Images(small, np.array([5, 3, 20]))
    assert (len(images), images.shape, images.dtype, images.nbytes) == (3, (3, 2, 2, 3), np.uint8, 36)
    np.testing.assert_array_equal(images[1:], render(small.factors(np.array([3, 20]))))
    np.testing.assert_array_equal(images[np.array([2, 0, 2])], render(small.factors(np.array([20, 5, 20]))))


def test_limits_draw_from_the_split_and_leave_the_pairs_as_they_are():
    whole, some, again, other = load(config()), *(load(config(train_images=7, held_out_images=5, seed=seed)) for seed in (0, 0, 1))
    assert [len(some.images[split]) for split in transitions.SPLITS] == [7, 5, 5]
    for split in transitions.SPLITS:
        assert np.isin(some.images[split].rows, whole.images[split].rows).all() and (np.diff(some.images[split].rows) > 0).all()
        np.testing.assert_array_equal(some.images[split].rows, again.images[split].rows)
    assert same(some.transitions, whole.transitions)
    assert not np.array_equal(some.images["train"].rows, other.images["train"].rows)
    assert len(load(config(train_images=1000)).images["train"]) == len(whole.images["train"])


def test_imbalance_takes_training_pairs_away_and_tells_how_many_there_were():
    whole, kept = load(config()), load(config(keep="hue = 0.5 + shape=0"))
    count = lambda data, split: np.bincount(data.pairs(split).actions, minlength=6)
    before, after = count(whole, "train"), count(kept, "train")
    np.testing.assert_array_equal(whole.balanced_transitions, before)
    np.testing.assert_array_equal(kept.balanced_transitions, before)
    np.testing.assert_array_equal(after, [round(0.5 * before[0]), before[1], 0] * 2)
    np.testing.assert_array_equal(count(kept, "test"), count(whole, "test"))


@pytest.mark.parametrize(("keep", "message"), [
    ("tail=0.1", "names the factor 'tail', which small does not have; choose from hue, scale, shape"),
    ("=0.1", "names the factor ''"),
    ("hue", "is 'hue'; write it as factor=fraction, with .* between, for example hue=0.1"),
    ("hue=few", "write it as factor=fraction"),
    ("hue=0.1+hue=0.2", "names the factor 'hue' twice"),
    ("hue=1.5", "gives hue the fraction 1.5; a share of its pairs lies from 0 to 1"),
    ("hue=nan", "gives hue the fraction nan"),
])
def test_fractions_that_cannot_be_read_are_refused_before_pairs_are_made(monkeypatch, keep, message):
    monkeypatch.setattr(transitions, "make", None)
    with pytest.raises(ValueError, match=message):
        load(config(keep=keep))


def test_fractions(small):
    assert fractions("all", small) == fractions("", small) == fractions(" + ", small) == {}
    assert fractions("shape=1 + hue = .25+", small) == {2: 1.0, 0: 0.25}


def test_a_split_without_pairs_is_refused():
    with pytest.raises(ValueError, match="small has no transitions in train; raise data.samples, keep more"):
        load(config(keep="hue=0+scale=0+shape=0"))
    with pytest.raises(ValueError, match="small has no transitions in .*test"):
        load(config(samples=1, seed=2))


def write(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, (number, *row))) for number, row in enumerate(rows))]) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path, small):
    """Paths of a partition that splits by pairs of hues, and of a variation file with the pairs of a few images; its inputs, outputs, actions."""
    values = small.factors(np.arange(192))
    partition = write(tmp_path / "partition.txt", ",Id,Split", zip(range(192), values[:, 0] // 2))
    pairs = [(64 * split + shape, 64 * split + shape + 1, 2, shape, shape + 1, split) for split in range(3) for shape in (0, 5)]
    pairs += [(b, a, factor, target, source, split) for a, b, factor, source, target, split in pairs]
    variations = write(tmp_path / "variations.txt", ",Inputs,Outputs,Variations,Sources,Targets,Splits", pairs)
    return partition, variations, [np.array(column) for column in zip(*((a, b, 2 if t > s else 5) for a, b, _, s, t, _ in pairs))]


def test_a_partition_file_splits_the_images(files):
    data = load(config(partition=files[0]))
    for number, split in enumerate(transitions.SPLITS):
        np.testing.assert_array_equal(data.images[split].rows, np.arange(64) + 64 * number)
    assert not np.isin(data.factors.factors(data.pairs("train").inputs)[:, 0], range(2, 6)).any()


def test_a_variation_file_gives_the_pairs(files):
    partition, variations, expected = files
    data = load(config(partition=partition, variations=variations))
    assert same(data.transitions[:3], expected)
    np.testing.assert_array_equal(data.balanced_transitions, [0, 0, 2, 0, 0, 2])
    with pytest.raises(ValueError, match="without data.partition, and small has no splits of its own; give both files"):
        load(config(variations=variations))


def test_a_published_partition_is_used(small, monkeypatch):
    splits = (np.arange(192) // 64).astype(np.uint8)
    own = factors.from_array("own", SIZES, render(small.factors(np.arange(192))), partition=splits)
    monkeypatch.setattr(factor_sets, "load", lambda config: own)
    data = load(config())
    np.testing.assert_array_equal(data.images["test"].rows, np.arange(128, 192))
    np.testing.assert_array_equal(load(config(seed=5)).images["test"].rows, np.arange(128, 192))
    first, second = (load(config(seed=seed, train_images=9)).images["train"].rows for seed in (0, 1))
    assert not np.array_equal(first, second)
