"""One training step, pure: state and batch in, state and metrics out. Devices never appear here.

Letters: S steps per call, R micro-batches per step, B examples of one micro-batch, H, W, C image, K concepts, G groups of parameters.
"""

from functools import partial
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from causal_ctx import optim
from causal_ctx.models.context_module import effective_causal_blocks
from causal_ctx.models.conv_vae import ConvVAE
from causal_ctx.objectives import vae


class Batch(NamedTuple):
    """images uint8 [..., B, H, W, C] and targets [..., B, K]; leading axes are S and R in training."""

    images: jax.Array
    targets: jax.Array


class Hyper(NamedTuple):
    """The numbers, scalars but for the last, in which runs of one compiled program may differ; `trains_from` int32 [G] is each group's first step."""

    beta: jax.Array
    group_penalty: jax.Array
    l2_penalty: jax.Array
    learning_rate: jax.Array
    final_learning_rate: jax.Array
    trains_from: jax.Array


class TrainState(flax.struct.PyTreeNode):
    """All that a run is, arrays only. `key` is the root of every random number; step keys are folded from it."""

    step: jax.Array
    key: jax.Array
    hyper: Hyper
    params: dict
    batch_stats: dict
    opt_state: optax.OptState

    @property
    def variables(self) -> dict:
        """The collections that the model's `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Trainer(NamedTuple):
    """What a step needs and never changes.

    rules: regular expressions of the G groups of parameters. total_steps, warmup_steps: of the schedule. clamp_causal: project the causal weights.
    penalised: any penalty counts. statistics_move: running averages of a frozen group go on moving (quirk Q3).
    """

    model: ConvVAE
    rules: tuple[str, ...]
    total_steps: int
    warmup_steps: int
    clamp_causal: bool
    penalised: bool
    statistics_move: bool
    optimizer: optax.GradientTransformationExtraArgs

    def init(self, seed: int, hyper: Hyper, image_shape: tuple[int, int, int], num_concepts: int) -> TrainState:
        """A fresh state for images [H, W, C] and K concepts."""
        key = jax.random.key(seed)
        variables = _init(self.model, image_shape, num_concepts, self.clamp_causal, key)
        opt_state = jax.jit(self.optimizer.init)(variables["params"])
        return TrainState(jnp.zeros((), jnp.int32), key, hyper, variables["params"], variables.get("batch_stats", {}), opt_state)

    def loss(self, params: dict, batch_stats: dict, hyper: Hyper, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[dict, dict]]:
        """Mean loss in nats of one micro-batch [B, ...], with (new batch_stats, mean terms in nats)."""
        variables = {"params": params, "batch_stats": batch_stats}
        images = batch.images.astype(jnp.float32) / 255
        (logits, posterior), updated = self.model.apply(variables, images, batch.targets, key, train=True, mutable=["batch_stats"])
        terms = {"reconstruction_nats": vae.reconstruction_nats(logits, images).mean(), "kl_nats": vae.kl_nats(posterior).mean()}
        loss = terms["reconstruction_nats"] + hyper.beta * terms["kl_nats"]
        if self.penalised:
            terms["penalty_nats"] = self.penalty(params, hyper, batch.targets)
            loss = loss + terms["penalty_nats"]
        return loss, (updated.get("batch_stats", {}), {"loss_nats": loss, **terms})

    def penalty(self, params: dict, hyper: Hyper, targets: jax.Array) -> jax.Array:
        """Sparsity of the causal layer under targets [B, K], per example: the paper adds it once per micro-batch whose nats are summed."""
        module = params["context_module"]
        composition = self.model.context_module.composition
        blocks = effective_causal_blocks(module["causal_obs"], module["causal_ivn"], self.model.heard(targets), composition)
        group, l2 = vae.causal_penalties(blocks)
        return (hyper.group_penalty * group + hyper.l2_penalty * l2).mean() / targets.shape[0]

    def update(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        """One optimiser step on the gradient averaged over R micro-batches: batch [R, B, ...] -> (state, metrics, scalars)."""
        step_key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        keys = jax.random.split(step_key, batch.targets.shape[0])

        def accumulate(carry, micro_batch_and_key):
            total, batch_stats = carry
            micro_batch, key = micro_batch_and_key
            gradient, (batch_stats, terms) = jax.grad(self.loss, has_aux=True)(state.params, batch_stats, state.hyper, micro_batch, key)
            return (jax.tree.map(jnp.add, total, gradient), batch_stats), terms

        start = jax.tree.map(jnp.zeros_like, state.params), state.batch_stats
        (total, batch_stats), terms = jax.lax.scan(accumulate, start, (batch, keys))
        gradient = jax.tree.map(lambda g: g / len(keys), total)
        state, trains = self.descend(state, gradient)
        if not self.statistics_move:
            keep = lambda group, new, old: jnp.where(trains[group], new, old)
            batch_stats = jax.tree.map(keep, optim.groups(self.rules, batch_stats), batch_stats, state.batch_stats)
        metrics = jax.tree.map(jnp.mean, terms) | {"gradient_norm": optax.tree.norm(gradient)}
        return state.replace(step=state.step + 1, batch_stats=batch_stats), metrics

    def descend(self, state: TrainState, gradient: dict) -> tuple[TrainState, jax.Array]:
        """(the state with parameters moved against `gradient`, which groups train, bool [G])."""
        hyper, trains = state.hyper, state.hyper.trains_from <= state.step
        directions, opt_state = self.optimizer.update(gradient, state.opt_state, state.params, trains=trains)
        rate = optim.learning_rate(state.step, hyper.learning_rate, hyper.final_learning_rate, self.warmup_steps, self.total_steps)
        params = jax.tree.map(lambda p, direction: p - rate * direction, state.params, directions)
        if self.clamp_causal:
            params = optim.clamp_causal_weights(params)
        return state.replace(params=params, opt_state=opt_state), trains

    def steps(self, state: TrainState, batches: Batch) -> tuple[TrainState, dict]:
        """`update` scanned over S steps: batches [S, R, B, ...] -> (state, metrics [S])."""
        return jax.lax.scan(self.update, state, batches)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _init(model: ConvVAE, image_shape: tuple[int, int, int], num_concepts: int, clamp_causal: bool, key: jax.Array) -> dict:
    images, targets = jnp.zeros((2, *image_shape)), jnp.zeros((2, num_concepts))
    variables = model.init(jax.random.fold_in(key, 0), images, targets, key, train=True)
    return variables | {"params": optim.clamp_causal_weights(variables["params"])} if clamp_causal else variables
