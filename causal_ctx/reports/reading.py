"""What runs wrote, read back: results.json, config.json and metrics.jsonl of a workdir, and which members of a folder of runs have come how far."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from causal_ctx import kinds
from causal_ctx.config import flat
from causal_ctx.files import DamagedError
from causal_ctx.methods import chosen


class Folder(NamedTuple):
    """A folder of runs, or of one run.

    evaluated: workdirs with results, in the order of the axes. diverged: {name: sentence} of those that failed. unfinished: how many others there are or
    were planned. axes: {dotted field: its values} of a sweep, {} of other folders. table: the published table that the sweep rebuilds, or "".
    """

    evaluated: tuple[Path, ...]
    diverged: dict[str, str] = {}
    unfinished: int = 0
    axes: dict[str, list] = {}
    table: str = ""


def read_folder(workdir) -> Folder:
    """What `workdir` holds: a run, or runs directly below it with or without the sweep.json that planned them. DamagedError for what cannot be read."""
    workdir = Path(workdir)
    if (workdir / "results.json").exists():
        return Folder((workdir,))
    sweep = _read_json(workdir / "sweep.json", "start the sweep again") if (workdir / "sweep.json").exists() else {}
    axes = sweep.get("axes", {})
    members = sorted(path.parent for path in workdir.glob("*/config.json"))
    evaluated = [path for path in members if (path / "results.json").exists()]
    diverged = {path.name: _failure(path) for path in members if path not in evaluated and (path / "failure.json").exists()}
    planned = math.prod(map(len, axes.values())) if axes else 0
    unfinished = max(planned, len(members)) - len(evaluated) - len(diverged)
    return Folder(tuple(sorted(evaluated, key=lambda path: _place(path, axes))), diverged, unfinished, axes, sweep.get("table", ""))


def _failure(workdir: Path) -> str:
    return str(_read_json(workdir / "failure.json", "run that member again").get("message", "diverged"))


def _place(workdir: Path, axes: dict[str, list]) -> list[int]:
    """Where a member stands in the order of the axes, its seed aside."""
    fields = read_fields(workdir) if axes else {}
    return [values.index(fields[name]) if fields.get(name) in values else len(values) for name, values in axes.items() if name != "seed"]


def read_results(workdir) -> dict:
    """The dict of results.json; DamagedError when the run was not evaluated yet, the file cannot be read, or says nothing of what
    every run has."""
    path = Path(workdir) / "results.json"
    found = _read_json(path, "evaluate the run first (--mode=evaluate)")
    if wrong := kinds.misfit(flat(found), RESULTS):
        raise DamagedError(f"{path} is not as a run writes it: {wrong.rstrip('.')}; evaluate the run again (--mode=evaluate).")
    return found


RESULTS = {  # what every run has, as examples
    "dataset": "", "method": "", "backbone": "", "seed": 0,
    "train.images": 0, "train.steps": 0, "train.seconds": 0.0, "train.images_per_second": 0.0, "train.devices": 0,
}


def read_truth(workdir) -> dict:
    """The dict of interventions.json, {} where the run was not scored against the simulation; DamagedError when it cannot be read."""
    path = Path(workdir) / "interventions.json"
    return _read_json(path, again(workdir)) if path.exists() else {}


def again(workdir) -> str:
    """How an interventions.json that is of no use is made anew."""
    return f"score the run again (--mode=ablate_interventions --workdir={workdir})"


def read_config(workdir) -> dict:
    """The dict of config.json; DamagedError when it is missing or cannot be read."""
    return _read_json(Path(workdir) / "config.json", "give the workdir of a run")


def read_fields(workdir) -> dict[str, object]:
    """config.json as {dotted field: value}, with what is left to the method as the method has it; DamagedError as `read_config`."""
    return chosen(flat(read_config(workdir)))


def read_metrics(workdir) -> list[dict]:
    """The objects of metrics.jsonl in order, [] without the file; a line cut short by an interruption is left out."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [record for line in lines if isinstance(record := _parse(line), dict)]


def read_card(workdir) -> dict | None:
    """The dict of data_card.json (see `causal_ctx.data.card`); None where there is none that can be read."""
    path = Path(workdir) / "data_card.json"
    found = _parse(path.read_text("utf-8", errors="replace")) if path.exists() else None
    return found if isinstance(found, dict) else None


def _parse(line: str):
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _read_json(path: Path, remedy: str) -> dict:
    if not path.exists():
        raise DamagedError(f"{path} does not exist; {remedy}.")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path} is not valid JSON ({error}); {remedy}.") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} holds no JSON object; {remedy}.")
    return content
