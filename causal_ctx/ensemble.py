"""Several runs of one shape as one program: a leading axis of members over state, batch and metrics.

Letters: N members, S steps per call; a member's batch and metrics are those of `step.Trainer.steps`.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from causal_ctx import parallel
from causal_ctx.config import ConfigError
from causal_ctx.progress import duration
from causal_ctx.step import Batch, Trainer, TrainState

LOG = logging.getLogger(__name__)
KINDS = ("vmap", "map", "shard", "auto")

Call = Callable[[TrainState, Batch, np.ndarray], tuple[TrainState, dict]]


def stack(trees: list) -> object:
    """One tree with a leading axis N out of N trees."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(tree, index: int, mesh: Mesh):
    """Member `index` of a stacked tree, replicated over `mesh`."""
    return parallel.laid_out(jax.tree.map(lambda leaf: leaf[index], tree), parallel.replicated(mesh))


def steps_if_active(trainer: Trainer, state: TrainState, batches: Batch, active: jax.Array) -> tuple[TrainState, dict]:
    """`trainer.steps` of one member where `active`; else the state as it is, and metrics of zeros."""
    train = lambda: trainer.steps(state, batches)
    wait = lambda: (state, jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), jax.eval_shape(trainer.steps, state, batches)[1]))
    return jax.lax.cond(active, train, wait)


def batch_axis(kind: str) -> int:
    """The axis of batches [N, S, R, B, ...] that is split over the devices."""
    return 0 if kind == "shard" else 3


def state_sharding(kind: str, mesh: Mesh) -> NamedSharding:
    """Where states [N, ...] live."""
    return parallel.split(mesh, axis=0) if kind == "shard" else parallel.replicated(mesh)


def compiled(kind: str, trainer: Trainer, mesh: Mesh, size: int) -> Call:
    """The compiled call (states [N, ...], batches [N, S, ...], active bool [N]) -> (states, metrics [N, S]); states are donated.

    kind: "vmap" computes all members side by side, "map" one after the other (those that are not active cost nothing), both with every micro-batch split
    over the mesh; "shard" gives every device its share of the members. One member alone is the plain step, whatever the kind.
    Raises ConfigError if the devices do not divide N under "shard".
    """
    one, held, rows = partial(steps_if_active, trainer), state_sharding(kind, mesh), parallel.split(mesh, batch_axis(kind))
    if kind == "shard":
        if size % mesh.size:
            raise ConfigError(f"{size} runs cannot be shared by {mesh.size} devices; choose --config.ensemble=vmap, or a multiple of {mesh.size} runs.")
        share = rows.spec
        together = jax.shard_map(jax.vmap(one), mesh=mesh, in_specs=share, out_specs=share, check_vma=False)
        return jax.jit(together, donate_argnums=0, in_shardings=rows, out_shardings=rows)
    if size == 1:
        together = lambda states, batches, _: jax.tree.map(lambda leaf: leaf[None], trainer.steps(*jax.tree.map(lambda leaf: leaf[0], (states, batches))))
    elif kind == "map":
        together = lambda *members: jax.lax.map(lambda member: one(*member), members)
    else:
        together = jax.vmap(one)
    return jax.jit(together, donate_argnums=0, in_shardings=(held, rows, held), out_shardings=held)


def choose(kind: str, trainer: Trainer, mesh: Mesh, states: TrainState, place: Callable[[str], Batch], before: str = "") -> tuple[str, Call]:
    """(kind, compiled call); for "auto" the kind `before`, else the one whose warm call is fastest here, said in the log.

    `place` gives a batch laid out for a kind. Each kind rounds in its own way: a resumed run is the uninterrupted one only under the kind that it had before.
    """
    size = len(states.step)
    make = lambda kind: ready(compiled(kind, trainer, mesh, size), states, place(kind))
    if size == 1 or kind != "auto":
        kind = "vmap" if kind == "auto" else kind
        return kind, make(kind)
    kinds = [kind for kind in KINDS[:3] if kind != "shard" or (mesh.size > 1 and size % mesh.size == 0)]
    if before in kinds:
        return before, make(before)
    LOG.info("Timing %d runs in one program: %s.", size, ", ".join(kinds))
    calls = {kind: make(kind) for kind in kinds}
    seconds = {kind: call_seconds(calls[kind], parallel.laid_out(states, state_sharding(kind, mesh)), place(kind)) for kind in kinds}
    best = kinds[parallel.of_first(int(np.argmin([seconds[kind] for kind in kinds])))]
    LOG.info("%d runs in one program: %s; going on with %s.", size, ", ".join(f"{kind} {s:.2f} s a call" for kind, s in seconds.items()), best)
    return best, calls[best]


def ready(call: Call, states: TrainState, batch: Batch) -> Call:
    """`call`, compiled for arrays like these, or read from where compiled programs are kept; as the log says."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (states, batch, np.ones(len(states.step), bool)))
    began = time.monotonic()
    LOG.info("Compiling the training step; the first time this can take minutes.")
    compiled_call = call.lower(*shapes).compile()
    LOG.info("The training step is ready after %s.", duration(time.monotonic() - began))
    return compiled_call


def call_seconds(call: Call, states: TrainState, batch: Batch) -> float:
    """Wall time of one warm call; `states` stay usable."""
    active = np.ones(len(states.step), bool)
    copy, _ = call(jax.tree.map(jnp.copy, states), batch, active)
    began = time.monotonic()
    jax.block_until_ready(call(copy, batch, active))
    return time.monotonic() - began
