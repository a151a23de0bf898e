"""The latents of quad, independent: eight independent laws, each context changing exactly one of them.

Letters: n rows, 8 latents in the order of `quad_scm.LATENTS`.

The published generator of this set is not available; this law is ours, chosen to meet what its published measurements
imply (spec, datasets.md section 5). Colours are points v on the renderer's palette (anchors at v = 0, 0.2, .., 1):

    latent        observational                     intervened on
    quad1         N(0.2, 0.03^2)  near yellow       N(0.4, 0.03^2)  near green
    quad2         N(0.4, 0.03^2)  near green        N(0.6, 0.03^2)  near cyan
    quad3         N(0.6, 0.03^2)  near cyan         N(0.8, 0.03^2)  near blue
    quad4         N(0.8, 0.03^2)  near blue         N(0.6, 0.03^2)  near cyan
    size u        N(0.6, 0.1^2)                     N(0.85, 0.1^2)  (radius 24 * (0.2 + 0.8 u) of 64 pixels)
    color         N(0, 0.03^2)    near red          never
    shape         U(0, 1)                           never
    orientation   U(0, 1) turns                     U(0, 1/4) turns

A latent is clipped to [0, 1] when it becomes a factor of the renderer.

Calibration: sliced Wasserstein distance of obs images to images of each context, 64 x 64, 5,000 held-out images per
side, 1,000 directions, data seed 0; then the mean over five sets of 1,000 other directions with 2,000 images per side
(one set alone moves a value by about 2 %). Two samples of obs: 0.006, then 0.009.

    contexts                       5,000 images                 five sets of directions      target
    quad1, quad2, quad3, quad4     0.226, 0.218, 0.229, 0.229   0.227, 0.224, 0.230, 0.222   0.227 each
    size                           0.145                        0.145                        0.145
    orientation                    0.016                        0.018                        below 0.03
    quad1+quad2, +quad3, +quad4    0.308, 0.316, 0.329          0.323, 0.319, 0.320          0.32
    quad2+quad3, +quad4            0.305, 0.308                 0.320, 0.316                 0.32
    quad1+size, quad2+size         0.244, 0.248                 0.252, 0.250                 0.258, 0.241 (note)
    quad1, quad2 with orientation  0.227, 0.218                 0.229, 0.223                 0.228, 0.216 (note)
    entropy floor of obs           0.435 bits per pixel                                      0.42 to 0.44

Note: published distance of the obs-only model, less its distance 0.061 to obs, in squares.
A larger shape under intervention, rather than a smaller one, is what the published quad+size pairs ask for: it covers
a part of the changed quadrant, so that the two shifts add up to less than their squares do (0.269).
"""

from collections.abc import Iterable

import numpy as np

from causal_ctx.data.quad_scm import CONCEPTS, LATENTS, intervened

SPREAD = 0.03  # of colours: their entropy gives the entropy floor, palette units
SIZE_SPREAD = 0.1
OBSERVATIONAL_MEANS = (0.2, 0.4, 0.6, 0.8, 0.6, 0.0)  # quad1..quad4, size, color
INTERVENTION_MEANS = (0.4, 0.6, 0.8, 0.6, 0.85)  # quad1..quad4, size
INTERVENTION_TURNS = 0.25


def sample_latents(rng: np.random.Generator, n: int, interventions: Iterable[str] = ()) -> np.ndarray:
    """Latents, float64 [n, 8], under interventions on a set of concepts.

    The first rows do not depend on n. Raises ValueError for a name outside `quad_scm.CONCEPTS`.
    """
    return latents(noise(rng, n), interventions)


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """Exogenous noise float64 [n, 8]: standard normal, for shape and orientation uniform. The first rows do not depend on n."""
    normal_stream, uniform_stream = rng.spawn(2)
    return np.hstack([normal_stream.standard_normal((n, 6)), uniform_stream.random((n, 2))])


def latents(noise: np.ndarray, interventions: Iterable[str] = ()) -> np.ndarray:
    """What `sample_latents` makes of exogenous noise [n, 8]: column j is the noise of latent j."""
    indices = intervened(interventions)
    means, turns = np.array(OBSERVATIONAL_MEANS), 1.0
    for index in indices:
        if LATENTS[index] == "orientation":
            turns = INTERVENTION_TURNS
        else:
            means[index] = INTERVENTION_MEANS[index]
    spreads = np.array([SPREAD] * 4 + [SIZE_SPREAD, SPREAD])
    return np.hstack([means + spreads * noise[:, :6], noise[:, 6:] * (1.0, turns)])


def total_effects(interventions: Iterable[str] = ()) -> np.ndarray:
    """As `quad_scm.total_effects`, [6, 6]: nothing off the diagonal, on it the standard deviation of a latent over its observational one."""
    changed = [LATENTS[index] for index in intervened(interventions)]
    return np.diag([INTERVENTION_TURNS if name == "orientation" and name in changed else 1.0 for name in CONCEPTS])


def factors(latents: np.ndarray) -> np.ndarray:
    """Renderer factors [n, 8] in [0, 1] of latents [n, 8]: clipped."""
    return np.clip(latents, 0, 1)
