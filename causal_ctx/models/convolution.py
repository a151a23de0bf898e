"""The convolutions of the convolutional models, in forms that are fast on every platform.

The strided and the transposed one have kernel 4x4, stride 2 and padding 1, the one that keeps the size kernel 3x3 and padding 1. All are exact: the same
function as `lax.conv_general_dilated`. On accelerators that is what runs. On CPU XLA's gradients of strided and transposed convolutions take a slow path, and so
does every convolution inside of a loop that is compiled with it, as a scan over training steps is: 3x3 ones were 40 times slower there than outside. The matrix
products written here are as fast in a loop as out of it.

Letters: B batch, H, W height and width of the input, C input channels, O output channels.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")


def torch_uniform(fan_in: int, gain: float = 1.0):
    """PyTorch's default initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for kernels and biases (spec section 2), times `gain`.

    A gain of sqrt(6) keeps the scale of rectified features from layer to layer (He et al. 2015); with 1 each layer shrinks them.
    """
    bound = gain * fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def strided_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution 4x4, stride 2, padding 1: x [B, H, W, C], kernel [4, 4, C, O] -> [B, H/2, W/2, O]; H and W even."""
    return lax.platform_dependent(x, kernel, cpu=strided_conv_as_matmul, default=_strided_conv_native)


def transposed_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution 4x4, stride 2, padding 1: x [B, H, W, C], kernel [4, 4, C, O] -> [B, 2H, 2W, O].

    Output pixel (2i + a - 1, 2j + b - 1) receives x[i, j] @ kernel[a, b], as in PyTorch's ConvTranspose2d.
    """
    return lax.platform_dependent(x, kernel, cpu=transposed_conv_as_matmul, default=_transposed_conv_native)


def same_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution 3x3, stride 1, padding 1: x [B, H, W, C], kernel [3, 3, C, O] -> [B, H, W, O]."""
    return lax.platform_dependent(x, kernel, cpu=same_conv_as_matmul, default=_same_conv_native)


def strided_conv_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`strided_conv` as one matrix product on the patches that the kernel sees."""
    b, h, w, _ = x.shape
    return jnp.einsum("nk,ok->no", _unfold(x), _rows(kernel.swapaxes(2, 3))).reshape(b, h // 2, w // 2, -1)


def transposed_conv_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`transposed_conv` as one matrix product to all 16 taps, and the sum of the taps of each pixel."""
    b, h, w, c = x.shape
    return _fold(x.reshape(-1, c) @ _rows(kernel), (b, 2 * h, 2 * w, kernel.shape[-1]))


def same_conv_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`same_conv` as one matrix product to all nine taps, and the sum of the taps of each pixel. For its gradient it keeps x, and no patches."""
    taps = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(x.shape[-1], -1)  # few rows, as in `_rows`
    return _fold_same(x @ taps)


def _rows(kernel: jax.Array) -> jax.Array:
    """A kernel [4, 4, C, O] as [C, 16O] in the order of `_unfold`: first the 2x2 block, then the pixel within it.

    Few rows, many columns: on CPU the gradient with respect to such a matrix is several times faster than that of its transpose.
    """
    c, o = kernel.shape[2:]
    return kernel.reshape(2, 2, 2, 2, c, o).transpose(4, 0, 2, 1, 3, 5).reshape(c, 16 * o)


@jax.custom_vjp
def _unfold(x: jax.Array) -> jax.Array:
    """Patches 4x4, stride 2, padding 1, of x [B, H, W, C] -> [BHW/4, 16C], by space-to-depth and four shifted slices."""
    b, h, w, c = x.shape
    rows, columns = h // 2, w // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(b, rows + 1, 2, columns + 1, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, rows + 1, columns + 1, 4 * c)
    patches = jnp.concatenate([x[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)], axis=-1)
    return patches.reshape(-1, 16 * c)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fold(patches: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
    """The transpose of `_unfold`: every pixel of [B, H, W, C] is the sum of its entries in the patches [BHW/4, 16C]."""
    b, h, w, c = shape
    rows, columns = h // 2, w // 2
    patches = patches.reshape(b, rows, columns, 2, 2, 4 * c)
    blocks = sum(jnp.pad(patches[:, :, :, i, j], ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0))) for i in (0, 1) for j in (0, 1))
    image = blocks.reshape(b, rows + 1, columns + 1, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h + 2, w + 2, c)
    return image[:, 1:-1, 1:-1]


@jax.custom_vjp
def _unfold_same(x: jax.Array) -> jax.Array:
    """Patches 3x3, stride 1, padding 1, of x [B, H, W, C] -> [B, H, W, 9C]."""
    h, w = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)


@jax.custom_vjp
def _fold_same(patches: jax.Array) -> jax.Array:
    """The transpose of `_unfold_same`: every pixel of [B, H, W, C] is the sum of its entries in the patches [B, H, W, 9C]."""
    taps = jnp.split(patches, 9, axis=-1)
    image = sum(jnp.pad(taps[3 * i + j], ((0, 0), (i, 2 - i), (j, 2 - j), (0, 0))) for i in range(3) for j in range(3))
    return image[:, 1:-1, 1:-1]


# Each is the other's gradient: XLA would derive slower forms.
_unfold.defvjp(lambda x: (_unfold(x), x.shape), lambda shape, gradient: (_fold(gradient, shape),))
_fold.defvjp(lambda patches, shape: (_fold(patches, shape), None), lambda shape, _, gradient: (_unfold(gradient),))
_unfold_same.defvjp(lambda x: (_unfold_same(x), None), lambda _, gradient: (_fold_same(gradient),))
_fold_same.defvjp(lambda patches: (_fold_same(patches), None), lambda _, gradient: (_unfold_same(gradient),))


def _strided_conv_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)


def _transposed_conv_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=LAYOUT)


def _same_conv_native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=LAYOUT)


class StridedConv(nn.Module):
    """Halves height and width: [B, H, W, C] -> [B, H/2, W/2, features] by `strided_conv` plus bias. `gain` of the kernel, here and below: `torch_uniform`."""

    features: int
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = 16 * x.shape[-1]
        kernel = self.param("kernel", torch_uniform(fan_in, self.gain), (4, 4, x.shape[-1], self.features))
        return strided_conv(x, kernel) + self.param("bias", torch_uniform(fan_in), (self.features,)).reshape(1, 1, 1, -1)


class TransposedConv(nn.Module):
    """Doubles height and width: [B, H, W, C] -> [B, 2H, 2W, features] by `transposed_conv` plus bias."""

    features: int
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = 16 * self.features  # PyTorch counts that of a transposed convolution over its output channels
        kernel = self.param("kernel", torch_uniform(fan_in, self.gain), (4, 4, x.shape[-1], self.features))
        return transposed_conv(x, kernel) + self.param("bias", torch_uniform(fan_in), (self.features,)).reshape(1, 1, 1, -1)


class SameConv(nn.Module):
    """Keeps height and width: [B, H, W, C] -> [B, H, W, features] by `same_conv`, plus bias unless `use_bias` is False."""

    features: int
    use_bias: bool = True
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = 9 * x.shape[-1]
        y = same_conv(x, self.param("kernel", torch_uniform(fan_in, self.gain), (3, 3, x.shape[-1], self.features)))
        return y + self.param("bias", torch_uniform(fan_in), (self.features,)).reshape(1, 1, 1, -1) if self.use_bias else y


class Dense(nn.Module):
    """Dense layer with PyTorch's default initialisation: [..., C] -> [..., features]. On images it is a 1x1 convolution."""

    features: int
    use_bias: bool = True
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = torch_uniform(x.shape[-1], self.gain), torch_uniform(x.shape[-1])
        return nn.Dense(self.features, self.use_bias, kernel_init=kernel, bias_init=bias, name="linear")(x)
