"""Graph attention on dense graphs (GATv2, Brody et al. 2022): every pair of nodes is scored and a mask says which pairs are edges (spec section 2.8).

Letters: n targets, m sources (the n targets first, then nodes that speak and are not heard out), F features of a node, H heads, c width of a head.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from causal_ctx.models.convolution import torch_uniform
from causal_ctx.models.pairs import in_tiles, pair_sums

SLOPE = 0.2  # of the LeakyReLU inside the scores
NO_EDGE = -1e30  # the score of a pair without edge; finite, so that a row of nothing has derivatives


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


def graph_attention(layer: Attention, targets: jax.Array, sources: jax.Array, weights: jax.Array, at_once: int) -> jax.Array:
    """What every target hears: targets [n, H, c] (`listen`), sources [m, H, c] (`speak`), weights [n, n] of the edges source -> target -> [n, H, c].

    The first n sources are the targets themselves; those after them are heard by all, through edges of weight 1. Memory beyond the arguments and as much
    again: at_once * m * H numbers, a few times.
    """
    attributes, connected = edge_attributes(weights, len(sources) - len(targets))
    level, said = hear_nodes(layer, targets, sources[: len(targets)], (attributes, connected), at_once)
    return hear_speakers(layer, targets, sources[len(targets) :], level, said) + layer.bias[None]


def edge_attributes(weights: jax.Array, speaking: int) -> tuple[jax.Array, jax.Array]:
    """Attributes of the edges, and which there are, of a graph with weights [n, n]: both [n, n], target by source; a weight of zero is no edge.

    As in the reference a node's edge to itself is replaced by one whose attribute is the mean of the attributes of the edges that come in from others, zero
    without any (quirk Q4); among them are the edges of weight 1 from `speaking` more nodes.
    """
    itself = jnp.eye(len(weights), dtype=bool)
    edge = (weights != 0) & ~itself
    incoming = jnp.where(edge, weights, 0.0)
    mean = (incoming.sum(axis=1, keepdims=True) + speaking) / jnp.maximum(edge.sum(axis=1, keepdims=True) + speaking, 1)
    return jnp.where(itself, mean, incoming), edge | itself


def hear_nodes(layer: Attention, targets: jax.Array, sources: jax.Array, edges: tuple[jax.Array, jax.Array], at_once: int) -> tuple[jax.Array, jax.Array]:
    """Targets [k, H, c] hear sources [n, H, c] through edges (attributes, connected) [k, n], at least one each: the logarithm of the sum of the
    exponential scores [k, H], and the mean of what is said, weighted by them [k, H, c]."""
    return in_tiles(lambda rows: hear_tile(layer, rows[0], sources, rows[1:]), (targets, *edges), at_once)


def hear_tile(layer: Attention, targets: jax.Array, sources: jax.Array, edges: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """`hear_nodes` for all of the targets together."""
    by_unit = sources.transpose(1, 2, 0)
    scores = node_scores(layer, targets, by_unit, edges)
    level = jax.nn.logsumexp(scores, axis=-1)
    said = jnp.einsum("hkn,hcn->hkc", jnp.exp(scores - level[..., None]), by_unit)
    return level.T, said.transpose(1, 0, 2)


def node_scores(layer: Attention, targets: jax.Array, sources: jax.Array, edges: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Scores of targets [k, H, c] and sources [H, c, n] over edges (attributes, connected) [k, n]: [H, k, n], hugely negative where there is no edge."""
    attributes, connected = edges
    sums = lambda row, column, out, edge: pair_sums(row, column, out, SLOPE, edge, attributes)
    return jnp.where(connected[None], jax.vmap(sums)(targets.transpose(1, 2, 0), sources, layer.score, layer.edge), NO_EDGE)


def hear_speakers(layer: Attention, targets: jax.Array, speaking: jax.Array, level: jax.Array, said: jax.Array) -> jax.Array:
    """What targets [n, H, c] hear of nodes (`hear_nodes`: level [n, H], said [n, H, c]) and, through edges of weight 1, of speaking [v, H, c]: [n, H, c]."""
    if not len(speaking):
        return said
    sums = jax.vmap(lambda speaker, target, out: pair_sums(speaker, target, out, SLOPE), out_axes=1)
    scores = sums((speaking + layer.edge[None]).transpose(1, 2, 0), targets.transpose(1, 2, 0), layer.score)  # [v, H, n]
    shares = jax.nn.softmax(jnp.concatenate([level.T[None], scores]), axis=0)
    return shares[0].T[..., None] * said + jnp.einsum("vhn,vhc->nhc", shares[1:], speaking)


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
