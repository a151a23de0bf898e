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


def moment_distance(posterior: Posterior) -> jax.Array:
    """How far the mean and second moments of the aggregated posterior E_x q(z | x) are from those of N(0, I): Posterior [B, L] -> scalar, in nats nearby.

    |E z|^2 / 2 + ||E zz' - I||^2 / 4, the Kullback-Leibler divergence of the two Gaussians to second order, or a squared maximum mean discrepancy under a
    quadratic kernel. Pairs of different examples estimate it without bias, so single values can be negative. Not part of the published objective.
    """
    mean, surplus = posterior.mean, jnp.exp(posterior.log_variance) - 1.0
    products, squares = mean @ mean.T, mean**2
    crossed = squares @ surplus.T
    of_pairs = products / 2 + (products**2 + crossed + crossed.T + surplus @ surplus.T) / 4
    num = len(mean)
    return (of_pairs.sum() - jnp.trace(of_pairs)) / (num * (num - 1))


def causal_penalties(blocks: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of effective causal blocks [..., K, w, K, w]: the sum of the K x K block Frobenius norms, and the Frobenius norm of the whole, each [...]."""
    squares = (blocks**2).sum(axis=(-3, -1))
    # The gradient of a norm at zero is undefined; a cut block is exactly zero, and zero is its subgradient.
    norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return norms.sum(axis=(-2, -1)), jnp.sqrt(squares.sum(axis=(-2, -1)))
