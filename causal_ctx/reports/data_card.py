"""The data card (see `causal_ctx.data.card`) for reading: text for a terminal, HTML and a strip of images per context for the page."""

import textwrap
from html import escape

import numpy as np
from PIL import Image

from causal_ctx.reports.canvas import above, beside, label, label_width, tiles
from causal_ctx.reports.figures import MOST_CONTEXTS, SECTION_GAP, Picture

MOST_AVERAGED = 500  # images
COLUMNS = {
    "train": "training", "valid.": "validation", "held out": "held_out", "mean": "mean", "s.d.": "standard_deviation",
    "to obs": "distance", "p": "p_value", "by": "side", "halves": "halves", "entropy": "entropy_floor_bpp",
}
NOTE = (
    "Mean and s.d.: of pixel values in [0, 1]. To obs: sliced Wasserstein distance of the context from obs, by so many images of each, beside the distance of "
    "two halves of the context itself (as many images where it has enough); p: how often so large a distance comes by chance (permutation test, 0.005 at best). "
    "Entropy: floor of the reconstruction, in bits per pixel. Of a sample, not of all images."
)


def text(card: dict) -> str:
    """Aligned columns and the problems below them, at most 120 characters wide."""
    rows = [("context", *COLUMNS), *((context, *_cells(numbers)) for context, numbers in card["contexts"].items())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))) for row in rows]
    rule = "─" * len(lines[0])
    table = [rule, lines[0], rule, *lines[1:], rule, *textwrap.wrap(NOTE, 110)] if card["contexts"] else []
    return "\n".join([_title(card), *table, "", *_problem_lines(card)]) + "\n"


def html(card: dict) -> str:
    """The table in a box that scrolls, then the problems as a list."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("context", *COLUMNS))
    body = "".join(
        f'<tr><th scope="row">{escape(context)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in _cells(numbers))}</tr>'
        for context, numbers in card["contexts"].items()
    )
    problems = "".join(f"<li><strong>{escape(problem['level'])}</strong>: {escape(problem['sentence'])}</li>" for problem in card["problems"])
    table = (f'<div class="scroll"><table class="facts"><caption>{escape(_title(card))}</caption><thead><tr>{head}</tr></thead>'
             f'<tbody>{body}</tbody></table></div><p class="note">{escape(NOTE)}</p>')
    return table + (f"<ul>{problems}</ul>" if problems else "<p>Validation found nothing wrong with these data.</p>")


def picture(dataset, num: int = 8) -> Picture:
    """The first images of every context, training ones where there are any, and the mean of `MOST_AVERAGED` of them."""
    contexts = list(dataset.train | dataset.held_out)[:MOST_CONTEXTS]
    rows = [("", None)] + [(context, dataset.train.get(context, dataset.held_out.get(context))) for context in contexts]
    depth = len(rows) if len(rows) <= 9 else -(-len(contexts) // 2) + 1
    columns = [rows[:depth], rows[:1] + rows[depth:]]
    width = label_width(contexts)
    image = beside([above([_row(name, images, width, num, dataset.image_shape) for name, images in part]) for part in columns if len(part) > 1],
                   gap=SECTION_GAP, align=0.0)
    return Picture(
        "data", "Data", image,
        "Images as they are in the data, training ones where the context is trained on, and the mean over some hundred of them (right of each row): "
        "what differs between the means is what an intervention does on average. Rows with a plus are compositions, held out of training.",
        f"{num} images and the mean image of each of the contexts {', '.join(contexts)}.",
    )


def _row(name: str, images: np.ndarray | None, width: int, num: int, image_shape: tuple[int, ...]) -> Image.Image:
    """A labelled strip and the mean image beside it; without images the heading of both."""
    side = tiles(np.zeros((1, *image_shape)))[0].width
    if images is None:
        parts = [label("", num * side), label("mean", side, 0.5)]
    else:
        shown, mean = np.asarray(images[:num]), np.asarray(images[:MOST_AVERAGED]).mean(0, keepdims=True) / 255
        parts = [beside(tiles(shown)), tiles(mean)[0]]
    return beside([label(name, width, 1.0), beside(parts, gap=20)], gap=20)


def _title(card: dict) -> str:
    shape, concepts = " × ".join(map(str, card["image_shape"])), ", ".join(card["concepts"])
    return f"Data: {card['name']}, images of {shape}, {len(card['concepts'])} concepts ({concepts})"


def _problem_lines(card: dict) -> list[str]:
    if not card["problems"]:
        return ["Validation found nothing wrong with these data."]
    wrapped = [textwrap.wrap(f"{problem['level']}: {problem['sentence']}", 118, subsequent_indent="  ") for problem in card["problems"]]
    return [line for lines in wrapped for line in lines]


def _cells(numbers: dict) -> list[str]:
    return [_show(numbers.get(key)) for key in COLUMNS.values()]


def _show(value) -> str:
    """Counts with thousands separators, other numbers with three digits, what there is not as a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
