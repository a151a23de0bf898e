"""Tables of results.json dicts: ours beside published, the floor of the data and the untrained model. Pure functions; formats.py renders them.

A result may carry a "label"; results of equal data set, backbone and label (else method) are taken as seeds of one row. It may carry its "config",
{dotted field: value}, which says the published setting that it stands beside.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from causal_ctx.reports.published import CITATION, Estimate, published, setting_of

COLUMNS = ("seeds", "ours", "published", "difference", "in s.e.", "floor", "above floor", "untrained")
PROTOCOLS = ("strict", "paper")
MEASURES = {
    "concept": "Concept: sliced Wasserstein distance",
    "composition": "Composition: sliced Wasserstein distance",
    "in_distribution": "Reconstruction of known contexts: bits per pixel",
    "out_of_distribution": "Reconstruction of held-out compositions: bits per pixel",
}
ENTROPY_FLOORS = {"in_distribution": "entropy_floor_bpp", "out_of_distribution": "out_of_distribution_entropy_floor_bpp"}
NOTE = (
    f"Lower is better. Ours: mean ± standard error over seeds. Published: {CITATION}, the same setting under its own protocol, budget and image size. "
    "In s.e.: the difference over the root of the summed squares of both standard errors. "
    "Floor: real against real images, or the pixel entropy for reconstruction. Untrained: the same model before training."
)


class Row(NamedTuple):
    """One line: `label`, then `cells` in the order of the table's columns (str, Estimate, float for a signed difference, None for nothing)."""

    label: str
    cells: tuple


class Table(NamedTuple):
    """`groups` are headings with their rows; `first` names the column of labels, `columns` the others.

    best: {column: "lowest" or "highest"}, of which the best cell in every group is marked. digits: {column: after the point}, where they are not 3.
    marks_ties: whether the first of rows that are all equal is marked.
    """

    title: str
    first: str
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    note: str = NOTE
    columns: tuple[str, ...] = COLUMNS
    best: Mapping[str, str] = {"ours": "lowest"}
    digits: Mapping[str, int] = {"in s.e.": 1}
    marks_ties: bool = True


def summary_tables(results: Iterable[dict]) -> list[Table]:
    """One table per data set, backbone and protocol: a group per measure, a row per method."""
    return [
        Table(f"{dataset}, {backbone}, protocol {protocol}", "method",
              _groups(MEASURES, lambda m: [_row(label, rs, protocol, m) for label, rs in methods.items()]))
        for (dataset, backbone), methods in by_method(results).items()
        for protocol in PROTOCOLS
        if _has(methods, protocol)
    ]


def detail_tables(results: Iterable[dict]) -> list[Table]:
    """One table per data set, backbone, protocol and distance: a group per context or held-out pair, a row per method."""
    return [
        Table(f"{dataset}, {backbone}, protocol {protocol}, {measure}", "method", groups)
        for (dataset, backbone), methods in by_method(results).items()
        for protocol in PROTOCOLS
        for measure in ("concept", "composition")
        if (groups := _groups(_contexts(methods, protocol, measure), lambda c: [_row(label, rs, protocol, measure, c) for label, rs in methods.items()]))
    ]


def by_method(results: Iterable[dict]) -> dict[tuple[str, str], dict[str, list[dict]]]:
    """{(data set, backbone): {label: its results, one per seed}}, in the order given."""
    nested: dict = {}
    for result in results:
        methods = nested.setdefault((result["dataset"], result["backbone"]), {})
        methods.setdefault(result.get("label", result["method"]), []).append(result)
    return nested


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and standard error (sample standard deviation / sqrt n) of the values present; None without any."""
    present = [float(v) for v in values if v is not None]
    if not present:
        return None
    error = float(np.std(present, ddof=1)) / math.sqrt(len(present)) if len(present) > 1 else None
    error = 0.0 if error is not None and len(set(present)) == 1 else error  # which rounding of the mean would hide
    return Estimate(float(np.mean(present)), error, len(present))


def value(result: dict, protocol: str, measure: str, context: str = "mean", part: str = "") -> float | None:
    """A number of results.json, None where it is absent; `part` is "" (the model), "floor" or "untrained"."""
    numbers = result["protocols"].get(protocol, {})
    if measure not in ENTROPY_FLOORS:
        return (numbers.get(part, {}) if part else numbers).get(measure, {}).get(context)
    if part == "floor":  # a property of the images, whatever the protocol
        return result["protocols"].get("strict", numbers).get("reconstruction", {}).get(ENTROPY_FLOORS[measure])
    return (numbers.get(part, {}) if part else numbers).get("reconstruction", {}).get(f"{measure}_bpp")


def measured(results: list[dict], protocol: str, measure: str, context: str = "mean", part: str = "") -> Estimate | None:
    """`value` over seeds; a seed that was run twice counts once."""
    return estimate(value(r, protocol, measure, context, part) for r in {r["seed"]: r for r in results}.values())


def published_for(result: dict, protocol: str, measure: str, context: str = "mean") -> Estimate | None:
    """The published counterpart; strict evaluates the weights of the best epoch, so its reconstruction stands beside the published best epoch."""
    def look(task: str, name: str) -> Estimate | None:
        return published(result["dataset"], result["method"], task, name, result["backbone"], setting_of(result.get("config", {})))

    if measure not in ENTROPY_FLOORS:
        return look(measure, context)
    return (protocol == "strict" and look("reconstruction", f"{measure}_best")) or look("reconstruction", measure)


def combined_error(a: Estimate | None, b: Estimate | None) -> float | None:
    """Standard error of the difference of two means; None where either has none."""
    return math.hypot(a.standard_error, b.standard_error) if a and b and None not in (a.standard_error, b.standard_error) else None


def numbers(results: list[dict]) -> Iterator[tuple[str, str, str, str, Estimate]]:
    """(protocol, measure, context, source, number) of everything measured by results that are seeds of one another; one context is "mean"."""
    for protocol in PROTOCOLS:
        for measure in MEASURES:
            contexts = ["mean"] if measure in ENTROPY_FLOORS else [*_contexts({"": results}, protocol, measure), "mean"]
            for context in contexts:
                sources = {part or "ours": measured(results, protocol, measure, context, part) for part in ("", "floor", "untrained")}
                if sources["ours"]:
                    sources["published"] = published_for(results[0], protocol, measure, context)
                    yield from ((protocol, measure, context, source, e) for source, e in sources.items() if e)


def comma_separated(results: Iterable[dict], told: Callable[[list[dict]], Iterable[tuple]] = numbers) -> str:
    """Numbers in long form, at full precision: a line for each that `told` yields, as `numbers` does, of every method."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow("dataset backbone method protocol measure context source mean standard_error seeds".split())
    for (dataset, backbone), methods in by_method(results).items():
        for label, rs in methods.items():
            for protocol, measure, context, source, e in told(rs):
                error = "" if e.standard_error is None else f"{e.standard_error:.6g}"
                writer.writerow([dataset, backbone, label, protocol, measure, context, source, f"{e.mean:.6g}", error, e.seeds])
    return stream.getvalue()


def _row(label: str, results: list[dict], protocol: str, measure: str, context: str = "mean") -> Row:
    ours, floor, untrained = (measured(results, protocol, measure, context, part) for part in ("", "floor", "untrained"))
    theirs = published_for(results[0], protocol, measure, context)
    difference, error = _minus(ours, theirs), combined_error(ours, theirs)
    means = [Estimate(e.mean) if e else None for e in (floor, untrained)]  # their spread says nothing about the model
    cells = (str(ours.seeds) if ours else None, ours, theirs, difference, difference / error if error else None, means[0], _minus(ours, floor), means[1])
    return Row(label, cells)


def _minus(a: Estimate | None, b: Estimate | None) -> float | None:
    return a.mean - b.mean if a and b else None


def _groups(headings: Mapping[str, str], rows: Callable[[str], list[Row]]) -> tuple:
    """Groups in which something was measured: `headings` by the name that `rows` takes."""
    filled = ((heading, tuple(rows(name))) for name, heading in headings.items())
    return tuple((heading, body) for heading, body in filled if any(row.cells[1] for row in body))


def _contexts(methods: dict[str, list[dict]], protocol: str, measure: str) -> dict[str, str]:
    """{context: context} of all that were scored, in the order of their first mention."""
    scored = (r["protocols"].get(protocol, {}).get(measure, {}) for rs in methods.values() for r in rs)
    return {context: context for contexts in scored for context in contexts if context != "mean"}


def _has(methods: dict[str, list[dict]], protocol: str) -> bool:
    return any(protocol in r["protocols"] for rs in methods.values() for r in rs)
