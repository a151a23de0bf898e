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
    """What the VAE makes of images: their logits [B, H, W, C] and Posterior over [B, L], and logits [B, H, W, C] of images from given noise,
    where some was given."""

    logits: jax.Array
    posterior: Posterior
    generated: jax.Array | None = None


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
    """Images [B, H, W, C] in [0, 1], targets [B, K] -> Posterior over [B, L], through `features` features; the targets count where `told`."""

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
    """Encoder, optional context module, decoder. With `hears_targets` False every image is taken for an observational one."""

    encoder: nn.Module
    decoder: nn.Module
    context_module: ContextModule | None
    hears_targets: bool = True

    def heard(self, targets: jax.Array) -> jax.Array:
        """The targets [B, K] that the model is told: as given, or zeros."""
        return targets if self.hears_targets else jnp.zeros_like(targets)

    def encode(self, images: jax.Array, targets: jax.Array, train: bool = False) -> Posterior:
        """Images [B, H, W, C] in [0, 1], made under targets [B, K] -> Posterior [B, L]."""
        return self.encoder(images, self.heard(targets), train)

    def decode(self, z: jax.Array, targets: jax.Array, train: bool = False) -> jax.Array:
        """z [B, L], targets [B, K] -> pixel logits [B, H, W, C]; without a module the targets have no effect."""
        features = z if self.context_module is None else self.context_module(z, self.heard(targets), train)
        return self.decoder(features, train)

    def __call__(self, images: jax.Array, targets: jax.Array, key: jax.Array, train: bool, noise: jax.Array | None = None) -> Output:
        """One posterior sample per image, decoded under the targets. With `noise` [B, L] there are images generated from it under the same targets, which go
        through normalisation with the others as one batch."""
        posterior = self.encode(images, targets, train)
        z = posterior.sample(key)
        if noise is None:
            return Output(self.decode(z, targets, train), posterior)
        logits, generated = jnp.split(self.decode(jnp.concatenate([z, noise]), jnp.concatenate([targets, targets]), train), 2)
        return Output(logits, posterior, generated)
