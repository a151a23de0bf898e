"""MCQ-VAE: images to a grid of codes and back (Gendron et al. 2023; spec sections 1.1 and 1.3).

Letters: B batch, H, W, C image height, width, channels; L halvings; h = H / 2^L, w = W / 2^L grid of nodes; D latent width; K codebooks of N codes.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx import parallel
from causal_ctx.models import quantiser
from causal_ctx.models.convolution import Dense, SameConv, StridedConv, TransposedConv
from causal_ctx.models.quantiser import Quantiser, straight_through

OUTPUTS = {"sigmoid": nn.sigmoid, "tanh": jnp.tanh}


def code_grid(image_size: tuple[int, int], widths: tuple[int, ...]) -> tuple[int, int]:
    """(h, w) of images H x W behind one halving per entry of `widths`. Raises ValueError unless each halving is exact."""
    stride = 2 ** len(widths)
    if any(size % stride for size in image_size):
        height, width = image_size
        raise ValueError(f"Images of {height}x{width} pixels cannot be halved {len(widths)} times; give multiples of {stride}, or fewer widths.")
    return image_size[0] // stride, image_size[1] // stride


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(x))), same shape, no biases and no normalisation; `gain` of the first, so that the sum grows little from block to block."""

    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        return x + Dense(width, use_bias=False, name="conv_1x1")(nn.relu(SameConv(width, False, self.gain, name="conv_3x3")(x)))


class Encoder(nn.Module):
    """Images [B, H, W, C] in [0, 1] -> latents [B, h, w, D], mostly positive: the last layer is followed by a LeakyReLU too.

    Each of `widths` halves the image. `gain` of the kernels over PyTorch's default: see `torch_uniform`. Raises ValueError for images that cannot be halved so
    often.
    """

    widths: tuple[int, ...]
    latent_width: int
    blocks: int = 6
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        code_grid(x.shape[1:3], self.widths)
        for layer, width in enumerate(self.widths):
            x = nn.leaky_relu(StridedConv(width, self.gain, name=f"conv_{layer}")(x))
        x = nn.leaky_relu(SameConv(self.widths[-1], gain=self.gain, name="conv_3x3")(x))
        for block in range(self.blocks):
            x = ResidualBlock(self.gain, name=f"block_{block}")(x)
        return nn.leaky_relu(Dense(self.latent_width, gain=self.gain, name="to_latents")(nn.leaky_relu(x)))


class Decoder(nn.Module):
    """Latents [B, h, w, D] -> images [B, H, W, channels], the mirror of an encoder with the same `widths`.

    output: "sigmoid", whose range (0, 1) is that of images, or "tanh" with range (-1, 1), the reference (quirk Q6). Raises ValueError for another one.
    `gain` as in `Encoder`, of all layers but the last.
    """

    widths: tuple[int, ...]
    channels: int
    output: str = "sigmoid"
    blocks: int = 6
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.output not in OUTPUTS:
            raise ValueError(f"The decoder has no output {self.output!r}; choose one of {', '.join(OUTPUTS)}.")
        x = nn.leaky_relu(SameConv(self.widths[-1], gain=self.gain, name="conv_3x3")(x))
        for block in range(self.blocks):
            x = ResidualBlock(self.gain, name=f"block_{block}")(x)
        x = nn.leaky_relu(x)
        for layer, width in enumerate(self.widths[-2::-1]):
            x = nn.leaky_relu(TransposedConv(width, self.gain, name=f"conv_{layer}")(x))
        return OUTPUTS[self.output](TransposedConv(self.channels, name="to_images")(x))


class Reconstruction(NamedTuple):
    """images [B, H, W, C]; z [B, h, w, D] the encoder's latents; q [B, h, w, D] their codes; indices int32 [B, K, h, w] of the codes."""

    images: jax.Array
    z: jax.Array
    q: jax.Array
    indices: jax.Array


class MCQVAE(nn.Module):
    """Encoder, quantiser, decoder; nothing in it is random but the candidates of `Quantiser.revival`."""

    encoder: nn.Module
    quantiser: Quantiser
    decoder: nn.Module

    def encode(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] -> latents before quantisation [B, h, w, D]."""
        return self.encoder(images)

    def codes(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, C] in [0, 1] -> indices int32 [B, K, h, w]."""
        return self.quantiser.indices(self.encoder(images))

    def latents(self, indices: jax.Array) -> jax.Array:
        """Indices [B, K, h, w], of an image or of a causal layer's making -> their codes [B, h, w, D]."""
        return self.quantiser.latents(indices)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Latents [B, h, w, D] -> images [B, H, W, C]."""
        return self.decoder(latents)

    def decode_codes(self, indices: jax.Array) -> jax.Array:
        """Indices [B, K, h, w] -> images [B, H, W, C]."""
        return self.decoder(self.quantiser.latents(indices))

    def decode_expected(self, probabilities: jax.Array) -> jax.Array:
        """Probabilities [B, K, h, w, N] of the codes -> images [B, H, W, C] of the mean of their latents."""
        return self.decoder(self.quantiser.expected(probabilities))

    def __call__(self, images: jax.Array, key: jax.Array | None = None, train: bool = False) -> Reconstruction:
        """Images [B, H, W, C] in [0, 1] through the codes, with straight-through gradients; `key` is needed for revival in training only.

        Training moves what the quantiser tracks, so `apply` then takes mutable=["batch_stats"].
        """
        z = self.encoder(images)
        indices = self.quantiser.indices(z)
        q = self.quantiser.latents(indices)
        if train:
            self.quantiser.track(z, indices, key)
        return Reconstruction(self.decoder(straight_through(z, q)), z, q, indices)


def revive_dead_codes(params: dict, batch_stats: dict, threshold: float | jax.Array) -> tuple[dict, dict]:
    """`quantiser.revive` on the variables of an MCQVAE."""
    ours, stats = quantiser.revive(params.get("quantiser", {}), batch_stats["quantiser"], threshold)
    return params | ({"quantiser": ours} if ours else {}), batch_stats | {"quantiser": stats}


def encode_to_codes(model: MCQVAE, variables: dict, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Indices [n, K, h, w] of images uint8 [n, H, W, C], in the smallest unsigned type that holds N: each image through the encoder once, for ever.

    `images` may be memory-mapped, or anything with a length that gives uint8 arrays for slices. Batches are split over all devices, the last one filled up
    with black images. Raises ValueError for images of another type.
    """
    mesh = parallel.data_mesh()
    size = -(-parallel.batch_rows(len(images), batch_size) // mesh.size) * mesh.size
    parts = []
    for start in range(0, max(len(images), 1), size):
        part = np.asarray(images[start : start + size])
        if part.dtype != np.uint8:
            raise ValueError(f"The images to be encoded are {part.dtype}; give uint8 values from 0 to 255.")
        filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.uint8)])
        indices = parallel.on_host(_codes(model, variables, parallel.place_rows(mesh, filled)))
        parts.append(indices[: len(part)].astype(np.min_scalar_type(model.quantiser.num_codes - 1)))
    return np.concatenate(parts)


@partial(jax.jit, static_argnums=0)
def _codes(model: MCQVAE, variables: dict, images: jax.Array) -> jax.Array:
    return model.apply(variables, images.astype(jnp.float32) / 255, method="codes")
