"""The published systems: what each makes of the stages that all runs pass through. `of(config)` finds the module of a config's method.

Stages know no system: plan.py, start.py, train.py, workdir.py and the reports ask the module, which has the functions of `System`.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import ml_collections

from causal_ctx.methods import METHODS

TABLE = {"context": "causal_ctx.systems.context", "transition": "causal_ctx.systems.transition"}

Config = ml_collections.ConfigDict
Data = Any  # ContextData or TransitionData


class System(Protocol):
    """The functions of a system's module. States are `step.TrainState`."""

    def load(self, config: Config) -> Data:
        """The run's data. Raises ValueError (one sentence) for fields that it cannot be made from."""

    def describe(self, config: Config, dataset: Data, *folders: Path) -> dict:
        """What can be said of the data before training: {"problems": [{"level": "error" or "warning", "sentence"}], ...}; may be kept in the runs' folders."""

    def describe_text(self, described: dict) -> str:
        """The same as lines for a person."""

    def num_examples(self, config: Config, dataset: Data) -> int:
        """How many examples an epoch draws."""

    def objective(self, config: Config, dataset: Data, *others: Config):
        """The `objectives.Objective` of the run, also for `others`, whose runs differ in numbers alone."""

    def feed(self, configs: Sequence[Config], dataset: Data, mesh: jax.sharding.Mesh, states):
        """The `feed.Feed` of runs that train together, whose stacked states [N, ...] are `states`."""

    def refuse_source(self, config: Config, theirs: Config) -> None:
        """Raises StartError where nothing can be taken from the run in `config.init_from`, whose config is `theirs`: before anything is built or written."""

    def take_over(self, config: Config, state, source):
        """`state` with what the method takes of `source`, the state of the run in `config.init_from`; StartError where tensors do not fit."""

    def validate(self, config: Config, dataset: Data, state) -> tuple[float, dict[str, float]]:
        """(validation loss, what else is logged with it)."""

    def evaluate(self, config: Config, dataset: Data, best, initial, record) -> dict:
        """The system's part of results.json: the scores of the best state beside the initial one."""

    def uses(self, config: Config, dataset: Data, state) -> dict:
        """{name: (function of nothing, images that it works on)} of what a model with the weights of `state` is used for; "NAME, a loop" is a slower way to NAME."""


def of(config: Config) -> System:
    """The module of the system that the config's method belongs to."""
    return importlib.import_module(TABLE[METHODS[config.method].system])
