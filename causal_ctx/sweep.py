"""Many runs: the product of some axes over one config. Runs of equal shapes train together; every member is an ordinary run directory."""

import copy
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from causal_ctx import config as configs
from causal_ctx import ensemble, workdir as workdirs
from causal_ctx.config import ConfigError, StartError
from causal_ctx.methods import METHODS, chosen
from causal_ctx.start import source_config
from causal_ctx.train import train_together

LOG = logging.getLogger(__name__)


def varies(field: str) -> bool:
    """Whether runs of one program may differ in a field: the arrays have equal shapes and the values are arguments of the compiled step."""
    return field in ("seed", "init_from", "method") or field.startswith("objective.") or field.endswith("learning_rate")


def sweep(run: ml_collections.ConfigDict, axes: dict[str, Sequence]) -> ml_collections.ConfigDict:
    """The config of a sweep, locked: `run`, `axes` with the same fields, each a tuple of values (empty: as in `run`), `ensemble`, one of `ensemble.KINDS`,
    and `table`, the name of the published table that it rebuilds, if it is one.

    Raises ConfigError for an axis over a field that `run` does not have.
    """
    config = ml_collections.ConfigDict({"run": run, "axes": _empty(run), "ensemble": "auto", "table": ""}).lock()
    for field, values in axes.items():
        try:
            config.axes.update_from_flattened_dict({field: tuple(values)})
        except (KeyError, AttributeError, TypeError) as error:
            raise ConfigError(f"The sweep's axis {field} is no field of a run; see --print_config for those it has.") from error
    return config


def over_seeds(config: ml_collections.ConfigDict, seeds: int | None) -> ml_collections.ConfigDict:
    """The sweep `config`, or the sweep over one run's config, with `seeds` seeds, the run's own first; None leaves the seeds as they are.

    A run that starts from another's is swept together with that, unless it is given one.
    """
    if "axes" not in config:
        source = METHODS[config.method].starts_from if config.method in METHODS and not config.init_from else ""
        config = sweep(config, {"method": (source, config.method)} if source else {})
    if seeds is not None:
        config.axes.seed = tuple(range(config.run.seed, config.run.seed + seeds))
    return config


def _empty(run: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({name: _empty(value) if isinstance(value, ml_collections.ConfigDict) else () for name, value in run.items()})


def axes(config: ml_collections.ConfigDict) -> dict[str, tuple]:
    """{dotted field: values} of the axes that the sweep varies; "a,b" is the two values a and b.

    Raises ConfigError for a sweep without an axis, and for a value listed twice.
    """
    given = {field: values for field, values in configs.flat(config.axes.to_dict()).items() if values}
    varied = {field: tuple(part for value in values for part in (value.split(",") if isinstance(value, str) else [value])) for field, values in given.items()}
    if not varied:
        raise ConfigError("The sweep has no axis; give one, for example --config.axes.seed=0,1,2.")
    for field, values in varied.items():
        twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
        if twice is not None:
            raise ConfigError(f"The sweep's axis {field} lists {twice!r} twice; every run is trained once, so name it once.")
    return varied


def members(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, ml_collections.ConfigDict]:
    """{name of its folder below `workdir`: config} of every run; those that start from another run are given their sibling's folder.

    Raises ConfigError for values of a wrong type and for a method whose source is not in the sweep.
    """
    varied = axes(config)
    points = [dict(zip(varied, point)) for point in itertools.product(*varied.values())]
    runs = {}
    for point in points:
        run = copy.deepcopy(config.run)
        for field, value in point.items():
            point[field] = _set(run, field, value)
        source = METHODS[run.method].starts_from if run.method in METHODS else ""
        if source and not run.init_from:
            sibling = point | {"method": source}
            if sibling not in points:
                raise ConfigError(f"{run.method} starts from {source}, which the sweep does not train; add it to axes.method, or give run.init_from.")
            run.init_from = str(workdir / folder_name(sibling))
        runs[folder_name(point)] = run
    return runs


def folder_name(point: dict) -> str:
    """A member's folder: its values, under the last part of the field's name where that is unambiguous."""
    last = [field.split(".")[-1] for field in point]
    named = {short if last.count(short) == 1 else field: value for (field, value), short in zip(point.items(), last)}
    return ",".join(f"{name}={value}" for name, value in named.items()).replace("/", "_")


def _set(run: ml_collections.ConfigDict, field: str, value) -> object:
    """Sets one field and returns the value in the field's type; a whole number is taken for a number."""
    *parents, name = field.split(".")
    for parent in parents:
        run = run[parent]
    try:
        run[name] = float(value) if isinstance(run[name], float) and isinstance(value, int) else value
    except TypeError as error:
        raise ConfigError(f"The sweep's axis {field} lists {value!r}, which is no {type(run[name]).__name__}.") from error
    return run[name]


def validate(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ConfigError for a sweep of which any run is impossible."""
    if config.ensemble not in ensemble.KINDS:
        raise ConfigError(f"ensemble is {config.ensemble!r}; choose one of {', '.join(ensemble.KINDS)}.")
    for name, run in members(config, Path()).items():
        try:
            configs.validate(run, num_devices)
        except ConfigError as error:
            raise ConfigError(f"Run {name} of the sweep: {error}") from error


def groups(runs: dict[str, ml_collections.ConfigDict]) -> list[list[str]]:
    """Names of the runs that can train as one program, those that others start from first."""
    together: dict[str, list[str]] = {}
    for name, run in runs.items():
        together.setdefault(shape_of(run), []).append(name)
    return sorted(together.values(), key=lambda names: any(METHODS[runs[name].method].starts_from for name in names))


def shape_of(run: ml_collections.ConfigDict) -> str:
    """Equal for runs whose arrays have equal shapes and whose programs are the same."""
    method = METHODS[run.method]
    fields = chosen(configs.flat(run.to_dict()))
    fixed = {field: value for field, value in fields.items() if not varies(field)}
    generates = fields.get("objective.energy_penalty", 0) > 0  # images that batch normalisation takes into one batch with the reconstructions
    return json.dumps([fixed, generates, method.system, method.phase, method.module, method.contexts, method.targets, [rule for rule, _ in method.trains]], sort_keys=True)


def run(config: ml_collections.ConfigDict, workdir: Path) -> dict:
    """Trains and scores whatever `workdir` lacks of the sweep, then writes its tables and page; returns them as `workdir.report`.

    Raises Interrupted (the same command goes on), WorkdirError where `workdir` holds something else.
    """
    if (workdir / "config.json").exists():
        raise workdirs.WorkdirError(f"{workdir} holds a single run; give the sweep a folder of its own.")
    runs = members(config, workdir)
    for name, member in runs.items():
        workdirs.prepare(member, workdir / name)
    workdirs.make(workdir, {"sweep.json": json.dumps({"axes": axes(config), "run": config.run.to_dict(), "table": config.table}, indent=2)})
    together = groups(runs)
    for number, names in enumerate(together, start=1):
        missing = [name for name in names if not workdirs.complete(workdir / name)]
        if missing:
            LOG.info("Program %d of %d: %s.", number, len(together), "; ".join(missing))
            finish(config.ensemble, {workdir / name: runs[name] for name in missing})
    return workdirs.report(None, workdir)


def finish(kind: str, runs: dict[Path, ml_collections.ConfigDict]) -> None:
    """Trains the runs {folder: config} of one program together, then scores each. One that diverges is left with its failure.json, one without its source waits."""
    for folder, config in list(runs.items()):
        try:
            METHODS[config.method].starts_from and not workdirs.started(folder) and source_config(config)
        except StartError as error:
            LOG.warning("%s is left out: %s", folder.name, error)
            del runs[folder]
    if not runs:
        return
    dataset = workdirs.checked_data(next(iter(runs.values())), *runs)
    for member, _ in train_together(list(runs.values()), dataset, list(runs), kind):
        try:
            if not member.failure:
                workdirs.score(member.config, dataset, member.workdir)
        except workdirs.WorkdirError as error:
            member.fail(error)
        if member.failure:
            LOG.warning("%s diverged: %s", member.workdir.name, member.failure)
