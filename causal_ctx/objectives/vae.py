"""The VAE objective of the lightweight models (spec section 2), per example and in nats.

Letters: B batch, H, W, C image, L latent width, K concepts, w concept width.
"""

import jax
import jax.numpy as jnp

from causal_ctx.models.conv_vae import Posterior


def reconstruction_nats(logits: jax.Array, images: jax.Array) -> jax.Array:
    """Binary cross-entropy summed over pixels and channels: logits, images [B, H, W, C], images in [0, 1] -> nats [B]."""
    # -x log s(l) - (1 - x) log(1 - s(l)) with one logarithm per pixel in place of two
    return (jax.nn.softplus(logits) - images * logits).sum(axis=(1, 2, 3))


def kl_nats(posterior: Posterior) -> jax.Array:
    """KL(q(z | x) || N(0, I)): Posterior [B, L] -> nats [B]."""
    mean, log_variance = posterior
    return 0.5 * (jnp.exp(log_variance) + mean**2 - 1.0 - log_variance).sum(axis=-1)


def of_one_context(targets: jax.Array) -> jax.Array:
    """Which examples were drawn under the same interventions: targets [B, K] -> bool [B, B]."""
    return (targets[:, None] == targets[None]).all(axis=-1)


def moment_distance(posterior: Posterior, together: jax.Array) -> jax.Array:
    """How far the mean and second moments of the aggregated posterior E_x q(z | x) of a context are from those of N(0, I), in nats nearby.

    Posterior [B, L], together [B, B] the pairs of one context -> scalar. |E z|^2 / 2 + ||E zz' - I||^2 / 4, the Kullback-Leibler divergence of the two
    Gaussians to second order, or a squared maximum mean discrepancy under a quadratic kernel. Pairs of different examples estimate it without bias, so single
    values can be negative. Not part of the published objective.
    """
    mean, surplus = posterior.mean, jnp.exp(posterior.log_variance) - 1.0
    products, squares = mean @ mean.T, mean**2
    crossed = squares @ surplus.T
    of_pairs = products / 2 + (products**2 + crossed + crossed.T + surplus @ surplus.T) / 4
    return _mean_of(of_pairs, together & ~_same(mean))


def energy_distance(real: jax.Array, generated: jax.Array, together: jax.Array) -> jax.Array:
    """How far `generated` images of a context are from `real` ones in distribution, in the images' unit.

    Both [B, H, W, C], example i of both under the same targets, together [B, B] the pairs of one context -> scalar: 2 E|x - y| - E|x - x'| - E|y - y'| with
    |x - y| the root mean squared difference of two images; not negative, and 0 for equal distributions alone (Szekely and Rizzo 2013). Pairs of independent
    examples estimate it without bias, so single values can be negative. Not part of the published objective.
    """
    x, y = (images.reshape(len(images), -1) for images in (real, generated))
    pairs = together & ~_same(real)  # also of real and generated ones, so that any micro-batch is free of bias, and one without pairs says nothing
    expected = lambda a, b: _mean_of(_root(_mean_squares(a, b)), pairs)
    return 2 * expected(x, y) - expected(x, x) - expected(y, y)


def _same(x: jax.Array) -> jax.Array:
    return jnp.eye(len(x), dtype=bool)


def _mean_of(values: jax.Array, chosen: jax.Array) -> jax.Array:
    return jnp.where(chosen, values, 0.0).sum() / jnp.maximum(chosen.sum(), 1)


def _mean_squares(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared differences [B, B] between the rows of x and y, [B, d]; 0 where they are too close to tell."""
    # Full float32: GPUs and TPUs round the factors by default, which is more than the square of a short distance.
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * jnp.matmul(x, y.T, precision="highest")
    apart = squares > 1e-6 * (x**2).sum(axis=1)[:, None]  # closer is rounding
    return jnp.where(apart, squares / x.shape[1], 0.0)


def _root(x: jax.Array) -> jax.Array:
    """The square root, whose gradient at zero is zero."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def causal_penalties(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of effective causal blocks [..., K, w, K, w]: the sum of the K x K block Frobenius norms, and the Frobenius norm of the whole, each [...]."""
    squares = (blocks**2).sum(axis=(-3, -1))
    norms = _root(squares)  # a cut block is exactly zero, where zero is a subgradient
    return norms.sum(axis=(-2, -1)), jnp.sqrt(squares.sum(axis=(-2, -1)))
