"""One training step, pure: state and batch in, state and metrics out. Devices never appear here.

Letters: S steps per call, R micro-batches per step, B examples of one micro-batch, G groups of parameters. A batch is a tuple of arrays [R, B, ...].
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from causal_ctx import optim
from causal_ctx.objectives.objective import Batch, Objective


class Hyper(NamedTuple):
    """The numbers in which runs of one compiled program may differ, scalars but for `trains_from`, int32 [G]: each group's first step.

    objective: what `Objective.loss` takes, those of `config.objective`.
    """

    objective: dict[str, jax.Array]
    learning_rate: jax.Array
    final_learning_rate: jax.Array
    trains_from: jax.Array


class TrainState(flax.struct.PyTreeNode):
    """All that a run is, arrays only. `key` is the root of every random number; step keys are folded from it.

    collections: variables that are updated but not by gradients, {"batch_stats": ...}.
    """

    step: jax.Array
    key: jax.Array
    hyper: Hyper
    params: dict
    collections: dict
    opt_state: optax.OptState

    @property
    def variables(self) -> dict:
        """The collections that the model's `apply` takes."""
        return {"params": self.params, **self.collections}


class Trainer(NamedTuple):
    """What a step needs and never changes.

    rules: regular expressions of the G groups of parameters. total_steps, warmup_steps, decay: of the schedule. statistics_move: the collections of a frozen
    group go on moving (quirk Q3).
    """

    objective: Objective
    rules: tuple[str, ...]
    total_steps: int
    warmup_steps: int
    decay: str
    statistics_move: bool
    optimizer: optax.GradientTransformationExtraArgs

    def init(self, seed: int, hyper: Hyper) -> TrainState:
        """A fresh state."""
        key = jax.random.key(seed)
        collections = dict(self.objective.init(key))
        params = collections.pop("params")
        return TrainState(jnp.zeros((), jnp.int32), key, hyper, params, collections, jax.jit(self.optimizer.init)(params))

    def update(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        """One optimiser step on the gradient averaged over R micro-batches: batch [R, B, ...] -> (state, metrics, scalars)."""
        step_key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        keys = jax.random.split(step_key, len(jax.tree.leaves(batch)[0]))

        def accumulate(carry, micro_batch_and_key):
            total, collections = carry
            micro_batch, key = micro_batch_and_key
            loss = lambda params: self.objective.loss({"params": params, **collections}, state.hyper.objective, micro_batch, key)
            gradient, (collections, terms) = jax.grad(loss, has_aux=True)(state.params)
            return (jax.tree.map(jnp.add, total, gradient), collections), terms

        start = jax.tree.map(jnp.zeros_like, state.params), state.collections
        (total, collections), terms = jax.lax.scan(accumulate, start, (batch, keys))
        gradient = jax.tree.map(lambda g: g / len(keys), total)
        state, trains = self.descend(state, gradient)
        if not self.statistics_move:
            keep = lambda group, new, old: jnp.where(trains[group], new, old)
            of_group = {name: optim.groups(self.rules, tree) for name, tree in collections.items()}
            collections = jax.tree.map(keep, of_group, collections, state.collections)
        params, collections = self.objective.project(state.params, collections)
        metrics = jax.tree.map(jnp.mean, terms) | {"gradient_norm": optax.tree.norm(gradient)}
        return state.replace(step=state.step + 1, params=params, collections=collections), metrics

    def descend(self, state: TrainState, gradient: dict) -> tuple[TrainState, jax.Array]:
        """(the state with parameters moved against `gradient`, which groups train, bool [G])."""
        hyper, trains = state.hyper, state.hyper.trains_from <= state.step
        directions, opt_state = self.optimizer.update(gradient, state.opt_state, state.params, trains=trains)
        rate = optim.learning_rate(state.step, hyper.learning_rate, hyper.final_learning_rate, self.warmup_steps, self.total_steps, self.decay)
        params = jax.tree.map(lambda p, direction: p - rate * direction, state.params, directions)
        return state.replace(params=params, opt_state=opt_state), trains

    def steps(self, state: TrainState, batches: Batch) -> tuple[TrainState, dict]:
        """`update` scanned over S steps: batches [S, R, B, ...] -> (state, metrics [S])."""
        return jax.lax.scan(self.update, state, batches)
