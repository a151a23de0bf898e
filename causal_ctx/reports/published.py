"""The published numbers of the context module (Markham et al., CLeaR 2026), as facts beside ours."""

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from typing import NamedTuple

from causal_ctx.methods import METHODS

CITATION = "Markham, Hirsch, Chang, Solus and Aragam, CLeaR 2026"
TASKS = {"concept": "concept_swd", "composition": "composition_swd", "reconstruction": "reconstruction_bpp"}
# Our backbones under the name of the published one that they rebuild.
BACKBONES = {"conv64": "lightweight_vae", "conv28": "lightweight_vae"}
# What the ablations vary (and the learning rate, for which one value is published), as config fields; every other field is left out of the comparison.
FIELDS = {
    "beta": "objective.beta", "learning_rate": "train.learning_rate", "group_penalty": "objective.group_penalty", "l2_penalty": "objective.l2_penalty",
    "depth": "model.depth", "noise_width": "model.noise_width", "concept_width": "model.concept_width",
}
MAIN_SETTING = {"beta": 1, "learning_rate": 1e-3, "group_penalty": 0, "l2_penalty": 0, "depth": 2, "noise_width": 32, "concept_width": 8}
MAIN_SETTING_OF = {"mnist": {"noise_width": 15, "concept_width": 5}}


class Estimate(NamedTuple):
    """A mean over seeds; `standard_error` is None when there is one seed only."""

    mean: float
    standard_error: float | None = None
    seeds: int = 1


def published(
    dataset: str, method: str, task: str, context: str, backbone: str = "lightweight_vae", setting: Mapping[str, float] | None = None
) -> Estimate | None:
    """The published number of a method under a setting, or None where there is none.

    `task` is concept, composition or reconstruction, as in results.json (units: sliced Wasserstein distance and bits per
    pixel). `context` is a context, a composition in either order of its names, `mean`, or for reconstruction
    `in_distribution` (last epoch), `in_distribution_best` (best epoch) or `out_of_distribution`. `setting` gives numbers under
    the names of FIELDS; what it leaves out is as in the main study, so that the main study and every ablation are one table.

    Raises ValueError for an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} has no published numbers; choose one of {', '.join(TASKS)}.")
    return _numbers().get((dataset, BACKBONES.get(backbone, backbone), method, TASKS[task], _unordered(context), _point(dataset, setting or {})))


def setting_of(config: Mapping[str, object]) -> dict[str, float]:
    """What `published` takes as setting, from a config as {dotted field: value}; without a context module its sizes and penalties mean nothing."""
    method = METHODS.get(config.get("method"))
    names = FIELDS if method is None or method.module else ("beta", "learning_rate")
    return {name: config[FIELDS[name]] for name in names if FIELDS[name] in config}


def _point(dataset: str, setting: Mapping[str, float]) -> tuple[float, ...]:
    whole = MAIN_SETTING | MAIN_SETTING_OF.get(dataset, {}) | dict(setting)
    return tuple(float(whole[name]) for name in FIELDS)


def _unordered(context: str) -> str:
    return "+".join(sorted(context.split("+")))


@functools.cache
def _numbers() -> dict[tuple, Estimate]:
    text = (importlib.resources.files("causal_ctx.reports") / "published_context_module.csv").read_text("utf-8")
    return {_key(row): _estimate(row) for row in csv.DictReader(text.splitlines())}


def _key(row: dict[str, str]) -> tuple:
    point = _point(row["dataset"], _parsed(row["setting"]))
    return row["dataset"], row["backbone"], row["method"], row["task"], _unordered(row["context"]), point


def _parsed(setting: str) -> dict[str, float]:
    """"depth=2,noise_width=16" -> {"depth": 2.0, "noise_width": 16.0}."""
    return {name: float(number) for name, number in (part.split("=") for part in setting.split(",") if part)}


def _estimate(row: dict[str, str]) -> Estimate:
    error = float(row["standard_error"]) if row["standard_error"] else None
    return Estimate(float(row["mean"]), error, int(row["seeds"]))
