"""Reads partitions and transitions as the reference implementation writes them (spec/ctvae.md section 5.7).

Letters: N images, V factors, T transitions.

    list_eval_partition.txt     CSV: a header, then row number, Id, Split; for CelebA its own file instead: "000001.jpg 0" per line
    variation_attrs_<V>.txt     CSV: a header, then row number, Inputs, Outputs, Variations (number of a factor), Sources, Targets, Splits

Ids, Inputs and Outputs are indices of images, or file names where the data set has them. Splits are 0 (train), 1 (validation), 2 (test).
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from causal_ctx.data.factors import NUM_SPLITS, FactorData, describe
from causal_ctx.data.transitions import Transitions

PARTITION = ("Id", "Split")
VARIATIONS = ("Inputs", "Outputs", "Variations", "Sources", "Targets", "Splits")


def read_partition(path: Path, data: FactorData) -> np.ndarray:
    """The split of every image of `data`, uint8 [N].

    Raises FileNotFoundError where there is no file; ValueError (one sentence that names file and line) for other columns, unknown or repeated images,
    images without a split, and splits other than 0, 1, 2.
    """
    lines, (ids, splits) = _columns(path, PARTITION)
    images = _images(path, lines, ids, data)
    splits = _numbers(path, lines, splits, "Split", NUM_SPLITS)
    repeated = np.ones(len(images), bool)
    repeated[np.unique(images, return_index=True)[1]] = False
    if repeated.any():
        row = int(np.argmax(repeated))
        raise ValueError(f"{path}, line {lines[row]}, gives image {ids[row]} a split for the second time; keep one line for every image.")
    if len(images) < len(data):
        raise ValueError(f"{path} has a split for {len(images)} images and {data.name} has {len(data)}; give the file of this data set.")
    result = np.empty(len(data), np.uint8)
    result[images] = splits
    return result


def read_transitions(path: Path, data: FactorData, splits: np.ndarray | None = None) -> Transitions:
    """The transitions of a variation file in its order, checked against the factors of `data`, and against `splits` uint8 [N] where these are given.

    Raises FileNotFoundError where there is no file; ValueError (one sentence that names file and line) for other columns, unknown images or factors,
    steps other than one, values that the images do not have, images that differ in other factors too, and splits that are not those of both images.
    """
    lines, (inputs, outputs, factors, sources, targets, given) = _columns(path, VARIATIONS)
    inputs, outputs = (_images(path, lines, column, data) for column in (inputs, outputs))
    factors = _numbers(path, lines, factors, "Variations", data.num_factors)
    limit = max(data.factor_sizes)
    sources, targets = _numbers(path, lines, sources, "Sources", limit), _numbers(path, lines, targets, "Targets", limit)
    given = _numbers(path, lines, given, "Splits", NUM_SPLITS).astype(np.uint8)
    _check_steps(path, lines, data, (inputs, outputs, factors, sources, targets))
    if splits is not None:
        wrong = (splits[inputs] != given) | (splits[outputs] != given)
        _refuse(path, lines, wrong, lambda row: f"is in split {given[row]} and its images in {splits[inputs[row]]} and {splits[outputs[row]]}")
    return Transitions(inputs, outputs, np.where(targets > sources, factors, factors + data.num_factors), given)


def _check_steps(path: Path, lines: np.ndarray, data: FactorData, columns: tuple[np.ndarray, ...]) -> None:
    inputs, outputs, factors, sources, targets = columns
    name = lambda row: data.factor_names[factors[row]]
    _refuse(path, lines, np.abs(targets - sources) != 1, lambda row: f"moves {name(row)!r} from {sources[row]} to {targets[row]}, which are no neighbours")
    rows = np.arange(len(inputs))
    before, after = data.factors(inputs), data.factors(outputs)
    for images, found, stated in ((inputs, before, sources), (outputs, after, targets)):
        wrong = found[rows, factors] != stated
        _refuse(path, lines, wrong, lambda row: f"says that {name(row)!r} is {stated[row]} in image {images[row]}, whose factors are "
                f"{describe(data.factor_names, found[row])}")  # fmt: skip
    moved = before != after
    moved[rows, factors] = False
    _refuse(path, lines, moved.any(axis=1), lambda row: f"moves {name(row)!r}, but its images also differ in "
            f"{data.factor_names[int(np.argmax(moved[row]))]!r}")  # fmt: skip


def _columns(path: Path, wanted: Sequence[str]) -> tuple[np.ndarray, list[list[str]]]:
    """Line numbers [T] and the columns named `wanted`, T strings each."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path} with the columns {', '.join(wanted)}; check the path.")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file ({error}); give one with the columns {', '.join(wanted)}.") from error
    spaced = wanted == PARTITION and rows and len(rows[0][1]) == 1  # CelebA's own, without a header
    if spaced:
        rows, header = [(number, row[0].split()) for number, row in rows], list(wanted)
    else:
        header = [name.strip() for name in rows.pop(0)[1]] if rows else []
    missing = [name for name in wanted if name not in header]
    if missing or not rows:
        raise ValueError(f"{path} has {len(rows)} rows and lacks the columns {', '.join(missing) or 'none'}; give a file with {', '.join(wanted)}.")
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}, has {len(row)} columns instead of {len(header)}; make the file again.")
    places = [header.index(name) for name in wanted]
    return np.array([number for number, _ in rows]), [[row[place].strip() for _, row in rows] for place in places]


def _images(path: Path, lines: np.ndarray, ids: list[str], data: FactorData) -> np.ndarray:
    """Indices int64 [T] of images that are named by index or by file name."""
    if data.file_names is None:
        return _numbers(path, lines, ids, "Id", len(data))
    known = {name: index for index, name in enumerate(data.file_names)}
    images = np.array([known.get(name, -1) for name in ids])
    _refuse(path, lines, images < 0, lambda row: f"names {ids[row]!r}, which is no image of {data.name}")
    return images


def _numbers(path: Path, lines: np.ndarray, column: list[str], name: str, limit: int) -> np.ndarray:
    """Integers int64 [T] below `limit`."""
    try:
        numbers = np.array(column, np.float64)  # other programs write 3 as 3.0
    except ValueError:
        row = next(row for row, text in enumerate(column) if not text.replace(".", "", 1).isdigit())
        raise ValueError(f"{path}, line {lines[row]}, has {column[row][:20]!r} as {name}, which is no number; make the file again.") from None
    wrong = ~((numbers >= 0) & (numbers < limit) & (numbers == np.floor(numbers)))
    _refuse(path, lines, wrong, lambda row: f"has {column[row]} as {name}, which must be a whole number from 0 to {limit - 1}")
    return numbers.astype(np.int64)


def _refuse(path: Path, lines: np.ndarray, wrong: np.ndarray, reason) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{path}, line {lines[row]}, {reason(row)}; give the file of this data set.")
