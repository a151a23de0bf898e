"""Sums over hidden units for all pairs of a row and a column, in which the hidden units of all pairs are never held: where the causal layer spends its time.

LeakyReLU(x) = (1 + s) / 2 x + (1 - s) / 2 |x|. The first part of the sum is separable; the second is added up unit by unit, so that the inner loop runs over
pairs, which lie side by side in memory, and nothing is reduced in it: XLA makes vector instructions of that on CPU, and not of a sum over the last axis. Every
derivative is such a sum too, of signs.

Letters: n rows, m columns, c hidden units; an edge's attribute is a number per pair that every unit weighs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

UNROLLED = 20  # terms of a sum in one pass over its result: fewer read and write the result more often, more take longer to compile


def pair_sums(rows: jax.Array, columns: jax.Array, out: jax.Array, slope: float, edge: jax.Array | None = None, attributes=None) -> jax.Array:
    """sum_c out_c LeakyReLU(rows_ci + columns_cj + edge_c attributes_ij): rows [c, n], columns [c, m], out and edge [c], attributes [n, m] -> [n, m]."""
    linear = (out @ rows)[:, None] + (out @ columns)[None] + (0 if edge is None else (out @ edge) * attributes)
    return (1 + slope) / 2 * linear + (1 - slope) / 2 * moduli(rows, columns, out, edge, attributes)


def edge_slopes(rows: jax.Array, columns: jax.Array, out: jax.Array, slope: float, edge: jax.Array, attributes: jax.Array) -> jax.Array:
    """The derivatives of `pair_sums` by the attributes: [n, m]."""
    return (1 + slope) / 2 * (out @ edge) + (1 - slope) / 2 * edge_signs(rows, columns, out, edge, attributes)


@jax.custom_vjp
def moduli(rows: jax.Array, columns: jax.Array, out: jax.Array, edge: jax.Array | None, attributes: jax.Array | None) -> jax.Array:
    """sum_c out_c |rows_ci + columns_cj + edge_c attributes_ij|: [n, m]; arguments as in `pair_sums`."""
    return _moduli(rows, columns, out, edge, attributes)


@jax.jit
def _moduli(rows, columns, out, edge, attributes):
    add = lambda total, row, column, weight, edge: total + weight * jnp.abs(_shift(row[:, None] + column[None], edge, attributes))
    return in_chunks(add, jnp.zeros((rows.shape[1], columns.shape[1])), (rows, columns, out, edge))


@jax.jit
def edge_signs(rows: jax.Array, columns: jax.Array, out: jax.Array, edge: jax.Array, attributes: jax.Array) -> jax.Array:
    """sum_c out_c edge_c sign_cij of the units of `moduli`: [n, m]."""
    add = lambda total, row, column, weight, edge: total + _signed(_shift(row[:, None] + column[None], edge, attributes), weight * edge)
    return in_chunks(add, jnp.zeros(attributes.shape), (rows, columns, out, edge))


@jax.jit
def sign_sums(rows: jax.Array, columns: jax.Array, edge: jax.Array | None, attributes: jax.Array | None, weights: jax.Array) -> jax.Array:
    """sum_j weights_ij sign_cij of the units of `moduli`: weights [n, m] -> [c, n]."""
    wide = None if edge is None else edge[:, None]

    def add(total, column, weight, attribute):
        return total + _signed(_shift(rows + column[:, None], wide, None if edge is None else attribute[None]), weight[None])

    return in_chunks(add, jnp.zeros(rows.shape), (columns.T, weights.T, None if edge is None else attributes.T))


def _moduli_forward(rows, columns, out, edge, attributes):
    return moduli(rows, columns, out, edge, attributes), (rows, columns, out, edge, attributes)


def _moduli_backward(arguments, weights):
    """As |x| = sign(x) x, the derivative by `out` follows from the others."""
    rows, columns, out, edge, attributes = arguments
    flipped = lambda x: None if x is None else x.T
    to_rows = sign_sums(rows, columns, edge, attributes, weights)
    to_columns = sign_sums(columns, rows, edge, flipped(attributes), weights.T)
    to_out = (to_rows * rows).sum(axis=1) + (to_columns * columns).sum(axis=1)
    to_edge = to_attributes = None
    if edge is not None:
        to_edge = sign_sums(columns, rows, edge, attributes.T, (weights * attributes).T).sum(axis=1)
        to_out, to_edge = to_out + to_edge * edge, to_edge * out
        to_attributes = weights * edge_signs(rows, columns, out, edge, attributes)
    return to_rows * out[:, None], to_columns * out[:, None], to_out, to_edge, to_attributes


moduli.defvjp(_moduli_forward, _moduli_backward)


def _shift(units, edge, attributes):
    return units if edge is None else units + edge * attributes


def _signed(units, weights):
    return jnp.where(units > 0, weights, -weights)


def in_chunks(add: Callable, total: Any, terms: Any) -> Any:
    """`total = add(total, *term)` for every leading entry of the arrays `terms` (None stays None), in unrolled chunks; terms of zeros fill up the last."""
    count = len(jax.tree.leaves(terms)[0])
    steps = -(-count // UNROLLED)
    size = -(-count // steps)
    terms = jax.tree.map(lambda x: jnp.pad(x, [(0, steps * size - count), *[(0, 0)] * (x.ndim - 1)]), terms)

    def step(i, total):
        chunk = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), terms)
        for unit in range(size):
            total = add(total, *jax.tree.map(lambda x: x[unit], chunk))
        return total

    return jax.lax.fori_loop(0, steps, step, total)


def in_tiles(function: Callable, rows: Any, at_once: int) -> Any:
    """`function` of the arrays `rows` (n leading entries, as its results have), `at_once` at a time; inner values are recomputed for gradients."""
    count = len(jax.tree.leaves(rows)[0])
    tiles = -(-count // min(at_once, count))
    size = -(-count // tiles)
    split = lambda x: jnp.pad(x, [(0, tiles * size - count), *[(0, 0)] * (x.ndim - 1)]).reshape(tiles, size, *x.shape[1:])
    results = jax.lax.map(jax.checkpoint(function, prevent_cse=False), jax.tree.map(split, rows))
    return jax.tree.map(lambda x: x.reshape(tiles * size, *x.shape[2:])[:count], results)
