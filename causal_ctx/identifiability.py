"""The mode `identifiability`: the paper's theorem made visible on concepts of which everything is known.

A linear Gaussian causal model of three concepts is seen through a nonlinear map (`data.linear_concepts`), and a model of the same family is fitted by maximum
likelihood (`models.linear_concepts`) to all contexts, or some; with conditions of the theorem met, or violated; and with the context module's own causal layer
in place of the theorem's. Concepts that it must recover are recovered, those that it may miss are mostly missed. Runs on the CPU, in float64.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from causal_ctx.config import ConfigError
from causal_ctx.data import linear_concepts as truth
from causal_ctx.data.linear_concepts import K, WIDTH
from causal_ctx.evaluation import recovery
from causal_ctx.evaluation.wasserstein import random_projections, sliced_wasserstein
from causal_ctx.files import DamagedError, write_atomically
from causal_ctx.models import linear_concepts as model
from causal_ctx.progress import Progress
from causal_ctx.reports import figures, identifiability as reports
from causal_ctx.workdir import WorkdirError


class Condition(NamedTuple):
    """without: the concepts that are never intervened on. violated: as `truth.draw`. form: the causal layer that is fitted, of `model.FORMS`."""

    without: tuple[int, ...] = ()
    violated: str = ""
    form: str = "structural"


CONDITIONS = {
    "all contexts": Condition(),
    "without do(3)": Condition(without=(2,)),
    "without do(2), do(3)": Condition(without=(1, 2)),
    "obs alone": Condition(without=(0, 1, 2)),
    "dependent rows": Condition(violated="dependent rows"),
    "map not injective": Condition(violated="map not injective"),
    "module's causal layer": Condition(form="reduced"),
}
TRAINED = np.concatenate([np.zeros((1, K)), np.eye(K)])  # the target sets of obs and of every do(k)
COMPOSED = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], float)


class Size(NamedTuple):
    """How much of it: seeds of the truth, fits of each from other starts, samples of a context to fit to and to score, and iterations of a fit at most."""

    seeds: int = 3
    restarts: int = 8
    samples: int = 1_000
    held_out: int = 2_000
    iterations: int = 4_000


def run(config: ml_collections.ConfigDict | None, workdir: Path, size: Size = Size()) -> dict:
    """Fits what is missing in `workdir`, prints the table, writes identifiability.json and the figure, and returns what the file holds.

    Every finished case is kept, so the same command goes on where it was stopped. Raises ConfigError where a config is given, WorkdirError where the folder
    holds a study of another size, DamagedError where its file cannot be read.
    """
    if config is not None:
        raise ConfigError("--mode=identifiability simulates its own concepts; leave --config out.")
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / "identifiability.json"
    study = read(file, size)
    cases = [(name, seed) for seed in range(size.seeds) for name in CONDITIONS if not any((c["condition"], c["seed"]) == (name, seed) for c in study["cases"])]
    with Progress("fit", len(CONDITIONS) * size.seeds * size.restarts, len(study["cases"]) * size.restarts) as progress:
        for name, seed in cases:
            study["cases"].append({"condition": name, "seed": seed, **score(CONDITIONS[name], seed, size, lambda name=name: progress.advance(1, name))})
            write_atomically(file, json.dumps(study, indent=2))
    figures.save([reports.picture(study, CONDITIONS)], workdir / "figures")
    print(reports.text(study, CONDITIONS))
    return study


def read(file: Path, size: Size) -> dict:
    """{"size", "cases"} of a file that an earlier start has begun, or of none."""
    if not file.exists():
        return {"size": size._asdict(), "cases": []}
    try:
        study = json.loads(file.read_text())
        held = Size(**study["size"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} cannot be read ({type(error).__name__}); remove it, and the study begins anew.") from error
    if held != size:
        raise WorkdirError(f"{file} is of a study of another size ({held}); choose another --workdir.")
    return study


def score(condition: Condition, seed: int, size: Size, advance: Callable[[], None] = lambda: None) -> dict:
    """Fits one truth from `size.restarts` starts and scores the likeliest fit on samples of its own.

    {"recovery", "correlation": [K], see `recovery.scores`, over the contexts that were seen; "distance", "floor": {"seen", "composed"}, sliced Wasserstein
    distances between true and learned law of the concepts in true standard deviations, mean over the contexts that were seen and over all sets of two or more
    interventions, and those of two samples of the truth; "excess_nats": by how much held-out observations of the contexts seen are less likely than under the
    truth, None where it is outside the model; "losses_nats": of every start}.
    """
    world = truth.draw(seed, condition.violated)
    drawn = lambda stream, n, sets=TRAINED: map(np.stack, zip(*(truth.sample(world, t, n, np.random.default_rng([seed, stream, i])) for i, t in enumerate(sets))))
    seen = np.array([1.0] + [float(k not in condition.without) for k in range(K)])
    _, x = drawn(0, size.samples)
    c, held_out = drawn(1, size.held_out)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        params, losses = fit(condition.form, x, seen, [1_000 * seed + start for start in range(size.restarts)], size.iterations, advance)
        learned = np.stack([np.asarray(model.concepts(params, images)[0]) for images in held_out])
        loss = lambda params: float(model.loss_nats(params, held_out, TRAINED, seen))
        excess = None if condition.violated else loss(params) - loss(model.of_world(world))
        known, rng = seen == 1, np.random.default_rng([seed, 2])
        flat = lambda a: a[known].reshape(-1, K, WIDTH)
        own = lambda sets: np.stack([model.draw(params, t, rng.standard_normal((size.held_out, K, WIDTH))) for t in sets])
        align = lambda drawn: recovery.aligned(flat(c), flat(learned), drawn.reshape(-1, K, WIDTH)).reshape(drawn.shape)
        (composed, _), (again, _), (composed_again, _) = drawn(3, size.held_out, COMPOSED), drawn(4, size.held_out), drawn(5, size.held_out, COMPOSED)
        distance = {"seen": distance_of_laws(c[known], align(own(TRAINED[known]))), "composed": distance_of_laws(composed, align(own(COMPOSED)))}
    floor = {"seen": distance_of_laws(c[known], again[known]), "composed": distance_of_laws(composed, composed_again)}
    return recovery.scores(flat(c), flat(learned)) | {"distance": distance, "floor": floor, "excess_nats": excess, "losses_nats": losses}


def fit(form: str, x: np.ndarray, seen: np.ndarray, starts: list[int], iterations: int, advance: Callable[[], None]) -> tuple[dict, list[float]]:
    """Maximum likelihood by L-BFGS from every start, in threads: (the parameters of the smallest loss, the loss in nats of every start)."""
    like = model.init(0, form)
    with jax.enable_x64(True):
        loss, (_, unflatten) = _loss(form), ravel_pytree(like)

    def from_start(start: int):
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            first = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model.init(start, form))])
            call = lambda flat: tuple(np.asarray(a, np.float64) for a in loss(flat, x, TRAINED, seen))
            found = minimize(call, first, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 30, "ftol": 1e-12, "gtol": 1e-7})
        advance()
        return found

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) as pool:
        found = list(pool.map(from_start, starts))
    losses = [float(end.fun) if np.isfinite(end.fun) else float("inf") for end in found]
    return unflatten(found[int(np.argmin(losses))].x), losses


@cache
def _loss(form: str) -> Callable:
    """The compiled loss and gradient of flat parameters."""
    _, unflatten = ravel_pytree(model.init(0, form))
    return jax.jit(jax.value_and_grad(lambda flat, *data: model.loss_nats(unflatten(flat), *data)))


def distance_of_laws(true: np.ndarray, other: np.ndarray) -> float:
    """Sliced Wasserstein distance between concepts [T, n, K, w] of equal contexts, mean over the contexts, in standard deviations of all `true` ones."""
    deviation = true.reshape(-1, K * WIDTH).std(axis=0)
    flat = lambda c: np.float32(c.reshape(len(c), -1) / deviation)
    return float(np.mean([sliced_wasserstein(flat(a), flat(b), _projections()) for a, b in zip(true, other)]))


@cache
def _projections() -> np.ndarray:
    return np.asarray(random_projections(jax.random.key(0), K * WIDTH, 200), np.float32)
