"""Charts with matplotlib's object-oriented interface (no pyplot, no global state), on a transparent ground."""

import colorsys
import io
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation
from PIL import Image

from causal_ctx.reports.canvas import INK

DPI = 200
FONT_POINTS = 8.5
MOST_POINTS = 120  # of a line in the page
COLOURS = ("#3a86c8", "#e07b28", "#33a06f", "#b25fb8", "#cf5252", "#9a8f3c")
PUBLISHED = dict(marker="s", markersize=4.5, markerfacecolor="none", linestyle="")
FLOOR = dict(color=INK, linewidth=1.2, linestyle=":")
UNITS = {"bpp": "bits/pixel", "nats": "nats", "mse": "squared error", "db": "dB"}
SHADES = LinearSegmentedColormap.from_list("shades", ["#f1f4f8", "#9dbfe0", "#3a86c8", "#1b3f70"])
TRUE_SHADES = LinearSegmentedColormap.from_list("true shades", ["#f8f4f0", "#f0c49c", "#e07b28", "#7a3b0a"])


def heat_maps(
    norms: dict[str, np.ndarray],
    names: tuple[str, ...],
    true: dict[str, np.ndarray] | None = None,
    sides: tuple[str, str] = ("noise of", "heard by"),
    diagonal: bool = False,
) -> Image.Image:
    """One map [K, K] per title, all on one colour scale; below it the `true` one of its title, in other colours on their own scale.

    `sides` says what columns and rows are; without `diagonal` what a concept has to do with itself is left out, of the scale too.
    """
    shown = np.full((len(names),) * 2, diagonal) | ~np.eye(len(names), dtype=bool)
    layers = [("", norms, SHADES), *([("true, ", true, TRUE_SHADES)] if true else [])]
    columns = min(4, len(norms))
    lines = -(-len(norms) // columns)
    figure = Figure(figsize=(9.4, 2.35 * lines * len(layers) + 0.75), dpi=DPI, layout="constrained")
    axes = figure.subplots(lines * len(layers), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for layer, (prefix, maps, shades) in enumerate(layers):
        top = max((float(m[shown].max(initial=0)) for m in maps.values()), default=0) or 1
        for i, title in enumerate(norms):
            line, column = divmod(i, columns)
            axis = axes[line * len(layers) + layer, column]
            _heat_map(axis, np.where(shown, maps[title], np.nan), (top, shades), names)
            axis.set_title(prefix + title, fontsize=FONT_POINTS, color=INK, parse_math=False)  # names are the user's, dollars in them no formulas
            axis.tick_params(labelleft=column == 0, labelbottom=layer == len(layers) - 1 and line == lines - 1)
    figure.supxlabel(sides[0], fontsize=FONT_POINTS, color=INK)
    figure.supylabel(sides[1], fontsize=FONT_POINTS, color=INK)
    return image(figure)


def curves(records: dict[str, list[list[dict]]], floor_bpp: float | None = None, keys: list[str] | None = None) -> Image.Image:
    """A panel per logged name in `keys`, by default those of `terms`; per label a colour, per seed a line; x: images seen."""
    keys = terms(records) if keys is None else keys
    figure, axes = figure_of(len(keys), min(4, len(keys)), 2.3, list(records) if len(records) > 1 else [])
    for axis, key in zip(axes, keys):
        if floor_bpp is not None and key == "validation/elbo_bpp":
            axis.axhline(floor_bpp, **FLOOR)
        _curves(axis, key, records)
    if len(records) > 1:
        legend(figure, dict(zip(records, (dict(color=colour) for colour in colours(len(records))))))
    return image(figure)


def panels(records: dict[str, list[list[dict]]], seeds: dict[str, list[int]], keys: list[str], floor_bpp: float | None = None) -> list[dict]:
    """`curves` as numbers, for a page that draws them: {"title", "floor", "lines": [{"label", "name", "colour", its number, "points": [[images seen, value], ...]}]}.

    seeds: {label: of every log}. A line is the means of MOST_POINTS pieces of equal length where there is more.
    """
    def lines(key: str) -> list[dict]:
        return [
            {"label": label, "name": f"{label}, seed {seed}" if len(logs) > 1 else label, "colour": place, "points": _thinned(_points(log, key))}
            for place, (label, logs) in enumerate(records.items())
            for seed, log in zip(seeds[label], logs)
        ]

    return [{"title": _title(key), "floor": floor_bpp if key == "validation/elbo_bpp" else None, "lines": lines(key)} for key in keys]


def _points(log: list[dict], key: str) -> np.ndarray:
    """(images seen, value) [n, 2] of what was logged under a name."""
    return np.array([(r["images"], r[key]) for r in log if isinstance(r.get(key), int | float)], float).reshape(-1, 2)


def _thinned(points: np.ndarray) -> list[list[float]]:
    points = points[np.isfinite(points).all(axis=1)]
    parts = np.array_split(points, MOST_POINTS) if len(points) > MOST_POINTS else [point[None] for point in points]
    return [[round(float(x)), float(f"{y:.5g}")] for x, y in (part.mean(axis=0) for part in parts)]


def ablation(panels: dict[str, dict[str, list]], x_name: str, floor: str = "floor") -> Image.Image:
    """A panel per title, in it a line per label along a field: points with `x` and Estimates `ours`, `published` and `floor` (the latter two may be None),
    of which the legend calls the last `floor`.

    Bars are standard errors. Published points are hollow: of the second colour beside a single line, else of the colour of their line.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    shades = dict(zip(labels, colours(len(labels))))
    hollow = {label: COLOURS[1] if len(labels) == 1 else shades[label] for label in labels}
    keys = {label: dict(color=shades[label], marker="o", markersize=4) for label in labels}
    points = [p for lines in panels.values() for line in lines.values() for p in line]
    if any(p.published for p in points):
        keys["published"] = dict(PUBLISHED, color=COLOURS[1] if len(labels) == 1 else INK)
    if any(p.floor for p in points):
        keys[floor] = FLOOR
    figure, axes = figure_of(len(panels), min(2, len(panels)), 2.4, list(keys))
    step = min(3.5, 20 / len(labels))  # points by which marks at one value stand apart
    for axis, (title, lines) in zip(axes, panels.items()):
        for label, line in lines.items():
            shift = step * (2 * labels.index(label) - len(labels) + 1)
            _bars(axis, [(p.x, p.ours) for p in line], shift, color=shades[label], marker="o", markersize=4)
            _bars(axis, [(p.x, p.published) for p in line], shift + step, **PUBLISHED | {"color": hollow[label]})
            axis.plot(*np.reshape([(p.x, p.floor.mean) for p in line if p.floor], (-1, 2)).T, **FLOOR)
        along(axis, sorted({p.x for p in points}), x_name)
        finish(axis, title)
    legend(figure, keys)
    return image(figure)


def colours(num: int) -> list:
    """That many colours, legible on white and on near-black."""
    return list(COLOURS[:num]) if num <= len(COLOURS) else [colorsys.hls_to_rgb(i / num, 0.52, 0.55) for i in range(num)]


def figure_of(num: int, columns: int, height: float, labels: list[str]) -> tuple[Figure, np.ndarray]:
    """A figure with `num` panels of a height in inches, and room for a legend of `labels`."""
    lines = -(-num // columns)
    legend = 0.19 * -(-len(labels) // _legend_columns(labels)) if labels else 0
    figure = Figure(figsize=(9.4, height * lines + legend), dpi=DPI, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[num:]:
        axis.set_axis_off()
    return figure, axes


def legend(figure: Figure, styles: dict[str, dict]) -> None:
    """Above the panels, a key per label {label: how its mark or line is drawn}."""
    handles = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=_legend_columns(list(styles)), frameon=False, fontsize=FONT_POINTS, labelcolor=INK)


def _legend_columns(labels: list[str]) -> int:
    return max(1, min(6, len(labels), 130 // (8 + max(map(len, labels)))))  # 130 characters are about the width of the figure


def _bars(axis: Axes, estimates: list, shift: float, **style) -> None:
    """Means with bars of their standard errors at (x, Estimate or None), drawn `shift` points to the right of x."""
    found = [(x, e.mean, math.nan if e.standard_error is None else e.standard_error) for x, e in estimates if e]
    x, mean, error = np.reshape(found, (-1, 3)).T
    aside = axis.transData + ScaledTranslation(shift / 72, 0, axis.figure.dpi_scale_trans)
    axis.errorbar(x, mean, error, transform=aside, capsize=2, linewidth=1.3, elinewidth=1.1, **style)
    spread = np.nan_to_num(error)
    axis.update_datalim([*zip(x, mean - spread), *zip(x, mean + spread)])  # which shifted marks do not do


def along(axis: Axes, values: list[float], name: str) -> None:
    """The x axis: a tick at every value; logarithmic over a decade or more, linear about 0 where the values hold it."""
    positive = [abs(v) for v in values if v]
    if positive and max(positive) >= 10 * min(positive):
        axis.set_xscale("log") if min(values) > 0 else axis.set_xscale("symlog", linthresh=min(positive))
    axis.set_xticks(values, [f"{v:g}" for v in values])
    axis.set_xticks([], minor=True)
    axis.margins(x=0.12)
    axis.set_xlabel(name, fontsize=FONT_POINTS, color=INK)


def finish(axis: Axes, title: str) -> None:
    """Title, ticks and grid as every panel has them."""
    axis.patch.set_alpha(0)
    axis.set_title(title, fontsize=FONT_POINTS, color=INK, loc="left")
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.tick_params(colors=INK, labelsize=FONT_POINTS, length=0)
    axis.grid(color=INK, alpha=0.2, linewidth=0.6)
    axis.spines[:].set_visible(False)


def _heat_map(axis: Axes, norms: np.ndarray, scale: tuple[float, LinearSegmentedColormap], names: tuple[str, ...]) -> None:
    """A map, empty where it is not a number; `scale` is (the largest value, colours)."""
    K, (top, shades) = len(names), scale
    axis.set_axis_on()
    axis.patch.set_alpha(0)
    axis.imshow(norms, cmap=shades, vmin=0, vmax=top)
    axis.set_xticks(range(K), names, rotation=90, fontsize=FONT_POINTS, parse_math=False)
    axis.set_yticks(range(K), names, fontsize=FONT_POINTS, parse_math=False)
    axis.tick_params(length=0, colors=INK)
    axis.spines[:].set_visible(False)
    for i, j in np.ndindex(K, K):
        if np.isfinite(norms[i, j]):
            colour = "white" if norms[i, j] > 0.55 * top else "#2b3340"
            axis.text(j, i, _short(norms[i, j]), ha="center", va="center", fontsize=max(3.5, min(7.0, 42 / K)), color=colour)


def _short(number: float) -> str:
    return "0" if number == 0 else f"{number:.2f}" if number < 10 else f"{number:.3g}"


def _curves(axis: Axes, key: str, records: dict[str, list[list[dict]]]) -> None:
    tops = []
    for colour, logs in zip(colours(len(records)), records.values()):
        for log in logs:
            points = _points(log, key)
            few = len(logs) == 1 and len(points) < 40
            axis.plot(*points.T, color=colour, linewidth=1.3 if len(logs) == 1 else 0.7, marker="o" if few else "", markersize=2.5)
            settled = points[len(points) // 10 :, 1]  # the first steps would flatten everything after them
            tops += [settled[np.isfinite(settled)].max(initial=-np.inf)]
    bottom, _ = axis.get_ylim()
    if max(tops) > bottom:
        axis.set_ylim(top=max(tops) + 0.05 * (max(tops) - bottom))
    axis.set_xlabel("images seen", fontsize=FONT_POINTS, color=INK)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(4))
    finish(axis, _title(key))


def terms(records: dict[str, list[list[dict]]]) -> list[str]:
    """Logged names that get a panel: the loss, its terms in the order of their first mention, the validation measure."""
    seen = dict.fromkeys(key for logs in records.values() for log in logs for record in log for key in record)
    losses = [key for key in seen if key.startswith("train/") and key.endswith("_nats")]
    return [*sorted(losses, key=lambda key: key != "train/loss_nats"), *(key for key in seen if key == "validation/elbo_bpp")]


def logged(records: dict[str, list[list[dict]]]) -> list[str]:
    """All logged names "train/..." and "validation/..." that hold numbers, those of a mode beside one another, losses first."""
    seen = dict.fromkeys(key for logs in records.values() for log in logs for record in log for key, v in record.items() if isinstance(v, int | float))
    ours = [key for key in seen if key.startswith(("train/", "validation/"))]
    modes = list(dict.fromkeys(key.rpartition("/")[0] for key in ours))
    return sorted(ours, key=lambda key: (key.startswith("validation/"), modes.index(key.rpartition("/")[0]), not key.rpartition("/")[2].startswith("loss")))


def _title(key: str) -> str:
    """"train/kl_nats" as "KL, nats", "validation/elbo_bpp" as "validation −ELBO, bits/pixel", "train/base/latent_nats" as "base latent, nats"."""
    split, *mode, name = key.split("/")
    quantity, _, last = name.rpartition("_")
    unit = UNITS.get(last, "")
    quantity = quantity if unit else name
    words = [*([] if split == "train" else [split]), *mode, {"kl": "KL", "elbo": "−ELBO", "psnr": "PSNR"}.get(quantity, quantity)]
    return " ".join(filter(None, words)).replace("_", " ") + (f", {unit}" if unit else "")


def image(figure: Figure) -> Image.Image:
    """The figure as a picture, on a transparent ground."""
    figure.patch.set_alpha(0)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGBA")
