"""The training loop, from top to bottom: mesh, data, state, step, log, validate, stop early, save."""

import contextlib
import dataclasses
import logging
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

    best_elbo_nats: float = -np.inf
    best_epoch: int = -1
    last_elbo_nats: float = -np.inf
    seconds: float = 0.0

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays, for a checkpoint."""
        return {name: np.asarray(value, np.float64) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of(cls, arrays: dict) -> "Record":
        """The record that `arrays` describes."""
        return cls(**{field.name: field.type(arrays[field.name]) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long: steps per compiled call, calls per epoch, epochs. An epoch draws as many images as the training set has, to the nearest whole call."""

    steps_per_call: int
    calls_per_epoch: int
    epochs: int

    @classmethod
    def of(cls, config: ml_collections.ConfigDict, num_images: int) -> "Plan":
        """The plan of `config` for `num_images` training images."""
        per_call = config.train.steps_per_call
        return cls(per_call, max(1, round(num_images / config.train.batch_size / per_call)), config.train.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return self.steps_per_call * self.calls_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimiser steps of a run that does not stop early."""
        return self.steps_per_epoch * self.epochs


def seen(config: ml_collections.ConfigDict, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The contexts among `images` that the config's method is trained on."""
    return images if METHODS[config.method].contexts == "all" else {"obs": images["obs"]}


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
    train_images = seen(config, dataset.train)
    plan = Plan.of(config, sum(len(images) for images in train_images.values()))
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
        with Progress("training", plan.total_steps, start=step) as progress:
            for batch in _prefetched(config, dataset, train_images, plan, range(step, plan.total_steps, plan.steps_per_call), mesh):
                if record.best_epoch >= 0 and step // plan.steps_per_epoch - record.best_epoch >= config.train.patience_epochs:
                    LOG.info("Stopping early: epoch %d was the best for %d epochs.", record.best_epoch, config.train.patience_epochs)
                    break
                began = time.monotonic()
                state, metrics = call(state, batch)
                metrics = jax.device_get(metrics)
                record.seconds += time.monotonic() - began
                _check_finite(metrics, step)
                step += plan.steps_per_call
                means = {f"train/{name}": float(values.mean()) for name, values in metrics.items()}
                position = {"step": step, "epoch": step / plan.steps_per_epoch, "images": step * config.train.batch_size}
                log.write(position | {"seconds": round(record.seconds, 3)} | means)
                progress.advance(plan.steps_per_call, f"loss {means['train/loss_nats']:.1f} nats")

                if step % plan.steps_per_epoch == 0:
                    elbo = validation_elbo_nats(config, dataset, state)
                    log.write(position | {"validation/elbo_nats": elbo, "validation/elbo_bpp": bits_per_pixel(elbo, dataset)})
                    if not np.isfinite(elbo):
                        raise NonFiniteError(f"The validation ELBO is {elbo} at step {step}; the last good checkpoint is kept, lower the learning rate.")
                    epoch, record.last_elbo_nats = step // plan.steps_per_epoch, elbo
                    if elbo > record.best_elbo_nats + config.train.min_improvement_nats:
                        record.best_elbo_nats, record.best_epoch = elbo, epoch
                        checkpoints.save("best", step, _tree(state, record))
                    checkpoints.save("newest", step, _tree(state, record))
                elif asked_to_stop():
                    checkpoints.save("newest", step, _tree(state, record))
                if asked_to_stop():
                    raise Interrupted(f"Stopped at step {step} of {plan.total_steps}; the same command resumes there.")
        best, _ = restore(checkpoints, "best", state)
    return best, state, record


def validation_elbo_nats(config: ml_collections.ConfigDict, dataset: ContextData, state: TrainState) -> float:
    """Mean ELBO (beta = 1) of the validation images in nats per image: mean over the contexts that the method sees."""
    predictor = build_predictor(config, dataset, state)
    images = seen(config, dataset.validation)
    return float(np.mean([predictor.elbo(dataset.targets(name), images[name])["elbo_nats"].mean() for name in images]))


def bits_per_pixel(elbo_nats: float, dataset: ContextData) -> float:
    """A negative ELBO per pixel, not divided by channels: -nats / (H * W * ln 2) (spec section 5)."""
    height, width, _ = dataset.image_shape
    return -elbo_nats / (height * width * np.log(2))


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
    for name, values in metrics.items():
        if not np.isfinite(values).all():
            step = first_step + int(np.argmin(np.isfinite(values)))
            raise NonFiniteError(f"{name} is {values[step - first_step]} at step {step}; the last good checkpoint is kept, lower the learning rate.")


def _tree(state: TrainState, record: Record) -> dict:
    return {"state": state, "record": record.arrays()}


def restore(checkpoints: Checkpoints, name: str, like: TrainState) -> tuple[TrainState, Record]:
    """Checkpoint `name` as (state, record), placed like `like`."""
    tree = checkpoints.restore(name, _tree(like, Record()))
    return tree["state"], Record.of(tree["record"])
