"""Sums over hidden units of pairs, and their derivatives, against the direct form; tiles with a remainder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causal_ctx.models.pairs import UNROLLED, edge_slopes, in_tiles, pair_sums


def direct(rows, columns, out, slope, edge=None, attributes=None):
    units = rows[:, :, None] + columns[:, None] + (0 if edge is None else edge[:, None, None] * attributes[None])
    return jnp.tensordot(out, jax.nn.leaky_relu(units, slope), 1)


def arrays(units, n=5, m=UNROLLED + 3):
    rng = np.random.default_rng(units)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in [(units, n), (units, m), (units,), (units,), (n, m)]]


@pytest.mark.parametrize("units", [1, UNROLLED, 2 * UNROLLED + 3])
@pytest.mark.parametrize("edges", [False, True])
def test_sums_and_gradients_are_those_of_the_direct_form(units, edges):
    rows, columns, out, *edge = arrays(units)
    arguments = (rows, columns, out, *(edge if edges else []))
    probe = jnp.arange(5.0 * (UNROLLED + 3)).reshape(5, -1) / 50
    loss = lambda sums: lambda rows, columns, out, *edge: (sums(rows, columns, out, 0.2, *edge) * probe).sum()
    ours, theirs = (jax.jit(jax.value_and_grad(loss(sums), argnums=range(len(arguments))))(*arguments) for sums in (pair_sums, direct))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_slopes_are_the_derivatives_by_the_attributes():
    rows, columns, out, edge, attributes = arrays(7)
    expected = jax.grad(lambda attributes: direct(rows, columns, out, 0.2, edge, attributes).sum())(attributes)
    np.testing.assert_allclose(edge_slopes(rows, columns, out, 0.2, edge, attributes), expected, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_tiles_cover_every_row_once(at_once):
    rows = jnp.arange(14.0).reshape(7, 2)
    np.testing.assert_array_equal(in_tiles(lambda tile: 2 * tile[0] + tile[1][:, None], (rows, rows[:, 0]), at_once), 2 * rows + rows[:, :1])
