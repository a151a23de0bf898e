"""How long a run trains and what it knows beside its state."""

import dataclasses
import math

import ml_collections
import numpy as np

from causal_ctx import systems
from causal_ctx.config import phase
from causal_ctx.methods import METHODS


@dataclasses.dataclass
class Record:
    """What a run knows beside the state, all numbers: saved with it, so that a resumed run is an uninterrupted one."""

    best_loss: float = np.inf  # on the validation examples, in the best epoch, in the unit of the objective
    best_epoch: int = -1
    last_loss: float = np.inf  # in the last one
    seconds: float = 0.0  # of wall time, shared evenly by runs that train together: compiling, waiting for data, validating and saving included

    def arrays(self) -> dict[str, np.ndarray]:
        """As arrays, for a checkpoint."""
        return {name: np.asarray(value, np.float64) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def of(cls, arrays: dict) -> "Record":
        """The record that `arrays` describes."""
        return cls(**{field.name: field.type(arrays[field.name]) for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long: steps per compiled call, steps per epoch (a multiple of it), epochs, of which the last may be a part of one, and epochs without improvement
    before an early stop.

    `thawed` is the epoch from which everything trains that ever does; early stopping and the best weights count from there.
    """

    steps_per_call: int
    steps_per_epoch: int
    epochs: float
    patience: int
    thawed: int = 0

    @classmethod
    def of(cls, config: ml_collections.ConfigDict, num_examples: int) -> "Plan":
        """The plan of `config` for `num_examples` training examples, so many of which an epoch draws.

        Calls of one length compile one program: of the step counts within 1 % of an epoch (or the nearest), the one that allows the longest calls.
        """
        t = phase(config)
        exact = num_examples / t.batch_size
        counts = {max(1, round(exact)), *range(math.ceil(0.99 * exact), math.floor(1.01 * exact) + 1)}
        longest = lambda count: max(n for n in range(1, t.steps_per_call + 1) if count % n == 0)
        steps = max(counts, key=lambda count: (longest(count), -abs(count - exact)))
        thawed = max(epoch for _, epoch in cls._thaws(config) if epoch is not None)
        return cls(longest(steps), steps, t.epochs, t.patience_epochs, thawed)

    @staticmethod
    def _thaws(config: ml_collections.ConfigDict) -> list[tuple[str, int | None]]:
        """(rule, epoch from which its parameters train, None for never), in the order of the method; a fraction is an epoch at least."""
        epoch = lambda after: None if after is None else max(round(after * phase(config).epochs), int(after > 0))
        return [(rule, epoch(after)) for rule, after in METHODS[config.method].trains]

    def trains_from(self, config: ml_collections.ConfigDict) -> np.ndarray:
        """First training step of every group of the config's method, int32 [G]; the largest int32 for never."""
        never = np.iinfo(np.int32).max
        return np.array([never if epoch is None else epoch * self.steps_per_epoch for _, epoch in self._thaws(config)], np.int32)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of a run that does not stop early, in whole calls."""
        return self.steps_per_call * max(1, round(self.steps_per_epoch * self.epochs / self.steps_per_call))

    def epoch(self, step: int) -> int:
        """The epoch that `step` is in, counted from 1; it ends where `ends_epoch`."""
        return -(-step // self.steps_per_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or what the run has of one, ends at `step`."""
        return step % self.steps_per_epoch == 0 or step == self.total_steps

    def finished(self, step: int, record: Record) -> bool:
        """Whether a run at `step` has ended, early or not."""
        since = max(record.best_epoch, self.thawed)
        return step >= self.total_steps or (record.best_epoch >= 0 and step // self.steps_per_epoch - since >= self.patience)


def plan_of(config: ml_collections.ConfigDict, dataset) -> Plan:
    """The plan for the examples of `dataset` that the config's method sees."""
    return Plan.of(config, systems.of(config).num_examples(config, dataset))
