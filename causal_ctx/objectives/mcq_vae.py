"""The MCQ-VAE objective (spec sections 1.2 and 1.4), per example, and what is logged with it.

Letters: B batch, H, W, C image, h, w grid of nodes, K codebooks of N codes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from causal_ctx.models import quantiser
from causal_ctx.models.mcq_vae import MCQVAE, Reconstruction, revive_dead_codes
from causal_ctx.objectives.objective import ImageBatch


class CodedVAE(NamedTuple):
    """An `objective.Objective` with the number beta: phase 1 of CT-VAE.

    image_shape: (H, W, C). revival: codes whose moving share is below revival / N are moved to a latent after a step, 0 for never.
    """

    model: MCQVAE
    image_shape: tuple[int, int, int]
    revival: float
    unit: str = "squared_error"
    told: tuple[str, ...] = ("loss_squared_error", "reconstruction_mse", "vq_loss")

    def init(self, key: jax.Array) -> dict:
        """Fresh variables."""
        return dict(_init(self.model, self.image_shape, key))

    def loss(self, variables: dict, numbers: dict[str, jax.Array], batch: ImageBatch, key: jax.Array) -> tuple[jax.Array, tuple[dict, dict]]:
        """Mean loss of one micro-batch of images [B, H, W, C], with (new batch_stats, mean terms)."""
        images = batch.images.astype(jnp.float32) / 255
        output, updated = self.model.apply(variables, images, key, train=True, mutable=["batch_stats"])
        value, terms = loss(output, images, numbers["beta"])
        return value, (dict(updated), terms | code_metrics(output.indices, self.model.quantiser.num_codes))

    def project(self, params: dict, collections: dict) -> tuple[dict, dict]:
        """The same variables with dead codes revived, where they are."""
        if not self.revival:
            return params, collections
        params, stats = revive_dead_codes(params, collections["batch_stats"], self.revival)
        return params, collections | {"batch_stats": stats}


@partial(jax.jit, static_argnums=(0, 1))
def _init(model: MCQVAE, image_shape: tuple[int, int, int], key: jax.Array) -> dict:
    return model.init(jax.random.fold_in(key, 0), jnp.zeros((1, *image_shape)))


def reconstruction_mse(reconstructions: jax.Array, images: jax.Array) -> jax.Array:
    """Squared error, averaged over pixels and channels: two arrays [B, H, W, C] of images in [0, 1] -> [B]."""
    return ((reconstructions - images) ** 2).mean(axis=(1, 2, 3))


def loss(output: Reconstruction, images: jax.Array, beta: float | jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """MSE plus the losses of all codebooks, averaged over examples, with its terms: (scalar, {"loss_squared_error", "reconstruction_mse", "vq_loss"}).

    images [B, H, W, C] in [0, 1]; beta weights the commitment of the encoder to its codes.
    """
    mse = reconstruction_mse(output.images, images).mean()
    vq = quantiser.losses(output.z, output.q, output.indices.shape[1], beta).sum(-1).mean()
    return mse + vq, {"loss_squared_error": mse + vq, "reconstruction_mse": mse, "vq_loss": vq}


def psnr_db(mse: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in decibels of images in [0, 1] with mean squared error `mse`."""
    return -10 * jnp.log10(mse)


def code_metrics(indices: jax.Array, num_codes: int) -> dict[str, jax.Array]:
    """`share_metrics` of the codes that indices [B, K, h, w] use."""
    return share_metrics(quantiser.code_shares(indices, num_codes), indices.shape[2] * indices.shape[3])


def share_metrics(shares: jax.Array, nodes: int) -> dict[str, jax.Array]:
    """Scalars about codes that have shares [K, N] of the `nodes` that a codebook has in an image.

    perplexity_codes: of a codebook, mean over codebooks; 1 is collapse, N an even use. dead_codes: that no node of these images takes, summed over codebooks.
    code_bits_per_image: what the nodes would cost if each were coded by itself with its codebook's frequencies.
    """
    used = quantiser.usage(shares)
    return {
        "perplexity_codes": used.perplexity_codes.mean(),
        "dead_codes": used.dead_codes.sum(),
        "code_bits_per_image": nodes * used.entropy_bits.sum(),
    }
