"""Dense graph attention against lists of edges, and what it keeps in memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx.models import causal_transition as ct
from causal_ctx.models.graph_attention import Attention, GraphAttention, graph_attention

F, H, C, N = 6, 3, 4, 8


def attention(key, features=F, heads=H, width=C) -> Attention:
    """A layer with no weight left at its initial zero."""
    layer = jax.eval_shape(GraphAttention(features, heads, width).init_with_output, key)[0]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jax.tree.map(lambda like: jnp.asarray(rng.normal(size=like.shape) / 2, jnp.float32), layer)


@partial(jax.jit, static_argnames="at_once")
def hear(layer: Attention, x: jax.Array, weights: jax.Array, at_once: int) -> jax.Array:
    """`graph_attention` among nodes x [n, F] alone."""
    return graph_attention(layer, layer.listen(x), layer.speak(x), weights, at_once)


def sparse(rng, rows, columns):
    """Weights in (0, 1), about a half of them zero."""
    return (rng.random((rows, columns)) * (rng.random((rows, columns)) < 0.5)).astype(np.float32)


def leaky(x, slope):
    return np.where(x > 0, x, slope * x)


def edge_list_layer(layer: Attention, x: np.ndarray, edges: list[tuple[int, int, float]]) -> np.ndarray:
    """GATv2 edge by edge in double precision: x [m, F], edges (source, target, attribute) -> [m, H, c]."""
    w = Attention(*(np.asarray(weight, np.float64) for weight in layer))
    edges = [edge for edge in edges if edge[0] != edge[1]]
    for node in range(len(x)):
        incoming = [attribute for _, target, attribute in edges if target == node]
        edges = edges + [(node, node, float(np.mean(incoming)) if incoming else 0.0)]
    out = np.zeros((len(x), *w.bias.shape))
    for target in range(len(x)):
        for head in range(w.bias.shape[0]):
            scores, values = [], []
            for source, hearing, attribute in edges:
                if hearing == target:
                    said = x[source] @ w.source_kernel[:, head] + w.source_bias[head]
                    sought = x[target] @ w.target_kernel[:, head] + w.target_bias[head]
                    scores.append(w.score[head] @ leaky(sought + said + w.edge[head] * attribute, 0.2))
                    values.append(said)
            odds = np.exp(np.array(scores) - max(scores))
            out[target, head] = (odds / odds.sum()) @ np.array(values) + w.bias[head]
    return out


def edges_of(matrix: np.ndarray, convention: str) -> list[tuple[int, int, float]]:
    """The non-zero entries of a square matrix as (source, target, attribute): an entry (i, j) is i -> j in "row_source" and j -> i in "row_target"."""
    entries = [(int(i), int(j), float(matrix[i, j])) for i, j in np.argwhere(matrix)]
    return entries if convention == "row_source" else [(j, i, attribute) for i, j, attribute in entries]


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_layer_against_an_edge_list(key, at_once):
    rng, layer = np.random.default_rng(0), attention(key)
    x, matrix = rng.normal(size=(7, F)).astype(np.float32), sparse(rng, 7, 7)
    matrix[2] = 0  # hears nobody: its own edge has attribute 0
    matrix[2, 2] = 0.7  # a loop in the data is no edge
    expected = edge_list_layer(layer, x, edges_of(matrix, "row_target"))
    ours = hear(layer, x, matrix, at_once)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_allclose(ours[2], np.einsum("f,fhc->hc", x[2], layer.source_kernel) + layer.source_bias + layer.bias, atol=1e-5)


@pytest.mark.parametrize("convention", ct.EDGE_CONVENTIONS)
@pytest.mark.parametrize("speaking", [1, 2])
def test_network_against_the_reference_padding(key, convention, speaking):
    """All layers and heads of [[W, 1], [0, 0]] by lists of edges; ours leaves out what is dropped in the end, and the nodes that reach nobody."""
    rng, n = np.random.default_rng(1), 5
    layers = attention(key, N, H, C), attention(jax.random.fold_in(key, 1), H * C, H, N)
    weights, x = sparse(rng, n, n), rng.normal(size=(n + speaking, N)).astype(np.float32)
    padded = np.zeros((n + speaking, n + speaking))
    padded[:n, :n], padded[:n, n:] = weights, 1
    edges = edges_of(padded, convention)
    hidden = leaky(edge_list_layer(layers[0], x, edges), 0.01).reshape(len(x), -1)
    expected = edge_list_layer(layers[1], hidden, edges)[:n, [0, 2]]

    @jax.jit
    def ours(layers, latents, speakers, weights):
        first = layers[0].listen(latents), layers[0].speak(latents)
        return ct.network((layers[0], layers[1].heads(jnp.array([0, 2]))), first, speakers, ct.edges_to_targets(weights, convention), 2)

    speakers = x[n:] if convention == "row_target" else x[:0]
    np.testing.assert_allclose(ours(layers, x[:n], speakers, weights), expected, atol=1e-5)


def test_gradients_do_not_depend_on_the_rows_at_once(key):
    rng, layer = np.random.default_rng(2), attention(key)
    x, matrix = jnp.asarray(rng.normal(size=(5, F)), jnp.float32), jnp.asarray(sparse(rng, 5, 5))
    loss = lambda at_once: lambda layer, matrix: (hear(layer, x, matrix, at_once) ** 2).sum()
    whole, tiled = (jax.jit(jax.grad(loss(at_once), argnums=(0, 1)))(layer, matrix) for at_once in (5, 2))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(tiled)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert (np.asarray(whole[1])[np.asarray(matrix) == 0] == 0).all(), "what is no edge has no weight to learn"


def test_hidden_units_of_all_pairs_are_never_stored(key):
    batch, heads, width = 2, 3, 32
    layer = attention(key, F, heads, width)

    def peak(n):
        x, matrix = jax.ShapeDtypeStruct((batch, n, F), jnp.float32), jax.ShapeDtypeStruct((batch, n, n), jnp.float32)
        loss = lambda layer, x, matrix: (jax.vmap(partial(hear, at_once=4), in_axes=(None, 0, 0))(layer, x, matrix) ** 2).sum()
        return jax.jit(jax.grad(loss)).lower(layer, x, matrix).compile().memory_analysis().temp_size_in_bytes

    assert peak(128) < 4 * batch * 128**2 * heads * width / 4
    assert peak(128) < 3.5 * peak(64)
