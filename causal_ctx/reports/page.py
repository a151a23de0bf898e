"""One self-contained HTML page for one or several runs: no request to anywhere, light and dark, a small script that only sorts tables."""

import base64
import importlib.resources
import io
import json
import math
import os
import re
import string
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from causal_ctx.files import write_atomically
from causal_ctx.progress import duration
from causal_ctx.reports import ablations, data_card, figures, formats, tables
from causal_ctx.reports.labels import labelled, labelled_results
from causal_ctx.reports.published import CITATION
from causal_ctx.reports.reading import Folder, read_card, read_config
from causal_ctx.reports.verdict import verdict

MOST_BYTES = 9_500_000
MOST_LABELS = 8  # that get figures of their own
MOST_LINES = 12  # of runs that are shown unfolded
QUALITIES = (90, 70, 45, 20)  # of WebP, tried in this order until the page is small enough
MEASURES = {
    "Concept": "sliced Wasserstein distance between held-out images of a context and images generated under that context's targets; mean over contexts.",
    "Composition": "the same for pairs of interventions that were never seen together in training, generated with both targets on.",
    "Reconstruction": "negative evidence lower bound per pixel, in bits (not divided by channels); of validation images, and of held-out compositions.",
    "Floor": "what a perfect model would reach: real against real images of disjoint halves; for reconstruction the entropy of the soft pixel values.",
    "Untrained": "the same model with its initial weights.",
    "Protocol strict": "every generated image from its own noise, all held-out images, weights of the best epoch.",
    "Protocol paper": "as published: 50 directions, about 1,280 images, 64 noise vectors repeated, reconstruction of known contexts at the last epoch.",
    "Published": f"{CITATION}; mean ± standard error over seeds, measured under protocol paper, at the published training budget and image size.",
}


def write_report(runs: Sequence, path, figures_folder=None, folder: Folder | None = None) -> Path:
    """Writes the page of `runs` (Run objects or workdirs) to `path` and returns it, and the tables as files into `tables` beside it.

    Reads results.json, metrics.jsonl and config.json of each workdir. Figures are drawn for the seed of every label (of the first 8) that composes best.
    `folder` tells of the sweep that the runs are members of: its axes get line plots, and those that diverged or are not finished are named.
    The page stays under 10 MB: pictures are compressed harder when there are many.
    With `figures_folder` the figures are saved there too, as PNG, in a folder per label when there are several.
    Raises ValueError without runs, and for a workdir without results.
    """
    if not runs:
        raise ValueError("write_report got no runs; give at least one Run or workdir.")
    folder = folder or Folder(())
    named = labelled([_load(run) for run in runs])
    results = labelled_results(named)
    sections, cards = _sections(named, results, folder), _cards(named)
    if figures_folder is not None:
        for section in [*sections, *(section for _, section in cards)]:
            figures.save(section.pictures, Path(figures_folder) / section.folder)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tables(results, path.parent / "tables")
    write_atomically(path, _page(named, results, (sections, cards), folder))
    return path


def write_tables(results: Sequence[dict], folder: Path) -> None:
    """summary (means) and contexts (each of them) as txt, md, tex and csv files in `folder`, made if absent; of labelled results."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, made in {"summary": tables.summary_tables(results), "contexts": tables.detail_tables(results)}.items():
        for ending, rendered in formats.FORMATS.items():
            write_atomically(folder / f"{stem}.{ending}", "\n".join(map(rendered, made)))
        write_atomically(folder / f"{stem}.csv", tables.comma_separated(results, lambda context: (context == "mean") == (stem == "summary")))


def best_seeds(named: Iterable, results: Iterable[dict]) -> dict[str, tuple[object, int]]:
    """{label: (run, seed)} of the run with the lowest strict composition; the first where none was measured."""
    best: dict = {}
    for (label, run), result in zip(named, results):
        score = tables.value(result, "strict", "composition")
        score = math.inf if score is None or math.isnan(score) else score
        if label not in best or score < best[label][0]:
            best[label] = (score, run, result["seed"])
    return {label: (run, seed) for label, (_, run, seed) in best.items()}


class _Section(NamedTuple):
    """Pictures of one heading of the page, and the name of the folder for their files."""

    heading: str
    pictures: list[figures.Picture]
    folder: str = ""


def _sections(named: list, results: list[dict], folder: Folder) -> list[_Section]:
    """The measures along the axes, the figures of the best seed of each label, and the training of all runs."""
    seeds: dict = {}
    for label, run in named:
        seeds.setdefault(label, []).append(run)
    shown = list(best_seeds(named, results).items())[:MOST_LABELS]
    several = len(named) > 1
    grids = [
        _Section(f"{label}, seed {seed}" if several else "", figures.pictures(run), re.sub(r"[^\w=.-]+", "_", label) if len(seeds) > 1 else "")
        for label, (run, seed) in shown
    ]
    curves = [picture for picture in [figures.training_curves(seeds)] if picture]
    return [_Section("", ablations.pictures(results, folder.axes)), *grids, _Section("All runs" if several else "", curves)]


def _cards(named: list) -> list[tuple[dict, _Section]]:
    """(card, images) of the data sets of the runs, as far as the runs kept a card of them."""
    kept = {card["checked"].split("-")[-1]: (card, run) for _, run in named if (card := read_card(run.workdir))}
    many = len(kept) > 1
    return [(card, _Section("", [data_card.picture(run.data)], f"data_{key}" if many else "")) for key, (card, run) in list(kept.items())[:MOST_LABELS]]


def _load(run):
    if not isinstance(run, str | os.PathLike):
        return run
    from causal_ctx.run import load_run

    return load_run(run)


def _page(named: list, results: list[dict], drawn: tuple[list[_Section], list[tuple[dict, _Section]]], folder: Folder) -> str:
    sections, cards = drawn
    package = importlib.resources.files("causal_ctx.reports")
    template = string.Template((package / "report.html").read_text("utf-8"))
    configs = [_folded(f"{name}, seed {r['seed']}", json.dumps(read_config(run.workdir), indent=2)) for (name, run), r in zip(named, results)]
    fields = dict(
        title=escape(_title(results, folder)),
        lead=escape(_lead(named, results)),
        style=(package / "report.css").read_text("utf-8"),
        facts=_facts(results),
        missing=_missing(results, folder),
        verdict="".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(results)),
        summary="".join(map(formats.html, tables.summary_tables(results))) + f'<p class="note">{escape(tables.NOTE)}</p>',
        measures="<h3>Measures</h3><dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in MEASURES.items()) + "</dl>",
        details=_details(results),
        configs=_short(f"Configurations of {len(configs)} runs", "".join(configs), len(configs)),
    )
    for quality in QUALITIES:
        data = "".join(data_card.html(card) + _figures(section, quality) for card, section in cards)
        shown = {"data": f"<h2>Data</h2>{data}" if data else "", "figures": "".join(_figures(section, quality) for section in sections)}
        page = template.substitute(fields, **shown)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _title(results: list[dict], folder: Folder) -> str:
    axes = [field for field in folder.axes if field not in ("seed", "method")]
    names = dict.fromkeys(r["method" if axes else "label"] for r in results)
    along = f" along {', '.join(axes)}" if axes else ""
    table = f"Table {folder.table}: " if folder.table else ""
    return f"{table}{', '.join(names)}{along} on {', '.join(dict.fromkeys(r['dataset'] for r in results))}"


def _lead(named: list, results: list[dict]) -> str:
    run = named[0][1]
    H, W, C = run.data.image_shape
    images = sum(r["train"]["images"] for r in results)
    seconds = sum(r["train"]["seconds"] for r in results)
    count = "One run" if len(results) == 1 else f"{len(results)} runs"
    return (f"{count} on images of {H} × {W} × {C} with {len(run.concepts)} concepts ({', '.join(run.concepts)}) and "
            f"{len(run.data.compositions)} held-out compositions; {images:,} training images drawn in {duration(seconds)}.")


def _facts(results: list[dict]) -> str:
    head = ("run", "seed", "backbone", "images", "steps", "time", "images/s", "devices")
    rows = [
        (r["label"], r["seed"], r["backbone"], f"{t['images']:,}", f"{t['steps']:,}", duration(t["seconds"]), f"{t['images_per_second']:,.0f}", t["devices"])
        for r in results
        for t in [r["train"]]
    ]
    cells = [(escape(str(first)), "".join(f"<td>{escape(str(c))}</td>" for c in rest)) for first, *rest in rows]
    body = "".join(f'<tr><th scope="row">{first}</th>{rest}</tr>' for first, rest in cells)
    table = (f'<div class="scroll"><table class="facts"><thead><tr>{"".join(f"<th scope=col>{h}</th>" for h in head)}</tr></thead>'
             f"<tbody>{body}</tbody></table></div>")
    return _short(f"Cost of {len(rows)} runs", table, len(rows))


def _missing(results: list[dict], folder: Folder) -> str:
    """The members that no table holds: who diverged and what it said, and how many are not finished."""
    if not folder.diverged and not folder.unfinished:
        return ""
    total = len(results) + len(folder.diverged) + folder.unfinished
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(sentence)}</dd>" for name, sentence in folder.diverged.items())
    return (f'<section class="missing" aria-label="Runs without results"><p>Of {total} runs {len(folder.diverged)} diverged and {folder.unfinished} '
            f"did not finish; the means leave them out.</p>{f'<dl>{said}</dl>' if said else ''}</section>")


def _details(results: list[dict]) -> str:
    summary = tables.summary_tables(results)
    return ("<h3>Every context, and the tables to copy</h3>"
            + _unfolding("Each context and held-out pair", "".join(map(formats.html, tables.detail_tables(results))))
            + _folded("Markdown", "\n".join(map(formats.markdown, summary)))
            + _folded("LaTeX", "\n".join(map(formats.latex, summary)))
            + _folded("CSV, every number", tables.comma_separated(results)))


def _folded(name: str, content: str) -> str:
    return _unfolding(name, f"<pre>{escape(content)}</pre>")


def _short(name: str, html: str, num_lines: int) -> str:
    """The markup, folded where it has many lines."""
    return html if num_lines <= MOST_LINES else _unfolding(name, html)


def _unfolding(name: str, html: str) -> str:
    return f"<details><summary>{escape(name)}</summary>{html}</details>"


def _figures(section: _Section, quality: int) -> str:
    heading = f"<h3>{escape(section.heading)}</h3>" if section.heading else ""
    return heading + "".join(
        f'<figure><div class="scroll"><img src="{_data_uri(p.image, quality)}" alt="{escape(p.alt)}" '
        f'width="{p.image.width // 2}" height="{p.image.height // 2}"></div>'
        f"<figcaption><strong>{escape(p.title)}.</strong> {escape(p.caption)}</figcaption></figure>"
        for p in section.pictures
    )


def _data_uri(image: Image.Image, quality: int) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
