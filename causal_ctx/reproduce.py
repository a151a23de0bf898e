"""A published table by one command: what it says, what it will cost here, and then ours beside it."""

import logging
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import ml_collections

from causal_ctx import supplied, sweep, workdir as workdirs
from causal_ctx.config import ConfigError, flat, phase
from causal_ctx.methods import METHODS
from causal_ctx.plan import plan_of
from causal_ctx.progress import duration
from causal_ctx.reports import formats, labels, tables
from causal_ctx.reports.published import Estimate
from causal_ctx.run import load_data
from causal_ctx.supplied import CONFIGS
from causal_ctx.train import images_per_second

LOG = logging.getLogger(__name__)


def sweep_of(table: str, dataset: str, size: str, data_path: str = "") -> ml_collections.ConfigDict:
    """The sweep that makes `table` (a file in configs/sweeps/) on `dataset` (a file in configs/) at `size`, its files at `data_path`, where one is given.

    Raises ConfigError for names of no file.
    """
    axes = sweep.axes(_module(CONFIGS / "sweeps", table, "--table").get_config(size))
    run = _module(CONFIGS, dataset, "--dataset").get_config(size)
    if data_path:
        run.data.update(path=data_path, name=run.data.name.removesuffix("/procedural"))  # which needs no files
    config = sweep.sweep(run, axes)
    config.table = table
    return config


def run(config: ml_collections.ConfigDict, workdir: Path) -> dict:
    """Says which cells are published, what is missing in `workdir` and what it will cost; then as `sweep.run`."""
    runs = sweep.members(config, workdir)
    missing = {name: run for name, run in runs.items() if not workdirs.complete(workdir / name)}
    LOG.info("%d runs, of which %d are missing.", len(runs), len(missing))
    for label, cells in published_cells(runs.values()).items():
        told = {tables.MEASURES[measure].partition(":")[0].lower(): formats.show(cell) for measure, cell in cells.items()}
        LOG.info("Published under protocol paper, %s: %s.", label, ", ".join(f"{heading} {cell}" for heading, cell in told.items()))
    if missing:
        LOG.info("Timing a training step here, to tell what they will cost.")
        LOG.info("Training them will take about %s here; compiling, scoring and the report come on top, and take longer than that where runs are small.", duration(cost_seconds(missing)))
    return sweep.run(config, workdir)


def published_cells(runs: Iterable[ml_collections.ConfigDict]) -> dict[str, dict[str, Estimate]]:
    """{what the runs of one row are called: {measure: its published mean}} of the rows that have any."""
    fields = [flat(run.to_dict()) for run in runs]
    rows = dict(zip(labels.labels(fields), fields))
    stub = lambda row: {"dataset": row["data.name"], "method": row["method"], "backbone": row["model.backbone"], "config": row}
    cells = {label: {m: cell for m in tables.MEASURES if (cell := tables.published_for(stub(row), "paper", m))} for label, row in rows.items()}
    return {label: found for label, found in cells.items() if found}


def cost_seconds(runs: dict[str, ml_collections.ConfigDict]) -> float:
    """Estimated wall time of training `runs` here, scoring not counted: their images over the rate of the first one that has a context module."""
    by_content = {run.data.to_json(): run for run in runs.values()}
    loaded = {content: load_data(run) for content, run in by_content.items()}
    load = lambda run: loaded[run.data.to_json()]
    images = sum(plan_of(run, load(run)).total_steps * phase(run).batch_size for run in runs.values())
    typical = max(runs.values(), key=lambda run: run.method.startswith("cm_"))
    return images / images_per_second(typical, load(typical))


def _module(folder: Path, name: str, flag: str) -> ModuleType:
    if not (folder / f"{name}.py").is_file() or name in METHODS:  # configs named by a method are of systems without published tables
        known = ", ".join(sorted(other.stem for other in folder.glob("*.py") if other.stem not in METHODS)) or f"none, since {folder} is not there: run from a checkout"
        raise ConfigError(f"{flag}={name} names no config; choose one of {known}.")
    return supplied.module(folder, name)
