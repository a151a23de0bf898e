"""MNIST contexts: handwritten digits as they are, scaled, sheared, shifted, swollen, thickened and thinned.

Six concepts, seven contexts to train on, made here from raw MNIST or read from the published archive (`mnist_files`). Row i shows the same digit in every
context; digits of held-out images are never trained on.

The published set has no compositions. Those held out here are OURS: all pairs but thic+thin, whose parts undo one another. Their transformations are
applied in the order of `ORDER`, strokes before places, each digit with the parameters that it has under the single interventions.

    context  transformation of a digit                                 law of its parameter, independent for every digit
    scaled   shrunk about the centre, nearest pixel                    factor ~ U(0.2, 0.8)
    shear    rows displaced, lower ones to the right, nearest pixel    angle ~ U(0, 45) degrees
    shift    moved by whole pixels, zero fill                          down and right each round(U(-8.4, 8.4)) pixels
    swel     Morpho-MNIST swelling, strength 3, radius 7               centre uniform on the medial axis
    thic     Morpho-MNIST thickening, amount 1.0                       none
    thin     Morpho-MNIST thinning, amount 0.7                         none

Calibration. Measured on the 10,000 MNIST test digits, seed 0: sliced Wasserstein distance (1,000 projections) of obs to each context, "same" digits on both
sides and "halves" of 5,000 other ones (obs to obs 0.010). The published distances are those of images that a VAE generates for obs, themselves 0.067 from
obs; "target" takes that off in quadrature. "blurred" puts obs smoothed by 0.8 pixels, 0.061 from obs, in the place of the generated images, to be held
against "published" as it is.

    context                      same    halves  target   blurred  published
    scaled U(0.2, 0.8)           0.198   0.198   0.166    0.167    0.179
      U(0.2, 0.9)                0.177   0.177            0.149
      U(0.2, 1.0)                0.155   0.155            0.130
    shear U(0, 45) degrees       0.083   0.083   0.081    0.102    0.105
      U(-45, 45) degrees         0.050   0.051            0.084
    shift 0.3 of the side        0.118   0.118   0.087    0.139    0.110
    swel 3, 7                    0.055   0.055   0.077    0.095    0.102
    thic 1.0                     0.174   0.174   0.184    0.199    0.196
    thin 0.7                     0.148   0.148   0.115    0.120    0.133

Chosen: shear U(0, 45), which meets its target where U(-45, 45) misses it by 0.031 (and both slopes seen in the early file of the paper's data are
positive); scaled U(0.2, 0.8), as counted in the early file: a wider range nears the target but is further from the published distance once obs is blurred.
shift stays at 0.3, though it is too far in both columns: the early file shows moves of 8 pixels. Morpho-MNIST's defaults are kept. Of 10,000 digits two
scaled ones are blank and no thinned one.
"""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from causal_ctx.data import cache, contexts, mnist_files, morphology
from causal_ctx.progress import Progress

GENERATOR_VERSION = 1  # part of the cache's name: raise it whenever the same fields would give other images
CONCEPTS = ("scaled", "shear", "shift", "swel", "thic", "thin")
ORDER = ("thin", "thic", "swel", "scaled", "shear", "shift")  # of application in compositions
TRAINING_CONTEXTS = (contexts.OBSERVATIONAL, *CONCEPTS)
COMPOSITIONS = tuple("+".join(pair) for pair in itertools.combinations(CONCEPTS, 2) if pair != ("thic", "thin"))

SCALE = (0.2, 0.8)  # of the original size
SHEAR = (0.0, 45.0)  # degrees
SHIFT = 0.3 * mnist_files.SIDE  # pixels, either way

STROKES = {
    "thin": lambda strokes, draws: morphology.thinned(strokes, 0.7),
    "thic": lambda strokes, draws: morphology.thickened(strokes, 1.0),
    "swel": lambda strokes, draws: morphology.swollen(strokes, draws[:, 0], strength=3.0, radius=7.0),
}
PLACES = {
    "scaled": lambda images, draws: morphology.scale(images, SCALE[0] + (SCALE[1] - SCALE[0]) * draws[:, 0]),
    "shear": lambda images, draws: morphology.shear(images, SHEAR[0] + (SHEAR[1] - SHEAR[0]) * draws[:, 0]),
    "shift": lambda images, draws: morphology.shift(images, np.rint(SHIFT * (2 * draws - 1)).astype(int)),
}

_ROWS = 64  # digits at a time in one thread


def load(config) -> contexts.ContextData:
    """MNIST contexts as `config` describes them (fields: see `causal_ctx.data.load`), from the disk cache where they are there.

    `path` names a folder or file of raw digits or of the published archive; empty, the digits are looked for where they usually are, or downloaded. The
    first train_per_context + held_out_per_context digits are shuffled by `seed`; the first ones train, the last `validation_fraction` of these validate.
    Raises ValueError for impossible fields and damaged files, FileNotFoundError where there are no digits, OSError for a cache that cannot be written.
    """
    _check(config)
    rows = contexts.training_rows(config.train_per_context, config.validation_fraction)
    published = bool(config.path) and mnist_files.is_published(config.path)
    files = mnist_files.published_files(config.path) if published else mnist_files.raw_files(config.path, config.cache_dir)
    order = np.random.default_rng(config.seed).permutation(config.train_per_context + config.held_out_per_context)
    split = {"train": order[: config.train_per_context], "held_out": order[config.train_per_context :]}
    names = {"train": TRAINING_CONTEXTS, "held_out": TRAINING_CONTEXTS + (() if published else COMPOSITIONS)}
    if published:
        source = functools.cache(functools.partial(mnist_files.read_published, config.path, TRAINING_CONTEXTS, len(order)))
        make = lambda part: {name: images[split[part]] for name, images in source().items()}
    else:
        digits = _enough(mnist_files.read_raw(files), len(order), files)
        make = lambda part: transform(digits, split[part], names[part], config.seed, f"MNIST contexts ({part}): digits")
    kind = "archive" if published else "raw"
    counts = f"{config.train_per_context}-{config.held_out_per_context}"
    folder = f"{config.name}-{kind}-{mnist_files.fingerprint(files)}-{counts}-seed{config.seed}-v{GENERATOR_VERSION}"
    arrays = _cached(cache.root(config.cache_dir) / folder, names, split, make)
    simulate = None if published else functools.partial(_simulate, digits, split["held_out"], config.seed)
    return contexts.ContextData(
        name=config.name,
        concepts=CONCEPTS,
        train={name: arrays[f"train_{name}"][:rows] for name in names["train"]},
        validation={name: arrays[f"train_{name}"][rows:] for name in names["train"]},
        held_out={name: arrays[f"held_out_{name}"] for name in names["held_out"]},
        simulate=simulate,
        counterfactuals=simulate,  # the same digits in every context
    )


def transform(digits: np.ndarray, rows: np.ndarray, names: tuple[str, ...], seed: int, task: str = "MNIST contexts: digits") -> dict[str, np.ndarray]:
    """The digits `rows` [n] of `digits` [N, 28, 28] in every context of `names`, any sets of concepts: {name: uint8 [n, 28, 28]}.

    A digit's images depend on its pixels, its row and the seed alone, not on which others are asked for. Raises ValueError for an unknown concept.
    """
    draws = {concept: _draws(seed, concept, len(digits))[rows] for concept in CONCEPTS}
    for name in names:
        contexts.targets(name, CONCEPTS)
    out = {name: np.empty((len(rows), *digits.shape[1:]), np.uint8) for name in names}

    def fill(start: int) -> int:
        part = slice(start, start + _ROWS)
        image = _composer(digits[rows[part]], {concept: x[part] for concept, x in draws.items()})
        for name in names:
            asked = contexts.interventions(name)
            out[name][part] = image(tuple(concept for concept in ORDER if concept in asked))
        return len(rows[part])

    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(task, len(rows)) as progress:
        for done in pool.map(fill, range(0, len(rows), _ROWS)):
            progress.advance(done)
    return out


def _composer(digits: np.ndarray, draws: dict[str, np.ndarray]) -> Callable[[tuple[str, ...]], np.ndarray]:
    """The function from concepts in `ORDER` to images of `digits`; what several of them have in common is computed once."""

    @functools.cache
    def mask(concepts: tuple[str, ...]) -> np.ndarray:
        if not concepts:
            return morphology.binarise(morphology.upscale(digits))
        return STROKES[concepts[-1]](strokes(concepts[:-1]), draws[concepts[-1]])

    @functools.cache
    def strokes(concepts: tuple[str, ...]) -> morphology.Strokes:
        return morphology.strokes(mask(concepts))

    @functools.cache
    def image(concepts: tuple[str, ...]) -> np.ndarray:
        if not concepts:
            return digits
        if concepts[-1] in STROKES:
            return morphology.downscale(mask(concepts))
        return PLACES[concepts[-1]](image(concepts[:-1]), draws[concepts[-1]])

    return image


def _draws(seed: int, concept: str, n: int) -> np.ndarray:
    """Uniform numbers [n, 2] from the stream of (seed, concept), one row per digit; the first rows do not depend on n."""
    stream = np.random.SeedSequence(seed, spawn_key=(CONCEPTS.index(concept),))
    return np.random.default_rng(stream).random((n, 2))


def _simulate(digits: np.ndarray, held_out: np.ndarray, seed: int, context: str, n: int) -> np.ndarray:
    if n > len(held_out):
        raise ValueError(f"{n} images of {context!r} were asked for and {len(held_out)} digits are held out; raise data.held_out_per_context.")
    return transform(digits, held_out[:n], (context,), seed)[context][..., None]


def _cached(folder: Path, names: dict[str, tuple[str, ...]], split: dict[str, np.ndarray], make: Callable[[str], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The images of every part and context, uint8 [n, 28, 28, 1]; made together, so that contexts share the work on a digit."""
    made = functools.lru_cache(maxsize=1)(make)  # files are written part by part
    blocks = lambda part, name: iter([made(part)[name][..., None]])
    parts = {
        f"{part}_{name}": cache.Part((len(split[part]), mnist_files.SIDE, mnist_files.SIDE, 1), np.uint8, functools.partial(blocks, part, name))
        for part in split
        for name in names[part]
    }
    return cache.load(folder, parts)


def _check(config) -> None:
    if config.resolution != mnist_files.SIDE:
        raise ValueError(f"data.resolution is {config.resolution}, and MNIST has {mnist_files.SIDE} pixels a side; set it to {mnist_files.SIDE}.")
    if config.seed < 0:
        raise ValueError(f"data.seed must not be negative, got {config.seed}; use 0 or more.")
    for field in ("train_per_context", "held_out_per_context"):
        if config[field] < 1:
            raise ValueError(f"data.{field} must be positive, got {config[field]}; use 1 or more.")


def _enough(digits: np.ndarray, count: int, files: list[Path]) -> np.ndarray:
    if len(digits) < count:
        where = " and ".join(str(file) for file in files)
        raise ValueError(
            f"{where} holds {len(digits)} digits, fewer than data.train_per_context + data.held_out_per_context = {count}; "
            "lower one of them, or add the file of the other half."
        )
    return digits
