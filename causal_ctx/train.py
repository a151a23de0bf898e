"""The training loop, from top to bottom: mesh, data, state, step, log, validate, stop early, save."""

import contextlib
import dataclasses
import logging
import math
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import ml_collections
import numpy as np
import optax

from causal_ctx import optim, parallel
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.data import ContextData, batches
from causal_ctx.evaluation.predict import build_predictor
from causal_ctx.evaluation.protocols import nats_to_bits_per_pixel
from causal_ctx.methods import METHODS
from causal_ctx.models import build_model
from causal_ctx.progress import MetricsLog, Progress
from causal_ctx.step import Batch, Trainer, TrainState

LOG = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """A loss term or gradient became infinite or not a number; the message names step and term."""


class Interrupted(RuntimeError):
    """The run was asked to stop (Ctrl-C or SIGTERM), and has saved what it needs to resume exactly."""


@dataclasses.dataclass
class Record:
    """What a run knows beside the state, all numbers: saved with it, so that a resumed run is an uninterrupted one."""

    best_loss_nats: float = np.inf  # on the validation images, in the best epoch
    best_epoch: int = -1
    last_loss_nats: float = np.inf  # in the last one
    seconds: float = 0.0  # of wall time: compiling, waiting for data, validating and saving included

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays, for a checkpoint."""
        return {name: np.asarray(value, np.float64) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of(cls, arrays: dict) -> "Record":
        """The record that `arrays` describes."""
        return cls(**{field.name: field.type(arrays[field.name]) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long: steps per compiled call, steps per epoch (a multiple of it), epochs, and epochs without improvement before an early stop."""

    steps_per_call: int
    steps_per_epoch: int
    epochs: int
    patience: int

    @classmethod
    def of(cls, config: ml_collections.ConfigDict, num_images: int) -> "Plan":
        """The plan of `config` for `num_images` training images, so many of which an epoch draws.

        Calls of one length compile one program: of the step counts within 1 % of an epoch (or the nearest), the one that allows the longest calls.
        """
        exact = num_images / config.train.batch_size
        counts = {max(1, round(exact)), *range(math.ceil(0.99 * exact), math.floor(1.01 * exact) + 1)}
        longest = lambda count: max(n for n in range(1, config.train.steps_per_call + 1) if count % n == 0)
        steps = max(counts, key=lambda count: (longest(count), -abs(count - exact)))
        return cls(longest(steps), steps, config.train.epochs, config.train.patience_epochs)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of a run that does not stop early."""
        return self.steps_per_epoch * self.epochs

    def finished(self, step: int, record: Record) -> bool:
        """Whether a run at `step` has ended, early or not."""
        return step >= self.total_steps or (record.best_epoch >= 0 and step // self.steps_per_epoch - record.best_epoch >= self.patience)


def seen(config: ml_collections.ConfigDict, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The contexts among `images` that the config's method is trained on."""
    return images if METHODS[config.method].contexts == "all" else {"obs": images["obs"]}


def plan_of(config: ml_collections.ConfigDict, dataset: ContextData) -> Plan:
    """The plan for the images of `dataset` that the config's method sees."""
    return Plan.of(config, sum(len(images) for images in seen(config, dataset.train).values()))


def build_trainer(config: ml_collections.ConfigDict, dataset: ContextData, total_steps: int) -> Trainer:
    """Model, Adam with the paper's schedule, and objective."""
    model = build_model(config, len(dataset.concepts), dataset.image_shape)
    optimizer = optax.adam(optim.learning_rate_schedule(config, total_steps))
    clamp = config.train.clamp_causal and METHODS[config.method].module
    return Trainer(model, optimizer, ml_collections.FrozenConfigDict(config.objective), clamp)


def initial_state(config: ml_collections.ConfigDict, dataset: ContextData, mesh: jax.sharding.Mesh) -> TrainState:
    """The state before the first step, replicated over `mesh`."""
    state = build_trainer(config, dataset, total_steps=1).init(config.seed, dataset.image_shape, len(dataset.concepts))
    return jax.device_put(state, parallel.replicated(mesh))


def train(config: ml_collections.ConfigDict, dataset: ContextData, workdir: Path) -> tuple[TrainState, TrainState, Record]:
    """Trains, or goes on where `workdir` stopped; returns (best state, last state, record).

    Raises NonFiniteError (the last good checkpoint stays) and Interrupted (a checkpoint was written).
    """
    mesh = parallel.data_mesh()
    train_images, plan = seen(config, dataset.train), plan_of(config, dataset)
    trainer = build_trainer(config, dataset, plan.total_steps)
    state, record = initial_state(config, dataset, mesh), Record()
    log = MetricsLog(workdir / "metrics.jsonl")
    rows = parallel.split(mesh, axis=2)
    call = jax.jit(trainer.steps, donate_argnums=0, in_shardings=(parallel.replicated(mesh), rows), out_shardings=parallel.replicated(mesh))

    with Checkpoints(workdir / "checkpoints") as checkpoints, stop_signal() as asked_to_stop:
        if checkpoints.step("newest") is not None:
            state, record = restore(checkpoints, "newest", state)
            LOG.info("Resuming at step %d of %d.", int(state.step), plan.total_steps)
        step = int(state.step)
        log.rewind(step)
        began = time.monotonic()
        with Progress("training", plan.total_steps, start=step) as progress:
            for batch in _prefetched(config, dataset, train_images, plan, range(step, plan.total_steps, plan.steps_per_call), mesh):
                if plan.finished(step, record):
                    LOG.info("Stopping early: no epoch since %d was better.", record.best_epoch)
                    break
                state, metrics = call(state, batch)
                metrics = jax.device_get(metrics)
                _check_finite(metrics, step)
                step += plan.steps_per_call
                means = {f"train/{name}": float(values.mean()) for name, values in metrics.items()}
                position = {"step": step, "epoch": step / plan.steps_per_epoch, "images": step * config.train.batch_size}
                record.seconds, began = record.seconds + time.monotonic() - began, time.monotonic()
                log.write(position | {"seconds": round(record.seconds, 3)} | means)
                progress.advance(plan.steps_per_call, f"loss {means['train/loss_nats']:.1f} nats")

                if step % plan.steps_per_epoch == 0:
                    loss, elbo = validate(config, dataset, state)
                    _check_finite({"validation_loss_nats": np.array([loss])}, step)
                    bpp = nats_to_bits_per_pixel(-elbo, dataset.image_shape)
                    log.write(position | {"validation/loss_nats": loss, "validation/elbo_nats": elbo, "validation/elbo_bpp": bpp})
                    record.last_loss_nats = loss
                    if loss < record.best_loss_nats - config.train.min_improvement_nats:
                        record.best_loss_nats, record.best_epoch = loss, step // plan.steps_per_epoch
                        checkpoints.save("best", step, _tree(state, record))
                    checkpoints.save("newest", step, _tree(state, record))
                elif asked_to_stop():
                    checkpoints.save("newest", step, _tree(state, record))
                if asked_to_stop():
                    raise Interrupted(f"Stopped at step {step} of {plan.total_steps}; the same command resumes there.")
        best, _ = restore(checkpoints, "best", state)
    return best, state, record


def validate(config: ml_collections.ConfigDict, dataset: ContextData, state: TrainState) -> tuple[float, float]:
    """(loss without penalties, ELBO) of the validation images in nats per image, mean over the contexts that the method sees."""
    predictor = build_predictor(config, dataset, state)
    scores = [predictor.elbo(dataset.targets(name), images) for name, images in seen(config, dataset.validation).items()]
    elbo, kl = (float(np.mean([score[name].mean() for score in scores])) for name in ("elbo_nats", "kl_nats"))
    return -elbo + (config.objective.beta - 1) * kl, elbo


@contextlib.contextmanager
def stop_signal() -> Iterator:
    """Yields a function that says whether SIGINT or SIGTERM has come; a second signal stops at once."""
    came = []

    def handle(number, frame):
        if came:
            raise KeyboardInterrupt
        came.append(number)
        LOG.info("Stopping after this call; once more stops at once, without a checkpoint.")

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever runs us handles signals
        before = {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prefetched(config, dataset: ContextData, images: dict, plan: Plan, starts: range, mesh: jax.sharding.Mesh) -> Iterator[Batch]:
    """The batches [S, R, B, ...] of the calls that begin at `starts`, each gathered while the one before it trains."""
    t = config.train
    sizes = [len(array) for array in images.values()]
    targets = np.stack([dataset.targets(name) for name in images]).astype(np.float32)
    mine = parallel.local_slice(t.micro_batch)

    def make(start: int) -> Batch:
        one = t.contexts_per_micro_batch == "one"
        drawn = [batches.draw(config.seed, step, sizes, (t.batch_size // t.micro_batch, t.micro_batch), one) for step in range(start, start + plan.steps_per_call)]
        contexts, indices = (np.stack(part)[..., mine] for part in zip(*drawn))
        return Batch(*(parallel.place(mesh, array, axis=2) for array in (batches.gather(images, contexts, indices), targets[contexts])))

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, starts[0]) if len(starts) else None
        for start in starts:
            batch = ahead.result()
            ahead = pool.submit(make, start + plan.steps_per_call) if start != starts[-1] else None
            yield batch


def _check_finite(metrics: dict[str, np.ndarray], first_step: int) -> None:
    """Raises NonFiniteError for the earliest step of metrics [S], naming the term that came first on the way from images to gradient."""
    finite = {name: np.isfinite(metrics[name]) for name in sorted(metrics, key=lambda name: (name == "gradient_norm", name == "loss_nats"))}
    if all(values.all() for values in finite.values()):
        return
    offset, name = min((int(np.argmin(values)), order, name) for order, (name, values) in enumerate(finite.items()) if not values.all())[::2]
    raise NonFiniteError(
        f"{name} is {metrics[name][offset]} at step {first_step + offset}; what was saved before is kept, try a lower learning rate in another --workdir."
    )


def _tree(state: TrainState, record: Record) -> dict:
    return {"state": state, "record": record.arrays()}


def restore(checkpoints: Checkpoints, name: str, like: TrainState) -> tuple[TrainState, Record]:
    """Checkpoint `name` as (state, record), placed like `like`."""
    tree = checkpoints.restore(name, _tree(like, Record()))
    return tree["state"], Record.of(tree["record"])
