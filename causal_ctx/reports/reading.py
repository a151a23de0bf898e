"""What a run wrote, read back: results.json, config.json and metrics.jsonl of a workdir."""

import json
from pathlib import Path

from causal_ctx.files import DamagedError


def read_results(workdir) -> dict:
    """The dict of results.json; DamagedError when the run was not evaluated yet or the file cannot be read."""
    return _read_json(Path(workdir) / "results.json", "evaluate the run first (--mode=evaluate)")


def read_config(workdir) -> dict:
    """The dict of config.json; DamagedError when it is missing or cannot be read."""
    return _read_json(Path(workdir) / "config.json", "give the workdir of a run")


def read_metrics(workdir) -> list[dict]:
    """The objects of metrics.jsonl in order, [] without the file; a line cut short by an interruption is left out."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [record for line in lines if isinstance(record := _parse(line), dict)]


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
