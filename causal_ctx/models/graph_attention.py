"""Graph attention on dense graphs (GATv2, Brody et al. 2022): every pair of nodes is scored and a mask says which pairs are edges (spec section 2.8).

Letters: n targets, m sources (the n targets first, then nodes that speak and are not heard out), F features of a node, H heads, c width of a head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from causal_ctx.models.convolution import torch_uniform

SLOPE = 0.2  # of the LeakyReLU inside the scores


class Attention(NamedTuple):
    """The weights of one layer: kernels [F, H, c], all others [H, c]. `score` weighs the hidden units of a pair, `edge` is the map of an edge's attribute."""

    source_kernel: jax.Array
    source_bias: jax.Array
    target_kernel: jax.Array
    target_bias: jax.Array
    edge: jax.Array
    score: jax.Array
    bias: jax.Array

    def heads(self, chosen: jax.Array) -> "Attention":
        """The same layer with the heads int [h] alone: the others' outputs need not be computed."""
        return Attention(*(jnp.take(weight, chosen, axis=-2) for weight in self))

    def speak(self, x: jax.Array) -> jax.Array:
        """What nodes with features x [n, F] say: [n, H, c]."""
        return jnp.tensordot(x, self.source_kernel, 1) + self.source_bias[None]

    def listen(self, x: jax.Array) -> jax.Array:
        """What nodes with features x [n, F] listen for: [n, H, c]."""
        return jnp.tensordot(x, self.target_kernel, 1) + self.target_bias[None]


def over_rows(function: Callable, rows: Any, at_once: int) -> jax.Array:
    """`function` on each of the leading entries of the arrays `rows`, `at_once` at a time; its inner values are recomputed for gradients, never stored."""
    return jax.lax.map(jax.checkpoint(function, prevent_cse=False), rows, batch_size=at_once)


def graph_attention(layer: Attention, targets: jax.Array, sources: jax.Array, weights: jax.Array, at_once: int) -> jax.Array:
    """What every target hears: targets [n, H, c] (`listen`), sources [m, H, c] (`speak`), weights [n, m] of the edges source -> target -> [n, H, c].

    A weight of zero is no edge. As in the reference a node's edge to itself is replaced by one whose attribute is the mean of the attributes of the edges that
    come in from others, zero without any (quirk Q4). Memory beyond the arguments: at_once * m * H * c numbers.
    """
    itself = jnp.eye(*weights.shape, dtype=bool)
    edge = (weights != 0) & ~itself
    incoming = jnp.where(edge, weights, 0.0)
    mean = incoming.sum(axis=1, keepdims=True) / jnp.maximum(edge.sum(axis=1, keepdims=True), 1)

    def hear(row):
        target, attribute, connected = row
        hidden = jax.nn.leaky_relu(target[None] + sources + attribute[:, None, None] * layer.edge[None], SLOPE)
        scores = jnp.where(connected[:, None], (hidden * layer.score[None]).sum(axis=-1), -jnp.inf)
        return jnp.einsum("mh,mhc->hc", jax.nn.softmax(scores, axis=0), sources)

    return over_rows(hear, (targets, jnp.where(itself, mean, incoming), edge | itself), at_once) + layer.bias[None]


def glorot(fan_in: int, fan_out: int):
    """Glorot's uniform initialiser U(-b, b), b = sqrt(6 / (fan_in + fan_out)), for tensors whose shape does not tell the two."""
    return torch_uniform((fan_in + fan_out) / 6)


class GraphAttention(nn.Module):
    """Holds the weights of a layer: kernels, edge map and scores start as Glorot's, the biases of linear maps as PyTorch's, the output's bias at zero."""

    features: int
    heads: int
    width: int

    @nn.compact
    def __call__(self) -> Attention:
        out = (self.heads, self.width)
        kernel = lambda name: self.param(f"{name}_kernel", glorot(self.features, self.heads * self.width), (self.features, *out))
        bias = lambda name: self.param(f"{name}_bias", torch_uniform(self.features), out)
        return Attention(
            source_kernel=kernel("source"),
            source_bias=bias("source"),
            target_kernel=kernel("target"),
            target_bias=bias("target"),
            edge=self.param("edge", glorot(1, self.heads * self.width), out),
            score=self.param("score", glorot(self.heads, self.width), out),
            bias=self.param("bias", nn.initializers.zeros, out),
        )
