"""Tables of results.json dicts: ours beside published, the floor of the data and the untrained model. Pure functions; formats.py renders them.

A result may carry a "label"; results of equal data set, backbone and label (else method) are taken as seeds of one row.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from causal_ctx.reports.published import CITATION, Estimate, published

COLUMNS = ("seeds", "ours", "published", "difference", "floor", "above floor", "untrained")
PROTOCOLS = ("strict", "paper")
MEASURES = {
    "concept": "Concept: sliced Wasserstein distance",
    "composition": "Composition: sliced Wasserstein distance",
    "in_distribution": "Reconstruction of known contexts: bits per pixel",
    "out_of_distribution": "Reconstruction of held-out compositions: bits per pixel",
}
ENTROPY_FLOORS = {"in_distribution": "entropy_floor_bpp", "out_of_distribution": "out_of_distribution_entropy_floor_bpp"}
NOTE = (
    f"Lower is better. Ours: mean ± standard error over seeds. Published: {CITATION}, under its own protocol, budget and image size. "
    "Floor: real against real images, or the pixel entropy for reconstruction. Untrained: the same model before training."
)


class Row(NamedTuple):
    """One line: `label`, then `cells` in the order of COLUMNS (str, Estimate, float for a signed difference, None for nothing)."""

    label: str
    cells: tuple


class Table(NamedTuple):
    """`groups` are headings with their rows; `first` names the column of labels."""

    title: str
    first: str
    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    note: str = NOTE


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
    """One table per method and protocol: a row per context and held-out pair."""
    return [
        Table(f"{dataset}, {backbone}, {label}, protocol {protocol}", "context",
              _groups(["concept", "composition"], lambda m: [_row(c, rs, protocol, m, c) for c in _contexts(rs, protocol, m)]))
        for (dataset, backbone), methods in by_method(results).items()
        for label, rs in methods.items()
        for protocol in PROTOCOLS
        if _has({label: rs}, protocol)
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
    """`value` over seeds."""
    return estimate(value(r, protocol, measure, context, part) for r in results)


def published_for(result: dict, protocol: str, measure: str, context: str = "mean") -> Estimate | None:
    """The published counterpart; strict evaluates the weights of the best epoch, so its reconstruction stands beside the published best epoch."""
    def look(task: str, name: str) -> Estimate | None:
        return published(result["dataset"], result["method"], task, name, result["backbone"])

    if measure not in ENTROPY_FLOORS:
        return look(measure, context)
    return (protocol == "strict" and look("reconstruction", f"{measure}_best")) or look("reconstruction", measure)


def comma_separated(results: Iterable[dict]) -> str:
    """Every number in long form, at full precision: one line per method, protocol, measure, context and source."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow("dataset backbone method protocol measure context source mean standard_error seeds".split())
    for (dataset, backbone), methods in by_method(results).items():
        for label, rs in methods.items():
            for protocol, measure, context, source, e in _numbers(rs):
                error = "" if e.standard_error is None else f"{e.standard_error:.6g}"
                writer.writerow([dataset, backbone, label, protocol, measure, context, source, f"{e.mean:.6g}", error, e.seeds])
    return stream.getvalue()


def _numbers(results: list[dict]):
    for protocol in PROTOCOLS:
        for measure in MEASURES:
            contexts = ["mean"] if measure in ENTROPY_FLOORS else [*_contexts(results, protocol, measure), "mean"]
            for context in contexts:
                sources = {part or "ours": measured(results, protocol, measure, context, part) for part in ("", "floor", "untrained")}
                if sources["ours"]:
                    sources["published"] = published_for(results[0], protocol, measure, context)
                    yield from ((protocol, measure, context, source, e) for source, e in sources.items() if e)


def _row(label: str, results: list[dict], protocol: str, measure: str, context: str = "mean") -> Row:
    ours, floor, untrained = (measured(results, protocol, measure, context, part) for part in ("", "floor", "untrained"))
    theirs = published_for(results[0], protocol, measure, context)
    means = [Estimate(e.mean) if e else None for e in (floor, untrained)]  # their spread says nothing about the model
    return Row(label, (str(ours.seeds) if ours else None, ours, theirs, _minus(ours, theirs), means[0], _minus(ours, floor), means[1]))


def _minus(a: Estimate | None, b: Estimate | None) -> float | None:
    return a.mean - b.mean if a and b else None


def _groups(measures: Iterable[str], rows: Callable[[str], list[Row]]) -> tuple:
    """Groups in which something was measured."""
    filled = ((MEASURES[measure], tuple(rows(measure))) for measure in measures)
    return tuple((heading, body) for heading, body in filled if any(row.cells[1] for row in body))


def _contexts(results: list[dict], protocol: str, measure: str) -> list[str]:
    return [c for c in results[0]["protocols"].get(protocol, {}).get(measure, {}) if c != "mean"]


def _has(methods: dict[str, list[dict]], protocol: str) -> bool:
    return any(protocol in r["protocols"] for rs in methods.values() for r in rs)
