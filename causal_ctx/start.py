"""What a run starts from: its trainer, its first state, and the tensors that it takes over from another run."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from causal_ctx import config as configs
from causal_ctx import optim, parallel
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.data import ContextData
from causal_ctx.methods import BACKBONE, METHODS
from causal_ctx.models import build_model
from causal_ctx.objectives.context_vae import ContextVAE
from causal_ctx.plan import Record, plan_of
from causal_ctx.step import Hyper, Trainer, TrainState

LOG = logging.getLogger(__name__)


class StartError(configs.ConfigError):
    """A run that cannot start from the one named by `init_from`; the message is one sentence for the user."""


def build_trainer(config: ml_collections.ConfigDict, dataset: ContextData, *others: ml_collections.ConfigDict) -> Trainer:
    """Model, Adam with the paper's schedule, and which parameters train when; also for `others`, whose runs differ in numbers alone, as one program."""
    penalties = [number for run in (config, *others) for number in (run.objective.group_penalty, run.objective.l2_penalty)]
    method, rules = METHODS[config.method], tuple(rule for rule, _ in METHODS[config.method].trains)
    return Trainer(
        objective=ContextVAE(
            model=build_model(config, len(dataset.concepts), dataset.image_shape),
            image_shape=dataset.image_shape,
            num_concepts=len(dataset.concepts),
            clamp_causal=config.train.clamp_causal and method.module,
            penalised=method.module and any(penalties),
        ),
        rules=rules,
        total_steps=plan_of(config, dataset).total_steps,
        warmup_steps=config.train.warmup_steps,
        statistics_move=config.train.frozen_statistics == "moving",
        optimizer=optim.adam_in_groups(rules),
    )


def hyper(config: ml_collections.ConfigDict, dataset: ContextData) -> Hyper:
    """The numbers of `config` that a compiled step takes as arguments."""
    objective = {name: jnp.float32(number) for name, number in config.objective.items()}
    rates = (jnp.float32(rate) for rate in (config.train.learning_rate, config.train.final_learning_rate))
    return Hyper(objective, *rates, jnp.asarray(plan_of(config, dataset).trains_from(config)))


def initial_state(config: ml_collections.ConfigDict, dataset: ContextData, mesh: jax.sharding.Mesh) -> TrainState:
    """The state with fresh weights, replicated over `mesh`: what checkpoints look like and what "untrained" means."""
    state = build_trainer(config, dataset).init(config.seed, hyper(config, dataset))
    return jax.device_put(state, parallel.replicated(mesh))


def first_state(config: ml_collections.ConfigDict, dataset: ContextData, mesh: jax.sharding.Mesh) -> TrainState:
    """The state before the first step: `initial_state`, with the backbone of the run in `config.init_from` where the method starts from one."""
    state = initial_state(config, dataset, mesh)
    if not METHODS[config.method].starts_from:
        return state
    theirs = source_config(config)
    with Checkpoints(Path(config.init_from) / "checkpoints") as checkpoints:
        if checkpoints.step("best") is None:
            raise StartError(f"The run in {config.init_from} has no trained weights yet; finish it first.")
        copied = backbone(config, state.variables)
        held = {path[1:] if path[0].key == "collections" else path: shape for path, shape in checkpoints.shapes("best", "state").items()}
        refuse_misfits(config.init_from, copied, held)
        source, _ = restore(checkpoints, "best", initial_state(theirs, dataset, mesh))
    taken = dict(jax.tree_util.tree_leaves_with_path(source.variables))
    variables = jax.tree_util.tree_map_with_path(lambda path, ours: taken[path] if path in copied else ours, state.variables)
    return state.replace(params=variables.pop("params"), collections=variables)


def source_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of the run in `config.init_from`. Raises StartError if there is none, it is another method's, or it diverged."""
    folder, method = Path(config.init_from), METHODS[config.method].starts_from
    remedy = f"give the --workdir of a trained {method} as init_from"
    if not (folder / "config.json").is_file():
        raise StartError(f"{folder} holds no run to start from; {remedy}.")
    theirs = configs.from_json((folder / "config.json").read_text())
    if theirs.method != method:
        raise StartError(f"{folder} holds a run of {theirs.method}, but {config.method} starts from {method}; {remedy}.")
    if (folder / "failure.json").exists():
        raise StartError(f"The run in {folder} diverged, so nothing can start from it; {remedy} that did not.")
    differing = configs.differences(config.data.to_dict(), theirs.data.to_dict())
    if differing:
        LOG.warning("The run in %s saw other data: %s.", folder, ", ".join(differing))
    return theirs


def backbone(config: ml_collections.ConfigDict, variables: dict) -> dict:
    """{path: shape} of the backbone's leaves of `variables`, running averages included."""
    rules = [rule for rule, _ in METHODS[config.method].trains]
    groups = {name: optim.groups(rules, tree) for name, tree in variables.items()}
    chosen = dict(jax.tree_util.tree_leaves_with_path(groups))
    return {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(variables) if rules[chosen[path]] == BACKBONE}


def refuse_misfits(folder: str, ours: dict, theirs: dict) -> None:
    """Raises StartError naming every tensor of {path: shape} `ours` that is missing in `theirs` or has another shape there."""
    name = lambda path: "/".join(key.key for key in path[1:])
    there = lambda path: list(theirs[path]) if path in theirs else "missing"
    misfits = [f"{name(path)} ({there(path)} there, {list(shape)} here)" for path, shape in ours.items() if theirs.get(path) != shape]
    if misfits:
        raise StartError(f"The backbone in {folder} is another one: {', '.join(misfits)}; start from a run of the same backbone.")


def tree(state: TrainState, record: Record) -> dict:
    """What a checkpoint holds."""
    return {"state": state, "record": record.arrays()}


def restore(checkpoints: Checkpoints, name: str, like: TrainState) -> tuple[TrainState, Record]:
    """Checkpoint `name` as (state, record), placed like `like`."""
    held = checkpoints.restore(name, tree(like, Record()))
    return held["state"], Record.of(held["record"])
