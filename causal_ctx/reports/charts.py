"""Charts with matplotlib's object-oriented interface (no pyplot, no global state), on a transparent ground."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from causal_ctx.reports.canvas import INK

DPI = 200
FONT_POINTS = 8.5
COLOURS = ("#3a86c8", "#e07b28", "#33a06f", "#b25fb8", "#cf5252", "#9a8f3c")
SHADES = LinearSegmentedColormap.from_list("shades", ["#f1f4f8", "#9dbfe0", "#3a86c8", "#1b3f70"])


def heat_maps(norms: dict[str, np.ndarray], names: tuple[str, ...]) -> Image.Image:
    """One map [K, K] per title, all on one colour scale taken off the diagonal."""
    columns = min(4, len(norms))
    lines = -(-len(norms) // columns)
    figure = Figure(figsize=(9.4, 2.35 * lines + 0.75), dpi=DPI, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    off_diagonal = ~np.eye(len(names), dtype=bool)
    top = max((float(n[off_diagonal].max(initial=0)) for n in norms.values()), default=0) or 1
    for i, axis in enumerate(axes):
        axis.set_axis_off()
        if i < len(norms):
            title = list(norms)[i]
            _heat_map(axis, np.where(off_diagonal, norms[title], np.nan), top, names)
            axis.set_title(title, fontsize=FONT_POINTS, color=INK)
            axis.tick_params(labelleft=i % columns == 0, labelbottom=i // columns == lines - 1)
    figure.supxlabel("noise of", fontsize=FONT_POINTS, color=INK)
    figure.supylabel("heard by", fontsize=FONT_POINTS, color=INK)
    return _image(figure)


def curves(records: dict[str, list[dict]], floor_bpp: float | None = None) -> Image.Image:
    """A panel per term `train/*_nats` and one for `validation/elbo_bpp`, a line per run; x: images seen."""
    keys = terms(records)
    columns = min(4, len(keys))
    lines = -(-len(keys) // columns)
    figure = Figure(figsize=(9.4, 2.3 * lines), dpi=DPI, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(keys) :]:
        axis.set_axis_off()
    for axis, key in zip(axes, keys):
        if floor_bpp is not None and key == "validation/elbo_bpp":
            axis.axhline(floor_bpp, color=INK, linewidth=1.2, linestyle=":")
        _curves(axis, key, records)
    if len(records) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(4, len(records)),
                      frameon=False, fontsize=FONT_POINTS, labelcolor=INK)
    return _image(figure)


def _heat_map(axis: Axes, norms: np.ndarray, top: float, names: tuple[str, ...]) -> None:
    K = len(names)
    axis.set_axis_on()
    axis.patch.set_alpha(0)
    axis.imshow(norms, cmap=SHADES, vmin=0, vmax=top)
    axis.set_xticks(range(K), names, rotation=90, fontsize=FONT_POINTS)
    axis.set_yticks(range(K), names, fontsize=FONT_POINTS)
    axis.tick_params(length=0, colors=INK)
    axis.spines[:].set_visible(False)
    for i, j in np.ndindex(K, K):
        if i != j:
            colour = "white" if norms[i, j] > 0.55 * top else "#2b3340"
            axis.text(j, i, _short(norms[i, j]), ha="center", va="center", fontsize=max(3.5, min(7.0, 42 / K)), color=colour)


def _short(number: float) -> str:
    return "0" if number == 0 else f"{number:.2f}" if number < 10 else f"{number:.3g}"


def _curves(axis: Axes, key: str, records: dict[str, list[dict]]) -> None:
    axis.patch.set_alpha(0)
    tops = []
    for i, (name, log) in enumerate(records.items()):
        points = np.array([(r["images"], r[key]) for r in log if isinstance(r.get(key), int | float)], float).reshape(-1, 2)
        axis.plot(*points.T, color=COLOURS[i % len(COLOURS)], linewidth=1.3, label=name, marker="o" if len(points) < 40 else "", markersize=2.5)
        settled = points[len(points) // 10 :, 1]  # the first steps would flatten everything after them
        tops += [settled[np.isfinite(settled)].max(initial=-np.inf)]
    bottom, _ = axis.get_ylim()
    if max(tops) > bottom:
        axis.set_ylim(top=max(tops) + 0.05 * (max(tops) - bottom))
    axis.set_title(_title(key), fontsize=FONT_POINTS, color=INK, loc="left")
    axis.set_xlabel("images seen", fontsize=FONT_POINTS, color=INK)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(colors=INK, labelsize=FONT_POINTS, length=0)
    axis.grid(color=INK, alpha=0.2, linewidth=0.6)
    axis.spines[:].set_visible(False)


def terms(records: dict[str, list[dict]]) -> list[str]:
    """Logged names that get a panel: the loss, its terms in the order of their first mention, the validation measure."""
    seen = dict.fromkeys(key for log in records.values() for record in log for key in record)
    losses = [key for key in seen if key.startswith("train/") and key.endswith("_nats")]
    return [*sorted(losses, key=lambda key: key != "train/loss_nats"), *(key for key in seen if key == "validation/elbo_bpp")]


def _title(key: str) -> str:
    split, name = key.split("/")
    quantity, unit = name.rsplit("_", 1)
    quantity = {"kl": "KL", "elbo": "−ELBO"}.get(quantity, quantity.replace("_", " "))
    return f"{quantity if split == 'train' else f'{split} {quantity}'}, {dict(bpp='bits/pixel', nats='nats')[unit]}"


def _image(figure: Figure) -> Image.Image:
    figure.patch.set_alpha(0)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGBA")
