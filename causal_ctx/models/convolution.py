"""The convolutions of the convolutional models, in forms that are fast on every platform.

The strided and the transposed one have kernel 4x4, stride 2 and padding 1, the one that keeps the size kernel 3x3 and padding 1. All are exact: the same
function as `lax.conv_general_dilated`. On accelerators that is what runs. On CPU XLA's gradients of strided and transposed convolutions take a slow path, and so
does every convolution inside of a loop that is compiled with it, as a scan over training steps is: 3x3 ones were 40 times slower there than outside. The matrix
products written here are as fast in a loop as out of it, and take images in groups, because the patches that they lay out are nine or four times as large as these.

Letters: B batch, H, W height and width of the input, C input channels, O output channels.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
MOST_BYTES_OF_PATCHES = 1 << 22  # laid out at once on a CPU: its caches are several times as fast as its memory


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
    return _gathered(BY_TWO, x, _rows(kernel.swapaxes(2, 3)))


def transposed_conv_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`transposed_conv` as one matrix product to all 16 taps, and the sum of the taps of each pixel."""
    return _scattered(BY_TWO, x, _rows(kernel))


def same_conv_as_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`same_conv` as one matrix product to all nine taps, and the sum of the taps of each pixel."""
    return _scattered(BY_ONE, x, kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(x.shape[-1], -1))


def _rows(kernel: jax.Array) -> jax.Array:
    """A kernel [4, 4, C, O] as [C, 16O] in the order of `BY_TWO`: first the 2x2 block, then the pixel within it.

    Few rows, many columns: on CPU the gradient with respect to such a matrix is several times faster than that of its transpose.
    """
    c, o = kernel.shape[2:]
    return kernel.reshape(2, 2, 2, 2, c, o).transpose(4, 0, 2, 1, 3, 5).reshape(c, 16 * o)


def _unfold_by_two(x: jax.Array) -> jax.Array:
    """Patches 4x4, stride 2, padding 1, of x [B, H, W, C] -> [B, H/2, W/2, 16C], by space-to-depth and four shifted slices."""
    b, h, w, c = x.shape
    rows, columns = h // 2, w // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, rows + 1, 2, columns + 1, 2 * c).transpose(0, 1, 3, 2, 4)
    blocks = [jnp.stack([x[:, i : i + rows, j : j + columns] for j in (0, 1)], axis=3) for i in (0, 1)]
    return jnp.stack(blocks, axis=3).reshape(b, rows, columns, 16 * c)


def _fold_by_two(patches: jax.Array) -> jax.Array:
    """The transpose of `_unfold_by_two`: every pixel of [B, H, W, C] is the sum of its entries in the patches [B, H/2, W/2, 16C]."""
    b, rows, columns, c = *patches.shape[:3], patches.shape[3] // 16
    patches = patches.reshape(b, rows, columns, 2, 2, 4 * c)
    blocks = jnp.zeros((b, rows + 1, columns + 1, 4 * c), patches.dtype)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        blocks = blocks.at[:, i : i + rows, j : j + columns].add(patches[:, :, :, i, j])
    image = blocks.reshape(b, rows + 1, columns + 1, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * rows + 2, 2 * columns + 2, c)
    return image[:, 1:-1, 1:-1]


def _unfold_by_one(x: jax.Array) -> jax.Array:
    """Patches 3x3, stride 1, padding 1, of x [B, H, W, C] -> [B, H, W, 9C]."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.stack([x[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=3).reshape(b, h, w, 9 * c)


def _fold_by_one(patches: jax.Array) -> jax.Array:
    """The transpose of `_unfold_by_one`: every pixel of [B, H, W, C] is the sum of its entries in the patches [B, H, W, 9C]."""
    b, h, w, c = *patches.shape[:3], patches.shape[3] // 9
    patches = patches.reshape(b, h, w, 9, c)
    image = jnp.zeros((b, h + 2, w + 2, c), patches.dtype)
    for tap in range(9):
        i, j = divmod(tap, 3)
        image = image.at[:, i : i + h, j : j + w].add(patches[:, :, :, tap])
    return image[:, 1:-1, 1:-1]


class Patches(NamedTuple):
    """The T pixels that a kernel sees at each of its places [h, w]: images [B, H, W, C] -> patches [B, h, w, TC] by `unfold`, and its transpose `fold`."""

    unfold: Callable[[jax.Array], jax.Array]
    fold: Callable[[jax.Array], jax.Array]


BY_TWO, BY_ONE = Patches(_unfold_by_two, _fold_by_two), Patches(_unfold_by_one, _fold_by_one)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(seen: Patches, x: jax.Array, rows: jax.Array) -> jax.Array:
    """Patches of x [B, H, W, C] times rows [O, TC] -> [B, h, w, O]."""
    return _by_groups(lambda x: _times_transposed(seen.unfold(x), rows), seen.unfold, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scattered(seen: Patches, x: jax.Array, rows: jax.Array) -> jax.Array:
    """x [B, h, w, C] times rows [C, TO], summed over the patches that hold a pixel -> [B, H, W, O]. Its gradient is a `_gathered`, and the other way round."""
    return _by_groups(lambda x: seen.fold(x @ rows), lambda x: x @ rows, x)


def _gathered_gradient(seen: Patches, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, rows = kept
    of_both = lambda x, gradient: (seen.fold(gradient @ rows), _outer(gradient, seen.unfold(x)))
    return _by_groups(of_both, lambda x, _: seen.unfold(x), x, gradient)


def _scattered_gradient(seen: Patches, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, rows = kept

    def of_both(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        patches = seen.unfold(gradient)
        return _times_transposed(patches, rows), _outer(x, patches)

    return _by_groups(of_both, lambda _, gradient: seen.unfold(gradient), x, gradient)


# XLA would derive slower gradients, and keep the patches of a whole step in memory.
_gathered.defvjp(lambda seen, *args: (_gathered(seen, *args), args), _gathered_gradient)
_scattered.defvjp(lambda seen, *args: (_scattered(seen, *args), args), _scattered_gradient)


def _times_transposed(patches: jax.Array, rows: jax.Array) -> jax.Array:
    """patches [B, h, w, K] times rows [O, K] -> [B, h, w, O]."""
    return jnp.einsum("bhwk,ok->bhwo", patches, rows)


def _outer(x: jax.Array, patches: jax.Array) -> jax.Array:
    """Sum over all places of x [B, h, w, O] times patches [B, h, w, K] -> [O, K]."""
    if patches.shape[-1] < 128:  # XLA transposes x first, which pays where the product is large
        return jnp.einsum("no,nk->ok", x.reshape(-1, x.shape[-1]), patches.reshape(-1, patches.shape[-1]))
    return jnp.einsum("bhwo,bhwk->ok", x, patches)


def _by_groups(function: Callable, patches: Callable, *images: jax.Array):
    """`function` of `images`, arrays [B, ...], in as many equal groups as let the `patches` of one stay in the cache, one after the other.

    Results [B, H, W, C] are joined; others are sums over images, and are summed.
    """
    num, held = len(images[0]), jax.eval_shape(patches, *images)
    num_bytes = held.size * held.dtype.itemsize
    groups = next(n for n in range(1, num + 1) if num % n == 0 and (num_bytes <= n * MOST_BYTES_OF_PATCHES or n == num))
    if groups == 1:
        return function(*images)
    parts = [part.reshape(num // groups, groups, *part.shape[1:]) for part in images]  # a group has images of every device that holds some
    shapes, tree = jax.tree.flatten(jax.eval_shape(function, *(part[:, 0] for part in parts)))
    is_sum = [len(shape.shape) != 4 for shape in shapes]

    def add_group(i: int, results: list[jax.Array]) -> list[jax.Array]:
        found = jax.tree.leaves(function(*(lax.dynamic_index_in_dim(part, i, axis=1, keepdims=False) for part in parts)))
        return [r + f if summed else lax.dynamic_update_index_in_dim(r, f, i, axis=1) for r, f, summed in zip(results, found, is_sum)]

    # like the images, so that under shard_map the sums differ from device to device as these do
    start = [lax.full_like(images[0], 0, s.dtype, s.shape if summed else (num // groups, groups, *s.shape[1:])) for s, summed in zip(shapes, is_sum)]
    results = lax.fori_loop(0, groups, add_group, start)
    return tree.unflatten([r if summed else r.reshape(num, *r.shape[2:]) for r, summed in zip(results, is_sum)])


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
