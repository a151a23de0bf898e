"""Factor data sets: indices and factors, tables that do not match, preprocessing against scipy, array files, quad's grid of factors."""

import zipfile

import ml_collections
import numpy as np
import pytest
from scipy import ndimage

from causal_ctx.data import array_files, factor_sets, factors, preprocessing, quad_factors, transitions

SIZES = {"hue": 3, "scale": 2, "shape": 4}


def numbered(count: int = 24) -> np.ndarray:
    """Images whose pixels are their numbers."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 1))


def quad(**changes) -> factors.FactorData:
    fields = {"name": "quad", "path": "", "resolution": 64, "preprocess": "native", "cache_dir": ""}
    return factor_sets.load(ml_collections.ConfigDict({**fields, **changes}))


def test_dense_index_is_the_rank_of_the_factors():
    data = factors.from_array("set", SIZES, numbered())
    every = np.arange(24)
    values = data.factors(every)
    assert values[[0, 1, 4, 23]].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [2, 1, 3]]
    assert np.array_equal(data.index(values), every) and np.array_equal(values @ [8, 4, 1], every)
    assert data.images(np.array([5, 3])).shape == (2, 2, 2, 1) and data.images(np.array([5, 3]))[:, 0, 0, 0].tolist() == [5, 3]
    assert len(data) == 24 and data.num_factors == 3 and data.identified and data.factor_sizes == (3, 2, 4)


def test_array_in_another_order():
    rows = np.random.default_rng(0).permutation(24)
    data = factors.from_array("set", SIZES, numbered(), rows=rows)
    assert np.array_equal(data.images(np.arange(24))[:, 0, 0, 0], rows)


def test_table_with_gaps_and_repetitions():
    table = np.array([[2, 1, 3], [0, 0, 0], [2, 1, 3], [1, 0, 2]])
    data = factors.from_array("set", SIZES, numbered(4), table=table)
    assert data.index(table).tolist() == [0, 1, 0, 3] and not data.identified
    assert data.find(np.array([[0, 0, 1], [1, 0, 2]])).tolist() == [-1, 3]
    assert np.array_equal(data.factors(np.arange(4)), table)
    assert factors.from_array("set", SIZES, numbered(3), table=table[1:]).identified
    with pytest.raises(ValueError, match="set holds no image with the factors hue 0, scale 0, shape 1; ask for others"):
        data.index(np.array([[0, 0, 0], [0, 0, 1]]))


def test_composed_images_are_made_when_asked_for():
    asked = []
    make = lambda values: (asked.append(values), np.zeros((len(values), 2, 2, 3), np.uint8))[1]
    data = factors.composed("set", SIZES, (2, 2, 3), make)
    assert not asked and data.images(np.array([23, 4])).shape == (2, 2, 2, 3)
    assert asked[0].tolist() == [[2, 1, 3], [0, 1, 0]]


@pytest.mark.parametrize(("change", "message"), [
    ({"images": numbered(23)}, r"has 23 images, but its factors \(hue, scale, shape\) have 3 x 2 x 4 = 24 combinations"),
    ({"images": numbered().astype(float)}, r"must be uint8 \[n, H, W, C\], got float64"),
    ({"images": numbered()[..., 0]}, r"must be uint8 \[n, H, W, C\], got uint8 \(24, 2, 2\)"),
    ({"table": np.zeros((23, 3), int)}, "has 24 images and factors for 23"),
    ({"table": np.zeros((24, 2), int)}, r"must be integers \[n, 3\] \(hue, scale, shape\), got int64 \(24, 2\)"),
    ({"table": np.full((24, 3), 0.5)}, r"must be integers \[n, 3\]"),
    ({"table": np.full((24, 3), 2)}, "Factor 'scale' of set is 2 in row 0, and its values are 0 to 1; check the table"),
    ({"table": np.full((24, 3), -1)}, "Factor 'hue' of set is -1 in row 0"),
    ({"rows": np.zeros(24, int)}, "rows of set must name each of its 24 images once"),
    ({"partition": np.full(24, 3)}, "for each of its 24 images, got 24 of the values 3"),
    ({"partition": np.zeros(5, int)}, "for each of its 24 images, got 5 of the values 0"),
    ({"file_names": ["a"] * 24}, "has 24 images and 1 different file names"),
])  # fmt: skip
def test_what_does_not_match(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        factors.from_array("set", SIZES, **{"images": numbered(), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("indices", "message"), [
    (np.array([24]), "set holds images 0 to 23, and 24 to 24 were asked for"),
    (np.array([-1, 2]), "-1 to 2 were asked for"),
    (np.array([1.0]), r"must be integers \[n\], got float64 \(1,\)"),
    (np.array([[1]]), r"must be integers \[n\]"),
])  # fmt: skip
def test_indices_outside(indices, message):
    data = factors.from_array("set", SIZES, numbered())
    for method in (data.images, data.factors):
        with pytest.raises(ValueError, match=message):
            method(indices)


# Preprocessing


def test_native_resizes_with_antialiasing():
    stripes = np.zeros((1, 64, 64, 1), np.uint8)
    stripes[:, :, ::4] = 255  # a quarter of the columns
    smaller = preprocessing.apply(stripes, 16)
    assert smaller.shape == (1, 16, 16, 1) and abs(smaller[0, 4:-4, 4:-4].mean() - 255 / 4) < 8
    aliased = preprocessing.bilinear(stripes, 16)
    assert not aliased.any()  # quirk Q7: it looks between the stripes
    assert preprocessing.apply(stripes, 64) is stripes


def test_reference_frames_small_images_in_black():
    """Quirk Q5: 64 pixels of 148 become 27.7 of 64, 18.7 % of the area."""
    white = np.full((3, 64, 64, 3), 255, np.uint8)
    framed = preprocessing.apply(white, 64, "reference")
    assert framed.shape == (3, 64, 64, 3) and framed.mean() / 255 == pytest.approx((64 / 148) ** 2, abs=0.005)  # 28 pixels
    assert preprocessing.centre_crop(white)[0, :, 74, 0].tolist() == [0] * 42 + [255] * 64 + [0] * 42
    assert preprocessing.centre_crop(white[:, :63])[0, :, 74, 0].tolist() == [0] * 42 + [255] * 63 + [0] * 43


def test_large_images_are_cropped():
    faces = np.random.default_rng(0).integers(256, size=(2, 218, 178, 3)).astype(np.uint8)
    centre = faces[:, 35:183, 15:163]
    assert np.array_equal(preprocessing.centre_crop(faces), centre)
    assert np.array_equal(preprocessing.apply(faces, 64, crop=True), preprocessing.apply(centre, 64))
    assert np.array_equal(preprocessing.apply(faces, 64, "reference"), preprocessing.bilinear(centre, 64))


def test_bilinear_is_interpolation_at_pixel_centres():
    images = np.random.default_rng(0).integers(256, size=(2, 37, 37, 3)).astype(np.uint8)
    for resolution in (16, 64):
        place = (np.arange(resolution) + 0.5) * 37 / resolution - 0.5
        grid = np.stack(np.meshgrid(place, place, indexing="ij"))
        expected = [[ndimage.map_coordinates(x[..., c].astype(float), grid, order=1, mode="nearest") for c in range(3)] for x in images]
        assert np.abs(preprocessing.bilinear(images, resolution) - np.moveaxis(expected, 1, -1)).max() <= 0.51


# Array files


def test_array_files_are_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "_ROWS", 10)
    images = np.random.default_rng(0).integers(256, size=(24, 4, 6)).astype(np.uint8)
    np.savez_compressed(tmp_path / "a.npz", other=np.zeros(3), imgs=images)
    np.savez(tmp_path / "b.npz", images=images[..., None])
    np.save(tmp_path / "c.npy", images[..., None].repeat(3, -1))
    for name, channels in (("a.npz", 1), ("b.npz", 1), ("c.npy", 3)):
        assert array_files.shape(tmp_path / name) == (24, 4, 6, channels)
        blocks = list(array_files.blocks(tmp_path / name))
        assert [len(block) for block in blocks] == [10, 10, 4]
        assert np.array_equal(np.concatenate(blocks), images[..., None].repeat(channels, -1))


def test_array_files_that_cannot_be_used(tmp_path):
    images = np.zeros((5, 4, 4), np.uint8)
    np.savez(tmp_path / "other.npz", pictures=images)
    np.savez(tmp_path / "floats.npz", images=images / 2)
    np.savez(tmp_path / "objects.npz", images=np.array([{}, {}, {}]))
    np.savez(tmp_path / "large.npz", images=np.zeros((1, 513, 2), np.uint8))
    np.savez(tmp_path / "columns.npz", images=np.asfortranarray(images + np.arange(4, dtype=np.uint8)))
    (tmp_path / "none.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "none.h5").write_bytes(b"none")
    np.save(tmp_path / "words.npy", np.array(["a"]))
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        np.save(tmp_path / "whole.npy", images)
        archive.writestr("images.npy", (tmp_path / "whole.npy").read_bytes()[:-10])
    for name, reason in (
        ("other.npz", "lacks 'images' and 'imgs' among pictures.npy"),
        ("floats.npz", "it is float64"),
        ("objects.npz", "it is object"),
        ("large.npz", "at most 512 pixels a side"),
        ("columns.npz", "stored column by column"),
        ("none.npz", "File is not a zip file"),
        ("none.h5", ""),
        ("words.npy", "it is <U1"),
        ("cut.npz", "cut short by 10 bytes"),
    ):
        with pytest.raises(ValueError, match=f"{name} holds no usable array of images .*{reason}.*; fetch it again, or write it with") as caught:
            list(array_files.blocks(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="There is no file .*nowhere.npz"):
        array_files.shape(tmp_path / "nowhere.npz")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"a.txt is no array file; give one of .npz, .npy, .h5, .hdf5"):
        array_files.shape(tmp_path / "a.txt")


# quad


def test_quad_is_dense_and_exact():
    data = quad()
    assert len(data) == 4**4 * 3**4 and data.image_shape == (64, 64, 3)
    values = np.random.default_rng(0).integers(data.factor_sizes, size=(200, 8))
    images = data.images(data.index(values))
    corners = images[:, [63, 63, 0, 0], [0, 63, 0, 63]]  # quad1 bottom left, quad2 bottom right, quad3 top left, quad4 top right
    colours = np.array([[255, 0, 0], [127, 255, 0], [0, 255, 255], [127, 0, 255]])
    assert np.abs(corners - colours[values[:, :4]]).max() <= 1
    assert np.abs(images[:, 32, 32] - np.array([[255, 191, 0], [0, 255, 63], [0, 63, 255]])[values[:, 5]]).max() <= 1
    found = transitions.make(data, samples=50)
    before, after = (data.images(indices[:300]) for indices in (found.inputs, found.outputs))
    assert (before != after).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(("resolution", "least"), [(64, 40), (32, 8)])
def test_every_step_of_quad_is_seen(resolution, least):
    """How many pixels change at a step of the shape does not depend on the colours, which always differ from those around."""
    data = quad(resolution=resolution)
    centre = np.stack(np.unravel_index(np.arange(81), (3, 3, 3, 3)), axis=-1)
    values = np.concatenate([np.tile([0, 1, 2, 3], (81, 1)), centre], axis=1)
    images = data.images(data.index(values)).astype(int)
    steps = np.abs(centre[:, None] - centre[None])
    changed = (images[:, None] != images[None]).any(-1).sum((2, 3))
    assert changed[steps.sum(-1) == 1].min() >= least
    assert (changed[steps.sum(-1) > 0] > 0).all()  # all 81 are different pictures
    colours = quad_factors._VALUES[0][:, None] - quad_factors._VALUES[5]
    assert np.abs(colours).min() > 0.1


def test_quad_under_several_factors_at_once():
    data = quad(resolution=16)
    found = transitions.joint_transitions(data, ("quad1", "size", "shape"), 100)
    move = data.factors(found.outputs) - data.factors(found.inputs)
    assert (np.abs(move[:, [0, 4, 6]]) == 1).all() and (move[:, [1, 2, 3, 5, 7]] == 0).all() and len(move) > 90


def test_quad_fields():
    assert quad(resolution=32, preprocess="reference").images(np.array([0])).shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="data.resolution is 33; quad needs an even number"):
        quad(resolution=33)
    with pytest.raises(ValueError, match="data.path is 'here'; leave it empty"):
        quad(path="here")
    with pytest.raises(ValueError, match="Factor data set 'mnist' is unknown; set data.name to one of sprites, quad, shapes3d"):
        quad(name="mnist")
    with pytest.raises(ValueError, match="data.resolution is 0"):
        quad(resolution=0)
