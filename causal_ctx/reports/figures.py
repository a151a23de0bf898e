"""Figures of a finished run. Every function takes a Run (see causal_ctx.run) and returns a Picture."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from causal_ctx.evaluation.graph import block_norms
from causal_ctx.files import write_atomically
from causal_ctx.reports.canvas import ACCENT, REAL, above, beside, framed, label, label_width, on_white, tiles
from causal_ctx.reports.charts import curves, heat_maps, panels, terms
from causal_ctx.reports.reading import read_metrics, read_results
from causal_ctx.reports.tables import value

MOST_CONTEXTS = 24
MOST_CONCEPTS = 12
SECTION_GAP = 40
TRUE = (
    " Orange, on a scale of its own: by how many of its standard deviations a concept truly moves, either way, when the noise of another rises by one of its "
    "own, through all paths. Compare where a map is dark, not the numbers: a learned concept has no unit."
)
ROWS_ALONE = " Of what an intervention cuts, a module can silence the row of its concept alone; paths that led through it stay as they were under obs."
LAYERS = {
    "reduced": "The diagonal is the identity by construction. An intervention silences everything its concept hears and lets its own noise speak through separate weights.",
    "structural": "Through all paths of the learned structural equations. An intervention silences everything its concept hears, and so what came through it.",
}


class Picture(NamedTuple):
    """`image` is RGBA on a transparent ground at two pixels per displayed pixel; `name` is the stem of its file. With `panels` (see `charts.panels`) the page
    draws the curves itself, so that values can be read off, and the image is for files and where there are no scripts."""

    name: str
    title: str
    image: Image.Image
    caption: str
    alt: str
    panels: Sequence[dict] = ()


def interventions(context: str) -> frozenset[str]:
    """The names intervened on: "obs" -> none, "a+b" -> both."""
    return frozenset(context.split("+")) - {"obs"}


def reconstructions(run, num: int = 6) -> Picture:
    """Held-out images of every context, compositions included, above their reconstructions."""
    contexts = list(run.data.held_out)[:MOST_CONTEXTS]
    panels = []
    for context in contexts:
        real = np.asarray(run.data.held_out[context][:num])
        panels.append((context, above([beside(tiles(real)), beside(tiles(run.reconstruct(real, interventions(context))))])))
    depth = len(panels) if len(panels) <= 4 else -(-len(panels) // 2)
    columns = [above(_named(panels[i : i + depth]), gap=20) for i in range(0, len(panels), depth)]
    image = beside(columns, gap=SECTION_GAP, align=0.0)
    return Picture(
        "reconstructions", "Reconstructions", image,
        "Held-out images (upper row of each context) above their reconstructions under that context's targets.",
        f"{num} held-out images and their reconstructions for each of the contexts {', '.join(contexts)}.",
    )


def samples(run, num: int = 8, num_real: int = 4, seed: int = 0) -> Picture:
    """Generated images, a row per context, with the SAME exogenous noise down every column; real held-out images beside them."""
    contexts = list(run.data.held_out)[:MOST_CONTEXTS]
    rows = []
    for context in contexts:
        generated = beside(tiles(run.generate(interventions(context), num, seed)))
        real = beside(tiles(np.asarray(run.data.held_out[context][:num_real])))
        rows.append((context, beside([generated, real], gap=SECTION_GAP)))
    heading = beside([label("generated, one noise per column", generated.width), label("real, held out", real.width)], gap=SECTION_GAP)
    named = _named([("", heading), *rows])
    known = 1 + sum("+" not in context for context in contexts)
    image = above([above(part) for part in (named[:known], named[known:]) if part], gap=20)
    return Picture(
        "samples", "Samples", image,
        "Generated images: each column shares its noise, each row its interventions, so what changes down a column is what "
        "the interventions change. Rows with a plus are compositions never seen in training. Right: real held-out images, of other noise.",
        f"{num} generated and {num_real} real images for each of the contexts {', '.join(contexts)}.",
    )


def composition_grid(run, num: int = 4, seed: int = 0) -> Picture:
    """K x K cells of the same noise: generated under both interventions on and below the diagonal, real held-out pairs mirrored above it, both framed."""
    concepts = run.concepts[:MOST_CONCEPTS]
    num = num if len(concepts) <= 8 else 1
    held_out = {interventions(context): images for context, images in run.data.held_out.items() if "+" in context}
    names, legend = [f"do({concept})" for concept in concepts], ["real ↗", "generated ↙"] if held_out else [""]
    cells = [[_composition_cell(run, held_out, (row, column), (num, seed)) for column in concepts] for row in concepts]
    width = label_width([*legend, *names])
    corner = above([label(line, width, 1.0) for line in legend])
    header = beside([corner, *(label(name, cells[0][0].width, 0.5) for name in names)], gap=12, align=1.0)
    image = above([header, *(beside([label(name, width, 1.0), *row], gap=12) for name, row in zip(names, cells))], gap=12)
    return Picture(
        "compositions", "Compositions", image,
        "Diagonal: generated under a single intervention. Below it: generated under both interventions of row and column, with the "
        "same noise in every cell; no pair was trained on. Orange frames: pairs of which there are real images, in blue frames mirrored above the diagonal.",
        f"Grid of {len(concepts)} by {len(concepts)} cells for the concepts {', '.join(concepts)}: generated images below, real held-out images above the diagonal.",
    )


def causal_blocks(run) -> Picture | None:
    """Frobenius norms of the blocks of the causal layer, [K, K], for obs and every single intervention, above the true effects where they are known; None
    without a module or with one concept."""
    sets = [frozenset(), *(frozenset({c}) for c in run.concepts[:MOST_CONCEPTS])]
    blocks = [run.causal_blocks(names) for names in sets]
    if len(run.concepts) < 2 or any(b is None for b in blocks):
        return None
    titles = dict(zip(["obs", *run.concepts], ["obs", *(f"do({c})" for c in run.concepts)]))
    norms = dict(zip(titles.values(), map(block_norms, blocks)))
    known, layer = run.data.total_effects, "structural" if "structural" in run.predictor.rules else "reduced"
    true = {title: np.abs(known[context]) for context, title in titles.items() if title in norms} if known else None
    shown = ", above the true ones" if true else ""
    return Picture(
        "causal_blocks", "Causal blocks", heat_maps(norms, run.concepts, true),
        f"How strongly a concept (row) hears the noise of another (column): Frobenius norm of the block between them. {LAYERS[layer]}"
        + (TRUE + (ROWS_ALONE if layer == "reduced" else "") if true else ""),
        f"Heat maps of block norms between the concepts {', '.join(run.concepts)}, observational and for each intervention{shown}.",
    )


def training_curves(runs: dict[str, list]) -> Picture | None:
    """Loss terms and validation ELBO of runs {label: its seeds} against the images seen; None while nothing was logged."""
    records = logged_by(runs)
    if not terms(records):
        return None
    every = [run for seeds in runs.values() for run in seeds]
    floors = {value(read_results(run.workdir), "strict", "in_distribution", part="floor") for run in every} - {None}
    floor = floors.pop() if len(floors) == 1 else None
    dotted = " The dotted line is the entropy floor of the images." if floor is not None else ""
    thin = " A thin line is a seed." if len(every) > len(runs) else ""
    return Picture(
        "training_curves", "Training", curves(records, floor),
        "Terms of the training loss, in nats per image, and the validation ELBO in bits per pixel, against images seen." + thin + dotted,
        f"Line charts of the loss terms and the validation ELBO of {', '.join(name or 'the run' for name in records)}.",
        panels(records, seeds_of(runs), terms(records), floor),
    )


def logged_by(runs: dict[str, list]) -> dict[str, list[list[dict]]]:
    """{label: the log of every run that has one} of {label: runs}."""
    return {name: logs for name, seeds in runs.items() if (logs := [log for run in seeds if (log := read_metrics(run.workdir))])}


def seeds_of(runs: dict[str, list]) -> dict[str, list[int]]:
    """{label: the seed of every run that has a log}."""
    return {name: [read_results(run.workdir)["seed"] for run in seeds if read_metrics(run.workdir)] for name, seeds in runs.items()}


def pictures(run) -> list[Picture]:
    """Every figure of one run, without those that its method does not have."""
    drawn = (composition_grid(run), samples(run), reconstructions(run), causal_blocks(run))
    return [picture for picture in drawn if picture]


def write_all(run, folder) -> list[Path]:
    """Every figure of the run and its training curves as PNG files on white in `folder`, made if absent; returns their paths."""
    return save([*pictures(run), training_curves({run.data.name: [run]})], folder)


def save(drawn: Iterable[Picture | None], folder) -> list[Path]:
    """PNG files on white, `name`.png each, in `folder`, made if absent; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in filter(None, drawn):
        paths.append(folder / f"{picture.name}.png")
        stream = io.BytesIO()
        on_white(picture.image).save(stream, "PNG")
        write_atomically(paths[-1], stream.getvalue())
    return paths


def _composition_cell(run, held_out: dict, pair: tuple[str, str], drawn: tuple[int, int]) -> Image.Image:
    """One cell of the grid: `drawn` is (how many images, seed); real images above the diagonal, where there are any."""
    num, seed = drawn
    names = frozenset(pair)
    below = run.concepts.index(pair[0]) >= run.concepts.index(pair[1])
    real = held_out.get(names)
    if not below and real is None:
        return framed(Image.new("RGBA", _square(tiles(np.zeros((num, *run.data.image_shape)))).size), None)
    images = run.generate(names, num, seed) if below else np.asarray(real[:num])
    return framed(_square(tiles(images)), None if real is None else ACCENT if below else REAL)


def _square(images: list[Image.Image]) -> Image.Image:
    side = int(np.ceil(np.sqrt(len(images))))
    return above([beside(images[i : i + side]) for i in range(0, len(images), side)])


def _named(rows: list[tuple[str, Image.Image]]) -> list[Image.Image]:
    """Every picture with its name to the left, all in one column."""
    width = label_width([name for name, _ in rows])
    return [beside([label(name, width, 1.0), picture], gap=20) for name, picture in rows]
