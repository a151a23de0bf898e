"""quad: four coloured quadrants and a shape in the centre, rendered here; nothing is downloaded.

Six concepts (quad1..quad4, size, orientation), two hidden latents (color, shape), nine held-out compositions. The law
of the eight latents is a module: `quad_scm` (quad_dependent, a causal model) or `quad_independent` (its docstring gives
the law and its measured calibration). Training and held-out images come from separate random streams, so they share no
row; in the published set the held-out latents are the first training ones.
"""

import functools
from collections.abc import Iterator

import numpy as np

from causal_ctx.data import archive, cache, contexts, quad_independent, quad_renderer, quad_scm
from causal_ctx.data.quad_scm import CONCEPTS, LATENTS

GENERATOR_VERSION = 1  # part of the cache's name: raise it whenever the same fields would give other images
LAWS = {"quad_dependent": quad_scm, "quad_independent": quad_independent}
SPLITS = ("train", "held_out")
TRAINING_CONTEXTS = (contexts.OBSERVATIONAL, *CONCEPTS)
COMPOSITIONS = tuple(f"quad1+{other}" for other in CONCEPTS[1:]) + tuple(f"quad2+{other}" for other in CONCEPTS[2:])
CONTEXTS = {"train": TRAINING_CONTEXTS, "held_out": TRAINING_CONTEXTS + COMPOSITIONS}

_ROWS = 2048  # rendered and written at a time


def load(config) -> contexts.ContextData:
    """quad as `config` describes it (fields: see `causal_ctx.data.load`), from the disk cache where it is there.

    With `path` the published archive is read instead. The first rows of every context train, the last
    `validation_fraction` of them validate. Raises ValueError for impossible counts or resolutions, OSError for a cache
    folder that is full or cannot be written.
    """
    if config.path:
        return archive.load(config, CONCEPTS, COMPOSITIONS)
    rows = contexts.training_rows(config.train_per_context, config.validation_fraction)
    arrays = _cached_arrays(config)
    images = {split: {c: arrays[f"{split}_{c}_images"] for c in CONTEXTS[split]} for split in SPLITS}
    latents = {split: {c: arrays[f"{split}_{c}_latents"] for c in CONTEXTS[split]} for split in SPLITS}
    return contexts.ContextData(
        name=config.name,
        concepts=CONCEPTS,
        train={c: x[:rows] for c, x in images["train"].items()},
        validation={c: x[rows:] for c, x in images["train"].items()},
        held_out=images["held_out"],
        train_latents={c: x[:rows] for c, x in latents["train"].items()},
        held_out_latents=latents["held_out"],
        validation_latents={c: x[rows:] for c, x in latents["train"].items()},
        simulate=functools.partial(_simulate, config.name, config.seed, config.resolution),
    )


def sample_latents(name: str, split: str, context: str, n: int, seed: int) -> np.ndarray:
    """Latents float64 [n, 8] of the data set `name`, from the random stream of (seed, split, context).

    Any set of concepts makes a context, trained, held out or neither. The first rows do not depend on n.
    Raises ValueError for an unknown concept or a negative seed.
    """
    if seed < 0:
        raise ValueError(f"data.seed must not be negative, got {seed}; use 0 or more.")
    mask = int(np.packbits(contexts.targets(context, CONCEPTS), bitorder="little")[0])
    stream = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), mask))
    return LAWS[name].sample_latents(np.random.default_rng(stream), n, contexts.interventions(context))


def render(name: str, latents: np.ndarray, resolution: int = 64) -> np.ndarray:
    """Images uint8 [n, R, R, 3] of latents [n, 8] of the data set `name`."""
    return quad_renderer.render(LAWS[name].factors(latents), resolution)


def _simulate(name: str, seed: int, resolution: int, context: str, n: int) -> np.ndarray:
    return np.concatenate(list(_image_blocks((name, "held_out", context, n, seed), resolution)))


def _cached_arrays(config) -> dict[str, np.ndarray]:
    counts = {"train": config.train_per_context, "held_out": config.held_out_per_context}
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"data.{split}_per_context must be positive, got {count}; use 1 or more.")
    parts = {}
    for split in SPLITS:
        for context in CONTEXTS[split]:
            key = (config.name, split, context, counts[split], config.seed)
            shape = (counts[split], config.resolution, config.resolution, 3)
            parts[f"{split}_{context}_images"] = cache.Part(shape, np.uint8, functools.partial(_image_blocks, key, config.resolution))
            parts[f"{split}_{context}_latents"] = cache.Part((counts[split], len(LATENTS)), np.float64, functools.partial(_latent_block, key))
    folder = f"{config.name}-{config.resolution}px-{counts['train']}-{counts['held_out']}-seed{config.seed}-v{GENERATOR_VERSION}"
    return cache.load(cache.root(config.cache_dir) / folder, parts)


def _latent_block(key: tuple) -> Iterator[np.ndarray]:
    yield sample_latents(*key)


def _image_blocks(key: tuple, resolution: int) -> Iterator[np.ndarray]:
    latents = sample_latents(*key)
    for start in range(0, len(latents), _ROWS):
        yield render(key[0], latents[start : start + _ROWS], resolution)
