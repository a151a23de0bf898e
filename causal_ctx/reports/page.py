"""One self-contained HTML page for one or several runs: no script, no request to anywhere, light and dark."""

import base64
import importlib.resources
import io
import json
import os
import re
import string
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from causal_ctx.progress import duration
from causal_ctx.files import write_atomically
from causal_ctx.reports import figures, formats, tables
from causal_ctx.reports.published import CITATION
from causal_ctx.reports.reading import read_config, read_results
from causal_ctx.reports.verdict import verdict

MOST_BYTES = 9_500_000
MOST_METHODS = 8  # that get figures of their own
QUALITIES = (90, 70, 45, 20)  # of WebP, tried in this order until the page is small enough
NOT_TOLD = ("seed", "data.cache_dir")  # fields that do not set runs apart
MEASURES = {
    "Concept": "sliced Wasserstein distance between held-out images of a context and images generated under that context's targets; mean over contexts.",
    "Composition": "the same for pairs of interventions that were never seen together in training, generated with both targets on.",
    "Reconstruction": "negative evidence lower bound per pixel, in bits (not divided by channels); of validation images, and of held-out compositions.",
    "Floor": "what a perfect model would reach: real against real images of disjoint halves; for reconstruction the entropy of the soft pixel values.",
    "Untrained": "the same model with its initial weights.",
    "Protocol strict": "every generated image from its own noise, all held-out images, weights of the best epoch.",
    "Protocol paper": "as published: 50 directions, about 1,280 images, 64 noise vectors repeated, reconstruction of the last epoch.",
    "Published": f"{CITATION}; mean ± standard error over seeds, measured under protocol paper, at the published training budget and image size.",
}


def write_report(runs: Sequence, path, figures_folder=None) -> Path:
    """Writes the page of `runs` (Run objects or workdirs) to `path` and returns it; figures are drawn for the first seed of every method (of the first 8).

    Reads results.json, metrics.jsonl and config.json of each workdir. The page stays under 10 MB: pictures are compressed harder when there are many.
    With `figures_folder` the figures are saved there too, as PNG, in a folder per method when there are several.
    Raises ValueError without runs, and for a workdir without results.
    """
    if not runs:
        raise ValueError("write_report got no runs; give at least one Run or workdir.")
    named = labelled([_load(run) for run in runs])
    results = [read_results(run.workdir) | {"label": name} for name, run in named]
    first: dict = {}
    for name, run in named:
        first.setdefault(name, run)
    drawn = [(name, figures.pictures(run)) for name, run in list(first.items())[:MOST_METHODS]]
    drawn.append(("", [p for p in [figures.training_curves(first)] if p]))
    if figures_folder is not None:
        for name, pictures in drawn:
            figures.save(pictures, Path(figures_folder) / (_file_name(name) if len(first) > 1 else ""))
    page = _page(named, results, drawn)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return path


def labelled(runs: Iterable) -> list[tuple[str, object]]:
    """(label, run): the method, and the fields in which runs of one method, or the data of any runs, differ beside the seed."""
    flat = [_flat(read_config(run.workdir)) for run in runs]
    named = []
    for run, config in zip(runs, flat):
        method = read_results(run.workdir)["method"]
        same = [c for c in flat if c.get("method") == config.get("method")]
        others = {k: flat if k.startswith("data.") else same for k in config if k not in NOT_TOLD}
        fields = [k for k, configs in others.items() if any(c.get(k) != config[k] for c in configs)]
        named.append((" ".join([method, *(f"{k.split('.')[-1]}={config[k]}" for k in fields)]), run))
    return named


def table_html(table: tables.Table) -> str:
    """The table with its groups as row groups and the lowest value of each group marked."""
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in (table.first, *tables.COLUMNS))
    body = []
    for heading, rows in table.groups:
        body.append(f'<tr><th colspan="{len(tables.COLUMNS) + 1}" scope="rowgroup">{escape(heading)}</th></tr>')
        body += [_row_html(row, formats.best(rows)) for row in rows]
    return (f'<div class="scroll"><table class="wide"><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>")


def _load(run):
    if not isinstance(run, str | os.PathLike):
        return run
    from causal_ctx.run import load_run

    return load_run(run)


def _page(named: list, results: list[dict], drawn: list[tuple[str, list[figures.Picture]]]) -> str:
    package = importlib.resources.files("causal_ctx.reports")
    template = string.Template((package / "report.html").read_text("utf-8"))
    datasets = ", ".join(dict.fromkeys(r["dataset"] for r in results))
    methods = ", ".join(dict.fromkeys(r["label"] for r in results))
    fields = dict(
        title=escape(f"{methods} on {datasets}"),
        lead=escape(_lead(named, results)),
        style=(package / "report.css").read_text("utf-8"),
        facts=_facts(results),
        verdict="".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(results)),
        summary="".join(map(table_html, tables.summary_tables(results))) + f'<p class="note">{escape(tables.NOTE)}</p>',
        measures="<h3>Measures</h3><dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in MEASURES.items()) + "</dl>",
        details=_details(results),
        configs="".join(_folded(f"{name}, seed {r['seed']}", json.dumps(read_config(run.workdir), indent=2))
                        for (name, run), r in zip(named, results)),
    )
    for quality in QUALITIES:
        page = template.substitute(fields, figures="".join(_figures(name, pictures, quality) for name, pictures in drawn))
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


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
    return (f'<div class="scroll"><table class="facts"><thead><tr>{"".join(f"<th scope=col>{h}</th>" for h in head)}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>")


def _details(results: list[dict]) -> str:
    summary = tables.summary_tables(results)
    per_context = "".join(map(table_html, tables.detail_tables(results)))
    return (f"<h3>Every context, and the tables to copy</h3><details><summary>Each context and held-out pair</summary>{per_context}</details>"
            + _folded("Markdown", "\n".join(map(formats.markdown, summary)))
            + _folded("LaTeX", "\n".join(map(formats.latex, summary)))
            + _folded("CSV, every number", tables.comma_separated(results)))


def _folded(name: str, content: str) -> str:
    return f"<details><summary>{escape(name)}</summary><pre>{escape(content)}</pre></details>"


def _row_html(row: tables.Row, best: tables.Row | None) -> str:
    cells = [f'<td{" class=best" if row is best and i == 1 else ""}>{escape(formats.show(c))}</td>' for i, c in enumerate(row.cells)]
    return f'<tr><th scope="row">{escape(row.label)}</th>{"".join(cells)}</tr>'


def _figures(name: str, pictures: Iterable[figures.Picture], quality: int) -> str:
    heading = f"<h3>{escape(name)}</h3>" if name else ""
    return heading + "".join(
        f'<figure><div class="scroll"><img src="{_data_uri(p.image, quality)}" alt="{escape(p.alt)}" width="{p.image.width // 2}" height="{p.image.height // 2}"></div>'
        f"<figcaption><strong>{escape(p.title)}.</strong> {escape(p.caption)}</figcaption></figure>"
        for p in pictures
    )


def _data_uri(image: Image.Image, quality: int) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _file_name(label: str) -> str:
    return re.sub(r"[^\w=.-]+", "_", label)


def _flat(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, item in config.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item}
    return flat
