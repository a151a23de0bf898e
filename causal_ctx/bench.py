"""The mode `bench`: how fast a config trains, scores and generates here, beside what the device can do. Trains nothing; weights are fresh.

Everything is timed in turns, after a call that warms up, so that what else the machine does falls on all alike.
"""

import copy
import dataclasses
import importlib.util
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from causal_ctx import ensemble, parallel, systems
from causal_ctx import workdir as workdirs
from causal_ctx.config import ConfigError, phase
from causal_ctx.doctor import amount
from causal_ctx.flops import matrix_flops
from causal_ctx.plan import plan_of
from causal_ctx.reports import formats
from causal_ctx.reports.tables import Row, Table
from causal_ctx.run import load_data
from causal_ctx.start import build_feed, build_trainer, initial_state

LOG = logging.getLogger(__name__)
ROUNDS = 5
VERSUS = ("", "torch")
MOST_IMAGES = {"train_per_context": 2_048, "held_out_per_context": 512, "train_images": 4_096, "held_out_images": 1_024}  # speed needs no more
SIDE = {"cpu": 2_048, "default": 8_192}  # of the matrices whose product is the ceiling


@dataclasses.dataclass
class Task:
    """Something to time: `call` works on `images` images. flops: of its matrix products; memory: bytes of arguments, results and what is held between."""

    name: str
    call: Callable[[], object]
    images: int
    compile_seconds: float | None = None
    flops: float | None = None
    memory_bytes: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)


def run(config: ml_collections.ConfigDict, workdir: Path, versus: str = "") -> dict:
    """Prints one table, writes it as bench.json into `workdir`, and returns it. `versus` "torch" has a PyTorch program of the same architecture take its turns.

    Raises ConfigError where there is no such program, or no PyTorch.
    """
    if versus == "torch":
        refuse_without_torch(config)
    config = smaller(config)
    dataset = load_data(config)
    mesh = parallel.data_mesh()
    tasks = [*ceilings(mesh), *training([config], dataset, mesh), *uses(config, dataset, mesh)]
    if versus == "torch":
        tasks.append(torch_training(config, dataset))
    take_turns(tasks)
    results = described(config, tasks)
    workdirs.make(workdir, {"bench.json": json.dumps(results, indent=2)})
    print(formats.text(table(results)))
    for line in ratios(results):
        print(line)
    return results


def smaller(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same config with no more images than speed depends on."""
    config = copy.deepcopy(config)
    for field, most in MOST_IMAGES.items():
        if field in config.data:
            config.data[field] = min(config.data[field] or most, most)
    return config


def refuse_without_torch(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError where --vs=torch compares nothing."""
    if config.method != "cm_end_to_end" or config.model.depth != 2:
        raise ConfigError(f"--vs=torch compares cm_end_to_end with model.depth 2, not {config.method}; leave --vs out, or change the config.")
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("--vs=torch needs PyTorch, which is not installed; install causal_ctx[bench].")


def ceilings(mesh: jax.sharding.Mesh) -> Iterator[Task]:
    """A large matrix product on one device, in float32 and bfloat16."""
    side = SIDE.get(mesh.devices.flat[0].platform, SIDE["default"])
    for dtype in (jnp.float32, jnp.bfloat16):
        a = jax.device_put(jnp.ones((side, side), dtype), mesh.devices.flat[0])
        product = jax.jit(lambda a: a @ a)
        yield Task(f"matrix product, {jnp.dtype(dtype).name}", partial(product, a), 0, flops=2.0 * side**3)


def training(runs: Sequence[ml_collections.ConfigDict], dataset: systems.Data, mesh: jax.sharding.Mesh, kind: str = "vmap") -> Iterator[Task]:
    """Optimiser steps as runs take them that train together by a program of `kind` (see `ensemble.compiled`), and the batches that they are given."""
    trainer = build_trainer(runs[0], dataset, *runs[1:])
    states = ensemble.stack([jax.tree.map(jnp.copy, initial_state(run, dataset, mesh)) for run in runs])
    feed = build_feed(runs, dataset, mesh, states)
    batch, active = feed.batch(0, kind), np.ones(len(runs), bool)
    call = ensemble.compiled(kind, trainer, mesh, len(runs))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (states, batch, active))
    began = time.perf_counter()
    compiled = call.lower(*shapes).compile()
    seconds, memory = time.perf_counter() - began, compiled.memory_analysis()
    held = [parallel.laid_out(states, ensemble.state_sharding(kind, mesh))]

    def steps():
        held[0], metrics = compiled(held[0], batch, active)
        return metrics

    one = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
    images = len(runs) * plan_of(runs[0], dataset).steps_per_call * phase(runs[0]).batch_size
    flops = len(runs) * matrix_flops(trainer.steps, one(states), one(batch)) / mesh.size
    arrays = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes - memory.alias_size_in_bytes if memory else None
    yield Task("training", steps, images, seconds, flops, arrays)
    yield Task("batches for it", lambda: feed.batch(0, kind), images)


def uses(config: ml_collections.ConfigDict, dataset: systems.Data, mesh: jax.sharding.Mesh) -> Iterator[Task]:
    """What a trained model is used for, as the config's system says; the time to compile is that of the first call, less a later one."""
    for name, (call, images) in systems.of(config).uses(config, dataset, initial_state(config, dataset, mesh)).items():
        began = time.perf_counter()
        jax.block_until_ready(call())
        first, began = time.perf_counter() - began, time.perf_counter()
        jax.block_until_ready(call())
        yield Task(name, call, images, max(first - (time.perf_counter() - began), 0.0))


def torch_training(config: ml_collections.ConfigDict, dataset: systems.Data) -> Task:
    """The same number of optimiser steps by the PyTorch program."""
    from causal_ctx import torch_vae

    steps = plan_of(config, dataset).steps_per_call
    return Task("training, PyTorch", torch_vae.stepper(config, len(dataset.concepts), dataset.image_shape, steps), steps * config.train.batch_size)


def take_turns(tasks: list[Task]) -> None:
    """ROUNDS times every task, after one that warms up."""
    for number in range(ROUNDS + 1):
        LOG.info("Round %d of %d.", number, ROUNDS)
        for task in tasks:
            began = time.perf_counter()
            jax.block_until_ready(task.call())
            if number:
                task.seconds.append(time.perf_counter() - began)


def described(config: ml_collections.ConfigDict, tasks: list[Task]) -> dict:
    """The contents of bench.json."""
    device = jax.devices()[0]
    rows = {task.name: {field.name: getattr(task, field.name) for field in dataclasses.fields(task) if field.name not in ("name", "call")} for task in tasks}
    return {"config": config.to_dict(), "device": device.device_kind, "platform": device.platform, "devices": jax.device_count(), "tasks": rows}


def table(results: dict) -> Table:
    """Results as a table."""
    rows = results["tasks"]
    ceiling = max(speed(row) for name, row in rows.items() if name.startswith("matrix product, float32"))
    cells = lambda row: (
        spread([row["images"] / s for s in row["seconds"]]) if row["images"] else None,
        f"{statistics.median(row['seconds']):.3g} s",
        f"{row['compile_seconds']:.1f} s" if row["compile_seconds"] is not None else None,
        amount(row["memory_bytes"]) if row["memory_bytes"] is not None else None,
        f"{speed(row) / 1e9:,.0f}" if row["flops"] else None,
        f"{speed(row) / ceiling:.0%}" if row["flops"] else None,
    )
    name = f"{results['config']['data']['name']}, {results['config']['method']}"
    return Table(
        title=f"{name}: {results['devices']} x {results['device']}",
        first="what",
        groups=((f"Median and range of {ROUNDS} turns", tuple(Row(what, cells(row)) for what, row in rows.items())),),
        columns=("images/s", "a call", "compiling", "memory", "GFLOP/s", "of ceiling"),
        note="GFLOP/s: matrix products and convolutions of one device. Ceiling: the matrix product in float32 on this device, in the same turns. "
        "Memory: what the compiled call holds. Compiling: from nothing, or from the cache of programs where one is kept.",
        best={},
    )


def speed(row: dict) -> float:
    """Operations per second, median."""
    return row["flops"] / statistics.median(row["seconds"])


def spread(values: list[float]) -> str:
    """Median and range."""
    show = lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
    return f"{show(statistics.median(values))} ({show(min(values))} to {show(max(values))})"


def ratios(results: dict) -> Iterator[str]:
    """How many times as fast as another program, turn by turn; and one call as a loop over its parts."""
    rows = results["tasks"]
    for ours, theirs in (("training", "training, PyTorch"), *((name.removesuffix(", a loop"), name) for name in rows if name.endswith(", a loop"))):
        if theirs in rows:
            times = [b / a for a, b in zip(rows[ours]["seconds"], rows[theirs]["seconds"])]
            yield f"{ours}: {spread(times)} times as fast as {theirs.removeprefix(ours + ', ')}."
