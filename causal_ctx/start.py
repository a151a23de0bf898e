"""What a run starts from: its trainer, its first state, and what it takes over from another run."""

import copy
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from causal_ctx import config as configs
from causal_ctx import optim, parallel, systems
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.config import StartError, phase
from causal_ctx.methods import AUTO, METHODS, choice
from causal_ctx.plan import Record, plan_of
from causal_ctx.step import Hyper, Trainer, TrainState

LOG = logging.getLogger(__name__)
OF_NO_IMAGE = ("cache_dir", "placement", "samples", "keep", "variations")  # fields of config.data that change no image


def build_trainer(config: ml_collections.ConfigDict, dataset, *others: ml_collections.ConfigDict) -> Trainer:
    """The objective, Adam with the method's schedule, and which parameters train when; also for `others`, whose runs differ in numbers alone, as one program."""
    rules, t = tuple(rule for rule, _ in METHODS[config.method].trains), phase(config)
    return Trainer(
        objective=systems.of(config).objective(config, dataset, *others),
        rules=rules,
        total_steps=plan_of(config, dataset).total_steps,
        warmup_steps=t.warmup_steps,
        decay=t.decay,
        statistics_move=t.get("frozen_statistics", "moving") == "moving",
        optimizer=optim.adam_in_groups(rules),
    )


def hyper(config: ml_collections.ConfigDict, dataset) -> Hyper:
    """The numbers of `config` that a compiled step takes as arguments."""
    objective = {name: jnp.float32(choice(config, f"objective.{name}")) for name in config.objective}
    rates = (jnp.float32(rate) for rate in (phase(config).learning_rate, phase(config).final_learning_rate))
    return Hyper(objective, *rates, jnp.asarray(plan_of(config, dataset).trains_from(config)))


def initial_state(config: ml_collections.ConfigDict, dataset, mesh: jax.sharding.Mesh) -> TrainState:
    """The state with fresh weights, replicated over `mesh`: what checkpoints look like and what "untrained" means."""
    state = build_trainer(config, dataset).init(config.seed, hyper(config, dataset))
    return parallel.everywhere(mesh, state)


def shape_of_state(config: ml_collections.ConfigDict, dataset, mesh: jax.sharding.Mesh) -> TrainState:
    """`initial_state` as shapes, types and shardings alone, which nothing is compiled for: what a checkpoint is restored to."""
    trainer = build_trainer(config, dataset)
    shapes = jax.eval_shape(lambda: trainer.init(config.seed, hyper(config, dataset)))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parallel.replicated(mesh)), shapes)


def first_state(config: ml_collections.ConfigDict, dataset, mesh: jax.sharding.Mesh) -> TrainState:
    """The state before the first step: `initial_state`, with what the method takes over from the run in `config.init_from` where it starts from one."""
    state = initial_state(config, dataset, mesh)
    if not METHODS[config.method].starts_from:
        return state
    theirs = source_config(config)
    with Checkpoints(Path(config.init_from) / "checkpoints") as checkpoints:
        if checkpoints.step("best") is None:
            raise StartError(f"The run in {config.init_from} has no trained weights yet; finish it first.")
        source, _ = restore(checkpoints, "best", shape_of_state(theirs, dataset, mesh))
    return systems.of(config).take_over(config, state, source)


def source_of(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of the run that the method starts from, where none is given."""
    source = copy.deepcopy(config)
    source.method, source.init_from = METHODS[config.method].starts_from, ""
    if "posterior" in source.model:
        source.model.posterior = AUTO  # what is told here may not be known there
    return source


def sourced(config: ml_collections.ConfigDict, workdir: Path) -> ml_collections.ConfigDict:
    """`config` with `init_from` filled where the method starts from another run and none is given: a folder named by the method in the run's own.

    The same where one is given that is not there, and the run's own is: both were moved, or the program started elsewhere.
    """
    source = METHODS[config.method].starts_from
    if not source:
        return config
    moved = Path(config.init_from).name == source and not Path(config.init_from).exists() and (workdir / source).exists()
    if config.init_from and not moved:
        return config
    config = copy.deepcopy(config)
    config.init_from = str(workdir / source)
    return config


def source_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of the run in `config.init_from`. Raises StartError if there is none, it is another method's, it diverged, or its model is another."""
    folder, method = Path(config.init_from), METHODS[config.method].starts_from
    remedy = f"give the --workdir of a trained {method} as init_from"
    if not (folder / "config.json").is_file():
        raise StartError(f"{folder} holds no run to start from; {remedy}.")
    theirs = configs.from_json((folder / "config.json").read_text())
    if theirs.method != method:
        raise StartError(f"{folder} holds a run of {theirs.method}, but {config.method} starts from {method}; {remedy}.")
    if (folder / "failure.json").exists():
        raise StartError(f"The run in {folder} diverged, so nothing can start from it; {remedy} that did not.")
    images = lambda run: {name: value for name, value in run.data.items() if name not in OF_NO_IMAGE}
    differing = configs.differences(images(config), images(theirs))
    if differing:
        LOG.warning("The run in %s saw other data: %s.", folder, ", ".join(differing))
    systems.of(config).refuse_source(config, theirs)
    return theirs


def tree(state: TrainState, record: Record) -> dict:
    """What a checkpoint holds."""
    return {"state": state, "record": record.arrays()}


def build_feed(configs, dataset, mesh: jax.sharding.Mesh, states: TrainState | None = None):
    """The `feed.Feed` of runs that differ in seed and numbers alone; `states` [N, ...] are what they go on from, needed where batches depend on weights."""
    return systems.of(configs[0]).feed(configs, dataset, mesh, states)


def restore(checkpoints: Checkpoints, name: str, like: TrainState) -> tuple[TrainState, Record]:
    """Checkpoint `name` as (state, record), placed like `like`."""
    held = checkpoints.restore(name, tree(like, Record()))
    return held["state"], Record.of(held["record"])
