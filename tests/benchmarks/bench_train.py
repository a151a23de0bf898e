"""Training throughput of conv64 with its context module beside a PyTorch program of the same architecture, turn by turn in one process.

    python -m tests.benchmarks.bench_train        (extra [bench]; not a pytest test, whose session pretends to have eight devices)
"""

import statistics
import time

import jax
import numpy as np

from causal_ctx import config as configs
from causal_ctx import data, parallel
from causal_ctx.start import build_trainer, initial_state
from causal_ctx.objectives.objective import ImageBatch
from tests.benchmarks import torch_vae

ROUNDS = 7


def main() -> None:
    """Prints images per second of both and their ratio: median and range over ROUNDS optimiser steps each."""
    config = configs.default()
    micro_batches, n = config.train.batch_size // config.train.micro_batch, config.train.micro_batch
    rng = np.random.default_rng(0)
    dataset = data.from_contexts({name: rng.integers(0, 256, (4, 64, 64, 3), np.uint8) for name in ("obs", *"abcdef")})
    trainer = build_trainer(config, dataset)
    images = rng.integers(0, 256, (1, micro_batches, n, 64, 64, 3), np.uint8)
    targets = np.broadcast_to(np.eye(6, dtype=np.float32)[np.arange(micro_batches) % 6][None, :, None], (1, micro_batches, n, 6))
    batch = jax.device_put(ImageBatch(images, np.ascontiguousarray(targets)), jax.devices()[0])
    state = jax.device_put(initial_state(config, dataset, parallel.data_mesh()), jax.devices()[0])
    call, step = jax.jit(trainer.steps, donate_argnums=0), torch_vae.stepper(micro_batches, n)

    def ours():
        nonlocal state
        state, metrics = call(state, batch)
        jax.block_until_ready(metrics)

    rates = {"causal_ctx": [], "PyTorch": []}
    for _ in range(ROUNDS + 1):
        for name, function in (("causal_ctx", ours), ("PyTorch", step)):
            began = time.perf_counter()
            function()
            rates[name].append(config.train.batch_size / (time.perf_counter() - began))
    rates = {name: values[1:] for name, values in rates.items()}  # the first round compiles
    ratios = [a / b for a, b in zip(*rates.values())]
    for name, values in (*rates.items(), ("ratio", ratios)):
        print(f"{name}: median {statistics.median(values):.3g}, {min(values):.3g} to {max(values):.3g}")


if __name__ == "__main__":
    main()
