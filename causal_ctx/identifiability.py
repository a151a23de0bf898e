"""The mode `identifiability`: the paper's theorem made visible on concepts of which everything is known.

A linear Gaussian causal model of three concepts is seen through a nonlinear map (`data.linear_concepts`), and a model of the same family is fitted by maximum
likelihood (`models.linear_concepts`) to all contexts, or some; with conditions of the theorem met, or violated; and with the context module's own causal layer
in place of the theorem's. Runs on the CPU, in float64.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import OptimizeResult, minimize

from causal_ctx import workdir as workdirs
from causal_ctx.config import ConfigError
from causal_ctx.data import linear_concepts as truth
from causal_ctx.data.linear_concepts import K, WIDTH
from causal_ctx.doctor import usable_cores
from causal_ctx.evaluation import recovery
from causal_ctx.evaluation.wasserstein import random_projections, sliced_wasserstein
from causal_ctx.files import DamagedError, write_atomically
from causal_ctx.models import linear_concepts as model
from causal_ctx.progress import Progress
from causal_ctx.reports import figures, identifiability as reports
from causal_ctx.workdir import WorkdirError

LOG = logging.getLogger(__name__)


class Condition(NamedTuple):
    """without: the concepts that are never intervened on. violated: as `truth.draw`. form: the causal layer that is fitted, of `model.FORMS`."""

    without: tuple[int, ...] = ()
    violated: str = ""
    form: str = "structural"


CONDITIONS = {
    "all contexts": Condition(),
    "without do(1)": Condition(without=(0,)),
    "without do(3)": Condition(without=(2,)),
    "without do(2), do(3)": Condition(without=(1, 2)),
    "obs alone": Condition(without=(0, 1, 2)),
    "dependent rows": Condition(violated="dependent rows"),
    "map not injective": Condition(violated="map not injective"),
    "module's causal layer": Condition(form="reduced"),
}
TRAINED = np.concatenate([np.zeros((1, K)), np.eye(K)])  # the target sets of obs and of every do(k)
COMPOSED = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], float)


MEASURED = ("recovery", "correlation", "distance", "floor", "excess_nats", "losses_nats")


class Size(NamedTuple):
    """How much of it: seeds of the truth, fits of each from other starts, samples of a context to fit to and to score, and iterations of a fit at most."""

    seeds: int = 3
    restarts: int = 8
    samples: int = 1_000
    held_out: int = 2_000
    iterations: int = 4_000


def run(config: ml_collections.ConfigDict | None, workdir: Path, size: Size = Size()) -> dict:
    """Fits what is missing in `workdir`, prints the tables, writes identifiability.json and the figure, and returns what the file holds.

    Every finished case, all starts of one truth under one condition, is kept, so the same command goes on where it was stopped. Raises ConfigError where a
    config or a pod is given, WorkdirError where the folder cannot be written, is in use or holds something else, DamagedError where its file cannot
    be read.
    """
    if config is not None:
        raise ConfigError("--mode=identifiability simulates its own concepts; leave --config out.")
    if jax.process_count() > 1:
        raise ConfigError(f"--mode=identifiability needs one process and was started in {jax.process_count()}; start it without a pod.")
    if any((workdir / name).exists() for name in ("config.json", "sweep.json")):
        raise WorkdirError(f"{workdir} holds a run or a sweep; give the study a folder of its own.")
    workdirs.make(workdir, {})
    file = workdir / "identifiability.json"
    study = read(file, size)
    done = {(case["condition"], case["seed"]) for case in study["cases"]}
    cases = [(name, seed) for seed in range(size.seeds) for name in CONDITIONS if (name, seed) not in done]
    LOG.info("%d truths under %d conditions, each fitted from %d starts; finished ones are kept in %s.", size.seeds, len(CONDITIONS), size.restarts, file)
    with Progress("fit", len(CONDITIONS) * size.seeds * size.restarts, len(done) * size.restarts) as progress:
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
        held, known = Size(**study["size"]), all({"condition", "seed", *MEASURED} <= case.keys() and case["condition"] in CONDITIONS for case in study["cases"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{file} cannot be read ({type(error).__name__}); remove it, and the study begins anew.") from error
    if held != size or not known:
        raise WorkdirError(f"{file} is of another study ({held}); choose another --workdir.")
    return study


def score(condition: Condition, seed: int, size: Size, advance: Callable[[], None] = lambda: None) -> dict:
    """Fits one truth from `size.restarts` starts and scores the likeliest fit on samples of its own.

    {"recovery", "correlation": [K], see `recovery.scores`, over the contexts that were seen; "distance", "floor": {"seen", "composed"}, sliced Wasserstein
    distances between the law that the fit gives its concepts and that of the concepts which it reads off true observations, in units of the latter over the
    contexts of single interventions (`recovery.in_units_of`), mean over the contexts that were seen and over all sets of two or more interventions that the
    truth says the outcome of, and those of two samples of true observations; "excess_nats": by how much held-out observations of the contexts seen are less
    likely than under the truth, None where it is outside the model; "losses_nats": of every start, None where it diverged}.
    """
    world = truth.draw(seed, condition.violated)
    composed = np.array([targets for targets in COMPOSED if truth.compatible(world, targets)])
    drawn = lambda stream, n, sets=TRAINED: map(np.stack, zip(*(truth.sample(world, t, n, np.random.default_rng([seed, stream, i])) for i, t in enumerate(sets))))
    seen = np.array([1.0] + [float(k not in condition.without) for k in range(K)])
    _, x = drawn(1, size.samples)
    c, held_out = drawn(2, size.held_out)
    observed = lambda stream, sets: list(drawn(stream, size.held_out, sets))[1]
    with in_float64_on_cpu():
        params, losses = fit(condition.form, x, seen, [1_000 * seed + start for start in range(size.restarts)], size.iterations, advance)
        reads = lambda observations: np.stack([np.asarray(model.concepts(params, x)[0]) for x in observations])
        learned = reads(held_out)
        loss = lambda params: float(model.loss_nats(params, held_out, TRAINED, seen))
        excess = None if condition.violated else loss(params) - loss(model.of_world(world))
        known, rng = seen == 1, np.random.default_rng([seed, 6])
        flat = lambda a: a[known].reshape(-1, K, WIDTH)
        own = lambda sets: np.stack([model.draw(params, t, rng.standard_normal((size.held_out, K, WIDTH))) for t in sets])
        unit = learned.reshape(-1, K, WIDTH)
        apart = lambda a, b: distance_of_laws(recovery.in_units_of(unit, a), recovery.in_units_of(unit, b))
        together = reads(observed(3, composed))
        distance = {"seen": apart(learned[known], own(TRAINED[known])), "composed": apart(together, own(composed))}
        floor = {"seen": apart(learned[known], reads(observed(4, TRAINED)[known])), "composed": apart(together, reads(observed(5, composed)))}
    losses = [value if np.isfinite(value) else None for value in losses]
    return recovery.scores(flat(c), flat(learned)) | {"distance": distance, "floor": floor, "excess_nats": excess, "losses_nats": losses}


@contextlib.contextmanager
def in_float64_on_cpu() -> Iterator[None]:
    """In this thread JAX computes in float64, on the CPU."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def fit(form: str, x: np.ndarray, seen: np.ndarray, starts: list[int], iterations: int, advance: Callable[[], None]) -> tuple[dict, list[float]]:
    """Maximum likelihood by L-BFGS from every start, in threads: (the parameters of the smallest loss, the loss in nats of every start).

    Where this thread is interrupted the others end at their next step.
    """
    stopped = threading.Event()

    def from_start(start: int) -> OptimizeResult:
        def call(flat: np.ndarray) -> tuple[np.ndarray, ...]:
            if stopped.is_set():
                raise InterruptedError
            return tuple(np.asarray(a, np.float64) for a in _loss(form)(flat, x, TRAINED, seen))

        with in_float64_on_cpu():
            first = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model.init(start, form))])
            options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 30, "ftol": 1e-12, "gtol": 1e-7}
            return minimize(call, first, jac=True, method="L-BFGS-B", options=options)

    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            waiting = [pool.submit(from_start, start) for start in starts]
            for _ in as_completed(waiting):
                advance()
        except BaseException:
            stopped.set()
            raise
    found = [future.result() for future in waiting]
    losses = [float(end.fun) if np.isfinite(end.fun) else float("inf") for end in found]
    with in_float64_on_cpu():
        return ravel_pytree(model.init(0, form))[1](found[int(np.argmin(losses))].x), losses


@cache
def _loss(form: str) -> Callable:
    """The compiled loss and gradient of flat parameters, for a thread that is `in_float64_on_cpu`."""
    _, unflatten = ravel_pytree(model.init(0, form))
    return jax.jit(jax.value_and_grad(lambda flat, *data: model.loss_nats(unflatten(flat), *data)))


def distance_of_laws(true: np.ndarray, other: np.ndarray) -> float:
    """Sliced Wasserstein distance between concepts [T, n, K w] of equal contexts, mean over the contexts."""
    return float(np.mean([sliced_wasserstein(np.float32(a), np.float32(b), _projections()) for a, b in zip(true, other)]))


@cache
def _projections() -> np.ndarray:
    return np.asarray(random_projections(jax.random.key(0), K * WIDTH, 200), np.float32)
