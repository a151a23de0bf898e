"""Images per second of quad: `pytest tests/benchmarks/test_bench_quad.py -m bench -s`."""

import os
import time

import ml_collections
import pytest

from causal_ctx import data
from causal_ctx.data import quad

COUNT = 20_000


def best_rate(function, images: int, repeats: int = 3) -> float:
    """Images per second of the fastest of some calls: what the machine can do when nothing else runs."""
    seconds = []
    for index in range(repeats):
        start = time.perf_counter()
        function(index)
        seconds.append(time.perf_counter() - start)
    return images / min(seconds)


@pytest.mark.bench
@pytest.mark.parametrize("name", list(quad.LAWS))
def test_generation(name):
    rate = best_rate(lambda seed: quad.render(name, quad.sample_latents(name, "train", "obs", COUNT, seed)), COUNT)
    print(f"\n{name}: latents and 64 x 64 images in memory: {rate:,.0f} images/s on {os.cpu_count()} cores")
    assert rate > 5_000


@pytest.mark.bench
def test_generation_into_the_cache_and_second_start():
    fields = {"name": "quad_dependent", "resolution": 64, "train_per_context": 1_000, "held_out_per_context": 1_000}
    fields |= {"validation_fraction": 0.3, "cache_dir": "", "path": ""}
    load = lambda seed: data.load(ml_collections.ConfigDict({**fields, "seed": seed}))
    first, second = (best_rate(load, 23 * 1_000) for _ in range(2))
    print(f"\nquad_dependent: generated, checksummed and cached: {first:,.0f} images/s; second start: {second:,.0f} images/s")
    assert second > first
