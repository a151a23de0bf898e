"""The numbers of results.json: concept, composition and reconstruction under both protocols, with their floors (spec section 5), and the learned graph."""


import jax
import ml_collections
import numpy as np

from causal_ctx.data import ContextData
from causal_ctx.data.contexts import entropy_floor_bpp
from causal_ctx.evaluation.graph import THRESHOLD, block_norms, learned_once
from causal_ctx.evaluation.graph import scores as graph_scores
from causal_ctx.evaluation.predict import Predictor
from causal_ctx.evaluation.wasserstein import random_projections, sliced_wasserstein, sorted_projections
from causal_ctx.methods import METHODS, choice
from causal_ctx.progress import Advance, untold

PAPER_IMAGES, PAPER_BATCH, PAPER_PROJECTIONS = 1_280, 64, 50


def fresh_noise(index: int, num: int, latents: int) -> np.ndarray:
    """Exogenous noise [num, latents] ~ N(0, I), another one for every `index`."""
    return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(1), index), (num, latents)))


def floor_distance(real: np.ndarray, projections: jax.Array) -> float:
    """The distance that a perfect model has: one half of the images `real` [n, H, W, C] against the other, n/2 a side."""
    half = len(real) // 2
    return sliced_wasserstein(real[:half], real[half : 2 * half], projections)


def number_of_distances(config: ml_collections.ConfigDict, dataset: ContextData, best: Predictor) -> int:
    """How many distances `strict` and `paper` measure together, of each of which they tell."""
    return 4 * len(dataset.held_out) + (len(dataset.compositions) if _under_other_rule(config, best)[1] else 0)


def strict(
    config: ml_collections.ConfigDict,
    dataset: ContextData,
    best: Predictor,
    untrained: Predictor,
    contexts: tuple[str, ...],
    advance: Advance = untold,
) -> dict:
    """The strict protocol: own noise for every image, all held-out images, seeded projections, best weights, true ELBO.

    `floor` compares disjoint halves of the real images, so n/2 a side and a little above the floor of n; `untrained` has the initial weights;
    `composition_cut` or `composition_reference` scores the same weights under the other reading of quirk Q2, if the config chose one. `contexts` are those
    that the method is validated on; `sampling_statistics_bpp` is their reconstruction under the statistics that "generated" layers sample with, where there are any.
    After each distance `advance` is called with 1 and its name.
    """
    projections = seeded_projections(dataset, config.evaluation.projections)
    real, order = dataset.held_out, list(dataset.held_out)
    rule, other = _under_other_rule(config, best)
    models = {"": (best, order), "untrained": (untrained, order)} | ({f"composition_{rule}": (other, dataset.compositions)} if other else {})
    found: dict[str, dict[str, float]] = {what: {} for what in (*models, "floor")}
    for name in order:
        noise, theirs = fresh_noise(order.index(name), len(real[name]), best.latents), sorted_projections(real[name], projections)
        for what, (model, names) in models.items():
            if name in names:
                found[what][name] = sliced_wasserstein(model.generate(dataset.targets(name), noise), theirs, projections)
                advance(1, f"{(what or 'strict').replace('_', ' by ')}, {name}")
        found["floor"][name] = floor_distance(real[name], projections)
        advance(1, f"floor, {name}")
    by_task = {what: _by_task(dataset, distances) for what, distances in found.items() if distances}
    scores = by_task.pop("") | {what: tasks["composition"] if what.startswith("composition") else tasks for what, tasks in by_task.items()}
    validation = {name: dataset.validation[name] for name in contexts}
    scores["reconstruction"] = {
        "in_distribution_bpp": reconstruction_bpp(best, dataset, validation),
        "entropy_floor_bpp": _mean(entropy_floor_bpp(images) for images in validation.values()),
    }
    if best.calibrates:
        sampling = lambda name: best._replace(variables=best.calibrated(dataset.targets(name)))
        of_contexts = (reconstruction_bpp(sampling(name), dataset, {name: images}) for name, images in validation.items())
        scores["reconstruction"]["sampling_statistics_bpp"] = _mean(of_contexts)
    if dataset.compositions:
        scores["reconstruction"] |= {
            "out_of_distribution_bpp": reconstruction_bpp(best, dataset, {name: real[name] for name in dataset.compositions}),
            "out_of_distribution_entropy_floor_bpp": _mean(dataset.entropy_floor_bpp[name] for name in dataset.compositions),
        }
    return scores


def _under_other_rule(config: ml_collections.ConfigDict, best: Predictor) -> tuple[str, Predictor | None]:
    """The other reading of quirk Q2, and the same weights under it: None without a context module, or where the rule that the config chose has no other."""
    others = [rule for rule in best.rules if rule != choice(config, "model.composition")]
    return (others[0], best.with_quirks(composition=others[0])) if others else ("", None)


def paper(dataset: ContextData, best: Predictor, reconstruction: dict[str, float], advance: Advance = untold) -> dict:
    """The published protocol: 50 projections, about 1,280 images, the same 64 noise vectors for every batch of 64.

    `reconstruction` is measured already: the last epoch's validation loss, the best one's, and that of held-out compositions, each with the training's beta.
    `advance` as for `strict`.
    """
    projections = seeded_projections(dataset, PAPER_PROJECTIONS)
    noise = fresh_noise(0, PAPER_BATCH, best.latents)

    found = {}
    for name, images in dataset.held_out.items():
        real, batch = images[:PAPER_IMAGES], best.generate(dataset.targets(name), noise)
        found[name] = sliced_wasserstein(np.concatenate([batch] * -(-len(real) // PAPER_BATCH))[: len(real)], real, projections)
        advance(1, f"paper, {name}")
    return _by_task(dataset, found) | {"reconstruction": reconstruction}


def graph(config: ml_collections.ConfigDict, dataset: ContextData, best: Predictor, untrained: Predictor) -> dict:
    """The causal blocks against the true graph, every learned block once: {"threshold", "obs": `graph.scores`, "interventions": the same, "untrained": {...}}.

    Empty where the data set's graph is not known or the model has no context module. "interventions" is absent for a method that is told no targets: it
    leaves those blocks as they were initialised.
    """
    if dataset.total_effects is None or best.model.context_module is None:
        return {}
    contexts, told = dataset.training_contexts, METHODS[config.method].targets
    targets = np.stack([dataset.targets(name) for name in contexts])
    true = learned_once(np.stack([dataset.total_effects[name] for name in contexts]) != 0)

    def compared(predictor: Predictor) -> dict[str, dict]:
        learned = learned_once(block_norms(predictor.causal_blocks(targets)))
        return {kind: graph_scores(learned[kind], true[kind]) for kind in true if told or kind == "obs"}

    return {"threshold": THRESHOLD} | compared(best) | {"untrained": compared(untrained)}


def reconstruction_bpp(predictor: Predictor, dataset: ContextData, images: dict[str, np.ndarray], beta: float = 1.0) -> float:
    """Reconstruction plus `beta` times KL in bits per pixel, nats / (H * W * ln 2): mean over the contexts of `images`, uint8 [n, H, W, C] each.

    With beta 1 it is the negative ELBO, with the training's own beta the loss that was minimised.
    """
    scores = [predictor.elbo(dataset.targets(name), array) for name, array in images.items()]
    nats = _mean(-score["elbo_nats"].mean() + (beta - 1) * score["kl_nats"].mean() for score in scores)
    return nats_to_bits_per_pixel(nats, dataset.image_shape)


def nats_to_bits_per_pixel(nats: float, image_shape: tuple[int, int, int]) -> float:
    """nats / (H * W * ln 2), not divided by channels, for image_shape (H, W, C) (spec section 5)."""
    return nats / (image_shape[0] * image_shape[1] * np.log(2))


def _by_task(dataset: ContextData, distances: dict[str, float]) -> dict[str, dict[str, float]]:
    """{"concept": {context: distance, ..., "mean"}, "composition": {...}} of distances by context, without a task that has none."""
    scores: dict[str, dict[str, float]] = {}
    for name, distance in distances.items():
        scores.setdefault("composition" if name in dataset.compositions else "concept", {})[name] = float(distance)
    return {task: values | {"mean": _mean(values.values())} for task, values in scores.items()}


def seeded_projections(dataset: ContextData, number: int) -> jax.Array:
    """Directions [H * W * C, number], the same ones for every distance on images of this shape."""
    return random_projections(jax.random.key(0), int(np.prod(dataset.image_shape)), number)


def _mean(values) -> float:
    return float(np.mean(list(values)))
