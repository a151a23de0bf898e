"""Images under all 64 subsets of six interventions: one call of `generate_all` beside a Python loop of `generate`, turn by turn in one process.

    python -m tests.benchmarks.bench_compositions        (32 x 32, size `cpu`; not a pytest test, whose session pretends to have eight devices)

Three pairs: "first" estimates the statistics of every set too, as for new weights; "again" has them, as a Run keeps them; "module" is the context module
alone, its features in place of images.
"""

import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx import config as configs
from causal_ctx import parallel
from causal_ctx.data.contexts import subsets, targets
from causal_ctx.data.quad import CONCEPTS
from causal_ctx.evaluation.predict import Predictor
from causal_ctx.models import build_model, latent_width

ROUNDS = {8: 5, 64: 3, 1000: 1}  # of the pairs of images, by images per subset


def main() -> None:
    """Prints seconds of both and their ratio, median and range, for 8, 64 and 1,000 images a subset, and how far the images differ."""
    predictor, sets = untrained(), np.array([targets(name, CONCEPTS) for name in subsets(CONCEPTS)], np.float32)
    known = jax.device_get(predictor.statistics(sets))
    each = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], known) for i in range(len(sets))]
    for num, rounds in ROUNDS.items():
        noise = np.random.default_rng(0).standard_normal((num, predictor.latents)).astype(np.float32)
        again = partial(predictor.generate_all, sets, noise, known), lambda: [predictor.generate_all(t[None], noise, s)[0] for t, s in zip(sets, each)]
        first = partial(predictor.generate_all, sets, noise), lambda: [predictor.generate(t, noise) for t in sets]
        print(f"\nN = {num}")
        if num == min(ROUNDS):  # the statistics do not depend on it
            compare("first", *first, rounds)
        compare("again", *again, rounds)
        compare("module", *module_alone(predictor, sets, noise), 4 * rounds)
        print(f"largest difference: {np.abs(again[0]() - np.stack(again[1]())).max():.1e}", flush=True)


def untrained() -> Predictor:
    """The context module of size `cpu` with its initial weights."""
    config, k, key = configs.resize(configs.default(), "cpu"), len(CONCEPTS), jax.random.key(0)
    shape = (config.data.resolution, config.data.resolution, 3)
    model, calibrating = (build_model(config, k, shape, twin) for twin in (False, True))
    variables = jax.jit(lambda: model.init(key, jnp.zeros((2, *shape)), jnp.zeros((2, k)), key, train=False))()
    return Predictor(model, calibrating, variables, latent_width(config, k), config.evaluation.calibration_images, parallel.data_mesh())


def module_alone(predictor: Predictor, sets: np.ndarray, noise: np.ndarray):
    """(one call, a loop) to the features [64, N, E]."""
    module = predictor.model.context_module
    own = {collection: tree["context_module"] for collection, tree in predictor.variables.items()}
    features = lambda t: module.apply(own, noise, jnp.broadcast_to(t, (len(noise), len(t))), train=False)
    one, many = jax.jit(features), jax.jit(jax.vmap(features))
    return lambda: np.asarray(many(sets)), lambda: np.stack([one(t) for t in sets])


def compare(name: str, one_call, loop, rounds: int) -> None:
    """Prints the seconds of both in turns and how many times the loop takes as long; a first round compiles."""
    seconds = []
    for _ in range(rounds + 1):
        seconds.append([])
        for function in (one_call, loop):
            began = time.perf_counter()
            function()
            seconds[-1].append(time.perf_counter() - began)
    calls, loops = zip(*seconds[1:])
    ratios = [b / a for a, b in seconds[1:]]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{name:6}  one call {statistics.median(calls):.4f} s, loop {statistics.median(loops):.4f} s, ratio {spread}", flush=True)


if __name__ == "__main__":
    main()
