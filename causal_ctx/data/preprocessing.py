"""Images of any size to squares of the wanted resolution, as spec/ctvae.md section 5.1 describes.

Letters: n images, H height, W width, C channels, R resolution.

    native      the whole image resized with antialiasing; of CelebA the central 148 x 148 pixels
    reference   the central 148 x 148 pixels of every set, black where an image is smaller (quirk Q5: 64 x 64 images fill 19 % of
                the result), then bilinear resizing without antialiasing (quirk Q7); for comparisons only
"""

import numpy as np

from causal_ctx.data import images

KINDS = ("native", "reference")
CROP = 148  # pixels

_ROWS = 256  # images interpolated at a time


def check(kind: str, resolution: int) -> None:
    """Raises ValueError for an unknown kind or an impossible resolution."""
    if kind not in KINDS:
        raise ValueError(f"data.preprocess is {kind!r}; choose one of {', '.join(KINDS)}.")
    if resolution < 1:
        raise ValueError(f"data.resolution is {resolution}; give a positive number of pixels.")


def apply(pixels: np.ndarray, resolution: int, kind: str = "native", crop: bool = False) -> np.ndarray:
    """Images uint8 [n, H, W, C] as uint8 [n, R, R, C]; `crop` takes the central 148 x 148 pixels under "native" too. Raises ValueError as `check` does.

    The reference keeps fractions of a grey level after resizing; they are rounded here.
    """
    check(kind, resolution)
    if kind == "native":
        return images.resize(centre_crop(pixels) if crop else pixels, (resolution, resolution))
    cropped = centre_crop(pixels)
    blocks = [bilinear(cropped[start : start + _ROWS], resolution) for start in range(0, len(cropped), _ROWS)]
    return np.concatenate(blocks) if blocks else np.empty((0, resolution, resolution, pixels.shape[-1]), np.uint8)


def centre_crop(pixels: np.ndarray, side: int = CROP) -> np.ndarray:
    """The central `side` x `side` pixels of images uint8 [n, H, W, C], with black borders where they are smaller."""
    borders = [(max(0, side - length) // 2, (max(0, side - length) + 1) // 2) for length in pixels.shape[1:3]]
    pixels = np.pad(pixels, [(0, 0), *borders, (0, 0)])
    top, left = (round((length - side) / 2) for length in pixels.shape[1:3])
    return pixels[:, top : top + side, left : left + side]


def bilinear(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """Square images uint8 [n, H, H, C] as uint8 [n, R, R, C]: every pixel from the four around its centre, however many lie between."""
    side = pixels.shape[1]
    place = np.clip((np.arange(resolution) + 0.5) * side / resolution - 0.5, 0, side - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, side - 1)
    weight = (place - low).astype(np.float32)
    down, along = weight[:, None, None], weight[:, None]
    rows = pixels[:, low] * (1 - down) + pixels[:, high] * down
    return np.rint(rows[:, :, low] * (1 - along) + rows[:, :, high] * along).astype(np.uint8)
