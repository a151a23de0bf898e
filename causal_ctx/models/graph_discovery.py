"""Which node depends on which: the features of coded nodes, the networks that score pairs of them, and binary draws with a gradient (spec sections 2.1 to 2.6).

Letters: n nodes, N codes (also the number of features of a node), R networks, l hidden units.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx.models.pairs import in_tiles, pair_sums

SLOPE = 0.01  # of the LeakyReLU of the networks
PROBABILITY_FLOOR = 1e-4  # of both classes of a draw, as in the reference: it bounds the gradient of a draw


def positions(num_nodes: int, num_codes: int) -> np.ndarray:
    """The sinusoidal encoding of node indices, float32 [n, N]: PE[p, 2i] = sin(p * 10000^(-2i/N)), PE[p, 2i+1] the cosine (spec section 2.2)."""
    if num_codes % 2:
        raise ValueError(f"The positional encoding needs an even number of codes, got {num_codes}; choose an even codebook size.")
    angles = np.arange(num_nodes)[:, None] * 10_000.0 ** (-np.arange(0, num_codes, 2) / num_codes)[None]
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(num_nodes, num_codes).astype(np.float32)


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """x with entries set to zero with probability `rate` and the rest scaled by 1 / (1 - rate)."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


class Nodes(NamedTuple):
    """codes int [n] and features [n, N]; features None stand for one-hot code plus position, whose product with a matrix is a look-up."""

    codes: jax.Array
    features: jax.Array | None = None

    def dense(self, num_codes: int) -> jax.Array:
        """The features [n, N], whichever way they are held."""
        if self.features is not None:
            return self.features
        return jax.nn.one_hot(self.codes, num_codes) + positions(len(self.codes), num_codes)

    def times(self, kernel: jax.Array) -> jax.Array:
        """features @ kernel: kernel [N, ...] -> [n, ...]."""
        if self.features is not None:
            return jnp.tensordot(self.features, kernel, 1)
        return kernel[self.codes] + jnp.tensordot(positions(len(self.codes), len(kernel)), kernel, 1)


class Discovery(NamedTuple):
    """The weights of R networks F_r(i, j) = sigmoid(out . LeakyReLU(row' P_i + column' P_j + bias) + out_bias), P node features.

    rows, columns [R, N, l]; bias, out [R, l]; out_bias [R]. Rows and columns are the two halves of the layer on [P_i ; P_j], so that no pair is ever formed.
    """

    rows: jax.Array
    columns: jax.Array
    bias: jax.Array
    out: jax.Array
    out_bias: jax.Array


def edge_logits(networks: Discovery, network: jax.Array | int, nodes: Nodes, at_once: int) -> jax.Array:
    """The logits of F_r(i, j) for network r and all pairs of n nodes: [n, n]."""
    rows, columns, out, out_bias = pair_units(networks, network, nodes)
    return pair_logits(rows, columns, out, at_once) + out_bias


def pair_units(networks: Discovery, network: jax.Array | int, nodes: Nodes) -> tuple[jax.Array, ...]:
    """What network r computes of n nodes before any pair: rows and columns [n, l], and its out [l] and out_bias."""
    rows = nodes.times(networks.rows[network]) + networks.bias[network][None]
    return rows, nodes.times(networks.columns[network]), networks.out[network], networks.out_bias[network]


def mix(at_once: int, before: jax.Array, units: tuple[jax.Array, ...], mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Probabilities [n, n] that there is an edge, and that there is none: where mask [n] is one those of `pair_units`, else of logits `before`."""
    rows, columns, out, out_bias = units
    after = pair_logits(rows, columns, out, at_once) + out_bias
    either = lambda before, after: (1 - mask[:, None]) * before + mask[:, None] * after
    return either(jax.nn.sigmoid(before), jax.nn.sigmoid(after)), either(jax.nn.sigmoid(-before), jax.nn.sigmoid(-after))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix_touched(at_once: int, before: jax.Array, units: tuple[jax.Array, ...], mask: jax.Array, tiles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`mix` that computes no more than `tiles` tiles of `at_once` rows, which hold those whose mask is one. Its gradient needs all rows: the mask's is their
    difference."""
    rows, columns, out, out_bias = units
    by_unit, order = columns.T, jnp.argsort(-mask)

    def replace(tile, logits):
        chosen = order[jnp.minimum(tile * at_once + jnp.arange(at_once), len(mask) - 1)]
        new = jnp.where(mask[chosen, None] > 0, pair_sums(rows[chosen].T, by_unit, out, SLOPE) + out_bias, before[chosen])
        return logits.at[chosen].set(new)

    logits = jax.lax.fori_loop(0, tiles, replace, before)
    return jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)


def _mix_backward(at_once, arguments, cotangents):
    return (*jax.vjp(partial(mix, at_once), *arguments)[1](cotangents), None)


mix_touched.defvjp(lambda at_once, *arguments: (mix_touched(at_once, *arguments), arguments[:3]), _mix_backward)


def pair_logits(rows: jax.Array, columns: jax.Array, out: jax.Array, at_once: int) -> jax.Array:
    """out . LeakyReLU(rows_i + columns_j) for all pairs: rows, columns [n, l], out [l] -> [n, n], at_once rows at a time."""
    by_unit = columns.T
    return in_tiles(lambda tile: pair_sums(tile.T, by_unit, out, SLOPE), rows, at_once)


def draw(present: jax.Array, absent: jax.Array, key: jax.Array | None) -> jax.Array:
    """Zeros and ones of any shape, one with probability `present`, whose gradient is that of the relaxed draw (spec sections 2.4 and 2.6).

    This is the two-class Gumbel-softmax at temperature 1, hard and straight-through: the difference of two Gumbel variables is one logistic variable.
    `absent` is 1 - present, given apart because it cannot be recovered where it is small. Without a key it is present > 0.5.
    """
    logits = jnp.log(jnp.maximum(present, PROBABILITY_FLOOR)) - jnp.log(jnp.maximum(absent, PROBABILITY_FLOOR))
    if key is not None:
        logits = logits + jax.random.logistic(key, logits.shape)
    relaxed = jax.nn.sigmoid(logits)
    return (logits > 0) + (relaxed - jax.lax.stop_gradient(relaxed))
