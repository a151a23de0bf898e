"""Data sets that are drawn and rendered here: a law of latents, a random stream for every split and context, the disk cache, any context simulated."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from causal_ctx.data import cache, contexts
from causal_ctx.progress import Progress

SPLITS = ("train", "held_out")


@dataclasses.dataclass(frozen=True)
class Generator:
    """How a data set is made.

    concepts (K <= 8), compositions: as in `contexts.ContextData`; the compositions are held out.
    num_latents: of a row; concept_columns: which of them are the concepts, in their order.
    noise: (rng, n) -> exogenous noise float64 [n, num_latents], column j of latent j, whose first rows do not depend on n.
    latents: (noise, interventions) -> latents float64 [n, num_latents].
    render: (latents, resolution) -> images uint8 [n, R, R, 3].
    version: part of the cache's name; raise it whenever the same fields would give other images.
    rows: rendered and written at a time.
    """

    concepts: tuple[str, ...]
    compositions: tuple[str, ...]
    num_latents: int
    concept_columns: tuple[int, ...]
    noise: Callable[[np.random.Generator, int], np.ndarray]
    latents: Callable[[np.ndarray, tuple[str, ...]], np.ndarray]
    render: Callable[[np.ndarray, int], np.ndarray]
    version: int
    rows: int

    @property
    def contexts(self) -> dict[str, tuple[str, ...]]:
        """Names of the contexts of every split."""
        training = (contexts.OBSERVATIONAL, *self.concepts)
        return {"train": training, "held_out": training + self.compositions}


def load(config, generator: Generator) -> contexts.ContextData:
    """The data set as `config` describes it (fields: see `causal_ctx.data.load`), from the disk cache where it is there.

    The first rows of every context train, the last `validation_fraction` of them validate. Raises ValueError for impossible
    counts or resolutions, OSError for a cache folder that is full or cannot be written.
    """
    rows = contexts.training_rows(config.train_per_context, config.validation_fraction)
    arrays = _cached_arrays(config, generator)
    names = generator.contexts
    images = {split: {c: arrays[f"{split}_{c}_images"] for c in names[split]} for split in SPLITS}
    latents = {split: {c: arrays[f"{split}_{c}_latents"] for c in names[split]} for split in SPLITS}
    return contexts.ContextData(
        name=config.name,
        concepts=generator.concepts,
        train={c: x[:rows] for c, x in images["train"].items()},
        validation={c: x[rows:] for c, x in images["train"].items()},
        held_out=images["held_out"],
        train_latents={c: x[:rows] for c, x in latents["train"].items()},
        validation_latents={c: x[rows:] for c, x in latents["train"].items()},
        held_out_latents=latents["held_out"],
        simulate=functools.partial(_simulate, generator, config.seed, config.resolution),
        counterfactuals=functools.partial(_counterfactuals, generator, config.seed, config.resolution),
        counterfactual_latents=lambda *asked: _latents_of_one_noise(generator, config.seed, *asked)[:, generator.concept_columns],
        concept_columns=generator.concept_columns,
    )


def sample_latents(generator: Generator, split: str, context: str, n: int, seed: int) -> np.ndarray:
    """Latents float64 [n, num_latents] from the random stream of (seed, split, context).

    Any set of concepts makes a context, trained, held out or neither. The first rows do not depend on n.
    Raises ValueError for an unknown concept or a negative seed.
    """
    if seed < 0:
        raise ValueError(f"data.seed must not be negative, got {seed}; use 0 or more.")
    mask = int(np.packbits(contexts.targets(context, generator.concepts), bitorder="little")[0])
    stream = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), mask))
    return generator.latents(generator.noise(np.random.default_rng(stream), n), contexts.interventions(context))


def in_blocks(draw: Callable[[np.ndarray, np.ndarray], None], rows: np.ndarray, resolution: int, block: int, threads: int | None = None) -> np.ndarray:
    """Images uint8 [n, R, R, 3] of `rows` [n, ...]: `draw` (some rows, their images to fill) on `block` rows at a time, in threads (None: all cores)."""
    images = np.empty((len(rows), resolution, resolution, 3), np.uint8)
    parts = [slice(start, start + block) for start in range(0, len(rows), block)]
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(lambda part: draw(rows[part], images[part]), parts))
    return images


def _simulate(generator: Generator, seed: int, resolution: int, context: str, n: int) -> np.ndarray:
    return np.concatenate(list(_image_blocks(generator, ("held_out", context, n, seed), resolution)))


def _counterfactuals(generator: Generator, seed: int, resolution: int, context: str, n: int, redrawn: bool = False) -> np.ndarray:
    return generator.render(_latents_of_one_noise(generator, seed, context, n, redrawn), resolution)


def _latents_of_one_noise(generator: Generator, seed: int, context: str, n: int, redrawn: bool = False) -> np.ndarray:
    targets = contexts.targets(context, generator.concepts)
    stream = lambda number: np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(len(SPLITS) + number,)))
    noise = generator.noise(stream(0), n)
    if redrawn:
        own = np.array(generator.concept_columns)[targets == 1]
        noise[:, own] = generator.noise(stream(1), n)[:, own]
    return generator.latents(noise, contexts.interventions(context))


def _cached_arrays(config, generator: Generator) -> dict[str, np.ndarray]:
    counts = {"train": config.train_per_context, "held_out": config.held_out_per_context}
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"data.{split}_per_context must be positive, got {count}; use 1 or more.")
    total = sum(counts[split] * len(generator.contexts[split]) for split in SPLITS)
    name = config.name.replace("/", "-")
    folder = f"{name}-{config.resolution}px-{counts['train']}-{counts['held_out']}-seed{config.seed}-v{generator.version}"
    with contextlib.ExitStack() as stack:
        # Only entered by the first image that is rendered: a second start shows no bar.
        progress = functools.cache(lambda: stack.enter_context(Progress(f"Rendering {config.name}", total)))
        parts = {}
        for split in SPLITS:
            for context in generator.contexts[split]:
                key = (split, context, counts[split], config.seed)
                shape = (counts[split], config.resolution, config.resolution, 3)
                blocks = functools.partial(_shown, progress, generator, key, config.resolution)
                parts[f"{split}_{context}_images"] = cache.Part(shape, np.uint8, blocks)
                latents = functools.partial(_latent_block, generator, key)
                parts[f"{split}_{context}_latents"] = cache.Part((counts[split], generator.num_latents), np.float64, latents)
        return cache.load(cache.root(config.cache_dir) / folder, parts)


def _latent_block(generator: Generator, key: tuple) -> Iterator[np.ndarray]:
    yield sample_latents(generator, *key)


def _image_blocks(generator: Generator, key: tuple, resolution: int) -> Iterator[np.ndarray]:
    latents = sample_latents(generator, *key)
    for start in range(0, len(latents), generator.rows):
        yield generator.render(latents[start : start + generator.rows], resolution)


def _shown(progress: Callable[[], Progress], *blocks_of) -> Iterator[np.ndarray]:
    for block in _image_blocks(*blocks_of):
        progress().advance(len(block))
        yield block
