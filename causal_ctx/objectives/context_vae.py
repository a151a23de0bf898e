"""What the lightweight VAE minimises, with or without its context module (spec section 2).

Letters: B batch, H, W, C image, K concepts.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from causal_ctx import optim
from causal_ctx.models.context_module import effective_causal_blocks
from causal_ctx.models.conv_vae import ConvVAE
from causal_ctx.objectives import vae
from causal_ctx.objectives.objective import ImageBatch


class ContextVAE(NamedTuple):
    """An `objective.Objective` with the numbers beta, energy_penalty, moment_penalty, group_penalty and l2_penalty.

    image_shape: (H, W, C). clamp_causal: the causal weights stay in [0, 1]. energy_penalised, moments_penalised, penalised: the penalty on the images that are
    generated, that on moments, any on causal weights counts. compute_dtype: float32 or bfloat16, in which the model computes what it hands from layer to layer;
    parameters, their gradients, statistics and the loss are float32 throughout.
    """

    model: ConvVAE
    image_shape: tuple[int, int, int]
    num_concepts: int
    clamp_causal: bool
    energy_penalised: bool
    moments_penalised: bool
    penalised: bool
    compute_dtype: str = "float32"
    unit: str = "nats"
    told: tuple[str, ...] = ("loss_nats", "reconstruction_nats", "kl_nats")

    def init(self, key: jax.Array) -> dict:
        """Fresh variables, projected."""
        variables = dict(_init(self.model, self.image_shape, self.num_concepts, key))
        params = variables.pop("params")
        params, collections = self.project(params, variables)
        return {"params": params, **collections}

    def loss(self, variables: dict, numbers: dict[str, jax.Array], batch: ImageBatch, key: jax.Array) -> tuple[jax.Array, tuple[dict, dict]]:
        """Mean loss in nats of one micro-batch [B, ...], with (new batch_stats, mean terms in nats).

        "energy_nats" is the energy distance times the number of pixels, which stands beside nats at every resolution alike, and is none itself.
        """
        images, targets = batch.images.astype(jnp.float32) / 255, batch.targets
        noise = None
        if self.energy_penalised:
            noise = jax.random.normal(jax.random.fold_in(key, 0), (len(images), self.model.encoder.latents)).astype(self.compute_dtype)
        computed = variables | {"params": _cast(variables["params"], self.compute_dtype)}
        found, updated = self.model.apply(computed, _cast(images, self.compute_dtype), targets, key, True, noise, mutable=["batch_stats"])
        found = _cast(found, "float32")
        terms = {"reconstruction_nats": vae.reconstruction_nats(found.logits, images).mean(), "kl_nats": vae.kl_nats(found.posterior).mean()}
        loss, together = terms["reconstruction_nats"] + numbers["beta"] * terms["kl_nats"], vae.of_one_context(self.model.heard(targets))
        if self.energy_penalised:
            rows, columns, _ = self.image_shape
            terms["energy_nats"] = rows * columns * vae.energy_distance(images, jax.nn.sigmoid(found.generated), together)
            loss = loss + numbers["energy_penalty"] * terms["energy_nats"]
        if self.moments_penalised:
            terms["moment_nats"] = vae.moment_distance(found.posterior, together)
            loss = loss + numbers["moment_penalty"] * terms["moment_nats"]
        if self.penalised:
            terms["penalty_nats"] = self.penalty(variables["params"], numbers, batch.targets)
            loss = loss + terms["penalty_nats"]
        return loss, (dict(updated), {"loss_nats": loss, **terms})

    def penalty(self, params: dict, numbers: dict[str, jax.Array], targets: jax.Array) -> jax.Array:
        """Sparsity of the causal layer under targets [B, K], per example: the paper adds it once per micro-batch whose nats are summed."""
        module = params["context_module"]
        composition = self.model.context_module.composition
        blocks = effective_causal_blocks(module["causal_obs"], module["causal_ivn"], self.model.heard(targets), composition)
        group, l2 = vae.causal_penalties(blocks)
        return (numbers["group_penalty"] * group + numbers["l2_penalty"] * l2).mean() / targets.shape[0]

    def project(self, params: dict, collections: dict) -> tuple[dict, dict]:
        """The parameters with the causal weights clamped, where they are."""
        return (optim.clamp_causal_weights(params) if self.clamp_causal else params), collections


def _cast(tree, dtype: str):
    """The arrays of `tree` in another type."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _init(model: ConvVAE, image_shape: tuple[int, int, int], num_concepts: int, key: jax.Array) -> dict:
    images, targets = jnp.zeros((2, *image_shape)), jnp.zeros((2, num_concepts))
    return model.init(jax.random.fold_in(key, 0), images, targets, key, train=True)
