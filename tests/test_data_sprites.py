"""Sprites: composition against pasting tile by tile, on synthetic sheets and on the real ones; order of painting, missing entries, direction, faults."""

import os
import time
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from PIL import Image

from causal_ctx.data import factor_sets, sprites

ROOT = Path(__file__).parents[1]
REAL = Path(os.environ.get("CAUSAL_CTX_TEST_DATA", ROOT.parent / "shared" / "data")) / "sprites"
needs_sheets = pytest.mark.skipif(not REAL.is_dir(), reason="needs the sheets of Sprites in $CAUSAL_CTX_TEST_DATA/sprites or ../shared/data/sprites")
NAMES = list(sprites.SIZES)


def config(path, **changes) -> ml_collections.ConfigDict:
    fields = {"name": "sprites", "path": str(path), "resolution": 64, "preprocess": "native", "cache_dir": ""}
    return ml_collections.ConfigDict({**fields, **changes})


def sheet(part: str, value: int) -> np.ndarray:
    """Red names part and value, green and blue the tile. In a tile, part p is opaque from column 8 p on; in the first four rows alpha is 128."""
    order = sprites.PAINTED.index(part)
    pixels = np.zeros((1344, 832, 4), np.uint8)
    rows, columns = np.indices((1344, 832))
    pixels[..., 0] = 30 * order + value + 1
    pixels[..., 1], pixels[..., 2] = rows // 64, columns // 64
    pixels[..., 3] = np.where(columns % 64 < 8 * order, 0, np.where(rows % 64 < 4, 128, 129))
    if value == 5 and part in ("bottomwear", "topwear"):
        pixels[(rows // 256 == 1) | (rows // 256 == 4), 3] = 0  # thrust and shoot
    return pixels


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sheets")
    for part in sprites.PAINTED:
        (folder / part).mkdir()
        for value in range(sprites.SIZES[part]):
            Image.fromarray(sheet(part, value)).save(folder / part / f"{value}.png", compress_level=1)
    return folder


@pytest.fixture(scope="module")
def loaded(synthetic):
    return factor_sets.load(config(synthetic))


@pytest.fixture(scope="module")
def real():
    return factor_sets.load(config(REAL))


def pasted(folder: Path, values: np.ndarray) -> np.ndarray:
    """One image by Pillow, part after part, straight from the sheets."""
    named = dict(zip(NAMES, map(int, values)))
    row, column = 4 * named["action"] + named["rotation"] + 1, named["frame"]
    image = Image.new("RGB", (64, 64))
    for part in ("body", "shoes", "bottomwear", "topwear", "eyes", "hair"):
        with Image.open(folder / part / f"{named[part]}.png") as whole:
            tile = whole.convert("RGBA").crop((64 * column, 64 * row, 64 * column + 64, 64 * row + 64))
        image.paste(tile.convert("RGB"), mask=tile.getchannel("A").point(lambda alpha: 255 * (alpha > 128)))
    return np.asarray(image)


def some(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(list(sprites.SIZES.values()), size=(n, len(NAMES)))


def with_values(**values: int) -> np.ndarray:
    return np.array([[values.get(name, 0) for name in NAMES]])


def test_set(loaded):
    assert len(loaded) == 4_630_500 and loaded.num_factors == 9 and loaded.image_shape == (64, 64, 3)
    assert loaded.index(with_values(bottomwear=6, topwear=6, hair=9, eyes=4, shoes=2, body=6, action=4, rotation=2, frame=5)).tolist() == [4_630_499]
    assert loaded.factors(np.array([1])).tolist() == with_values(frame=1).tolist()  # the last factor is the fastest
    assert loaded.images(np.zeros(0, int)).shape == (0, 64, 64, 3)


def test_composition_is_pasting(loaded, synthetic):
    values = some(80)
    images = loaded.images(loaded.index(values))
    assert images.dtype == np.uint8 and images.shape == (80, 64, 64, 3)
    for image, row in zip(images[::8], values[::8]):
        assert np.array_equal(image, pasted(synthetic, row))
    reds = 1 + 30 * np.arange(6) + values[:, [NAMES.index(part) for part in sprites.PAINTED]]
    visible = ~((values[:, [0, 1]] == 5) & np.isin(values[:, [6]], [1, 4]))
    for image, row, red, (below, above) in zip(images, values, reds, visible):
        red = np.where([1, 1, below, above, 1, 1], red, [red[0], red[1], red[1], red[2] if below else red[1], 0, 0])
        assert np.array_equal(image[4, [0, 8, 16, 24, 32, 40], 0], red)  # later parts over earlier ones
        assert not image[:4].any()  # alpha 128 is not painted
        assert (image[4:, :, 1] == 4 * row[6] + row[7] + 1).all() and (image[4:, :, 2] == row[8]).all()


def test_other_resolutions_and_preprocessing(synthetic, loaded):
    indices = loaded.index(some(5))
    half = factor_sets.load(config(synthetic, resolution=32)).images(indices)
    assert half.shape == (5, 32, 32, 3)
    whole = loaded.images(indices).reshape(5, 32, 2, 32, 2, 3).mean((2, 4))
    assert np.abs(half[:, 8:-8, 8:-8] - whole[:, 8:-8, 8:-8]).mean() < 3
    framed = factor_sets.load(config(synthetic, preprocess="reference")).images(indices)
    assert not framed[:, :17].any() and not framed[:, -17:].any() and framed[:, 30:34, 30:34].all(-1).any()


def test_missing_sheets_are_named(synthetic, tmp_path):
    for part in sprites.PAINTED:
        (tmp_path / part).mkdir()
        for value in range(sprites.SIZES[part]):
            if (part, value) not in (("hair", 3), ("eyes", 0)):
                (tmp_path / part / f"{value}.png").symlink_to(synthetic / part / f"{value}.png")
    message = r"lacks 2 of the 39 sheets of Sprites \(eyes/0.png, hair/3.png\); fetch them from .* and set data.path"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        factor_sets.load(config(tmp_path))
    assert "\n" not in str(caught.value)
    for path in ("", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="is no folder; fetch the 39 sheets of Sprites from github.com/YingzhenLi/Sprites"):
            factor_sets.load(config(path))


def test_sheets_that_cannot_be_used(tmp_path):
    file = tmp_path / "0.png"
    Image.new("RGBA", (832, 1280)).save(file)
    with pytest.raises(ValueError, match=r"0.png cannot be used \(it is 1280 x 832 pixels instead of 1344 x 832\); fetch it again"):
        sprites._tiles(file)
    file.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match="0.png cannot be used .*; fetch it again"):
        sprites._tiles(file)
    with pytest.raises(ValueError, match="data.preprocess is 'crop'; choose one of native, reference"):
        factor_sets.load(config(tmp_path, preprocess="crop"))


@needs_sheets
def test_real_sheets_are_pasted(real):
    values = some(40, seed=1)
    values[:4, 0] = values[:4, 1] = 5
    values[:4, 6] = 1, 4, 1, 4
    for image, row in zip(real.images(real.index(values)), values):
        assert np.array_equal(image, pasted(REAL, row))


@needs_sheets
def test_real_missing_entries_are_invisible(real):
    tiles = sprites.read_sheets(REAL)
    for part in ("bottomwear", "topwear"):
        painted = tiles[part].any(axis=2).reshape(7, 5, 3, 6)
        assert not painted[5, [1, 4]].any()
        painted[5, [1, 4]] = True
        assert painted.all()
    assert tiles["body"].any(axis=2).all()
    assert (~tiles["eyes"].any(axis=2)).all(axis=0).sum() == 8  # poses whose eyes are closed: a step of eyes is not seen there
    clad, bare = (real.images(real.index(with_values(bottomwear=value, action=2, rotation=1)))[0] for value in (4, 5))
    assert not np.array_equal(clad, bare)


@needs_sheets
def test_real_order_and_direction(real):
    tiles = sprites.read_sheets(REAL)
    values = with_values(hair=1, action=2, rotation=1)
    image = real.images(real.index(values))[0].reshape(-1, 3)
    hair = tiles["hair"][1, np.ravel_multi_index((2, 1, 0), (5, 3, 6))]
    assert np.array_equal(image[hair != 0], hair.view(np.uint8).reshape(-1, 4)[hair != 0, :3])  # hair is on top
    columns = np.arange(64 * 64) % 64
    for rotation, side in ((0, -1), (2, 1)):  # who looks left has the eyes there
        seen = tiles["eyes"][:, np.ravel_multi_index((2, rotation, 0), (5, 3, 6))] != 0
        assert side * (np.broadcast_to(columns, seen.shape)[seen].mean() - 31.5) > 2


@pytest.mark.bench
@needs_sheets
def test_speed(real):
    indices = np.random.default_rng(0).integers(len(real), size=20_000)
    began = time.process_time()
    for start in range(0, len(indices), 512):
        real.images(indices[start : start + 512])
    assert len(indices) / (time.process_time() - began) > 5_000  # images per second of CPU
