"""Shapes3D, dSprites and smallNORB: one image for every combination of factors (spec/ctvae.md sections 5.2, 5.3).

Letters: N images, V factors, R resolution.

Read from what TensorFlow Datasets prepared (without TensorFlow), whose records are in no order: every record's labels say where it belongs. Or from one
array file (`array_files`) whose rows are in the order of the factors, as the published files of Shapes3D and dSprites are. Kept in the disk cache at the
wanted resolution.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from causal_ctx.data import array_files, cache, factors, preprocessing
from causal_ctx.progress import Progress

VERSION = 1  # part of the cache's name: raise it whenever the same data would give other arrays

_ROWS = 512  # records decoded and written at a time


class DenseSet(NamedTuple):
    """sizes: the factors in order, {name: number of values}. labels: the fields of a TFDS record that hold them. channels: 1 or 3.

    values: of factors whose labels are not 0, 1, ..: {field: the labels in the order of the values}. binary: pixels are 0 or 1, not 0 or 255.
    """

    sizes: dict[str, int]
    labels: tuple[str, ...]
    channels: int
    published: str  # what to fetch where TFDS is not wanted
    values: dict[str, tuple[int, ...]] = {}
    binary: bool = False


SETS = {
    "shapes3d": DenseSet(
        {"floor_hue": 10, "wall_hue": 10, "object_hue": 10, "scale": 8, "shape": 4, "orientation": 15},
        ("label_floor_hue", "label_wall_hue", "label_object_hue", "label_scale", "label_shape", "label_orientation"),
        3,
        "3dshapes.h5 (storage.googleapis.com/3d-shapes/3dshapes.h5, read with h5py)",
    ),
    "dsprites": DenseSet(
        {"shape": 3, "scale": 6, "orientation": 40, "position_x": 32, "position_y": 32},
        ("label_shape", "label_scale", "label_orientation", "label_x_position", "label_y_position"),
        1,
        "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz (github.com/deepmind/dsprites-dataset)",
        binary=True,
    ),
    "smallnorb": DenseSet(
        {"category": 5, "instance": 5, "elevation": 9, "rotation": 18, "lighting": 6},
        ("label_category", "instance", "label_elevation", "label_azimuth", "label_lighting"),
        1,
        "an array file of the left images of the training half, sorted by the five factors",
        values={"instance": (4, 6, 7, 8, 9)},  # those of the training half
    ),
}


def load(config) -> factors.FactorData:
    """The data set `config.name` at `config.resolution`, from the disk cache where the same was read before.

    `config.path` is an array file, or the folder that TFDS prepared its data in; empty, TFDS's own folder. Raises FileNotFoundError that says what to
    fetch and where to put it; ValueError for labels or images that are not those of the set; OSError for a cache that cannot be written.
    """
    preprocessing.check(config.preprocess, config.resolution)
    found = SETS[config.name]
    path = Path(config.path).expanduser()
    finish = functools.partial(_finish, found, config.resolution, config.preprocess)
    if config.path and not path.is_dir():
        return _from_file(config, found, path, finish)
    return _from_tfds(config, found, finish)


def tfds_source(name: str, split: str, data_dir: str = "", remedy: str = "") -> Sequence[dict]:
    """The records of a prepared TFDS data set, with random access. Raises FileNotFoundError (one sentence, `remedy` in it) where it is not prepared."""
    try:
        import tensorflow_datasets as tfds

        return tfds.data_source(name, split=split, data_dir=data_dir or None, download=False, builder_kwargs={"file_format": "array_record"})
    except Exception as error:  # TFDS and what it imports raise many kinds
        reason = str(error).strip().partition("\n")[0].rstrip(".:") or type(error).__name__
        prepare = f"prepare it where TensorFlow is installed (tfds build {name} --file_format=array_record) and set data.path to the folder with {name}/"
        raise FileNotFoundError(f"TensorFlow Datasets has no {name} ready in {data_dir or 'its own folder'} ({reason}); {prepare}{remedy}.") from error


def label_values(name: str, found: DenseSet, labels: np.ndarray) -> np.ndarray:
    """Labels int64 [n, V] of TFDS records as factors int64 [n, V]. Raises ValueError for labels that the set does not have."""
    columns = []
    for field, size, column in zip(found.labels, found.sizes.values(), labels.T):
        known = np.array(found.values.get(field, range(size)))
        places = np.searchsorted(known, column)
        wrong = known[np.minimum(places, len(known) - 1)] != column
        if wrong.any():
            raise ValueError(f"A record of {name} has {field} {column[np.argmax(wrong)]}, which must be one of {_listed(known)}; prepare the data again.")
        columns.append(places)
    return np.stack(columns, axis=-1)


def rows_of(name: str, sizes: dict[str, int], values: np.ndarray) -> np.ndarray:
    """Which row of factors [N, V], in any order, holds each index, int64 [N]. Raises ValueError unless every combination is there exactly once."""
    ranks = np.ravel_multi_index(tuple(values.T), tuple(sizes.values()))
    counts = np.bincount(ranks, minlength=math.prod(sizes.values()))
    if (counts != 1).any():
        rank = int(np.argmax(counts != 1))
        combination = factors.describe(tuple(sizes), np.unravel_index(rank, tuple(sizes.values())))
        raise ValueError(
            f"{name} has {len(values)} images and {len(counts)} combinations of factors, but {combination} {counts[rank]} times instead of once; "
            "prepare it again."
        )
    rows = np.empty(len(ranks), np.int64)
    rows[ranks] = np.arange(len(ranks))
    return rows


def _from_tfds(config, found: DenseSet, finish: Callable[[np.ndarray], np.ndarray]) -> factors.FactorData:
    """In the cache records stay in TFDS's order, read in one pass; "rows" says where each index went."""
    count, labels = math.prod(found.sizes.values()), []

    def images() -> Iterator[np.ndarray]:
        remedy = f", or fetch {found.published} and set data.path to that file"
        source = tfds_source(config.name, "train", config.path, remedy)
        if len(source) != count:
            raise ValueError(f"{config.name} has {len(source)} records and its factors {count} combinations; prepare it again.")
        labels.clear()
        with Progress(f"Reading {config.name}: records", count) as progress:
            for start in range(0, count, _ROWS):
                records = [source[row] for row in range(start, min(start + _ROWS, count))]
                labels.append([[int(record[field]) for field in found.labels] for record in records])
                yield finish(np.stack([record["image"] for record in records]))
                progress.advance(len(records))

    def rows() -> Iterator[np.ndarray]:
        yield rows_of(config.name, found.sizes, label_values(config.name, found, np.concatenate(labels)))

    parts = {
        "images": cache.Part((count, config.resolution, config.resolution, found.channels), np.uint8, images),
        "rows": cache.Part((count,), np.int64, rows),  # after the images, whose labels it needs
    }
    arrays = cache.load(cache_folder(config, "tfds"), parts)
    return factors.from_array(config.name, found.sizes, arrays["images"], np.array(arrays["rows"]))


def _from_file(config, found: DenseSet, path: Path, finish: Callable[[np.ndarray], np.ndarray]) -> factors.FactorData:
    if not path.is_file():
        raise FileNotFoundError(f"data.path is {config.path!r}, which is not there; give {found.published}, or the folder of TFDS with {config.name}/.")
    count, *_, channels = array_files.shape(path)
    if (count, channels) != (math.prod(found.sizes.values()), found.channels):
        raise ValueError(
            f"{path} holds {count} images of {channels} channels, and {config.name} has {math.prod(found.sizes.values())} of {found.channels} "
            f"({' x '.join(map(str, found.sizes.values()))} factors); give {found.published}."
        )
    blocks = lambda: map(finish, array_files.blocks(path))
    parts = {"images": cache.Part((count, config.resolution, config.resolution, channels), np.uint8, blocks)}
    return factors.from_array(config.name, found.sizes, cache.load(cache_folder(config, array_files.mark([path])), parts)["images"])


def cache_folder(config, mark: str) -> Path:
    """Where a set read from a source known as `mark` is cached."""
    return cache.root(config.cache_dir) / f"{config.name}-{mark}-{config.preprocess}-{config.resolution}px-v{VERSION}"


def _finish(found: DenseSet, resolution: int, kind: str, images: np.ndarray) -> np.ndarray:
    return preprocessing.apply(np.where(images > 0, 255, 0).astype(np.uint8) if found.binary else images, resolution, kind)


def _listed(values: np.ndarray) -> str:
    return f"0 to {values[-1]}" if np.array_equal(values, np.arange(len(values))) else ", ".join(map(str, values))
