"""Charts of causal transitions on a transparent ground, as in charts.py: graphs, codebooks, confusion and accuracy by frequency."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from causal_ctx.reports.canvas import INK
from causal_ctx.reports.charts import COLOURS, DPI, FLOOR, FONT_POINTS, SHADES, figure_of, finish, image

SIGNED = LinearSegmentedColormap.from_list("signed", ["#7a3a08", "#e07b28", "#f1f4f8", "#3a86c8", "#1b3f70"])
MARKERS = ("^", "v")  # actions that raise a factor, that lower it


class Point(NamedTuple):
    """An action in the scatter: its share of the training pairs, its accuracy, and the interval of that or None."""

    name: str
    frequency: float
    accuracy: float
    interval: tuple[float, float] | None = None


def graphs(maps: dict[str, np.ndarray], difference: tuple[str, np.ndarray], axes_names: tuple[str, str]) -> Image.Image:
    """Maps [n, n] on one colour scale from 0, and one of differences about 0 on its own; `axes_names` of rows and columns."""
    number = len(maps) + 1
    figure = Figure(figsize=(9.4, 9.4 / number + 0.35), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, number, squeeze=False).ravel()
    top = max(float(m.max(initial=0)) for m in maps.values()) or 1
    spread = float(np.abs(difference[1]).max(initial=0)) or 1
    shown = [axis.imshow(m, cmap=SHADES, vmin=0, vmax=top) for axis, m in zip(axes, maps.values())]
    shown.append(axes[-1].imshow(difference[1], cmap=SIGNED, vmin=-spread, vmax=spread))
    for axis, title in zip(axes, [*maps, difference[0]]):
        _map(axis, title)
        axis.set_xlabel(axes_names[1], fontsize=FONT_POINTS, color=INK)
        axis.tick_params(labelleft=axis is axes[0])
        for along in (axis.xaxis, axis.yaxis):
            along.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].set_ylabel(axes_names[0], fontsize=FONT_POINTS, color=INK)
    _scale(figure, shown[0], list(axes[:-1]))
    _scale(figure, shown[-1], [axes[-1]])
    return image(figure)


def usage(shares: dict[str, np.ndarray]) -> Image.Image:
    """A panel per codebook: shares [N] of its codes from the most to the least used as bars, dotted the share of equal use."""
    figure, axes = figure_of(len(shares), min(4, len(shares)) if len(shares) > 1 else 2, 2.3, [])
    for axis, (title, own) in zip(axes, shares.items()):
        ordered = np.sort(own)[::-1]
        axis.bar(np.arange(1, len(ordered) + 1), ordered, width=0.85, color=COLOURS[0])
        axis.axhline(1 / len(ordered), **FLOOR)
        finish(axis, title)
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlabel("codes by use", fontsize=FONT_POINTS, color=INK)
    return image(figure)


def confusion(shares: np.ndarray, names: tuple[str, ...]) -> Image.Image:
    """Shares [A, A] of the answers (columns) to pairs of each true action (rows), nan where there are no pairs; from half a percent on written in the cell."""
    number = len(names)
    side = min(9.4, 2.6 + 0.36 * number)
    figure = Figure(figsize=(side, side), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    _map(axis, "")
    axis.set_xticks(range(number), names, rotation=90, fontsize=FONT_POINTS, parse_math=False)
    axis.set_yticks(range(number), names, fontsize=FONT_POINTS, parse_math=False)
    axis.set_xlabel("retrieved", fontsize=FONT_POINTS, color=INK)
    axis.set_ylabel("true", fontsize=FONT_POINTS, color=INK)
    for i, j in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005)):
        colour = "white" if shares[i, j] > 0.55 else "#2b3340"
        axis.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=max(3.5, min(7.0, 140 / number)), color=colour)
    return image(figure)


def by_frequency(points: list[Point], chance: float | None = None) -> Image.Image:
    """Accuracy against share of training with intervals, a named point per action, first those that raise a factor; dotted the `chance` of guessing."""
    figure = Figure(figsize=(9.4, 4.9), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    if chance is not None:
        axis.axhline(chance, **FLOOR)
    frequencies = [point.frequency for point in points]
    if min(frequencies) > 0 and max(frequencies) >= 10 * min(frequencies):
        axis.set_xscale("log")
    axis.update_datalim([(p.frequency, y) for p in points for y in p.interval or [p.accuracy]])
    axis.margins(x=0.15, y=0.08)
    axis.autoscale_view()
    finish(axis, "")
    for along, name in ((axis.xaxis, "share of the training pairs"), (axis.yaxis, "accuracy on test pairs")):
        along.set_major_formatter(PercentFormatter(1, decimals=None))
        along.set_label_text(name, fontsize=FONT_POINTS, color=INK)
    _points(figure, axis, points)
    return image(figure)


def places(anchors: np.ndarray, sizes: np.ndarray, bars: np.ndarray, inside: np.ndarray, gap: float) -> np.ndarray:
    """Lower left corners [P, 2] of boxes of `sizes` [P, 2] beside `anchors` [P, 2], in pixels: near them, apart from one another, from anchors and from bars.

    bars: boxes (left, bottom, right, top) [Q, 4] that had better be left free, inside: [4] that which holds all. Greedy, the highest anchor first; of the
    candidates, to the right and left at rising distances, the one that overlaps least and then is nearest.
    """
    taken = np.concatenate([anchors - gap, anchors + gap], axis=1)
    corners = np.zeros((len(anchors), 2))
    for i in np.argsort(-anchors[:, 1], kind="stable"):
        width, height = sizes[i]
        rise, across, left = (x.ravel() for x in np.meshgrid(np.arange(-40, 41) * height * 0.5, gap * np.array([1.8, 4.0, 7.0, 11.0]), [0, 1], indexing="ij"))
        low = anchors[i] + np.stack([np.where(left, -across - width, across), rise - height / 2], axis=1)
        boxes = np.concatenate([low, low + sizes[i]], axis=1)
        outside = ((boxes[:, :2] < inside[:2]) | (boxes[:, 2:] > inside[2:])).any(axis=1)
        cost = 1e3 * (_overlap(boxes, taken) + outside) + 1e3 * _overlap(boxes, bars) + np.hypot(across, rise)
        chosen = int(np.argmin(cost))
        taken = np.concatenate([taken, boxes[chosen : chosen + 1]])
        corners[i] = low[chosen]
    return corners


def _points(figure: Figure, axis: Axes, points: list[Point]) -> None:
    """Marks, bars and names of the points in the final layout of the axes; names that are not near are joined to their point by a thin line."""
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")
    pixel, gap = DPI / 72, 4.5 * DPI / 72
    shift = np.array([(2 * (2 * i // len(points)) - 1) * 2.2 * pixel for i in range(len(points))])  # both ways of a factor are often equally frequent
    at = lambda y: axis.transData.transform([(p.frequency, v) for p, v in zip(points, y)]) + shift[:, None] * np.array([[1, 0]])
    anchors, low, high = at([p.accuracy for p in points]), *(at([end(p.interval or [p.accuracy]) for p in points]) for end in (min, max))
    text = dict(fontsize=FONT_POINTS - 1, color=INK, va="center", transform=None, parse_math=False)
    names = [axis.text(0, 0, p.name, **text) for p in points]
    box = axis.get_window_extent()
    sizes = np.array([(extent.width + 2 * pixel, extent.height) for extent in (name.get_window_extent() for name in names)])
    bars = np.concatenate([low - [2 * pixel, 0], high + [2 * pixel, 0]], axis=1)
    corners = places(anchors, sizes, bars, np.array([box.x0, box.y0, box.x1, box.y1]), gap)
    for i, (name, corner, size, anchor) in enumerate(zip(names, corners, sizes, anchors)):
        way, centre = 2 * i // len(points), corner[1] + size[1] / 2
        axis.plot(*np.stack([low[i], high[i]]).T, color=COLOURS[way], linewidth=0.9, alpha=0.6, transform=None)
        axis.plot(*anchor, color=COLOURS[way], marker=MARKERS[way], markersize=5, transform=None)
        name.set_position((corner[0], centre))
        side = corner[0] - 3 if corner[0] > anchor[0] else corner[0] + size[0] + 3
        if np.hypot(side - anchor[0], centre - anchor[1]) > 2.5 * gap:
            axis.plot([side, anchor[0]], [centre, anchor[1]], color=INK, linewidth=0.5, alpha=0.8, transform=None, zorder=0)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that boxes [P, 4] share with the others [Q, 4], over their own: [P]."""
    shared = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    return np.maximum(shared, 0).prod(axis=2).sum(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _map(axis: Axes, title: str) -> None:
    axis.patch.set_alpha(0)
    axis.set_title(title, fontsize=FONT_POINTS, color=INK, parse_math=False)
    axis.tick_params(colors=INK, labelsize=FONT_POINTS, length=0)
    axis.spines[:].set_visible(False)


def _scale(figure: Figure, shown, axes: list[Axes]) -> None:
    bar = figure.colorbar(shown, ax=axes, orientation="horizontal", shrink=0.8, aspect=30 * len(axes), pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=FONT_POINTS, length=0)
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
