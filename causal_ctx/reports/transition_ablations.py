"""Figures of a sweep of CT-VAE: every measure along a numeric field, beside what needs no learning."""

from causal_ctx.reports.ablations import Point, along, numeric_axes
from causal_ctx.reports.charts import ablation
from causal_ctx.reports.figures import Picture
from causal_ctx.reports.transition_tables import measured

# What is drawn: the path of ours in results.json, and of what it stands beside, () for nothing.
MEASURES = {
    "Retrieval of the action: accuracy": (("retrieval", "sampled", "action", "mean"), ("retrieval", "majority", "action")),
    "Retrieval of the factor: accuracy": (("retrieval", "sampled", "factor", "mean"), ("retrieval", "majority", "factor")),
    "Image after an action: squared error": (("action", "expected_mse"), ("action", "copy_mse")),
    "Codes after an action: nats per node": (("action", "latent_nats", "sampled", "mean"), ("action", "copy_nats", "calibrated")),
    "Reconstruction of test images: squared error": (("reconstruction", "test_mse"), ()),
    "Perplexity of the codes": (("codes", "perplexity_codes"), ()),
}


def pictures(results: list[dict], axes: dict[str, list]) -> list[Picture]:
    """A figure per numeric axis of the labelled results of a sweep; none where fewer than two values were evaluated."""
    return [picture for field in numeric_axes(axes) if (picture := _picture(results, field))]


def _picture(results: list[dict], field: str) -> Picture | None:
    panels = {heading: found for heading, paths in MEASURES.items() if (found := along(results, field, lambda x, rs, paths=paths: _point(x, rs, *paths)))}
    values = sorted({p.x for found in panels.values() for points in found.values() for p in points})
    if len(values) < 2:
        return None
    return Picture(
        f"ablation_{field}", f"Along {field}", ablation(panels, field, "without learning"),
        "Mean and standard error over seeds. Dotted: what needs no learned transition, the majority answer for accuracies, copies for errors and nats.",
        f"Line charts of {', '.join(panels)} against {field} at {', '.join(f'{v:g}' for v in values)}.",
    )


def _point(x: float, results: list[dict], ours: tuple[str, ...], beside: tuple[str, ...]) -> Point | None:
    found = measured(results, *ours)
    return Point(x, found, None, measured(results, *beside) if beside else None) if found else None
