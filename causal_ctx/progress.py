"""What a person sees while a run works, and what it writes line by line."""

import json
import logging
import sys
import time
from pathlib import Path

import rich.console
import rich.progress

from causal_ctx import parallel
from causal_ctx.files import write_atomically

LOG = logging.getLogger(__name__)


class MetricsLog:
    """Appends one JSON object per logged step to metrics.jsonl; `rewind` drops what was logged after the step that a run resumes from."""

    def __init__(self, path: Path):
        self._path = Path(path)

    def rewind(self, step: int) -> None:
        """Keeps the whole lines up to and including `step`."""
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= step]
        write_atomically(self._path, "".join(f"{line}\n" for line in kept))

    def write(self, record: dict) -> None:
        """Appends one record, in a pod by process 0 alone."""
        if not parallel.is_first_process():
            return
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


class Progress:
    """A bar with the time left on a terminal, a plain line now and then in a log. Use as a context manager; `advance` once per call."""

    def __init__(self, task: str, total: int, start: int = 0, seconds_between_lines: float = 15.0):
        self._name, self._total, self._done = task, total, start
        self._every, self._last, self._first = seconds_between_lines, time.monotonic(), None
        self._bar = None
        if sys.stderr.isatty() and parallel.is_first_process():
            columns = ("[progress.description]{task.description}", rich.progress.BarColumn(), rich.progress.MofNCompleteColumn())
            columns += (rich.progress.TimeRemainingColumn(), "{task.fields[note]}")
            self._bar = rich.progress.Progress(*columns, console=rich.console.Console(stderr=True))
            self._task = self._bar.add_task(task, total=total, completed=start, note="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, amount: int, note: str = "") -> None:
        """`amount` more of the total is done; `note` says how it goes."""
        self._done += amount
        now = time.monotonic()
        self._first = self._first or (now, self._done)
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=note)
            return
        if now - self._last >= self._every or self._done >= self._total:
            LOG.info("%s %d/%d%s %s", self._name, self._done, self._total, self._left(now), note)
            self._last = now

    def _left(self, now: float) -> str:
        """", 20 s left"; the first call compiles or warms up, so it says nothing of the others."""
        since, done = self._first
        if self._done == done and self._done < self._total:
            return ""
        return f", {duration((now - since) / max(1, self._done - done) * (self._total - self._done))} left"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "42 s", "3 min 05 s", "2 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
