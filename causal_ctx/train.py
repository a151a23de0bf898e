"""The training loop, from top to bottom: mesh, data, states, step, log, validate, stop early, save. One run is an ensemble of one."""

import contextlib
import json
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from causal_ctx import ensemble, parallel, systems
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.config import phase
from causal_ctx.files import write_atomically
from causal_ctx.objectives.objective import Objective, means
from causal_ctx.plan import Record, plan_of
from causal_ctx.progress import MetricsLog, Progress
from causal_ctx.start import build_feed, build_trainer, first_state, hyper, initial_state, restore, shape_of_state, tree
from causal_ctx.step import TrainState

LOG = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """A loss term or gradient became infinite or not a number; the message names step and term."""


class Interrupted(RuntimeError):
    """The run was asked to stop (Ctrl-C or SIGTERM), and has saved what it needs to resume exactly."""


class Member:
    """One run of those that train together: its config, its folder, and what it knows beside the state."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: Path, dataset: systems.Data):
        self.config, self.workdir, self.dataset, self.plan = config, Path(workdir), dataset, plan_of(config, dataset)
        self.checkpoints, self.log = Checkpoints(self.workdir / "checkpoints"), MetricsLog(self.workdir / "metrics.jsonl")
        self.record, self.step, self.failure = Record(), 0, None

    def begin(self, mesh: jax.sharding.Mesh) -> TrainState:
        """The state to go on from: the newest one saved, else the first."""
        if self.checkpoints.step("newest") is None:
            state = first_state(self.config, self.dataset, mesh)
        else:
            state, self.record = restore(self.checkpoints, "newest", shape_of_state(self.config, self.dataset, mesh))
            self.checkpoints.set_aside(int(state.step))
            state = state.replace(hyper=parallel.everywhere(mesh, hyper(self.config, self.dataset)))
            LOG.info("Resuming %s at step %d of %d.", self.workdir.name, int(state.step), self.plan.total_steps)
        self.step = int(state.step)
        if parallel.is_first_process():
            (self.workdir / "failure.json").unlink(missing_ok=True)
        self.log.rewind(self.step)
        return state

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return self.failure is not None or self.plan.finished(self.step, self.record)

    def advance(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Takes note of one call: metrics [S] and its share of the wall time. A value that is not finite ends the run."""
        try:
            check_finite(metrics, self.step)
        except NonFiniteError as failure:
            return self.fail(failure)
        self.step += self.plan.steps_per_call
        self.record.seconds += seconds
        terms = {f"train/{name}": value for name, value in means(metrics).items()}
        self.log.write(self.position() | {"seconds": round(self.record.seconds, 3)} | terms)

    def end_epoch(self, state: TrainState) -> None:
        """Validates, keeps the best weights, saves."""
        loss, others = validate(self.config, self.dataset, state)
        try:
            check_finite({"validation_loss": np.array([loss])}, self.step)
        except NonFiniteError as failure:
            return self.fail(failure)
        self.log.write(self.position() | {f"validation/{name}": number for name, number in others.items()})
        self.record.last_loss = loss
        epoch = self.plan.epoch(self.step)
        if epoch == self.plan.thawed + 1:  # weights of the time before are those of another method
            self.record.best_loss = np.inf
        if loss < self.record.best_loss - phase(self.config).min_improvement:
            self.record.best_loss, self.record.best_epoch = loss, epoch
            self.checkpoints.save("best", self.step, tree(state, self.record))
        if (every := self.config.checkpoint.every_epochs) and epoch % every == 0:
            self.checkpoints.save("kept", self.step, tree(state, self.record))
        self.save(state)
        if self.ended and self.step < self.plan.total_steps:
            LOG.info("Stopping %s early: no epoch since %d was better.", self.workdir.name, self.record.best_epoch)

    def save(self, state: TrainState) -> None:
        """Writes the checkpoint to resume from."""
        self.checkpoints.save("newest", self.step, tree(state, self.record))

    def fail(self, failure: Exception) -> None:
        """The run ends here; failure.json says why."""
        self.failure = failure
        write_atomically(self.workdir / "failure.json", json.dumps({"step": self.step, "message": str(failure)}))
        parallel.meet("failed")

    @property
    def ensemble(self) -> str:
        """The kind of program that the run was trained by last, one of `ensemble.KINDS`; "" before."""
        path = self.workdir / "ensemble.txt"
        return path.read_text() if path.exists() else ""

    @ensemble.setter
    def ensemble(self, kind: str) -> None:
        write_atomically(self.workdir / "ensemble.txt", kind)

    def position(self) -> dict:
        """Where in training a logged line stands."""
        return {"step": self.step, "epoch": self.step / self.plan.steps_per_epoch, "images": self.step * phase(self.config).batch_size}

    def best(self, like: TrainState) -> TrainState:
        """The state of the best epoch, after training."""
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            return restore(checkpoints, "best", like)[0]


def train(config: ml_collections.ConfigDict, dataset: systems.Data, workdir: Path) -> tuple[TrainState, TrainState, Record]:
    """Trains, or goes on where `workdir` stopped; returns (best state, last state, record).

    Raises NonFiniteError (the last good checkpoint stays) and Interrupted (a checkpoint was written).
    """
    ((member, last),) = train_together([config], dataset, [workdir])
    if member.failure:
        raise member.failure
    return member.best(last), last, member.record


def train_together(
    configs: Sequence[ml_collections.ConfigDict], dataset: systems.Data, workdirs: Sequence[Path], kind: str = "auto"
) -> list[tuple[Member, TrainState]]:
    """Trains runs that differ in seed and numbers alone as one program, or goes on where each of `workdirs` stopped; returns (member, last state) of each.

    A member that has ended, by early stopping or by a value that is not finite (`Member.failure`), waits while the others go on; so does one that was saved
    ahead of them. `kind` is one of `ensemble.KINDS`. Raises Interrupted (a checkpoint of every run was written).
    """
    mesh, plan, trainer = parallel.data_mesh(), plan_of(configs[0], dataset), build_trainer(configs[0], dataset, *configs[1:])
    members = [Member(config, workdir, dataset) for config, workdir in zip(configs, workdirs, strict=True)]
    with contextlib.ExitStack() as stack:
        for member in members:
            stack.enter_context(member.checkpoints)
            stack.enter_context(member.log)
        asked_to_stop = stack.enter_context(stop_signal())
        states = ensemble.stack([member.begin(mesh) for member in members])
        step = min((member.step for member in members if not member.ended), default=plan.total_steps)
        feed = build_feed(configs, dataset, mesh, states)
        if step < plan.total_steps:
            before = next(filter(None, (member.ensemble for member in members)), "")
            kind, call = ensemble.choose(kind, trainer, mesh, states, lambda kind: feed.batch(step, kind), before)
            for member in members:
                member.ensemble = kind
            states = parallel.laid_out(states, ensemble.state_sharding(kind, mesh))
        images = len(members) * phase(configs[0]).batch_size
        progress = stack.enter_context(Progress("training step", plan.total_steps, start=step, images=images))
        began = saved = time.monotonic()
        for batch in feed.batches(range(step, plan.total_steps, plan.steps_per_call), kind):
            active = np.array([member.step == step and not member.ended for member in members])
            states, metrics = call(states, batch, active)
            metrics, step = parallel.on_host(metrics), step + plan.steps_per_call
            turn, stopping = [(i, member) for i, member in enumerate(members) if active[i]], parallel.agree(asked_to_stop())
            seconds, began = time.monotonic() - began, time.monotonic()
            due = stopping or plan.ends_epoch(step) or parallel.agree(began - saved > 60 * configs[0].checkpoint.minutes)
            saved = began if due else saved
            for i, member in turn:
                member.advance({name: values[i] for name, values in metrics.items()}, seconds / len(turn))
            progress.advance(plan.steps_per_call, losses({name: values[active] for name, values in metrics.items()}, trainer.objective))
            for i, member in turn:
                if plan.ends_epoch(step) and not member.failure:
                    member.end_epoch(ensemble.member(states, i, mesh))
                elif due and not member.failure:
                    member.save(ensemble.member(states, i, mesh))
            if all(member.ended for member in members):
                break
            if stopping:
                for member in members:
                    member.checkpoints.wait()
                raise Interrupted(f"Stopped at step {step} of {plan.total_steps}; the same command resumes there.")
    return [(member, ensemble.member(states, i, mesh)) for i, member in enumerate(members)]


def losses(metrics: dict[str, np.ndarray], objective: Objective) -> str:
    """The terms of metrics [N, S] that the objective tells a person, in words: "loss 512.3 nats, reconstruction 500.1, kl 12.2"."""
    found, (loss, *others) = means(metrics), objective.told
    say = lambda name: f"{name.removesuffix(f'_{objective.unit}').replace('_', ' ').replace('/', ' ')} {found[name]:.4g}"
    return ", ".join([f"{say(loss)} {objective.unit.replace('_', ' ')}", *(say(name) for name in others if name in found)])


def images_per_second(config: ml_collections.ConfigDict, dataset: systems.Data) -> float:
    """Training images per second of one run here, from one warm call."""
    mesh, trainer = parallel.data_mesh(), build_trainer(config, dataset)
    states = ensemble.stack([initial_state(config, dataset, mesh)])
    call = ensemble.compiled("vmap", trainer, mesh, size=1)
    seconds = ensemble.call_seconds(call, states, build_feed([config], dataset, mesh, states).batch(0, "vmap"))
    return plan_of(config, dataset).steps_per_call * phase(config).batch_size / seconds


def validate(config: ml_collections.ConfigDict, dataset: systems.Data, state: TrainState) -> tuple[float, dict[str, float]]:
    """(validation loss in the unit of the objective, what is logged with it)."""
    return systems.of(config).validate(config, dataset, state)


def check_finite(metrics: dict[str, np.ndarray], first_step: int) -> None:
    """Raises NonFiniteError for the earliest step of metrics [S], naming the term that came first on the way from images to gradient."""
    finite = {name: np.isfinite(metrics[name]) for name in sorted(metrics, key=lambda name: (name == "gradient_norm", name.startswith("loss_")))}
    if all(values.all() for values in finite.values()):
        return
    offset, name = min((int(np.argmin(values)), order, name) for order, (name, values) in enumerate(finite.items()) if not values.all())[::2]
    raise NonFiniteError(
        f"{name} is {metrics[name][offset]} at step {first_step + offset}; what was saved before is kept, try a lower learning rate in another --workdir."
    )


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
