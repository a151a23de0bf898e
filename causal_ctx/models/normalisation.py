"""Normalisation as a named choice: how features are standardised in training and at evaluation (quirk Q4 of the reference).

Letters: B batch, C features, G groups of features; N values of each that are standardised together.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

KINDS = ("batch", "generated", "group")
EPSILON = 1e-5  # added to variances


class Norm(nn.Module):
    """Standardises the features x [B, ..., C], then scales and shifts them; same shape out.

    kind:
      * "batch": BatchNorm over the examples of one micro-batch in training, over running averages at evaluation (the reference).
      * "generated": trained the same; images are encoded and scored with the running averages, but sampled with the statistics of images generated under
        the wanted targets (`evaluation.predict.Predictor.calibrated`), for any composition, as NVAE does with its re-adjusted BatchNorm.
      * "group": GroupNorm over `groups` groups of features of one example: no batch enters, training and evaluation are the same function.
      * "running": always the running averages, also in training (for the "batch" layers of a model whose "generated" ones are being calibrated).

    Raises ValueError for another kind.
    """

    kind: str
    momentum: float = 0.9
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind not in (*KINDS, "running"):
            raise ValueError(f"The normalisation is {self.kind!r}; give one of {', '.join(KINDS)}.")
        if self.kind == "group":
            return GroupNorm(self.groups, name="group")(x)
        return BatchNorm(use_running_average=not train or self.kind == "running", momentum=self.momentum, name="batch")(x)


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` of the last axis, with its variables, and with the gradient of `standardise`."""

    use_running_average: bool
    momentum: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1:]
        mean, var = self.variable("batch_stats", "mean", jnp.zeros, features), self.variable("batch_stats", "var", jnp.ones, features)
        scale, bias = _scale_and_bias(self, features)
        rows = x.reshape(-1, *features)
        if self.use_running_average:
            return _affine(rows, mean.value, jax.lax.rsqrt(var.value + EPSILON) * scale, bias).reshape(x.shape)
        y, *found = standardise(rows, scale, bias, x.shape[-1])
        if not self.is_initializing():
            for running, new in zip((mean, var), found):
                running.value = self.momentum * running.value + (1 - self.momentum) * jax.lax.stop_gradient(new)
        return y.reshape(x.shape)


class GroupNorm(nn.Module):
    """`flax.linen.GroupNorm` of the last axis, with its variables and the gradient of `standardise`, in reverse mode alone.

    Raises ValueError where the features do not fall into `groups` of one size.
    """

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[-1] % self.groups:
            raise ValueError(f"{x.shape[-1]} features do not fall into {self.groups} groups of one size; give a divisor.")
        scale, bias = (leaf.astype(jnp.float32) for leaf in _scale_and_bias(self, x.shape[-1:]))  # so that their gradients are summed over examples in it
        of_one = lambda rows: standardise(rows, scale, bias, self.groups)[0]
        return jax.vmap(of_one)(x.reshape(len(x), -1, x.shape[-1])).reshape(x.shape)


def _scale_and_bias(layer: nn.Module, features: tuple[int]) -> tuple[jax.Array, jax.Array]:
    return layer.param("scale", nn.initializers.ones, features), layer.param("bias", nn.initializers.zeros, features)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def standardise(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every group of features of x [N, C] to mean 0 and deviation 1, every feature of it then times `scale` plus `bias`, both [C].

    (y like x, mean [G], variance [G]), in float32 inside. The rows of a batch, every feature a group, are batch normalisation; those of one example, in fewer
    groups, are group normalisation. Its gradient passes over x twice, once for two sums and once for the result: on CPU, value and gradient take 0.67 to 0.81
    of the time of those that XLA derives for a batch, 0.1 to 0.7 for examples by themselves. None comes from the returned statistics.
    """
    return _standardise(x, scale, bias, groups)[0]


def _standardise(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int):
    moments = (x.astype(jnp.float32).mean(axis=0), jnp.square(x.astype(jnp.float32)).mean(axis=0))
    mean, square = (_in_groups(moment, groups).mean(axis=1) for moment in moments)
    var = jnp.maximum(square - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(var + EPSILON)
    y = _affine(x, _of_features(mean, scale), _of_features(inverse, scale) * scale, bias)
    return (y, mean, var), (x, mean, inverse, scale)


def _standardise_gradient(groups: int, kept, gradients):
    x, mean, inverse, scale = kept
    mean, inverse = _of_features(mean, scale), _of_features(inverse, scale)
    dy = gradients[0].astype(jnp.float32)
    of_bias = dy.sum(axis=0)
    of_scale = inverse * ((dy * x).sum(axis=0) - mean * of_bias)
    # With s = inverse (x - mean) it is inverse (scale dy - mean(scale dy) - s mean(scale dy s)), means over a group; here a multiple of dy, one of x, a constant.
    slope = inverse * scale
    mean_of = lambda sums: _of_features(_in_groups(sums, groups).sum(axis=1), scale) / (x.size // groups)
    along_x = mean_of(slope * inverse * of_scale)
    dx = slope[None] * dy - along_x[None] * x + (along_x * mean - mean_of(slope * of_bias))[None]
    return dx.astype(x.dtype), of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


standardise.defvjp(_standardise, _standardise_gradient)


def _in_groups(values: jax.Array, groups: int) -> jax.Array:
    """[C] of features as [G, C / G]."""
    return values.reshape(groups, -1)


def _of_features(values: jax.Array, like: jax.Array) -> jax.Array:
    """[G] of groups as [C], what every feature of `like` has from its group."""
    return jnp.repeat(values, len(like) // len(values))


def _affine(x: jax.Array, mean: jax.Array, slope: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) slope + bias, in the type of x."""
    return ((x - mean[None]) * slope[None] + bias[None]).astype(x.dtype)
