"""Renders quad images: four flat quadrants and one convex shape in the centre.

Letters: n images, R resolution (pixels per side), H = W = R.

Pixel (row y, column x) is the point (x, y) itself, x, y in 0..R-1, and the centre is (R/2, R/2): (32, 32) at 64 pixels.
Angles run from the positive x axis (right) towards the positive y axis (down). A pixel on the outline belongs to the
shape. Other resolutions scale the 64-pixel geometry by R/64.

All four shapes are convex, so a row of pixels meets a shape in one interval: we solve for the two ends of the
interval (R numbers per image instead of R*R) and fill bytes by integer arithmetic.
"""


import numpy as np

from causal_ctx.data import generated

SHAPES = ("disc", "square", "triangle", "ellipse")
PALETTE = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]], np.float64)

_BLOCK = 64  # images drawn at a time: 64 * 12 KiB stay in the second-level cache
_TOLERANCE = 1e-6  # pixels; keeps points on the outline inside despite rounding
# A polygon is an intersection of half-planes: the angles of its outward normals, and their distance from the centre
# as a fraction of the radius. The triangle repeats one so that both polygons have four.
_NORMALS = {1: (np.pi * np.array([0.0, 0.5, 1.0, 1.5]), 1.0), 2: (np.pi / 3 * np.array([1.0, 3.0, 5.0, 5.0]), 0.5)}


def palette_colour(values: np.ndarray) -> np.ndarray:
    """Colours of `values` [...] in [0, 1] on the path red, yellow, green, cyan, blue, magenta: uint8 [..., 3]."""
    position = np.asarray(values, np.float64) * (len(PALETTE) - 1)
    start = np.clip(position.astype(np.int64), 0, len(PALETTE) - 2)
    fraction = (position - start)[..., None]
    return (255 * (PALETTE[start] + fraction * (PALETTE[start + 1] - PALETTE[start]))).astype(np.uint8)


def render(factors: np.ndarray, resolution: int = 64, threads: int | None = None) -> np.ndarray:
    """Draws factors [n, 8] in [0, 1] as uint8 images [n, R, R, 3].

    Columns: colour of quad1 (bottom left), quad2 (bottom right), quad3 (top left), quad4 (top right); size u (radius
    24 * (0.2 + 0.8 u) pixels of 64); colour of the shape; shape, round(3 u) in `SHAPES`; orientation in turns.
    Blocks of images are drawn by `threads` threads (None: one per core). Raises ValueError for factors of another
    shape or outside [0, 1], and for an odd or non-positive resolution.
    """
    factors = np.asarray(factors, np.float64)
    if factors.ndim != 2 or factors.shape[1] != 8 or not np.all((factors >= 0) & (factors <= 1)):
        raise ValueError(f"Factors must be [n, 8] with values in [0, 1], got shape {factors.shape}; map latents to factors first.")
    if resolution < 2 or resolution % 2:
        raise ValueError(f"The resolution of quad must be a positive even number of pixels, got {resolution}; use 64 or 32.")
    return generated.in_blocks(_render_block, factors, resolution, _BLOCK, threads)


def _render_block(factors: np.ndarray, images: np.ndarray) -> None:
    """Draws factors [n, 8] into images [n, R, R, 3]."""
    n, resolution = images.shape[:2]
    half, width = resolution // 2, 3 * resolution
    background = np.repeat(palette_colour(factors[:, [[2, 3], [0, 1]]]), half, axis=2).reshape(n, 2, 1, width)
    shape = np.tile(palette_colour(factors[:, 5]), resolution).reshape(n, 1, 1, width)
    start, stop = (3 * edge.reshape(n, 2, half, 1) for edge in _row_intervals(factors, resolution))
    # Unsigned arithmetic wraps around: byte - start < stop - start holds exactly for start <= byte < stop.
    # Every step writes into the image memory itself: temporaries of this size would cost more than the arithmetic.
    kind = np.uint8 if width < 256 else np.uint32
    pixels = images.reshape(n, 2, half, width)
    offset = pixels if kind is np.uint8 else np.empty(pixels.shape, kind)
    np.subtract(np.arange(width, dtype=kind), start.astype(kind), out=offset)
    inside = np.less(offset, (stop - start).astype(kind), out=pixels.view(np.bool_))
    np.multiply(inside.view(np.uint8), shape - background, out=pixels)
    np.add(pixels, background, out=pixels)


def _row_intervals(factors: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """First column inside the shape and first column after it, int [n, R] each, 0 <= first <= last <= R."""
    radius = 24 * (0.2 + 0.8 * factors[:, 4:5]) * resolution / 64
    angle = 2 * np.pi * factors[:, 7:8]
    kind = np.clip(np.round(3 * factors[:, 6]), 0, 3).astype(np.int64)
    dy = np.arange(resolution) - resolution / 2
    left, right = (np.empty((len(factors), resolution)) for _ in range(2))
    for index in range(len(SHAPES)):
        chosen = kind == index
        if index in _NORMALS:
            left[chosen], right[chosen] = _polygon_rows(index, radius[chosen], angle[chosen], dy)
        else:
            minor = radius[chosen] * (0.5 if SHAPES[index] == "ellipse" else 1.0)
            left[chosen], right[chosen] = _ellipse_rows(radius[chosen], minor, angle[chosen], dy)
    centre = resolution / 2
    first = np.clip(np.ceil(centre + left), 0, resolution).astype(np.int64)
    after = np.clip(np.floor(centre + right) + 1, 0, resolution).astype(np.int64)
    return first, np.maximum(first, after)


def _polygon_rows(shape: int, radius: np.ndarray, angle: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends [n, R] of the rows dy [R] in a polygon of radius and angle [n, 1]: cos(a) dx + sin(a) dy <= distance for all a."""
    normals, fraction = _NORMALS[shape]
    directions = (angle + normals)[..., None]
    cosine, sine = np.cos(directions), np.sin(directions)  # the cosine of a float is never exactly zero
    bound = (fraction * radius[..., None] + _TOLERANCE - sine * dy) / cosine
    right = np.where(cosine > 0, bound, np.inf).min(axis=1)
    left = np.where(cosine < 0, bound, -np.inf).max(axis=1)
    return left, right


def _ellipse_rows(major: np.ndarray, minor: np.ndarray, angle: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends [n, R] of the rows dy [R] in ellipses with semi-axes major, minor [n, 1]: p dx^2 + 2 q dx dy + r dy^2 <= 1."""
    cosine, sine = np.cos(angle), np.sin(angle)
    p = (cosine / major) ** 2 + (sine / minor) ** 2
    q = cosine * sine * (major**-2 - minor**-2)
    discriminant = p - (dy / (major * minor)) ** 2
    middle, reach = -q * dy / p, np.sqrt(np.maximum(discriminant, 0)) / p
    miss = discriminant < -_TOLERANCE * p
    return np.where(miss, np.inf, middle - reach - _TOLERANCE), np.where(miss, -np.inf, middle + reach + _TOLERANCE)
