"""The lightweight VAE: a convolutional encoder and decoder, with or without the context module between latent noise and decoder (spec section 2).

Letters: B batch, H, W, C image height, width, channels; L latent width; E decoder input features; K concepts.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from causal_ctx.models.context_module import ContextModule
from causal_ctx.models.convolution import Dense, StridedConv, TransposedConv, torch_uniform
from causal_ctx.models.normalisation import Norm

WIDTHS = {"conv64": (32, 64, 128, 256), "conv28": (32, 64)}


class Posterior(NamedTuple):
    """Gaussian q(z | x): mean and log_variance, each [B, L]."""

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        """One reparameterised sample z [B, L]."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * jax.random.normal(key, self.mean.shape).astype(self.mean.dtype)


class Output(NamedTuple):
    """What the VAE makes of images: their logits [B, H, W, C] and Posterior over [B, L], and what else was asked for.

    generated: logits of images from given noise. crossed: logits of images of crossed concepts, [2, B // 2, H, W, C]. concepts: [2, B, K, w_out] of the same
    images told two contexts.
    """

    logits: jax.Array
    posterior: Posterior
    generated: jax.Array | None = None
    crossed: jax.Array | None = None
    concepts: jax.Array | None = None


class Activation(nn.Module):
    """ReLU and normalisation in the backbone's order: ReLU first in conv64, normalisation first in conv28 (spec section 2)."""

    backbone: str
    normalisation: str
    momentum: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        norm = Norm(self.normalisation, self.momentum, groups=8, name="norm")
        return norm(nn.relu(x), train) if self.backbone == "conv64" else nn.relu(norm(x, train))


class Encoder(nn.Module):
    """Images [B, H, W, C] in [0, 1], targets [B, K] -> Posterior over [B, L], through `features` features; the targets count where `told`.

    An encoder that is `told` takes targets [T, B, K], too: Posterior over [T, B, L].
    """

    backbone: str
    latents: int
    features: int
    normalisation: str
    momentum: float = 0.9
    told: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, targets: jax.Array, train: bool) -> Posterior:
        activate = lambda x, name: Activation(self.backbone, self.normalisation, self.momentum, name=name)(x, train)
        for layer, width in enumerate(WIDTHS[self.backbone]):
            x = activate(StridedConv(width, name=f"conv_{layer}")(x), f"activation_{layer}")
        x = x.reshape(x.shape[0], -1)
        if self.backbone == "conv28":  # a valid 7x7 convolution on a 7x7 map is a dense layer
            x = activate(Dense(128, name="conv_7x7")(x), "activation_7x7")
        x = Dense(self.features, name="dense")(x)
        if self.told:
            targets = targets.astype(x.dtype)
            x = jnp.broadcast_to(x, (*targets.shape[:-1], self.features))
            x = jnp.concatenate([nn.relu(x + Dense(self.features, name="targets")(targets)), targets], axis=-1)
        else:
            x = nn.relu(x)
        return Posterior(Dense(self.latents, name="mean")(x), Dense(self.latents, name="log_variance")(x))


class Decoder(nn.Module):
    """Decoder features [B, E] -> pixel logits [B, *image_shape]."""

    backbone: str
    image_shape: tuple[int, int, int]
    normalisation: str
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        activate = lambda x, name: Activation(self.backbone, self.normalisation, self.momentum, name=name)(x, train)
        widths = WIDTHS[self.backbone][::-1]
        rows, columns = (size // 2 ** len(widths) for size in self.image_shape[:2])
        x = nn.relu(Dense(x.shape[-1], name="dense_0")(x))
        if self.backbone == "conv28":  # a transposed 7x7 convolution on a 1x1 map is a dense layer with one bias per channel
            x = nn.relu(Dense(128, name="dense_1")(x))
            init = torch_uniform(49 * widths[0])
            x = jnp.einsum("be,ehwo->bhwo", x, self.param("conv_7x7", init, (128, rows, columns, widths[0])))
            x = activate(x + self.param("conv_7x7_bias", init, (1, 1, 1, widths[0])), "activation_7x7")
        else:
            x = nn.relu(Dense(rows * columns * widths[0], name="dense_1")(x)).reshape(-1, rows, columns, widths[0])
        for layer, width in enumerate(widths[1:]):
            x = activate(TransposedConv(width, name=f"conv_{layer}")(x), f"activation_{layer}")
        return TransposedConv(self.image_shape[-1], name="to_logits")(x)


class ConvVAE(nn.Module):
    """Encoder, optional context module, decoder. With `hears_targets` False the module takes every image for an observational one."""

    encoder: nn.Module
    decoder: nn.Module
    context_module: ContextModule | None
    hears_targets: bool = True

    def heard(self, targets: jax.Array) -> jax.Array:
        """The targets [B, K] that reach the module: as given, or zeros."""
        return targets if self.hears_targets else jnp.zeros_like(targets)

    def encode(self, images: jax.Array, targets: jax.Array, train: bool = False) -> Posterior:
        """Images [B, H, W, C] in [0, 1], made under targets [B, K] -> Posterior [B, L]; of targets [T, B, K], where it is told, [T, B, L]."""
        return self.encoder(images, self.heard(targets), train)

    def decode(self, z: jax.Array, targets: jax.Array, train: bool = False) -> jax.Array:
        """z [B, L], targets [B, K] -> pixel logits [B, H, W, C]; without a module the targets have no effect."""
        features = z if self.context_module is None else self.context_module(z, self.heard(targets), train)
        return self.decoder(features, train)

    def __call__(
        self,
        images: jax.Array,
        targets: jax.Array,
        key: jax.Array,
        train: bool,
        noise: jax.Array | None = None,
        swap: jax.Array | None = None,
        others: jax.Array | None = None,
    ) -> Output:
        """One posterior sample per image, decoded under the targets; all that is decoded goes through normalisation as one batch.

        With `noise` [B, L] there are images generated from it under the same targets. With `swap` bool [B // 2, K] there are images of crossed concepts: images
        i and i + B // 2 are a pair, which exchange the concepts that are swapped, as the module gave them to each under its own targets. With
        `others` [B, K], other targets for the same images, there are concepts: those of the posterior means when encoder and
        module are told the targets, and when they are told the others, the module normalised as at evaluation. Raises ValueError for others or swap without a
        module, and for others with an encoder that is not told.
        """
        module, b = self.context_module, len(images)
        if module is None and not (others is None and swap is None) or others is not None and not self.encoder.told:
            raise ValueError("Swapped concepts need a context module, other targets also an encoder that is told; leave `swap` or `others` out.")
        concepts = None
        if others is None:
            posterior = self.encode(images, targets, train)
        else:
            told = jnp.stack([targets, others])
            both = self.encode(images, told, train)
            rows = lambda x: x.reshape(-1, x.shape[-1])
            concepts = module.concepts(rows(both.mean), self.heard(rows(told)), False)
            concepts = concepts.reshape(2, b, *concepts.shape[1:])
            posterior = Posterior(*(of_both[0] for of_both in both))
        x = posterior.sample(key)
        if noise is not None:
            x, targets = jnp.concatenate([x, noise]), jnp.concatenate([targets, targets])
        if module is not None:
            x = module.concepts(x, self.heard(targets), train)
        if swap is not None:
            one, other = x[: b // 2], x[b // 2 : b // 2 * 2]
            x = jnp.concatenate([x, *(jnp.where(swap[:, :, None], *pair) for pair in ((other, one), (one, other)))])
        logits = self.decoder(x if module is None else module.pooled(x), train)
        generated = None if noise is None else logits[b : 2 * b]
        crossed = None if swap is None else logits[-(b // 2 * 2) :].reshape(2, b // 2, *logits.shape[1:])
        return Output(logits[:b], posterior, generated, crossed, concepts)
