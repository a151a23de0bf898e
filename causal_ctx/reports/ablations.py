"""Figures of a sweep: every measure along a numeric field, ours beside the published points of the same settings."""

from collections.abc import Callable
from typing import NamedTuple

from causal_ctx.reports.charts import ablation
from causal_ctx.reports.figures import Picture
from causal_ctx.reports.labels import NOT_TOLD, labels
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import MEASURES, PROTOCOLS, measured, published_for


class Point(NamedTuple):
    """A measure at one value `x` of the field; None for what is not known."""

    x: float
    ours: Estimate
    published: Estimate | None
    floor: Estimate | None


def numeric_axes(axes: dict[str, list]) -> list[str]:
    """The fields that a line can be drawn along: two numbers or more, the seed aside."""
    def is_number(value) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return [field for field, values in axes.items() if field != "seed" and all(map(is_number, values)) and len(set(values)) > 1]


def lines(results: list[dict], field: str, protocol: str, measure: str) -> dict[str, list[Point]]:
    """`along` of a measure of context modules."""
    return along(results, field, lambda x, rs: _point(x, rs, protocol, measure))


def along(results: list[dict], field: str, point: Callable[[float, list[dict]], Point | None]) -> dict[str, list[Point]]:
    """{what runs are called but for the field: points in the order of x}, over the seeds of labelled results; without what was not measured."""
    grouped: dict[str, dict[float, list[dict]]] = {}
    for name, result in zip(labels([r["config"] for r in results], (*NOT_TOLD, field)), results):
        if field in result["config"]:
            grouped.setdefault(name, {}).setdefault(result["config"][field], []).append(result)
    drawn = {name: [p for x, rs in sorted(values.items()) if (p := point(x, rs))] for name, values in grouped.items()}
    return {name: points for name, points in drawn.items() if points}


def pictures(results: list[dict], axes: dict[str, list]) -> list[Picture]:
    """A figure per numeric axis and protocol, of the labelled results of a sweep; none where fewer than two values were evaluated."""
    drawn = (_picture(results, field, protocol) for field in numeric_axes(axes) for protocol in PROTOCOLS)
    return [picture for picture in drawn if picture]


def _picture(results: list[dict], field: str, protocol: str) -> Picture | None:
    panels = {heading: found for measure, heading in MEASURES.items() if (found := lines(results, field, protocol, measure))}
    values = sorted({p.x for found in panels.values() for points in found.values() for p in points})
    if len(values) < 2:
        return None
    return Picture(
        f"ablation_{field}_{protocol}", f"Along {field}, protocol {protocol}", ablation(panels, field),
        "Lower is better. Filled: ours, mean and standard error over seeds. Hollow: published for the same setting, under protocol paper. "
        "Dotted: the floor of the data.",
        f"Line charts of {', '.join(MEASURES)} against {field} at {', '.join(f'{v:g}' for v in values)}.",
    )


def _point(x: float, results: list[dict], protocol: str, measure: str) -> Point | None:
    ours = measured(results, protocol, measure)
    return Point(x, ours, published_for(results[0], protocol, measure), measured(results, protocol, measure, part="floor")) if ours else None
