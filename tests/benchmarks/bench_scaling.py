"""What many devices would make of one step: bytes that they must exchange, read from the compiled program, and the efficiency that follows on paper.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.benchmarks.bench_scaling

The step of quad_dependent at the published size is compiled for eight devices of this machine; what it all-reduces does not depend on their number. The times
are arithmetic, not measurements, under the assumptions that are printed with them.
"""

import math
import re

import jax

from causal_ctx import config as configs
from causal_ctx import parallel
from causal_ctx.flops import matrix_flops
from causal_ctx.objectives.objective import ImageBatch
from causal_ctx.start import build_trainer, initial_state
from tests.benchmarks.bench_sizes import random_data

CHIPS = (8, 64, 256)
FLOPS_PER_SECOND = 40e12  # of one chip on these layers: a fifth of 197 TFLOP/s in bf16 (TPU v5e), whose rows are too few to fill the units
BYTES_PER_SECOND = 50e9  # of one link of its ring, both directions
SECONDS_PER_REDUCTION = 10e-6  # to begin one, and 1e-6 per chip of the longest way through a torus
ITEM = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}


def main() -> None:
    """Prints the reductions of a step and the table."""
    config = configs.default()
    mesh = parallel.data_mesh()
    for micro_batch in (64, 512):
        config.train.micro_batch, config.train.steps_per_call = micro_batch, 1
        dataset = random_data(6, 64, 8 * config.train.batch_size)
        trainer = build_trainer(config, dataset)
        state = initial_state(config, dataset, mesh)
        rounds = config.train.batch_size // micro_batch
        images = jax.ShapeDtypeStruct((1, rounds, micro_batch, 64, 64, 3), "uint8", sharding=parallel.split(mesh, 2))
        targets = jax.ShapeDtypeStruct((1, rounds, micro_batch, 6), "float32", sharding=parallel.split(mesh, 2))
        call = jax.jit(trainer.steps, out_shardings=parallel.replicated(mesh))
        counted = list(reductions(call.lower(state, ImageBatch(images, targets)).compile().as_text()))
        arithmetic = matrix_flops(trainer.steps, state, ImageBatch(images, targets))
        per_round, num = sum(counted), len(counted)
        print(f"micro-batches of {micro_batch}: {rounds} x {num} reductions of {per_round / 2**20:.2f} MiB a step, {arithmetic / 1e9:.0f} GFLOP")
        print(f"  assuming {FLOPS_PER_SECOND / 1e12:.0f} TFLOP/s a chip, {BYTES_PER_SECOND / 1e9:.0f} GB/s a link, {SECONDS_PER_REDUCTION * 1e6:.0f} us a reduction")
        for weak, what in ((False, "the same batch"), (True, "the batch per chip of 8 chips")):
            for chips in CHIPS:
                if not weak and micro_batch % chips:
                    print(f"  {chips:4} chips, {what}: not possible, {micro_batch} images are fewer than chips")
                    continue
                compute = arithmetic / FLOPS_PER_SECOND / (8 if weak else chips)
                exchange = rounds * (2 * (chips - 1) / chips * per_round / BYTES_PER_SECOND + num * (SECONDS_PER_REDUCTION + 1e-6 * math.sqrt(chips)))
                print(f"  {chips:4} chips, {what}: {1e3 * compute:.2f} ms compute, {1e3 * exchange:.2f} ms exchange if nothing overlaps, efficiency {compute / (compute + exchange):.0%}")


def reductions(text: str):
    """Bytes of every all-reduce in a compiled program; nearly all are in the loop over micro-batches, and happen once each time."""
    for line in text.splitlines():
        if found := re.search(r"= (.+?) all-reduce(?:-start)?\(", line):
            yield sum(ITEM[kind] * math.prod(int(n) for n in shape.split(",") if n) for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", found[1]))


if __name__ == "__main__":
    main()
