"""Image files as arrays: PNG and JPEG, decoded by Pillow in threads, resized with antialiasing.

Letters: n images, H height (rows), W width (columns), C channels, 1 (grey) or 3 (RGB). Sizes are (rows, columns).
A transparency channel is dropped, the orientation that a camera notes is applied, 16-bit grey is scaled to 8 bits.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from causal_ctx.progress import Progress

SUFFIXES = (".png", ".jpg", ".jpeg")
BLOCK = 1024  # images decoded at a time

_MODES = {1: "L", 3: "RGB"}
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
_SMALLEST = 4  # an image this many times smaller than wanted is refused: enlarged, it would show nothing
_TRANSPOSED = (5, 6, 7, 8)  # values of the orientation that exchange rows and columns
_ORIENTATION = 0x0112


def decode(path: Path, size: tuple[int, int] | None = None, channels: int = 3) -> np.ndarray:
    """One PNG or JPEG file as uint8 [H, W, C], resized to `size` where that is given.

    Raises FileNotFoundError where there is none, ValueError (one sentence that names the file) for a file that is no
    whole image, has more pixels than Pillow thinks safe, or a side of less than a quarter of the wanted one.
    """
    if channels not in _MODES:
        raise ValueError(f"Images have 1 or 3 channels, got {channels}; give one of these.")
    with _opened(path) as image:
        check_size(path, _upright_size(image), size)
        try:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits
                image = Image.fromarray((np.asarray(image, np.uint32).clip(0, 65535) / 257).round().astype(np.uint8))
            image = image.convert(_MODES[channels])
        except Exception as error:  # decoders raise many kinds, SyntaxError and struct.error among them
            raise _unreadable(path, error) from error
    return _array(_resized(image, size))


def survey(path: Path) -> tuple[int, int, int]:
    """(rows, columns, channels) of a file from its header alone; the errors of `decode`, but for what only its pixels show."""
    with _opened(path) as image:
        return (*_upright_size(image), 1 if image.mode in _GREY_MODES else 3)


def blocks(files: Sequence[Path], size: tuple[int, int] | None = None, channels: int = 3, name: str = "Reading images") -> Iterator[np.ndarray]:
    """The files in their order as uint8 [up to BLOCK, H, W, C] at a time, decoded in threads, progress shown as `name`.

    Raises the errors of `decode`, and ValueError for files of several sizes where no `size` is given.
    """
    expected = size
    with Progress(name, len(files)) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), BLOCK):
            chosen = files[start : start + BLOCK]
            futures = [pool.submit(decode, file, size, channels) for file in chosen]
            try:
                images = [future.result() for future in futures]
            finally:
                for future in futures:  # of no use after the first error
                    future.cancel()
            for file, image in zip(chosen, images):
                expected = expected or image.shape[:2]
                if image.shape[:2] != tuple(expected):
                    raise ValueError(f"{file} is {_times(image.shape)} pixels and {files[0]} is {_times(expected)}; give the size that all shall have.")
            progress.advance(len(chosen))
            yield np.stack(images)


def read_all(files: Sequence[Path], size: tuple[int, int] | None = None, channels: int = 3, name: str = "Reading images") -> np.ndarray:
    """The files in their order as uint8 [n, H, W, C]; errors as those of `blocks`, ValueError for no files."""
    if not files:
        raise ValueError(f"{name}: there is no image file to read; check the folder.")
    images, row = None, 0
    for block in blocks(files, size, channels, name):
        images = np.empty((len(files), *block.shape[1:]), np.uint8) if images is None else images
        images[row : row + len(block)] = block
        row += len(block)
    return images


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Images uint8 [n, H, W, C], C 1 or 3, resized to `size` with antialiasing. Raises ValueError for other types, shapes, and for too small ones."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in _MODES:
        raise ValueError(f"Images to resize must be uint8 [n, H, W, C] with 1 or 3 channels, got {images.dtype} {images.shape}.")
    if images.shape[1:3] == tuple(size):
        return images
    check_size("An array", images.shape[1:3], size)
    result = np.empty((len(images), *size, images.shape[-1]), np.uint8)

    def one(row: int) -> None:
        pixels = images[row, ..., 0] if images.shape[-1] == 1 else images[row]
        result[row] = _array(_resized(Image.fromarray(np.ascontiguousarray(pixels)), size))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(len(images))))
    return result


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=("PNG", "JPEG"))
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"The image {path} is not there; check the path.") from error
        if getattr(error, "errno", None) is not None:
            raise OSError(f"The image {path} cannot be read ({error.strerror}); allow reading it or remove it.") from error
        raise _unreadable(path, error) from error
    if image.width * image.height > Image.MAX_IMAGE_PIXELS:
        with image:
            raise ValueError(
                f"{path} claims {image.height:,} x {image.width:,} pixels, more than the {Image.MAX_IMAGE_PIXELS:,} that are safe to decode; "
                "remove it or make it smaller."
            )
    return image


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(rows, columns) once the orientation noted in the file is applied."""
    if image.format == "PNG" and "exif" not in image.info:
        return image.size[::-1]  # Pillow would decode all pixels to look for it behind them
    try:
        turned = image.getexif().get(_ORIENTATION) in _TRANSPOSED
    except Exception:  # damaged notes; they do not hinder decoding
        turned = False
    return image.size if turned else image.size[::-1]


def check_size(path: Path | str, given: tuple[int, int], size: tuple[int, int] | None) -> None:
    """Raises ValueError, naming `path`, for an image of `given` rows and columns that is too small to be brought to `size`."""
    if size and any(_SMALLEST * side < wanted for side, wanted in zip(given, size)):
        raise ValueError(
            f"{path} is {_times(given)} pixels, less than a quarter of the wanted {_times(size)}; remove it, or set data.resolution to a smaller one."
        )


def _resized(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    if not size or image.size == (size[1], size[0]):
        return image
    return image.resize((size[1], size[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)  # large ones by boxes first


def _array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def _times(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _unreadable(path: Path, error: Exception) -> ValueError:
    if isinstance(error, Image.DecompressionBombError):
        return ValueError(f"{path} claims too many pixels to be decoded safely ({error}); remove it or make it smaller.")
    reason = "no PNG or JPEG data found" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__
    return ValueError(f"{path} is not a whole PNG or JPEG image ({reason}); replace or remove it.")
