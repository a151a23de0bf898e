"""Normalisation as a named choice: how features are standardised in training and at evaluation (quirk Q4 of the reference).

Letters: B batch, C features.
"""

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
    """

    kind: str
    momentum: float = 0.9
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind == "group":
            return nn.GroupNorm(num_groups=self.groups, epsilon=EPSILON, name="group")(x)
        return BatchNorm(use_running_average=not train or self.kind == "running", momentum=self.momentum, name="batch")(x)


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` of the last axis, with its variables, and with the gradient of `standardise`."""

    use_running_average: bool
    momentum: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1:]
        mean, var = self.variable("batch_stats", "mean", jnp.zeros, features), self.variable("batch_stats", "var", jnp.ones, features)
        scale, bias = self.param("scale", nn.initializers.ones, features), self.param("bias", nn.initializers.zeros, features)
        rows = x.reshape(-1, *features)
        if self.use_running_average:
            return _affine(rows, mean.value, jax.lax.rsqrt(var.value + EPSILON) * scale, bias).reshape(x.shape)
        y, *found = standardise(rows, scale, bias)
        if not self.is_initializing():
            for running, new in zip((mean, var), found):
                running.value = self.momentum * running.value + (1 - self.momentum) * jax.lax.stop_gradient(new)
        return y.reshape(x.shape)


@jax.custom_vjp
def standardise(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every feature of x [N, C] to mean `bias` and deviation `scale`, both [C]: (y like x, mean [C], variance [C]), in float32 inside.

    Its gradient passes over x twice, once for two sums and once for the result: on CPU, value and gradient take 0.67 to 0.81 of the time of those that XLA
    derives. None comes from the returned statistics.
    """
    return _standardise(x, scale, bias)[0]


def _standardise(x: jax.Array, scale: jax.Array, bias: jax.Array):
    mean = x.astype(jnp.float32).mean(axis=0)
    var = jnp.maximum(jnp.square(x.astype(jnp.float32)).mean(axis=0) - jnp.square(mean), 0)
    inverse = jax.lax.rsqrt(var + EPSILON)
    return (_affine(x, mean, inverse * scale, bias), mean, var), (x, mean, inverse, scale)


def _standardise_gradient(kept, gradients):
    x, mean, inverse, scale = kept
    dy = gradients[0].astype(jnp.float32)
    of_bias = dy.sum(axis=0)
    of_scale = inverse * ((dy * x).sum(axis=0) - mean * of_bias)
    # With s = inverse (x - mean) it is slope (dy - mean(dy) - s mean(dy s)); here a multiple of dy, one of x and a constant.
    slope = inverse * scale
    along_x = slope * inverse * of_scale / len(x)
    dx = slope[None] * dy - along_x[None] * x + (along_x * mean - slope * of_bias / len(x))[None]
    return dx.astype(x.dtype), of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


standardise.defvjp(_standardise, _standardise_gradient)


def _affine(x: jax.Array, mean: jax.Array, slope: jax.Array, bias: jax.Array) -> jax.Array:
    """(x - mean) slope + bias, in the type of x."""
    return ((x - mean[None]) * slope[None] + bias[None]).astype(x.dtype)
