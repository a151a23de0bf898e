"""One self-contained HTML page for one or several runs: no request to anywhere, light and dark; a script for the composer, curves and tables."""

import base64
import importlib.resources
import io
import json
import os
import string
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from causal_ctx import supplied
from causal_ctx.files import write_atomically
from causal_ctx.progress import duration
from causal_ctx.reports import composer, figures, formats
from causal_ctx.reports.composer import Composer
from causal_ctx.reports.labels import labelled
from causal_ctx.reports.reading import Folder, read_config, read_fields
from causal_ctx.reports.system_report import Section, SystemReport, best_first
from causal_ctx.reports.system_reports import REPORTS, by_system, labelled_results

MOST_BYTES = 9_500_000
MOST_LINES = 12  # of runs that are shown unfolded
FILTER = '<p class="filter"><label>Show runs whose name holds <input type="search" id="filter" autocomplete="off"></label> <output id="filtered"></output></p>'
QUALITIES = (90, 70, 45, 20)  # of WebP, tried in this order until the page is small enough
PART = string.Template("""<section class="verdict" aria-label="Verdict">$verdict</section>
$composer
<h2>$results</h2>
$summary
$measures
$details
$data
<h2>$figures_heading</h2>
$figures
""")


def write_report(runs: Sequence, path, figures_folder=None, folder: Folder | None = None) -> Path:
    """Writes the page of `runs` (Run objects or workdirs) to `path` and returns it, and the tables as files into `tables` beside it.

    Reads results.json, metrics.jsonl and config.json of each workdir. Figures are drawn for the best seed of every label (of the first 8).
    `folder` tells of the sweep that the runs are members of: its axes get line plots, and those that diverged or are not finished are named.
    The page stays under 10 MB: pictures are compressed harder when there are many.
    With `figures_folder` the figures are saved there too, as PNG, in a folder per label when there are several.
    Runs of several systems follow one another, the files of each in a folder of its own.
    Raises ValueError without runs, and for a workdir without results.
    """
    if not runs:
        raise ValueError("write_report got no runs; give at least one Run or workdir.")
    folder, path = folder or Folder(()), Path(path)
    named = labelled([_load(run) for run in runs])
    results = labelled_results(named)
    parts = _parts(named, results, folder, path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if figures_folder is not None:
            for section in [*part.sections, *(section for _, section in part.data)]:
                figures.save(section.pictures, Path(figures_folder) / part.folder / section.folder)
        write_tables(part.system, part.results, path.parent / "tables" / part.folder)
    write_atomically(path, _page(named, results, parts, folder))
    return path


def write_tables(system: SystemReport, results: Sequence[dict], folder: Path) -> None:
    """The summary and the details as txt, md, tex and csv files in `folder`, made if absent; of labelled results of one system."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, make in {"summary": system.summary_tables, system.details[0]: system.detail_tables}.items():
        made = make(results)
        for ending, rendered in formats.FORMATS.items():
            write_atomically(folder / f"{stem}.{ending}", "\n".join(map(rendered, made)))
        write_atomically(folder / f"{stem}.csv", system.comma_separated(results, stem == "summary"))


class _Part(NamedTuple):
    """The share of one system in the page; `folder` is that of its files, "" where no other system has any."""

    system: SystemReport
    results: list[dict]
    lead: str
    sections: list[Section]
    data: list[tuple[str, Section]]
    composer: Composer | None
    folder: str


def _parts(named: list, results: list[dict], folder: Folder, beside: Path) -> list[_Part]:
    found = by_system(results)
    parts = []
    for key, places in found.items():
        system, own, their = REPORTS[key], [named[i] for i in places], [results[i] for i in places]
        composed = system.compose(own, their, best_first(own, their, system.score))
        for entry in composed.data["entries"] if composed else ():
            entry["folder"] = os.path.relpath(own[entry["run"]][1].workdir, beside)  # which a server finds it by
        parts.append(_Part(system, their, system.lead(own, their), system.sections(own, their, folder), system.data(own), composed, key if len(found) > 1 else ""))
    return parts


def _load(run):
    if not isinstance(run, str | os.PathLike):
        return run
    from causal_ctx.run import load_run

    return load_run(run)


def _page(named: list, results: list[dict], parts: list[_Part], folder: Folder) -> str:
    package = importlib.resources.files("causal_ctx.reports")
    read = lambda name: (package / name).read_text("utf-8")
    configs = [_folded(f"{name}, seed {r['seed']}", json.dumps(read_config(run.workdir), indent=2)) for (name, run), r in zip(named, results)]
    fields = dict(
        title=escape(_title(results, folder)),
        lead=escape(" ".join(part.lead for part in parts)),
        style=read("report.css"),
        script="\n".join(map(read, ("report.js", "charts.js", "composer.js"))),
        command=_made_by(named),
        facts=_facts(results),
        missing=_missing(results, folder),
        filter=FILTER if len({name for name, _ in named}) > 1 else "",
        configs=_short(f"Configurations of {len(configs)} runs", "".join(configs), len(configs)),
    )
    written = [_written(part) for part in parts]
    charts = {_chart(part, picture): picture.panels for part in parts for section in part.sections for picture in section.pictures if picture.panels}
    numbers = {"composers": _composers(parts), "charts": charts}
    fields["page_data"] = json.dumps(json.loads(json.dumps(numbers), parse_constant=lambda name: None), allow_nan=False).replace("<", "\\u003c")  # of which the only way out of a script element is made
    for quality in QUALITIES:
        page = string.Template(read("report.html")).substitute(
            fields, parts="".join(PART.substitute(text, **_drawn(part, place, quality)) for place, (part, text) in enumerate(zip(parts, written))))
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _composers(parts: list[_Part]) -> list[dict | None]:
    """The data of every part's composer, its sheets counted over the whole page."""
    found, before = [], 0
    for part in parts:
        found.append(part.composer and part.composer.numbered(before))
        before += len(part.composer.sheets) if part.composer else 0
    return found


def _composer(part: _Part, place: int, quality: int) -> str:
    """The place for the composer of a part, and its sheets."""
    if not part.composer:
        return ""
    sheets = "".join(f'<img class="sheet" hidden alt="{escape(s.alt)}" src="{_data_uri(s.image, quality)}">' for s in part.composer.sheets)
    return (f'<section class="composer" aria-label="Composer"><h2>{_heading(part, "Composer")}</h2><p>{escape(composer.READING[part.composer.data["kind"]])}</p>'
            f'<div data-composer="{place}" hidden></div>{sheets}<noscript><p class="note">The composer needs JavaScript, which is off.</p></noscript></section>')


def _made_by(named: list) -> str:
    """The commands that make the runs, and where the config of each is not that of the publication."""
    made = {name: _command(run.workdir) for name, run in reversed(named)}  # of the first seed of each
    shown = [(name, *made[name]) for name in dict.fromkeys(name for name, _ in named) if made[name][0]]
    if len(shown) == 1:
        return "".join(shown[0][1:])
    return _unfolding(f"Commands of {len(shown)} kinds of runs", "".join(f'<p class="note">{escape(name)}</p>{command}{unlike}' for name, command, unlike in shown)) if shown else ""


def _command(workdir: Path) -> tuple[str, str]:
    """The command that makes the run in `workdir`, to copy, and the table of fields that are not as published; "" where no supplied config is like it."""
    fields = read_fields(workdir)
    command, differing = supplied.command(fields, str(workdir)), supplied.unlike_published(fields)
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(ours))}</td><td>{escape(str(theirs))}</td></tr>' for name, (ours, theirs) in differing.items())
    table = (f'<div class="scroll"><table class="facts"><thead><tr><th scope="col">field</th><th scope="col">here</th><th scope="col">published</th></tr></thead>'
             f"<tbody>{rows}</tbody></table></div>")
    unlike = _unfolding(f"Differs from the published setting in {len(differing)} fields", table) if differing else ""
    where = '<p class="note">In the repository, with its environment active (<code>. .venv/bin/activate</code>):</p>'
    return (f"{where}<pre><code data-copy>{escape(command)}</code></pre>" if command else "", unlike)


def _written(part: _Part) -> dict[str, str]:
    """The fields of PART that hold no picture."""
    system, results = part.system, part.results
    return dict(
        results=_heading(part, "Results"),
        figures_heading=_heading(part, "Figures"),
        verdict="".join(f"<p>{escape(sentence)}</p>" for sentence in system.verdict(results)),
        summary="".join(map(formats.html, system.summary_tables(results))) + f'<p class="note">{escape(system.note)}</p>',
        measures="<h3>Measures</h3><dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in system.measures.items()) + "</dl>",
        details=_details(system, results),
    )


def _drawn(part: _Part, place: int, quality: int) -> dict[str, str]:
    """The fields of PART, the one at `place`, that hold pictures."""
    data = "".join(html + _figures(section, quality, part) for html, section in part.data)
    figures = "".join(_figures(section, quality, part) for section in part.sections)
    return {"data": f"<h2>{_heading(part, 'Data')}</h2>{data}" if data else "", "figures": figures, "composer": _composer(part, place, quality)}


def _heading(part: _Part, name: str) -> str:
    return escape(f"{part.system.name}: {name.lower()}") if part.folder else name


def _title(results: list[dict], folder: Folder) -> str:
    axes = [field for field in folder.axes if field not in ("seed", "method")]
    names = dict.fromkeys(r["method" if axes else "label"] for r in results)
    along = f" along {', '.join(axes)}" if axes else ""
    table = f"Table {folder.table}: " if folder.table else ""
    return f"{table}{', '.join(names)}{along} on {', '.join(dict.fromkeys(r['dataset'] for r in results))}"


def _facts(results: list[dict]) -> str:
    head = ("run", "seed", "backbone", "images", "steps", "time", "images/s", "devices")
    rows = [
        (r["label"], r["seed"], r["backbone"], f"{t['images']:,}", f"{t['steps']:,}", duration(t["seconds"]), f"{t['images_per_second']:,.0f}", t["devices"])
        for r in results
        for t in [r["train"]]
    ]
    cells = [(escape(str(first)), "".join(f"<td>{escape(str(c))}</td>" for c in rest)) for first, *rest in rows]
    body = "".join(f'<tr data-label="{first}"><th scope="row">{first}</th>{rest}</tr>' for first, rest in cells)
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


def _details(system: SystemReport, results: list[dict]) -> str:
    summary = system.summary_tables(results)
    _, heading, name = system.details
    return (f"<h3>{escape(heading)}, and the tables to copy</h3>"
            + _unfolding(name, "".join(map(formats.html, system.detail_tables(results))))
            + _folded("Markdown", "\n".join(map(formats.markdown, summary)))
            + _folded("LaTeX", "\n".join(map(formats.latex, summary)))
            + _folded("CSV, every number", system.comma_separated(results, None)))


def _folded(name: str, content: str) -> str:
    return _unfolding(name, f"<pre>{escape(content)}</pre>")


def _short(name: str, html: str, num_lines: int) -> str:
    """The markup, folded where it has many lines."""
    return html if num_lines <= MOST_LINES else _unfolding(name, html)


def _unfolding(name: str, html: str) -> str:
    return f"<details><summary>{escape(name)}</summary>{html}</details>"


def _figures(section: Section, quality: int, part: _Part) -> str:
    heading = f"<h3>{escape(section.heading)}</h3>" if section.heading else ""
    drawn = heading + "".join(_figure(picture, quality, part) for picture in section.pictures)
    return f'<div data-label="{escape(section.heading)}">{drawn}</div>' if section.folder else drawn


def _chart(part: _Part, picture: figures.Picture) -> str:
    return f"{part.system.name}: {picture.title}"


def _figure(picture: figures.Picture, quality: int, part: _Part) -> str:
    image = (f'<div class="scroll"><img src="{_data_uri(picture.image, quality)}" alt="{escape(picture.alt)}" '
             f'width="{picture.image.width // 2}" height="{picture.image.height // 2}"></div>')
    shown = f'<div class="charts" data-chart="{escape(_chart(part, picture))}"></div><noscript>{image}</noscript>' if picture.panels else image
    return f"<figure>{shown}<figcaption><strong>{escape(picture.title)}.</strong> {escape(picture.caption)}</figcaption></figure>"


def _data_uri(image: Image.Image, quality: int) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
