"""3DIdent contexts: an object under a spotlight over a ground plane, with interventions on three hues.

Two data sets of the same concepts, contexts and held-out pairs, never to be compared as one:

    3dident               the published archive, read from data.path (`threedident_archive`); how its interventions act is not published
    3dident/procedural    rendered here (`threedident_renderer`) from a law of ours, nothing downloaded

Contexts: obs (Observation), bg (Background), obj (Object), sl (Spotlight); held out: bg+obj, bg+sl, obj+sl.

The law of 3dident/procedural: ten raw latents in the order of `threedident_renderer.LATENTS`, independent. Position, rotation and spotlight angle
are U[-1, 1] everywhere; a hue is U[-1, 0] (violet over magenta to red), and U[0, 1] (red over orange to yellow-green) where its concept is
intervened on.

Calibration: the published numbers imply that obs images lie at a sliced Wasserstein distance of about 0.07 from those of an intervention, averaged over the
three (spec, datasets.md section 3.4); what each one is, is not known. Position range, camera and ambient light were chosen to meet the average.
Measured at 64 x 64, 4,000 held-out images a side, 1,000 directions, data seed 0; two samples of obs: 0.007.

    context           distance to obs    target
    bg                0.101
    obj               0.029
    sl                0.071
    mean of the three 0.067              about 0.07
    bg+obj            0.116              none known
    bg+sl             0.155              none known
    obj+sl            0.084              none known
    entropy floor of obs, 1.906 bits per pixel

The background fills most pixels and the object 8 % of them, at changing places: its hue moves least.
"""

from collections.abc import Iterable

import numpy as np

from causal_ctx.data import contexts, generated, threedident_archive, threedident_renderer
from causal_ctx.data.threedident_renderer import LATENTS

PUBLISHED, PROCEDURAL = "3dident", "3dident/procedural"
CONCEPTS = ("bg", "obj", "sl")
COMPOSITIONS = ("bg+obj", "bg+sl", "obj+sl")
HUES = {"bg": "background_hue", "obj": "object_hue", "sl": "spotlight_hue"}
GENERATOR_VERSION = 1  # part of the cache's name: raise it whenever the same fields would give other images


def load(config) -> contexts.ContextData:
    """`3dident` or `3dident/procedural` as `config` describes it (fields: see `causal_ctx.data.load`), from the disk cache where it is there.

    Raises ValueError for impossible fields and damaged archives, FileNotFoundError for missing ones, OSError for a cache folder that is full or cannot be
    written.
    """
    if config.name == PUBLISHED:
        if not config.path:
            archive = "the published archive (3dident.zip, zenodo.org/records/19346613)"
            raise ValueError(f"{PUBLISHED} is read from {archive}; set data.path to its folder or zip file, or data.name to {PROCEDURAL}.")
        return threedident_archive.load(config, CONCEPTS, COMPOSITIONS)
    if config.path:
        raise ValueError(f"{PROCEDURAL} is rendered, but data.path is {config.path!r}; set data.name to {PUBLISHED} to read it, or leave data.path empty.")
    return generated.load(config, GENERATOR)


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """Exogenous noise float64 [n, 10], uniform in [-1, 1), column j of latent j. The first rows do not depend on n."""
    return 2 * rng.random((n, len(LATENTS))) - 1


def latents(noise: np.ndarray, interventions: tuple[str, ...] = ()) -> np.ndarray:
    """Raw latents float64 [n, 10] in [-1, 1) under interventions on a set of `CONCEPTS`, of exogenous noise [n, 10]."""
    raw = noise.copy()
    for concept, hue in HUES.items():
        column = LATENTS.index(hue)
        raw[:, column] = (raw[:, column] + 1) / 2 - (concept not in interventions)
    return raw


def total_effects(interventions: Iterable[str] = ()) -> np.ndarray:
    """As `quad_scm.total_effects`, [3, 3], of 3dident/procedural: the identity, for hues are independent and spread equally under every intervention."""
    contexts.targets("+".join(interventions) or contexts.OBSERVATIONAL, CONCEPTS)  # refuses unknown names
    return np.eye(len(CONCEPTS))


COLUMNS = tuple(LATENTS.index(HUES[concept]) for concept in CONCEPTS)
GENERATOR = generated.Generator(CONCEPTS, COMPOSITIONS, len(LATENTS), COLUMNS, noise, latents, threedident_renderer.render, GENERATOR_VERSION, rows=512)
