"""Morphology of handwritten digits, after Morpho-MNIST (Castro et al. 2019), and affine transformations, as pure functions of (images, parameters).

Letters: n images, H height, W width; four times finer: h = 4 H, w = 4 W.

Strokes are thinned, thickened and swollen as masks, four times as fine as the pixels: `upscale`, `binarise`, `strokes`, one of `thinned`, `thickened`,
`swollen`, `downscale`. Whatever lies outside of an image is background. Operators are scikit-image's, put so that many images are done at once:

* its resizing and smoothing are linear and separable, so they are matrices, taken from scikit-image itself;
* eroding and dilating by a disk of radius r is a threshold at r on the Euclidean distance to the background or the strokes;
* `medial_axis` builds its tables anew in every call, 10 ms, so many images go into one, below one another; ties are broken by position instead of at
  random, so that a skeleton does not depend on the images around it.
"""

import functools
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage import filters, morphology, transform

FACTOR = 4  # fine pixels along one pixel
SIGMA = 2 * FACTOR / 6  # of the smoothing that goes with it, in fine pixels: that of scikit-image's pyramids


class Strokes(NamedTuple):
    """Masks of strokes, bool [n, h, w], with their medial axes, bool [n, h, w], and widths [n] in pixels: twice the mean distance from axis to background."""

    mask: np.ndarray
    skeleton: np.ndarray
    distance: np.ndarray  # [n, h, w], fine pixels to the nearest background
    thickness: np.ndarray


def upscale(images: np.ndarray) -> np.ndarray:
    """Images uint8 [n, H, W] four times finer, uint8 [n, h, w]: cubic splines kept within each image's range, smoothed, truncated."""
    values = images / 255
    low, high = (extreme(values, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    (rows, columns), (smooth_rows, smooth_columns) = _matrices(images.shape[1:], upwards=True)
    fine = np.clip(rows @ values @ columns.T, low, high)
    return _to_bytes(smooth_rows @ fine @ smooth_columns.T)


def downscale(masks: np.ndarray) -> np.ndarray:
    """Masks [n, h, w] as images uint8 [n, H, W]: smoothed, read off by cubic splines, truncated."""
    (rows, columns), (smooth_rows, smooth_columns) = _matrices(masks.shape[1:], upwards=False)
    return _to_bytes((rows @ smooth_rows) @ masks.astype(np.float64) @ (columns @ smooth_columns).T)


def binarise(images: np.ndarray) -> np.ndarray:
    """Where images [n, h, w] reach the middle of their own range; nowhere in an image of one value."""
    low, high = (extreme(images, axis=(1, 2), keepdims=True).astype(np.float64) for extreme in (np.min, np.max))
    return (images >= (low + high) / 2) & (high > low)


def strokes(mask: np.ndarray) -> Strokes:
    """The medial axes and widths of masks bool [n, h, w]; an empty mask has an empty axis and width 0."""
    n, h, w = mask.shape
    framed = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    column = framed.reshape(n * (h + 2), w + 2)
    axes = morphology.medial_axis(column, return_distance=True, rng=_InOrder(np.random.PCG64(0)))
    skeleton, distance = (x.reshape(framed.shape)[:, 1:-1, 1:-1] for x in axes)
    total = np.where(skeleton, distance, 0).sum((1, 2))
    return Strokes(mask, skeleton, distance, 2 * total / np.maximum(skeleton.sum((1, 2)), 1) / FACTOR)


def thinned(given: Strokes, amount: float = 0.7) -> np.ndarray:
    """Masks eroded by a disk of `amount` times half the width; strokes can vanish."""
    return given.distance > _radii(given, amount)


def thickened(given: Strokes, amount: float = 1.0) -> np.ndarray:
    """Masks dilated by a disk of `amount` times half the width."""
    away = np.stack([ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf) for mask in given.mask])
    return away <= _radii(given, amount)


def swollen(given: Strokes, place: np.ndarray, strength: float = 3.0, radius: float = 7.0) -> np.ndarray:
    """Masks that bulge around one point of the medial axis each: the one at the fraction `place` [n] in [0, 1) of its points, in reading order.

    Around it, up to R = `radius` sqrt(width) / 2 pixels, the mask at distance r is the old one at distance R (r / R)^strength.
    """
    n, h, w = given.mask.shape
    points = [np.flatnonzero(skeleton) for skeleton in given.skeleton]
    chosen = np.array([found[int(u * len(found))] if len(found) else 0 for found, u in zip(points, place)], int)
    centre_row, centre_column = (x[:, None, None] for x in np.divmod(chosen, w))
    reach = np.maximum(radius * np.sqrt(given.thickness) / 2 * FACTOR, 1e-9)[:, None, None]
    down, right = np.arange(h)[:, None] - centre_row, np.arange(w) - centre_column
    pull = np.minimum(np.hypot(down, right) / reach, 1) ** (strength - 1)
    row, column = (np.rint(centre + pull * offset).astype(int) for centre, offset in ((centre_row, down), (centre_column, right)))
    return given.mask[np.arange(n)[:, None, None], row, column]


def scale(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Images [n, H, W] shrunk about their centre to `factors` [n] of their size; nearest pixel, zeros around."""
    row, column = (_centred(size) for size in images.shape[1:])
    return _nearest(images, *(x[None] / factors[:, None, None] for x in (row[:, None], column[None, :])))


def shear(images: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Images [n, H, W] whose row at y below the centre moves to the right by y tan(`degrees` [n]); nearest pixel, zeros around."""
    row, column = (_centred(size) for size in images.shape[1:])
    slope = np.tan(np.deg2rad(degrees))[:, None, None]
    return _nearest(images, row[None, :, None], column - slope * row[:, None])


def shift(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Images [n, H, W] moved down and right by whole pixels `offsets` [n, 2]; what leaves the frame is lost, zeros come in."""
    row, column = (_centred(size) for size in images.shape[1:])
    return _nearest(images, row[None, :, None] - offsets[:, :1, None], column[None, None, :] - offsets[:, 1:, None])


class _InOrder(np.random.Generator):
    """Breaks the ties of `medial_axis` in reading order."""

    def permutation(self, x, axis=0):
        return x


def _radii(given: Strokes, amount: float) -> np.ndarray:
    return np.floor(amount * FACTOR * given.thickness / 2)[:, None, None]


def _centred(size: int) -> np.ndarray:
    return np.arange(size) - (size - 1) / 2


def _nearest(images: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The pixels at `row` and `column`, counted from the centre, broadcast to [n, H, W]; zero outside."""
    n, height, width = images.shape
    row, column = (np.rint(x + (size - 1) / 2).astype(int) for x, size in ((row, height), (column, width)))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    values = images[np.arange(n)[:, None, None], np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return np.where(inside, values, 0).astype(images.dtype)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """[0, 1] to 0..255 by truncation; 1e-9 makes up for rounding errors below whole numbers."""
    return (np.clip(values, 0, 1) * 255 + 1e-9).astype(np.uint8)


@functools.cache
def _matrices(shape: tuple[int, int], upwards: bool) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """For rows and for columns: scikit-image's resizing by FACTOR as a matrix, and its smoothing of the finer side."""
    finer = lambda size: size * FACTOR if upwards else size
    other = lambda size: size * FACTOR if upwards else size // FACTOR
    resize = lambda size: transform.resize(np.eye(size), (other(size), size), order=3, mode="reflect", anti_aliasing=False, clip=False)
    smooth = lambda size: filters.gaussian(np.eye(size), (SIGMA, 0), mode="reflect")
    return tuple(resize(size) for size in shape), tuple(smooth(finer(size)) for size in shape)
