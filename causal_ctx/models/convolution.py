"""The two convolutions of the lightweight VAE, in forms that are fast on every platform.

Both have kernel 4x4, stride 2 and padding 1 and are exact: the same function as `lax.conv_general_dilated`. On accelerators that is what runs. On CPU, XLA's
gradients of strided and transposed convolutions take a slow path, which the matrix products written here avoid.

Letters: B batch, H, W height and width of the input, C input channels, O output channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")


def torch_uniform(fan_in: int):
    """PyTorch's default initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernels and biases (spec section 2)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def strided_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution 4x4, stride 2, padding 1: x [B, H, W, C], kernel [4, 4, C, O] -> [B, H/2, W/2, O]; H and W even."""
    return lax.platform_dependent(x, kernel, cpu=strided_conv_as_matmul, default=_strided_conv_native)


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution 4x4, stride 2, padding 1: x [B, H, W, C], kernel [4, 4, C, O] -> [B, 2H, 2W, O].

    Output pixel (2i + a - 1, 2j + b - 1) receives x[i, j] @ kernel[a, b], as in PyTorch's ConvTranspose2d.
    """
    return lax.platform_dependent(x, kernel, cpu=transposed_conv_as_matmul, default=_transposed_conv_native)


def strided_conv_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`strided_conv` as 2x2 space-to-depth, four shifted slices and one matrix product."""
    b, h, w, c = x.shape
    rows, columns = h // 2, w // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(b, rows + 1, 2, columns + 1, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, rows + 1, columns + 1, 4 * c)
    patches = jnp.concatenate([x[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)], axis=-1)
    kernel = kernel.reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 1, 3, 4, 5).reshape(16 * c, -1)
    return (patches.reshape(-1, 16 * c) @ kernel).reshape(b, rows, columns, -1)


def transposed_conv_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`transposed_conv` as one matrix product to all 16 taps, then the sum of four shifted 2x2 blocks."""
    b, h, w, c = x.shape
    o = kernel.shape[-1]
    kernel = kernel.reshape(2, 2, 2, 2, c, o).transpose(4, 0, 2, 1, 3, 5).reshape(c, 16 * o)
    taps = (x.reshape(-1, c) @ kernel).reshape(b, h, w, 2, 2, 4 * o)
    blocks = sum(jnp.pad(taps[:, :, :, i, j], ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0))) for i in (0, 1) for j in (0, 1))
    image = blocks.reshape(b, h + 1, w + 1, 2, 2, o).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h + 2, 2 * w + 2, o)
    return image[:, 1:-1, 1:-1]


def _strided_conv_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)


def _transposed_conv_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=LAYOUT)


class StridedConv(nn.Module):
    """Halves height and width: [B, H, W, C] -> [B, H/2, W/2, features] by `strided_conv` plus bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = torch_uniform(16 * x.shape[-1])
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features))
        return strided_conv(x, kernel) + self.param("bias", init, (self.features,)).reshape(1, 1, 1, -1)


class TransposedConv(nn.Module):
    """Doubles height and width: [B, H, W, C] -> [B, 2H, 2W, features] by `transposed_conv` plus bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # PyTorch counts the fan-in of a transposed convolution over its output channels.
        init = torch_uniform(16 * self.features)
        kernel = self.param("kernel", init, (4, 4, x.shape[-1], self.features))
        return transposed_conv(x, kernel) + self.param("bias", init, (self.features,)).reshape(1, 1, 1, -1)


class Dense(nn.Module):
    """Dense layer with PyTorch's default initialisation: [..., C] -> [..., features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = torch_uniform(x.shape[-1])
        return nn.Dense(self.features, kernel_init=init, bias_init=init, name="linear")(x)
