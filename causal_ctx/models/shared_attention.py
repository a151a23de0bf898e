"""Graph attention under all actions at once: rows of the graph that an action leaves alone are heard once for all actions.

Letters: A actions, n nodes, H heads, c width of a head. A row is touched where mask [A, n] is one; in all others the edges of every action are those of the
base graph. The touched rows of an example come first in `order` and are computed in tiles, as many as the example with most of them needs, so that the time
goes with their number and the values do not depend on it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from causal_ctx.models.graph_attention import SLOPE, Attention, hear_nodes, hear_tile, node_scores
from causal_ctx.models.pairs import edge_slopes, in_tiles


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def hear_under_actions(at_once: tuple[int, int], layer: Attention, first: tuple, base: tuple, edges: tuple, mask: jax.Array, tiles: jax.Array) -> tuple:
    """`hear_nodes` for every action: level [A, n, H], said [A, n, H, c].

    first: targets and sources [n, H, c]; base, edges: (attributes, connected) [n, n] and [A, n, n]; at_once: rows of the base graph, and touched
    rows of all actions, computed together; tiles: how many of the latter hold them all.
    All derivatives by attributes go to those of `edges`, also of rows that are not touched: the mask has its gradient from them.
    """
    level, said = hear_nodes(layer, *first, base, at_once[0])
    num_actions, num_nodes = mask.shape
    order = touched_first(mask.reshape(-1))
    spread = lambda x: jnp.broadcast_to(x, (num_actions, *x.shape)).reshape(num_actions * num_nodes, *x.shape[1:])

    def hear(tile, heard):
        chosen, target, edge, _ = _touched(first[0], edges, mask, order, tile, at_once[1])
        new = hear_tile(layer, target, first[1], edge)
        return jax.tree.map(lambda whole, part: whole.at[chosen].set(part), heard, new)

    heard = jax.lax.fori_loop(0, tiles, hear, (spread(level), spread(said)))
    return jax.tree.map(lambda x: x.reshape(num_actions, num_nodes, *x.shape[1:]), heard)


def touched_first(mask: jax.Array) -> jax.Array:
    """Indices of the entries of a mask in {0, 1}, ones first."""
    return jnp.argsort(-mask)


def _touched(targets, edges, mask, order, tile, at_once):
    """Tile number `tile` of the rows in [A * n]: indices, targets, edges, mask. Beyond the last it is the last again, and counts as not touched."""
    place = tile * at_once + jnp.arange(at_once)
    chosen = order[jnp.minimum(place, mask.size - 1)]
    rows = lambda x: x.reshape(mask.size, -1)[chosen]
    return chosen, targets[chosen % mask.shape[1]], jax.tree.map(rows, edges), jnp.where(place < mask.size, mask.reshape(-1)[chosen], 0.0)


def _forward(at_once, layer, first, base, edges, mask, tiles):
    return hear_under_actions(at_once, layer, first, base, edges, mask, tiles), (layer, first, base, edges, mask, tiles)


def _backward(at_once, arguments, cotangents):
    layer, (targets, sources), base, edges, mask, tiles = arguments
    order = touched_first(mask.reshape(-1))
    flat = jax.tree.map(lambda x: x.reshape(mask.size, *x.shape[2:]), cotangents)
    weigh = lambda weight, x: weight.reshape(weight.shape + (1,) * (x.ndim - weight.ndim)) * x

    def touched(tile, totals):
        to_layer, to_targets, to_sources, to_attributes = totals
        chosen, target, (attribute, connected), weight = _touched(targets, edges, mask, order, tile, at_once[1])
        hear = lambda layer, target, sources, attribute: hear_tile(layer, target, sources, (attribute, connected))
        pull = jax.vjp(hear, layer, target, sources, attribute)[1]
        one_layer, one_target, one_sources, one_attribute = pull(jax.tree.map(lambda x: weigh(weight, x[chosen]), flat))
        to_layer, to_sources = jax.tree.map(jnp.add, (to_layer, to_sources), (one_layer, one_sources))
        return to_layer, to_targets.at[chosen % len(targets)].add(one_target), to_sources, to_attributes.at[chosen].add(one_attribute)

    untouched = jax.tree.map(lambda x: weigh(1 - mask, x), cotangents)
    hear = lambda layer, targets, sources: hear_nodes(layer, targets, sources, base, at_once[0])
    shared = jax.vjp(hear, layer, targets, sources)[1](jax.tree.map(lambda x: x.sum(axis=0), untouched))
    zeros = jnp.zeros((mask.size, len(targets)))
    to_layer, to_targets, to_sources, to_attributes = jax.lax.fori_loop(0, tiles, touched, (*shared, zeros))
    to_attributes = to_attributes.reshape(edges[0].shape) + _untouched_attributes(at_once[0], (layer, targets, sources, base), untouched)
    return to_layer, (to_targets, to_sources), None, (to_attributes, None), None, None


def _untouched_attributes(at_once, arguments, cotangents):
    """The derivatives by attributes [A, n, n] of rows with the base graph's edges, whose scores and slopes all actions share."""
    layer, targets, sources, base = arguments
    by_unit = sources.transpose(1, 2, 0)

    def pull(rows):
        target, attributes, connected, to_level, to_said = rows
        scores = node_scores(layer, target, by_unit, (attributes, connected))
        shares = jax.nn.softmax(scores, axis=-1)
        slopes = jax.vmap(lambda row, column, out, edge: edge_slopes(row, column, out, SLOPE, edge, attributes))
        by_edge = shares * slopes(target.transpose(1, 2, 0), by_unit, layer.score, layer.edge) * connected[None]
        heard = jnp.einsum("khac,hcm->kham", to_said, by_unit)
        centred = heard - jnp.einsum("kham,hkm->kha", heard, shares)[..., None] + to_level.transpose(0, 2, 1)[..., None]
        return jnp.einsum("kham,hkm->kam", centred, by_edge)

    to_level, to_said = cotangents
    return in_tiles(pull, (targets, *base, to_level.transpose(1, 0, 2), to_said.transpose(1, 2, 0, 3)), at_once).transpose(1, 0, 2)


hear_under_actions.defvjp(_forward, _backward)
