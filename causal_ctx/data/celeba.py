"""CelebA: faces with binary attributes, of which the first ten are the factors (Liu et al. 2015; spec/ctvae.md sections 5.2, 5.3).

Letters: N images, V = 10 factors, R resolution.

Read from one of
    a folder as published       img_align_celeba/*.jpg, list_attr_celeba.txt, list_eval_partition.txt
    TensorFlow Datasets         what it prepared as celeb_a, without TensorFlow; its records have no file names

The central 148 x 148 pixels are resized. The partition is the published one. Factors repeat and are not dense: transitions pair different people
(`transitions.attribute_pairs`).
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from causal_ctx.data import array_files, cache, dense_sets, factors, images, preprocessing
from causal_ctx.progress import Progress

ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
)
SIZES = dict.fromkeys(ATTRIBUTES, 2)
TFDS_NAME, TFDS_SPLITS = "celeb_a", ("train", "validation", "test")
IMAGES, ATTRIBUTE_LIST, PARTITION_LIST = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"

_ROWS = 512  # records decoded and written at a time


def load(config) -> factors.FactorData:
    """CelebA at `config.resolution` as `config.preprocess` says, from the disk cache where the same was read before.

    `config.path` is the published folder, or the one that TFDS prepared its data in; empty, TFDS's own. Raises FileNotFoundError that says what to fetch
    and where to put it, ValueError (naming file and line) for lists that do not fit one another, OSError for a cache that cannot be written.
    """
    preprocessing.check(config.preprocess, config.resolution)
    folder = Path(config.path).expanduser()
    if config.path and (folder / ATTRIBUTE_LIST).is_file():
        return _from_folder(config, folder)
    return _from_tfds(config)


def read_lists(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """File names (N, in the order of the partition), attributes uint8 [N, 10] in {0, 1}, and the partition uint8 [N] in {0, 1, 2}.

    Raises FileNotFoundError for a missing list, ValueError (naming file and line) for lists that are damaged or do not fit one another.
    """
    attributes, partition = folder / ATTRIBUTE_LIST, folder / PARTITION_LIST
    for file in (attributes, partition):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; fetch the lists of CelebA (mmlab.ie.cuhk.edu.hk/projects/CelebA.html) into that folder.")
    names, splits = [], []
    for number, line in _lines(partition, 0):
        if len(line) != 2 or line[1] not in ("0", "1", "2"):
            raise ValueError(f"{partition}, line {number}, is not a file name and 0, 1 or 2; fetch it again.")
        names.append(line[0])
        splits.append(int(line[1]))
    header = next((line for number, line in _lines(attributes, 0) if number == 2), [])
    missing = [name for name in ATTRIBUTES if name not in header]
    if missing:
        raise ValueError(f"{attributes}, line 2, lacks the attributes {', '.join(missing)}; fetch it again.")
    places, known = [header.index(name) for name in ATTRIBUTES], {}
    for number, line in _lines(attributes, 2):
        if len(line) != len(header) + 1 or not set(line[1:]) <= {"-1", "1"}:
            raise ValueError(f"{attributes}, line {number}, is not a file name and {len(header)} values of -1 or 1; fetch it again.")
        known[line[0]] = [line[1 + place] == "1" for place in places]
    without = [name for name in names if name not in known]
    if without or len(set(names)) < len(names) or not names:
        odd = f"{len(without)} images without attributes, {without[0]} first" if without else f"{len(names)} lines for {len(set(names))} images"
        raise ValueError(f"{partition} and {attributes} do not fit: {odd}; fetch both again.")
    return names, np.array([known[name] for name in names], np.uint8), np.array(splits, np.uint8)


def _from_folder(config, folder: Path) -> factors.FactorData:
    names, table, partition = read_lists(folder)
    files = [folder / IMAGES / name for name in names]
    finish = functools.partial(preprocessing.apply, resolution=config.resolution, kind=config.preprocess, crop=True)
    blocks = lambda: map(finish, images.blocks(files, name="Reading CelebA: images"))
    parts = {"images": cache.Part((len(files), config.resolution, config.resolution, 3), np.uint8, blocks)}
    mark = array_files.mark([folder / ATTRIBUTE_LIST, folder / PARTITION_LIST])
    arrays = cache.load(dense_sets.cache_folder(config, mark), parts)
    return factors.from_array(config.name, SIZES, arrays["images"], table=table, partition=partition, file_names=names)


def _from_tfds(config) -> factors.FactorData:
    remedy = f", or set it to a folder with {IMAGES}/, {ATTRIBUTE_LIST} and {PARTITION_LIST}"
    sources = [dense_sets.tfds_source(TFDS_NAME, split, config.path, remedy) for split in TFDS_SPLITS]
    count, rows = sum(map(len, sources)), []

    def pixels() -> Iterator[np.ndarray]:
        rows.clear()
        with Progress("Reading CelebA: records", count) as progress:
            for source in sources:
                for start in range(0, len(source), _ROWS):
                    records = [source[row] for row in range(start, min(start + _ROWS, len(source)))]
                    rows.append([[record["attributes"][name] for name in ATTRIBUTES] for record in records])
                    block = np.stack([record["image"] for record in records])
                    yield preprocessing.apply(block, config.resolution, config.preprocess, crop=True)
                    progress.advance(len(records))

    parts = {
        "images": cache.Part((count, config.resolution, config.resolution, 3), np.uint8, pixels),
        "table": cache.Part((count, len(ATTRIBUTES)), np.uint8, lambda: iter([np.concatenate(rows).astype(np.uint8)])),  # after the images
    }
    arrays = cache.load(dense_sets.cache_folder(config, "tfds"), parts)
    partition = np.repeat(np.arange(len(sources), dtype=np.uint8), [len(source) for source in sources])
    return factors.from_array(config.name, SIZES, arrays["images"], table=np.array(arrays["table"]), partition=partition)


def _lines(file: Path, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of the lines that are not empty, after the first `skipped`."""
    with file.open(encoding="utf-8", errors="replace") as opened:
        for number, line in enumerate(opened, 1):
            if number > skipped and line.strip():
                yield number, line.split()
