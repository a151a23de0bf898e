"""The numbers of results.json: concept, composition and reconstruction under both protocols, with their floors (spec section 5)."""

from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from causal_ctx.data import ContextData
from causal_ctx.data.contexts import entropy_floor_bpp
from causal_ctx.evaluation.predict import Predictor
from causal_ctx.evaluation.wasserstein import random_projections, sliced_wasserstein

PAPER_IMAGES, PAPER_BATCH, PAPER_PROJECTIONS = 1_280, 64, 50


def fresh_noise(index: int, num: int, latents: int) -> np.ndarray:
    """Exogenous noise [num, latents] ~ N(0, I), another one for every `index`."""
    return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(1), index), (num, latents)))


def strict(config: ml_collections.ConfigDict, dataset: ContextData, best: Predictor, untrained: Predictor, contexts: tuple[str, ...]) -> dict:
    """The strict protocol: own noise for every image, all held-out images, seeded projections, best weights, true ELBO.

    `floor` compares disjoint halves of the real images, so n/2 a side and a little above the floor of n; `untrained` has the initial weights. `contexts` are
    those that the method is validated on. `sampling_statistics_bpp` is the reconstruction in them under the statistics that "generated" layers sample with.
    """
    projections = _projections(dataset, config.evaluation.projections)
    real = lambda name: dataset.held_out[name]
    order = list(dataset.held_out)

    def distances(predictor: Predictor) -> dict:
        generate = lambda name: predictor.generate(dataset.targets(name), fresh_noise(order.index(name), len(real(name)), predictor.latents))
        return _by_task(dataset, lambda name: sliced_wasserstein(generate(name), real(name), projections))

    def halves(name: str) -> float:
        half = len(real(name)) // 2
        return sliced_wasserstein(real(name)[:half], real(name)[half : 2 * half], projections)

    return distances(best) | {
        "reconstruction": {
            "in_distribution_bpp": reconstruction_bpp(best, dataset, {name: dataset.validation[name] for name in contexts}),
            "out_of_distribution_bpp": reconstruction_bpp(best, dataset, {name: dataset.held_out[name] for name in dataset.compositions}),
            "sampling_statistics_bpp": _mean(
                reconstruction_bpp(best._replace(variables=best.calibrated(dataset.targets(name))), dataset, {name: dataset.validation[name]})
                for name in contexts
            ),
            "entropy_floor_bpp": _mean(entropy_floor_bpp(dataset.validation[name]) for name in contexts),
            "out_of_distribution_entropy_floor_bpp": _mean(dataset.entropy_floor_bpp[name] for name in dataset.compositions),
        },
        "floor": _by_task(dataset, halves),
        "untrained": distances(untrained),
    }


def paper(dataset: ContextData, best: Predictor, last_epoch_bpp: float, best_epoch_bpp: float) -> dict:
    """The published protocol: 50 projections, about 1,280 images, the same 64 noise vectors for every batch of 64, the last epoch's reconstruction."""
    projections = _projections(dataset, PAPER_PROJECTIONS)
    noise = fresh_noise(0, PAPER_BATCH, best.latents)

    def distance(name: str) -> float:
        real = dataset.held_out[name][:PAPER_IMAGES]
        batch = best.generate(dataset.targets(name), noise)
        repeated = np.concatenate([batch] * -(-len(real) // PAPER_BATCH))[: len(real)]
        return sliced_wasserstein(repeated, real, projections)

    compositions = {name: dataset.held_out[name] for name in dataset.compositions}
    return _by_task(dataset, distance) | {
        "reconstruction": {
            "in_distribution_bpp": last_epoch_bpp,
            "in_distribution_best_bpp": best_epoch_bpp,
            "out_of_distribution_bpp": reconstruction_bpp(best, dataset, compositions),
        }
    }


def reconstruction_bpp(predictor: Predictor, dataset: ContextData, images: dict[str, np.ndarray]) -> float:
    """Negative ELBO (beta = 1) in bits per pixel, nats / (H * W * ln 2): mean over the contexts of `images`, uint8 [n, H, W, C] each."""
    height, width, _ = dataset.image_shape
    nats = _mean(-predictor.elbo(dataset.targets(name), array)["elbo_nats"].mean() for name, array in images.items())
    return nats / (height * width * np.log(2))


def _by_task(dataset: ContextData, distance: Callable[[str], float]) -> dict[str, dict[str, float]]:
    """{"concept": {context: distance, ..., "mean"}, "composition": {...}} over the held-out contexts."""
    tasks = {"concept": [name for name in dataset.held_out if name not in dataset.compositions], "composition": dataset.compositions}
    scores = {task: {name: float(distance(name)) for name in names} for task, names in tasks.items()}
    return {task: values | {"mean": _mean(values.values())} for task, values in scores.items() if values}


def _projections(dataset: ContextData, number: int) -> jax.Array:
    return random_projections(jax.random.key(0), int(np.prod(dataset.image_shape)), number)


def _mean(values) -> float:
    return float(np.mean(list(values)))
