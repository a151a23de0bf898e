"""The published numbers of the context module (Markham et al., CLeaR 2026), as facts beside ours."""

import csv
import functools
import importlib.resources
from typing import NamedTuple

CITATION = "Markham, Hirsch, Chang, Solus and Aragam, CLeaR 2026"
TASKS = {"concept": "concept_swd", "composition": "composition_swd", "reconstruction": "reconstruction_bpp"}
# Our backbones under the name of the published one that they rebuild.
BACKBONES = {"conv64": "lightweight_vae", "conv28": "lightweight_vae"}


class Estimate(NamedTuple):
    """A mean over seeds; `standard_error` is None when there is one seed only."""

    mean: float
    standard_error: float | None = None
    seeds: int = 1


def published(dataset: str, method: str, task: str, context: str, backbone: str = "lightweight_vae") -> Estimate | None:
    """The number of the paper's main study, or None where it gives none.

    `task` is concept, composition or reconstruction, as in results.json (units: sliced Wasserstein distance and bits per
    pixel). `context` is a context, a composition in either order of its names, `mean`, or for reconstruction
    `in_distribution` (last epoch), `in_distribution_best` (best epoch) or `out_of_distribution`.

    Raises ValueError for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} has no published numbers; choose one of {', '.join(TASKS)}.")
    return _main_study().get((dataset, BACKBONES.get(backbone, backbone), method, TASKS[task], _unordered(context)))


def _unordered(context: str) -> str:
    return "+".join(sorted(context.split("+")))


@functools.cache
def _main_study() -> dict[tuple[str, ...], Estimate]:
    text = (importlib.resources.files("causal_ctx.reports") / "published_context_module.csv").read_text("utf-8")
    return {
        (row["dataset"], row["backbone"], row["method"], row["task"], _unordered(row["context"])): _estimate(row)
        for row in csv.DictReader(text.splitlines())
        if row["study"] == "main"
    }


def _estimate(row: dict[str, str]) -> Estimate:
    error = float(row["standard_error"]) if row["standard_error"] else None
    return Estimate(float(row["mean"]), error, int(row["seeds"]))
