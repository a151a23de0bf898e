"""Own images from disk: one folder, or one array file, per context.

    DIR/obs/            PNG and JPEG files, in folders below it as well: the observational images
    DIR/light/          those under the intervention on the concept "light"
    DIR/pose.npz        an array file in place of a folder: key "images", [n, H, W, C] or [n, H, W], uint8 or floats in [0, 1]; or .npy
    DIR/light+pose/     a composition, held out: never trained on
    DIR/held_out/light/ held-out images of a single context, where wanted; else its validation images are used

Concepts are the names of the folders, sorted. DIR may be a zip or tar archive of all this. All images become
data.resolution pixels square, grey where all of them are. Hidden files are passed over, others are named in a notice.
Images are decoded once into the disk cache, under a name made of their paths, sizes and times.
"""

import dataclasses
import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from causal_ctx.data import arrays, cache, contexts, images, unpack

LOG = logging.getLogger(__name__)
HELD_OUT = "held_out"
KEY = "images"
VERSION = 1  # part of the cache's name: raise it whenever the same files would give other arrays

_ARRAYS = (".npz", ".npy")
_SPLITS = ("train", HELD_OUT)
_NOT_OURS = ("__MACOSX", "Thumbs.db", "desktop.ini")  # what other systems leave behind, beside names with a leading dot


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One context of one split: `files` are its images, or the one array file that holds them."""

    split: str
    context: str
    path: Path
    files: tuple[Path, ...]

    @property
    def is_array(self) -> bool:
        return self.files[0].suffix.lower() in _ARRAYS


def load(config) -> contexts.ContextData:
    """The images below `config.path` as a data set without latents (fields of `config`: see `causal_ctx.data.load`).

    At most `train_per_context` and `held_out_per_context` images are taken of each context, drawn by `seed`; the last
    `validation_fraction` of the training ones validate. Raises FileNotFoundError for a folder that is not there,
    ValueError (one sentence that names file or folder) for whatever in it cannot be used, OSError for a full cache.
    """
    root = _root(config)
    sources = _sources(root)
    concepts = tuple(source.context for source in sources if source.split == "train" and source.context != contexts.OBSERVATIONAL)
    _check_contexts(root, sources, concepts)
    mark = _mark(root, sources)
    surveys = _surveys(sources, cache.root(config.cache_dir) / f"folder-survey-{mark}-v{VERSION}")
    channels = _agreed_channels(root, sources, surveys)
    _check_sizes(sources, surveys, config.resolution)
    training = [source for source in sources if source.split == "train"]
    rows = {source: _training_rows(source, surveys[source], config) for source in training}
    loaded = _cached_arrays(config, sources, surveys, channels, mark)
    train = {source.context: loaded[source][: rows[source]] for source in training}
    validation = {source.context: loaded[source][rows[source] :] for source in training}
    own = {source.context: loaded[source] for source in sources if source.split == HELD_OUT}
    return contexts.ContextData(config.name, concepts, train, validation, {**validation, **own})


def fingerprint(config) -> str:
    """Checksum of paths, sizes and times of all files that `load` reads."""
    root = _root(config)
    return _mark(root, _sources(root))


def _root(config) -> Path:
    if not config.path:
        raise ValueError("data.path is empty; give the folder that holds one folder of images per context as --config.data.path=DIR.")
    root = Path(config.path).expanduser()
    if root.is_file() and root.name.lower().endswith(unpack.SUFFIXES):
        root = unpack.unpacked(root, config.cache_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data.path is {str(root)!r}, which is no folder and no archive; give the folder that holds one folder per context.")
    return root


def _sources(root: Path) -> list[Source]:
    """What `root` holds: the training contexts, "obs" first, then the held-out ones, each sorted by name. Raises ValueError for names given twice."""
    found: dict[tuple, Source] = {}
    entries = [("train", entry) for entry in _entries(root) if entry.name != HELD_OUT]
    entries += [(HELD_OUT, entry) for entry in (_entries(root / HELD_OUT) if (root / HELD_OUT).is_dir() else [])]
    for split, entry in entries:
        context = entry.name if entry.is_dir() else entry.stem
        if not entry.is_dir() and entry.suffix.lower() not in _ARRAYS:
            LOG.warning("%s is neither a folder nor an array file of a context; it is ignored.", entry)
            continue
        if not context.isprintable():
            raise ValueError(f"The name {context!r} in {entry.parent} holds characters that cannot be printed; rename it.")
        names = contexts.interventions(context)
        split = HELD_OUT if len(names) > 1 else split
        key = (split, *sorted(names))
        if key in found or len(set(names)) < len(names):
            other = found[key].path if key in found else "one intervention twice"
            raise ValueError(f"{entry} names the same interventions as {other}; keep each set of interventions once.")
        found[key] = Source(split, context, entry, _files(entry))
    return sorted(found.values(), key=lambda source: (_SPLITS.index(source.split), source.context != contexts.OBSERVATIONAL, source.context))


def _entries(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if not _is_hidden(entry.name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_OURS


def _files(entry: Path) -> tuple[Path, ...]:
    """Image files below a folder, sorted, or its one array file. Raises ValueError where there is neither or are both."""
    if not entry.is_dir():
        return (entry,)
    every = []
    for folder, below, names in os.walk(entry):
        below[:] = sorted(name for name in below if not _is_hidden(name))
        every += [Path(folder) / name for name in sorted(names) if not _is_hidden(name)]
    pictures = [file for file in every if file.suffix.lower() in images.SUFFIXES]
    packed = [file for file in every if file.suffix.lower() in _ARRAYS]
    others = len(every) - len(pictures) - len(packed)
    if others:
        first = next(file for file in every if file.suffix.lower() not in images.SUFFIXES + _ARRAYS)
        LOG.warning("%d files in %s are neither PNG nor JPEG nor array files and are ignored, %s first.", others, entry, first.name)
    if not pictures and not packed:
        raise ValueError(f"The folder {entry} holds no image; put PNG or JPEG files into it or remove it.")
    if packed and (pictures or len(packed) > 1):
        raise ValueError(f"The folder {entry} holds {len(pictures)} images and {len(packed)} array files; keep either images or one array file.")
    return tuple(pictures or packed)


def _check_contexts(root: Path, sources: list[Source], concepts: tuple[str, ...]) -> None:
    if not any(source.split == "train" and source.context == contexts.OBSERVATIONAL for source in sources):
        seen = ", ".join(repr(source.path.name) for source in sources) or "nothing"
        raise ValueError(f"{root} has no folder {contexts.OBSERVATIONAL!r} of observational images, only {seen}; add it.")
    if not concepts:
        raise ValueError(f"{root} holds observational images only; add a folder with images under an intervention, named by its concept.")
    for source in sources:
        for name in contexts.interventions(source.context):
            if name not in concepts:
                raise ValueError(f"{source.path} names the concept {name!r}, which has no folder of its own; known are {', '.join(concepts)}, so rename it.")


def _mark(root: Path, sources: list[Source]) -> str:
    """Checksum of paths, sizes and times of all files."""
    digest = hashlib.sha256(repr(str(root.resolve())).encode())
    for source in sources:
        for file in source.files:
            digest.update(repr((source.split, str(file.relative_to(root)), *cache.stamp(file))).encode())
    return digest.hexdigest()[:16]


def _surveys(sources: list[Source], folder: Path) -> dict[Source, np.ndarray]:
    """(images, rows, columns, channels) of every file, int64 [files, 4] per source: read once, then kept in the cache."""
    parts = {
        str(index): cache.Part((len(source.files), 4), np.int64, functools.partial(_survey, source)) for index, source in enumerate(sources)
    }
    return dict(zip(sources, cache.load(folder, parts).values()))


def _survey(source: Source) -> Iterator[np.ndarray]:
    if source.is_array:
        yield np.array([_array(source).shape], np.int64)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield np.array([(1, *survey) for survey in pool.map(images.survey, source.files)], np.int64)


def _agreed_channels(root: Path, sources: list[Source], surveys: dict[Source, np.ndarray]) -> int:
    """1 where every image is grey, else 3."""
    grey = [source.context for source in sources if (surveys[source][:, 3] == 1).any()]
    coloured = [source.context for source in sources if (surveys[source][:, 3] == 3).any()]
    if grey and coloured:
        LOG.warning("%s holds grey images (in %s) and coloured ones (in %s); all are read as RGB.", root, ", ".join(grey), ", ".join(coloured))
    return 3 if coloured else 1


def _check_sizes(sources: list[Source], surveys: dict[Source, np.ndarray], resolution: int) -> None:
    """Says from what to what images are resized. Raises ValueError for images that are too small."""
    kinds = {source: Counter(map(tuple, surveys[source][:, 1:3].tolist())) for source in sources}
    for source in sources:
        for file, (_, *size, _) in zip(source.files, surveys[source].tolist()):
            images.check_size(file, tuple(size), (resolution, resolution))
    wanted = (resolution, resolution)
    everything = sum(kinds.values(), Counter())
    if set(everything) == {wanted}:
        return
    listed = ", ".join(f"{rows} x {columns}" for (rows, columns), _ in everything.most_common(3)) + (" and others" if len(everything) > 3 else "")
    LOG.info("Images are resized from %s to %d x %d pixels.", listed, *wanted)
    if any(rows != columns for rows, columns in everything):
        LOG.warning("Images that are not square (%s) are squeezed to %d x %d; crop them first if that matters.", listed, *wanted)
    first = sources[0]
    other = next((source for source in sources if set(kinds[source]) != set(kinds[first])), None)
    if other:
        sizes = [" x ".join(map(str, kinds[source].most_common(1)[0][0])) for source in (first, other)]
        LOG.warning(
            "Contexts differ in size, %s in %s and %s in %s: resizing blurs them differently, which a model may take for the intervention.",
            sizes[0], first.path, sizes[1], other.path,
        )  # fmt: skip


def _cached_arrays(config, sources: list[Source], surveys: dict[Source, np.ndarray], channels: int, mark: str) -> dict[Source, np.ndarray]:
    """Images uint8 [n, R, R, C] per source, drawn and shuffled, as memory maps."""
    limits = {"train": config.train_per_context, HELD_OUT: config.held_out_per_context}
    if config.seed < 0:
        raise ValueError(f"data.seed must not be negative, got {config.seed}; use 0 or more.")
    parts = {}
    for index, source in enumerate(sources):
        count = int(surveys[source][:, 0].sum())
        order = np.random.default_rng([config.seed, index]).permutation(count)[: limits[source.split]]
        if len(order) < count:
            LOG.info("%d of the %d images in %s are taken, as data.%s_per_context says.", len(order), count, source.path, source.split)
        shape = (len(order), config.resolution, config.resolution, channels)
        parts[str(index)] = cache.Part(shape, np.uint8, functools.partial(_blocks, source, order, shape[1:]))
    # Places in the cache are numbered: the names of contexts are the user's and need not be names of files.
    folder = f"folder-{config.resolution}px-{limits['train']}-{limits[HELD_OUT]}-seed{config.seed}-{mark}-v{VERSION}"
    return dict(zip(sources, cache.load(cache.root(config.cache_dir) / folder, parts).values()))


def _blocks(source: Source, order: np.ndarray, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """The images of `order` of a source, [up to BLOCK, *shape] at a time."""
    if not source.is_array:
        yield from images.blocks([source.files[row] for row in order], shape[:2], shape[2])
        return
    array = _array(source)
    for start in range(0, len(order), images.BLOCK):
        block = images.resize(array[order[start : start + images.BLOCK]], shape[:2])
        yield np.broadcast_to(block, (len(block), *shape))  # grey as RGB


def _array(source: Source) -> np.ndarray:
    """Images uint8 [n, H, W, C] of an array file. Raises ValueError, naming it, for anything else in it."""
    [file] = source.files
    given = arrays.read(file, KEY)
    given = given[..., None] if given.ndim == 3 else given
    if given.ndim != 4 or not given.size or given.shape[3] not in (1, 3):
        raise ValueError(f"{file} holds an array of shape {given.shape}; images must be [n, H, W], [n, H, W, 1] or [n, H, W, 3], at least one.")
    try:
        return contexts.as_uint8(source.context, given, given.shape[1:])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _training_rows(source: Source, survey: np.ndarray, config) -> int:
    try:
        return contexts.training_rows(min(int(survey[:, 0].sum()), config.train_per_context), config.validation_fraction)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
