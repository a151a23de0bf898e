"""What training costs against its size: images/s and memory of the context module on conv64 along four sizes, one varied at a time.

    python -m tests.benchmarks.bench_sizes DIR        (not a pytest test, whose session pretends to have eight devices)

Writes sizes.json and sizes.png into DIR. All programs of a panel take their turns together. Images are random bytes; a step is one micro-batch, so that
`micro-batch` is what is normalised and held together, and a call has IMAGES_PER_CALL of every run, or one micro-batch. "map" trains runs one after the other within a
program, "vmap" side by side.
"""

import copy
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from causal_ctx import bench, parallel
from causal_ctx import config as configs
from causal_ctx.data import ContextData, from_contexts
from causal_ctx.reports import charts
from causal_ctx.reports.canvas import on_white

IMAGES_PER_CALL = 512  # so that what a call costs by itself, as memory that it touches for the first time, weighs as little as in a run
BASE = {"micro-batch": 64, "concepts": 6, "pixels a side": 32, "runs": 1}
SIZES = {
    "micro-batch": (64, 256, 1024, 4096),
    "concepts": (2, 4, 8, 16, 32),
    "pixels a side": (32, 64, 128),
    "runs": (1, 2, 4, 8),
}


def main(folder: Path) -> None:
    """Times every panel, writes both files anew after each."""
    measured: dict[str, dict[str, list[dict]]] = {}
    device = jax.devices()[0]
    for axis, values in SIZES.items():
        kinds = ("map", "vmap") if axis == "runs" else ("",)
        tasks = {(kind, value): task(BASE | {axis: value}, kind or "vmap") for kind in kinds for value in values}
        first, *_ = tasks.values()
        bench.take_turns([dataclasses.replace(first, seconds=[]), *tasks.values()])  # one that is not counted meets the memory that the largest has left
        measured[axis] = {kind: [row(value, tasks[kind, value]) for value in values] for kind in kinds}
        for kind, rows in measured[axis].items():
            for point in rows:
                print(f"{axis} {point['size']:5} {kind:5} {bench.spread(point['images_per_second'])} images/s, {point['memory_bytes'] / 2**20:,.0f} MiB", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sizes.json").write_text(json.dumps({"device": device.device_kind, "platform": device.platform, "base": BASE, "panels": measured}, indent=1))
        on_white(picture(measured)).save(folder / "sizes.png", optimize=True)


def task(sizes: dict[str, int], kind: str) -> bench.Task:
    """Training at one point, compiled."""
    runs = list(members(sizes))
    dataset = random_data(sizes["concepts"], sizes["pixels a side"], runs[0].train.steps_per_call * runs[0].train.batch_size)
    found, _ = bench.training(runs, dataset, parallel.data_mesh(), kind)
    return dataclasses.replace(found, name=f"{sizes} {kind}")


def members(sizes: dict[str, int]) -> Iterator[ml_collections.ConfigDict]:
    """One config per run."""
    config = configs.resize(configs.default(), "cpu")
    config.data.resolution = sizes["pixels a side"]
    config.train.update(batch_size=sizes["micro-batch"], micro_batch=sizes["micro-batch"], steps_per_call=max(1, IMAGES_PER_CALL // sizes["micro-batch"]))
    for seed in range(sizes["runs"]):
        run = copy.deepcopy(config)
        run.seed = seed
        yield run


def random_data(concepts: int, pixels: int, images: int) -> ContextData:
    """About so many training images, random bytes, in `concepts` + 1 contexts."""
    rng, rows = np.random.default_rng(0), round(images / (concepts + 1) / 0.7)
    return from_contexts({name: rng.integers(0, 256, (rows, pixels, pixels, 3), np.uint8) for name in ("obs", *(f"c{k}" for k in range(concepts)))})


def row(size: int, task: bench.Task) -> dict:
    """A point of the picture."""
    return {"size": size, "images_per_second": [task.images / s for s in task.seconds], "memory_bytes": task.memory_bytes, "flops_per_image": task.flops / task.images}


def picture(measured: dict[str, dict[str, list[dict]]]):
    """Images/s (median and range of the turns) above, memory below, a column per size."""
    figure = Figure(figsize=(9.4, 4.2), dpi=charts.DPI, layout="constrained")
    axes = figure.subplots(2, len(SIZES), squeeze=False)
    for column, (name, kinds) in enumerate(measured.items()):
        speed, memory = axes[:, column]
        for colour, (kind, rows) in zip(charts.COLOURS, kinds.items()):
            sizes, rates = [point["size"] for point in rows], np.array([np.quantile(point["images_per_second"], (0, 0.5, 1)) for point in rows]).T
            speed.errorbar(sizes, rates[1], np.abs(rates[[0, 2]] - rates[1]), color=colour, marker="o", markersize=4, capsize=2, linewidth=1.3, label=kind)
            memory.plot(sizes, [point["memory_bytes"] / 2**20 for point in rows], color=colour, marker="o", markersize=4, linewidth=1.3)
        for axis, title in ((speed, "images/s"), (memory, "memory, MiB")):
            charts.finish(axis, title)
            charts.along(axis, sizes, name)
            axis.yaxis.set_major_formatter(EngFormatter(sep=""))
            axis.set_ylim(0, 1.08 * axis.get_ylim()[1])
        if len(kinds) > 1:
            speed.legend(frameon=False, fontsize=charts.FONT_POINTS, labelcolor=charts.INK)
    return charts.image(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
