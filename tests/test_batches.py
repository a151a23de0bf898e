"""Batch indices are a pure function of (seed, step)."""

import numpy as np
import pytest

from causal_ctx.data import batches

SIZES = (10, 20, 5)


@pytest.mark.parametrize("one_context", [True, False])
def test_pure_in_seed_and_step_and_within_bounds(one_context):
    draw = lambda seed, step: batches.draw(seed, step, SIZES, (8, 64), one_context)
    contexts, indices = draw(3, 7)
    for again, first in zip(draw(3, 7), (contexts, indices)):
        np.testing.assert_array_equal(again, first)
    assert not np.array_equal(draw(3, 8)[1], indices) and not np.array_equal(draw(4, 7)[1], indices)
    assert contexts.shape == indices.shape == (8, 64)
    assert (indices >= 0).all() and (indices < np.array(SIZES)[contexts]).all()
    assert all(len(np.unique(row)) == 1 for row in contexts) == one_context


def test_contexts_and_examples_are_uniform():
    drawn = [batches.draw(0, step, SIZES, (8, 64), False) for step in range(200)]
    contexts, indices = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*drawn))
    np.testing.assert_allclose(np.bincount(contexts) / len(contexts), np.full(3, 1 / 3), atol=0.01)
    for context, size in enumerate(SIZES):
        chosen = indices[contexts == context]
        np.testing.assert_allclose(np.bincount(chosen, minlength=size) / len(chosen), np.full(size, 1 / size), atol=0.01)


def test_gather_takes_the_named_rows():
    images = {name: np.arange(n, dtype=np.uint8)[:, None, None, None] + 50 * i for i, (name, n) in enumerate(zip("abc", SIZES))}
    contexts, indices = batches.draw(0, 0, SIZES, (4, 6), False)
    np.testing.assert_array_equal(batches.gather(images, contexts, indices)[..., 0, 0, 0], 50 * contexts + indices)
