"""Cost of sliced Wasserstein at the size of the strict protocol; run with `-m bench`."""

import resource
import time

import jax
import numpy as np
import pytest

from causal_ctx.evaluation.wasserstein import random_projections, sliced_wasserstein


@pytest.mark.bench
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_ten_thousand_images_along_a_thousand_directions(dtype, record_property):
    """10,000 images of 64x64x3 per side: under 60 s and 4 GB on two cores."""
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 256, (10_000, 12_288), np.uint8) for _ in range(2))
    if dtype == np.float32:
        x, y = (np.multiply(sample, np.float32(1 / 255), dtype=np.float32) for sample in (x, y))
    directions = jax.block_until_ready(random_projections(jax.random.key(0), 12_288, 1_000))
    start = time.perf_counter()
    sliced_wasserstein(x, y, directions)
    seconds = time.perf_counter() - start
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\nsliced_wasserstein, {np.dtype(dtype).name}: {seconds:.1f} s, peak {peak_gb:.2f} GB")
    assert seconds < 60 and peak_gb < 4
