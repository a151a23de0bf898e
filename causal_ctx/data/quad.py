"""quad: four coloured quadrants and a shape in the centre, rendered here; nothing is downloaded.

Six concepts (quad1..quad4, size, orientation), two hidden latents (color, shape), nine held-out compositions. The law
of the eight latents is a module: `quad_scm` (quad_dependent, a causal model) or `quad_independent` (its docstring gives
the law and its measured calibration). Training and held-out images come from separate random streams, so they share no
row; in the published set the held-out latents are the first training ones.
"""

import functools

import numpy as np

from causal_ctx.data import archive, contexts, generated, quad_independent, quad_renderer, quad_scm
from causal_ctx.data.quad_scm import CONCEPTS, LATENTS

GENERATOR_VERSION = 1  # part of the cache's name: raise it whenever the same fields would give other images
LAWS = {"quad_dependent": quad_scm, "quad_independent": quad_independent}
TRAINING_CONTEXTS = (contexts.OBSERVATIONAL, *CONCEPTS)
COMPOSITIONS = tuple(f"quad1+{other}" for other in CONCEPTS[1:]) + tuple(f"quad2+{other}" for other in CONCEPTS[2:])
CONTEXTS = {"train": TRAINING_CONTEXTS, "held_out": TRAINING_CONTEXTS + COMPOSITIONS}

COLUMNS = tuple(map(LATENTS.index, CONCEPTS))

_ROWS = 2048  # rendered and written at a time


def load(config) -> contexts.ContextData:
    """quad as `config` describes it (fields: see `causal_ctx.data.load`), from the disk cache where it is there.

    With `path` the published archive is read instead. The first rows of every context train, the last
    `validation_fraction` of them validate. Raises ValueError for impossible counts or resolutions, OSError for a cache
    folder that is full or cannot be written.
    """
    if config.path:
        return archive.load(config, CONCEPTS, COMPOSITIONS)
    return generated.load(config, _generator(config.name))


def sample_latents(name: str, split: str, context: str, n: int, seed: int) -> np.ndarray:
    """Latents float64 [n, 8] of the data set `name`, from the random stream of (seed, split, context).

    Any set of concepts makes a context, trained, held out or neither. The first rows do not depend on n.
    Raises ValueError for an unknown concept or a negative seed.
    """
    return generated.sample_latents(_generator(name), split, context, n, seed)


def render(name: str, latents: np.ndarray, resolution: int = 64) -> np.ndarray:
    """Images uint8 [n, R, R, 3] of latents [n, 8] of the data set `name`."""
    return quad_renderer.render(LAWS[name].factors(latents), resolution)


def _generator(name: str) -> generated.Generator:
    law, draw_images = LAWS[name], functools.partial(render, name)
    return generated.Generator(CONCEPTS, COMPOSITIONS, len(LATENTS), COLUMNS, law.noise, law.latents, draw_images, GENERATOR_VERSION, _ROWS)
