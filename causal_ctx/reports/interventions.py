"""What `evaluation.interventions.subset_distances` measured, as a figure and as a table for a terminal.

`scores` is its dict, the contents of interventions.json: "subsets" by context name and "by_size" by number of simultaneous interventions.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from causal_ctx.reports.canvas import INK
from causal_ctx.reports.charts import COLOURS, DPI, FONT_POINTS
from causal_ctx.reports.figures import Picture

MARKERS = "osD^"
APART = 0.07  # between lines that may coincide, in interventions


def picture(scores: dict) -> Picture:
    """Distance against the number of simultaneous interventions: a line per quirk setting, bars from the closest to the farthest subset, dotted the floor."""
    figure = Figure(figsize=(6.4, 4.0), dpi=DPI, layout="constrained")
    figure.patch.set_alpha(0)
    axis = figure.subplots()
    _lines(axis, scores)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=FONT_POINTS, labelcolor=INK)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Picture(
        "interventions", "Simultaneous interventions", Image.fromarray(np.asarray(canvas.buffer_rgba()).copy()),
        "Sliced Wasserstein distance of generated to real images, mean over the subsets with equally many interventions; bars reach from the closest to the "
        "farthest subset. Dotted: real against real images. Two or more interventions were never seen together in training.",
        f"Distance under {len(scores['subsets'])} subsets of interventions, a line for each of the settings {'; '.join(_settings(scores))}.",
    )


def table(scores: dict) -> str:
    """Mean distance by setting (rows) and number of simultaneous interventions (columns), the floor in the last row."""
    by_size = scores["by_size"]
    rows = [("interventions", *by_size), ("subsets", *(str(group["subsets"]) for group in by_size.values()))]
    rows += [(_readable(setting), *(f"{group['distance'][setting]:.3f}" for group in by_size.values())) for setting in _settings(scores)]
    rows += [("floor", *(f"{group['floor']:.3f}" for group in by_size.values()))]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:]))]) for first, *cells in rows]
    rule = "─" * len(lines[0])
    return "\n".join(["Sliced Wasserstein distance by number of simultaneous interventions", rule, *lines[:2], rule, *lines[2:], rule])


def _lines(axis: Axes, scores: dict) -> None:
    axis.patch.set_alpha(0)
    settings = _settings(scores)
    for i, setting in enumerate(settings):
        sizes, means, spread = _spread(scores, setting)
        shifted = sizes + APART * (i - (len(settings) - 1) / 2)
        axis.errorbar(shifted, means, spread, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], markersize=4, linewidth=1.3,
                      elinewidth=0.8, capsize=2, label=_readable(setting))
    sizes = [int(size) for size in scores["by_size"]]
    axis.plot(sizes, [group["floor"] for group in scores["by_size"].values()], color=INK, linewidth=1.2, linestyle=":", label="floor: real against real")
    axis.set_xlabel("simultaneous interventions", fontsize=FONT_POINTS, color=INK)
    axis.set_ylabel("sliced Wasserstein distance", fontsize=FONT_POINTS, color=INK)
    axis.set_ylim(bottom=0)
    axis.set_xticks(sizes)
    axis.yaxis.set_major_locator(MaxNLocator(6))
    axis.tick_params(colors=INK, labelsize=FONT_POINTS, length=0)
    axis.grid(color=INK, alpha=0.2, linewidth=0.6)
    axis.spines[:].set_visible(False)


def _spread(scores: dict, setting: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes [S], mean distances [S], and how far below and above the mean the subsets reach [2, S]."""
    sizes = np.array([int(size) for size in scores["by_size"]])
    values = [np.array([s["distance"][setting] for s in scores["subsets"].values() if s["size"] == size]) for size in sizes]
    means = np.array([v.mean() for v in values])
    return sizes, means, np.array([[m - v.min() for m, v in zip(means, values)], [v.max() - m for m, v in zip(means, values)]])


def _settings(scores: dict) -> list[str]:
    return list(next(iter(scores["by_size"].values()))["distance"])


def _readable(setting: str) -> str:
    """"composition=cut,noise_mixing=block" as "composition cut, noise mixing block"."""
    return setting.replace("=", " ").replace(",", ", ").replace("_", " ")
