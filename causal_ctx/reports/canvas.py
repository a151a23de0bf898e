"""Small algebra of pictures: tiles, labels and frames, put beside and above one another on a transparent ground.

Drawn at two pixels per displayed pixel. One grey ink, legible on white and on near-black, lets one picture serve both.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = "#7b818b"
ACCENT = "#e07b28"
REAL = "#3a86c8"
TILE_PIXELS = 128
FONT_PIXELS = 25
GAP = 4
CLEAR = (0, 0, 0, 0)


def tiles(images: np.ndarray) -> list[Image.Image]:
    """Images [n, H, W, C] (float in [0, 1] or uint8, C = 1 or 3), enlarged by a whole factor without smoothing."""
    factor = max(1, round(TILE_PIXELS / images.shape[1]))
    rgb = as_rgb(images).repeat(factor, axis=1).repeat(factor, axis=2)
    return [Image.fromarray(image).convert("RGBA") for image in rgb]


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Images [..., H, W, C], float in [0, 1] or uint8, C = 1 or 3, as uint8 [..., H, W, 3]."""
    if images.dtype != np.uint8:
        images = np.round(255 * np.clip(np.nan_to_num(images), 0, 1)).astype(np.uint8)
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def beside(parts: Sequence[Image.Image], gap: int = GAP, align: float = 0.5) -> Image.Image:
    """Parts from left to right; `align` 0 is top, 1 bottom."""
    size = (sum(p.width for p in parts) + gap * (len(parts) - 1), max(p.height for p in parts))
    sheet, x = Image.new("RGBA", size, CLEAR), 0
    for part in parts:
        sheet.paste(part, (x, round(align * (size[1] - part.height))))
        x += part.width + gap
    return sheet


def above(parts: Sequence[Image.Image], gap: int = GAP, align: float = 0.0) -> Image.Image:
    """Parts from top to bottom; `align` 0 is left, 1 right."""
    size = (max(p.width for p in parts), sum(p.height for p in parts) + gap * (len(parts) - 1))
    sheet, y = Image.new("RGBA", size, CLEAR), 0
    for part in parts:
        sheet.paste(part, (round(align * (size[0] - part.width)), y))
        y += part.height + gap
    return sheet


def padded(part: Image.Image, width: int, align: float = 0.5) -> Image.Image:
    """The part in a box of at least `width`."""
    sheet = Image.new("RGBA", (max(width, part.width), part.height), CLEAR)
    sheet.paste(part, (round(align * (sheet.width - part.width)), 0))
    return sheet


def framed(part: Image.Image, colour: str | None, border: int = 6, gap: int = 4) -> Image.Image:
    """A frame around the part; without a colour the same room is left clear."""
    margin = border + gap
    sheet = Image.new("RGBA", (part.width + 2 * margin, part.height + 2 * margin), CLEAR)
    if colour:
        ImageDraw.Draw(sheet).rounded_rectangle((0, 0, sheet.width - 1, sheet.height - 1), 10, outline=colour, width=border)
    sheet.paste(part, (margin, margin))
    return sheet


def label(string: str, width: int = 0, align: float = 0.0, colour: str = INK) -> Image.Image:
    """One line of text; cut to `width` pixels with an ellipsis, and set in a box of that width, when one is given."""
    font = _font()
    while width and len(string) > 1 and font.getlength(string) > width:
        string = string[:-2] + "…"
    size = (int(np.ceil(font.getlength(string))) or 1, round(1.35 * FONT_PIXELS))
    line = Image.new("RGBA", size, CLEAR)
    ImageDraw.Draw(line).text((0, size[1] // 2), string, font=font, fill=colour, anchor="lm")
    return padded(line, width, align)


def label_width(strings: Sequence[str], largest: int = 440) -> int:
    """Pixels that hold every string, within reason."""
    return min(largest, max(int(np.ceil(_font().getlength(string))) for string in strings))


def on_white(image: Image.Image) -> Image.Image:
    """The picture as a file for papers and slides: opaque, with a margin."""
    sheet = Image.new("RGBA", (image.width + 48, image.height + 48), "white")
    sheet.alpha_composite(image, (24, 24))
    return sheet.convert("RGB")


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_PIXELS)
