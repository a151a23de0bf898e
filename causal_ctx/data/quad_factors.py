"""quad as a set of factors: the same renderer as `quad`, on a grid of few values, so that every pair of neighbours exists exactly.

Letters: n images, V = 8 factors, R resolution.

    factor          values
    quad1 .. quad4  red, chartreuse, cyan, violet (bottom left, bottom right, top left, top right)
    size            radius 10.6, 17.3, 24 pixels of 64
    color           amber, green, blue: never that of a quadrant, so that the shape is always seen
    shape           square, triangle, ellipse; no disc, whose orientation would not be seen
    orientation     0, 30, 60 degrees: different pictures of all three shapes

All 20,736 combinations exist, so pairs under several factors at once do too (`transitions.joint_transitions`).
"""

import functools

import numpy as np

from causal_ctx.data import factors, preprocessing, quad_renderer

SIZES = {"quad1": 4, "quad2": 4, "quad3": 4, "quad4": 4, "size": 3, "color": 3, "shape": 3, "orientation": 3}
NATIVE = 64  # pixels that the reference preprocessing starts from

_QUADRANT = np.array([0, 0.3, 0.6, 0.9])  # places on the renderer's path of colours
_VALUES = (
    *[_QUADRANT] * 4,
    np.array([0.3, 0.65, 1.0]),
    np.array([0.15, 0.45, 0.75]),
    np.array([1, 2, 3]) / (len(quad_renderer.SHAPES) - 1),
    np.array([0, 1, 2]) / 12,  # turns
)


def load(config) -> factors.FactorData:
    """quad rendered on demand at `config.resolution`, an even number of pixels, as `config.preprocess` says; nothing is read.

    Raises ValueError for an odd resolution and where `config.path` names something.
    """
    preprocessing.check(config.preprocess, config.resolution)
    if config.path:
        raise ValueError(f"quad is rendered, but data.path is {config.path!r}; leave it empty.")
    if config.resolution % 2:
        raise ValueError(f"data.resolution is {config.resolution}; quad needs an even number of pixels.")
    native = config.resolution if config.preprocess == "native" else NATIVE
    finish = functools.partial(preprocessing.apply, resolution=config.resolution, kind=config.preprocess)
    return factors.composed("quad", SIZES, (config.resolution, config.resolution, 3), lambda values: finish(render(values, native)))


def render(values: np.ndarray, resolution: int = NATIVE) -> np.ndarray:
    """Images uint8 [n, R, R, 3] of factors int [n, 8] in the order of `SIZES`."""
    places = np.stack([grid[column] for grid, column in zip(_VALUES, np.asarray(values).T)], axis=-1)
    return quad_renderer.render(places, resolution)
