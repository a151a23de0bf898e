"""How well every subset of interventions is composed: distances to simulated ground truth, under both readings of quirks Q1 and Q2, where the module has them.

Letters: K concepts, n images.
"""

from collections.abc import Callable, Iterable

import ml_collections
import numpy as np

from causal_ctx.data import ContextData
from causal_ctx.data.contexts import interventions, subsets
from causal_ctx.evaluation.predict import Predictor
from causal_ctx.evaluation.protocols import floor_distance, fresh_noise, seeded_projections
from causal_ctx.evaluation.wasserstein import sliced_wasserstein
from causal_ctx.methods import METHODS
from causal_ctx.models.context_module import NOISE_MIXING

NO_MODULE = "no context module"


def contexts_to_score(dataset: ContextData) -> tuple[str, ...]:
    """Names of all 2^K contexts where the data set can simulate them, else of the held-out ones."""
    return subsets(dataset.concepts) if dataset.simulate else tuple(dataset.held_out)


def quirk_settings(predictor: Predictor) -> dict[str, Predictor]:
    """The same weights under every setting of composition rule and noise mixing, by name; without a context module there is one, NO_MODULE."""
    choices = [{"composition": rule, "noise_mixing": mixing} for rule in predictor.rules for mixing in NOISE_MIXING]
    return {",".join(f"{quirk}={choice}" for quirk, choice in c.items()): predictor.with_quirks(**c) for c in choices} or {NO_MODULE: predictor}


def subset_distances(
    config: ml_collections.ConfigDict, dataset: ContextData, predictor: Predictor, scored: Callable[[str], None] = lambda name: None
) -> dict:
    """Sliced Wasserstein distances under every subset of interventions, as the strict protocol measures them, and their means by number of interventions.

    {"subsets": {context: {"size", "trained", "floor", "distance": {setting: value}}}, "by_size": {"0": {"subsets", "floor", "distance"}, ...}}

    Every subset has `held_out_per_context` real images, the held-out or simulated ones, as many generated ones of its own noise (for a held-out context
    the noise of the strict protocol), and as floor the distance of the two halves of the real ones. `scored` is called after each subset.
    """
    projections, settings = seeded_projections(dataset, config.evaluation.projections), quirk_settings(predictor)
    order = [*dataset.held_out, *(name for name in contexts_to_score(dataset) if name not in dataset.held_out)]
    scores = {}
    for name in contexts_to_score(dataset):
        held_out = dataset.held_out.get(name)
        real = dataset.simulate(name, config.data.held_out_per_context) if held_out is None else held_out
        noise, targets = fresh_noise(order.index(name), len(real), predictor.latents), dataset.targets(name)
        size, values = len(interventions(name)), {}
        felt = size if METHODS[config.method].targets else 0
        for setting, variant in settings.items():
            if (same := _effect(setting, felt)) not in values:
                values[same] = sliced_wasserstein(variant.generate(targets, noise), real, projections)
        distance = {setting: values[_effect(setting, felt)] for setting in settings}
        scores[name] = {"size": size, "trained": name in dataset.train, "floor": floor_distance(real, projections), "distance": distance}
        scored(name)
    return {"subsets": scores, "by_size": by_size(scores.values())}


def by_size(scores: Iterable[dict]) -> dict[str, dict]:
    """Means over the subsets of `subset_distances` with equally many interventions: {number: {"subsets": how many, "floor", "distance": {setting: mean}}}."""
    groups: dict[int, list[dict]] = {}
    for score in scores:
        groups.setdefault(score["size"], []).append(score)
    return {
        str(size): {
            "subsets": len(group),
            "floor": _mean(score["floor"] for score in group),
            "distance": {setting: _mean(score["distance"][setting] for score in group) for setting in group[0]["distance"]},
        }
        for size, group in sorted(groups.items())
    }


def _effect(setting: str, felt: int) -> str:
    """The part of a setting that matters to a module told of `felt` interventions: noise mixing acts on none, the composition rule on two or more."""
    composition, _, mixing = setting.partition(",")
    return mixing if felt == 0 else composition if felt > 1 else ""


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
