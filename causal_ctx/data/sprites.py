"""Sprites: game figures of nine factors, composed on demand from 39 sheets of tiles (Li and Mandt 2018; spec/ctvae.md section 5.2).

Letters: n images, V = 9 factors, R resolution.

A sheet, DIR/<part>/<value>.png, holds one look of one part of the body: 832 x 1344 pixels, 13 x 21 tiles of 64. The tile of a pose is in row
4 * action + view and column frame, with the views back, left, front, right, of which the back is left out. Parts are painted in the order of `PAINTED`
on black, wherever their alpha is above 128. Bottomwear 5 and topwear 5 have no tiles for the actions thrust and shoot: they are invisible there.

Some steps are not seen. Measured on the pairs of `transitions.neighbour_pairs` (seed 0, at most 1,500 of each factor): both images are equal for 8.5 % of
the steps of eyes (8 of the 90 poses have none painted), 0.5 % of action and none of the other factors, 0.8 % in all. Eyes change 5 of 4,096 pixels in the median,
bottomwear and shoes about 100, all others more than 200.

The licences of the sheets (CC-BY-SA 3.0, GPL 3.0) lie beside them; they are no part of this package.
"""

import functools
import math
from pathlib import Path

import numpy as np
from PIL import Image

from causal_ctx.data import factors, preprocessing

SIZES = {"bottomwear": 7, "topwear": 7, "hair": 10, "eyes": 5, "shoes": 3, "body": 7, "action": 5, "rotation": 3, "frame": 6}
PAINTED = ("body", "shoes", "bottomwear", "topwear", "eyes", "hair")
POSE = ("action", "rotation", "frame")
ACTIONS = ("spellcard", "thrust", "walk", "slash", "shoot")
ROTATIONS = ("left", "front", "right")
TILE = 64  # pixels
SOURCE = "github.com/YingzhenLi/Sprites"

_GRID = (21, 13)  # tiles of a sheet: rows, columns
_VIEWS = 4
_OPAQUE = 128  # alpha above which a pixel is painted
_BLOCK = 64  # images composed at a time: 64 * 16 KiB stay in the cache of a core


def load(config) -> factors.FactorData:
    """Sprites composed from the sheets in the folder `config.path`, at `config.resolution` as `config.preprocess` says; the sheets are decoded once, here.

    Raises FileNotFoundError that names every missing sheet, ValueError for a sheet that is damaged or of another size.
    """
    preprocessing.check(config.preprocess, config.resolution)
    tiles = read_sheets(_folder(config.path))
    finish = functools.partial(preprocessing.apply, resolution=config.resolution, kind=config.preprocess)
    return factors.composed("sprites", SIZES, (config.resolution, config.resolution, 3), lambda values: finish(compose(tiles, values)))


def read_sheets(folder: Path) -> dict[str, np.ndarray]:
    """The tiles of every part: uint32 [values, poses, 64 * 64], a pixel's bytes being red, green, blue and 255, or all 0 where nothing is painted.

    Poses are ranked as (action, rotation, frame), row-major. About 60 MB. Raises what `load` raises.
    """
    files = {part: [folder / part / f"{value}.png" for value in range(SIZES[part])] for part in PAINTED}
    missing = [f"{file.parent.name}/{file.name}" for sheets in files.values() for file in sheets if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of the {sum(map(len, files.values()))} sheets of Sprites ({', '.join(missing)}); "
            f"fetch them from {SOURCE} and set data.path to the folder that holds {', '.join(PAINTED)}."
        )
    return {part: np.stack([_tiles(file) for file in sheets]) for part, sheets in files.items()}


def compose(tiles: dict[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    """Images uint8 [n, 64, 64, 3] of factors int [n, 9] in the order of `SIZES`, from the tiles of `read_sheets`."""
    columns = dict(zip(SIZES, values.T))
    poses = np.ravel_multi_index(tuple(columns[name] for name in POSE), tuple(SIZES[name] for name in POSE))
    result = np.empty((len(values), TILE * TILE, 3), np.uint8)
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        painted = tiles[PAINTED[0]][columns[PAINTED[0]][block], poses[block]]
        for part in PAINTED[1:]:
            tile = tiles[part][columns[part][block], poses[block]]
            np.copyto(painted, tile, where=tile != 0)
        result[block] = painted.view(np.uint8).reshape(-1, TILE * TILE, 4)[..., :3]
    return result.reshape(-1, TILE, TILE, 3)


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise FileNotFoundError(
            f"data.path is {path!r}, which is no folder; fetch the {sum(SIZES[part] for part in PAINTED)} sheets of Sprites from {SOURCE} "
            f"and set data.path to the folder that holds {', '.join(PAINTED)}."
        )
    return folder


def _tiles(file: Path) -> np.ndarray:
    """The tiles of one sheet, uint32 [poses, 64 * 64]."""
    height, width = (side * TILE for side in _GRID)
    try:
        with Image.open(file, formats=("PNG",)) as sheet:
            if sheet.size != (width, height):
                raise ValueError(f"it is {sheet.height} x {sheet.width} pixels instead of {height} x {width}")
            pixels = np.array(sheet.convert("RGBA"))
    except Exception as error:  # decoders raise many kinds
        raise ValueError(f"The sheet {file} cannot be used ({error}); fetch it again from {SOURCE}.") from error
    opaque = pixels[..., 3:] > _OPAQUE
    pixels[..., 3] = 255
    grid = (pixels * opaque).reshape(_GRID[0], TILE, _GRID[1], TILE, 4).swapaxes(1, 2)
    views = grid[: len(ACTIONS) * _VIEWS].reshape(len(ACTIONS), _VIEWS, _GRID[1], TILE * TILE, 4)
    poses = views[:, 1:, : SIZES["frame"]].reshape(math.prod(SIZES[name] for name in POSE), TILE * TILE, 4)
    return np.ascontiguousarray(poses).view(np.uint32)[..., 0]
