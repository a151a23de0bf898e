"""What a person sees while a run works, and what it writes line by line."""

import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import rich.console
import rich.progress
import rich.table

from causal_ctx import parallel, writers
from causal_ctx.files import write_atomically

LOG = logging.getLogger(__name__)
Advance = Callable[[int, str], None]  # as `Progress.advance`: so many parts more are done, of which this was one


class MetricsLog:
    """Appends one JSON object per logged step to metrics.jsonl; `rewind` drops what was logged after the step that a run resumes from.

    Use as a context manager: between `rewind` and its end the records also go to the writers that were chosen (`writers.choose`).
    """

    def __init__(self, path: Path):
        self._path, self._mirrors = Path(path), []

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        for mirror in self._mirrors:
            mirror.close()
        self._mirrors = []

    def rewind(self, step: int) -> None:
        """Keeps the whole lines up to and including `step`, and begins to mirror what comes after."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        steps = [_step_of(line) for line in lines]
        if lines:
            write_atomically(self._path, "".join(f"{line}\n" for line, own in zip(lines, steps) if own <= step))
        logged = max((own for own in steps if own < float("inf")), default=0)
        self._mirrors = writers.opened(self._path.parent, step, logged)

    def write(self, record: dict) -> None:
        """Appends one record, in a pod by process 0 alone."""
        if not parallel.is_first_process():
            return
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for mirror in self._mirrors:
            mirror.write(record["step"], {name: number for name, number in record.items() if "/" in name})


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


class Progress:
    """A bar with the time left on a terminal, a plain line now and then in a log. Use as a context manager; `advance` once per call.

    images: how many a unit of the total is, where their rate is worth telling.
    """

    bars = True  # False: plain lines on a terminal, too

    def __init__(self, task: str, total: int, start: int = 0, seconds_between_lines: float = 15.0, images: int = 0):
        self._name, self._total, self._done, self._images = task, total, start, images
        self._every, self._last, self._first = seconds_between_lines, time.monotonic(), None
        self._bar = None
        if self.bars and sys.stderr.isatty() and parallel.is_first_process():
            rest = rich.table.Column(no_wrap=True, ratio=1)  # of the line: where the terminal is narrow the note alone gives way
            columns = ("[progress.description]{task.description}", rich.progress.BarColumn(20), rich.progress.MofNCompleteColumn())
            columns += (rich.progress.TimeRemainingColumn(), rich.progress.TextColumn("{task.fields[note]}", table_column=rest))
            self._bar = rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), expand=True)
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
        left, rate = self._left_and_rate(now)
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=", ".join(filter(None, (rate, note))))
        elif now - self._last >= self._every or self._done >= self._total:
            LOG.info("%s", ", ".join(filter(None, (f"{self._name} {self._done}/{self._total}", left, rate, note))))
            self._last = now

    def _left_and_rate(self, now: float) -> tuple[str, str]:
        """("20 s left", "1,605 images/s" where a unit has images); the first call compiles or warms up, so it says nothing of the others."""
        since, before = self._first
        done, seconds = self._done - before, now - since
        if not done or not seconds:
            return "", ""
        return f"{duration(seconds / done * (self._total - self._done))} left", f"{self._images * done / seconds:,.0f} images/s" if self._images else ""


def untold(amount: int, note: str = "") -> None:
    """In place of `Progress.advance`, where no one asks how far it is."""


def duration(seconds: float) -> str:
    """Seconds as a person says them: "42 s", "3 min 05 s", "2 h 10 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
