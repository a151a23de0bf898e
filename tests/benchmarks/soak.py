"""The memory of one process over hours: whole runs (training, checkpoints, scoring, report) again and again, then one long training with a checkpoint every epoch.

    python -m tests.benchmarks.soak FOLDER [HOURS]

Half of the time goes to each. Prints a line a minute, and at the end the slope of the resident memory over each half, its first fifth left out, with the
standard error of a straight line's slope. Linux only, whose /proc is read.
"""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from causal_ctx import memory, programs
from causal_ctx import workdir as workdirs
from causal_ctx.train import Interrupted
from configs import quad_dependent

SETTLING = 0.2  # part of a half that compiles and fills caches, and is left out


def resident_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch:
    """Notes the resident memory every few seconds, from another thread; `line` says what it did over a half."""

    def __init__(self, seconds: float):
        self.samples, self.seconds, self.began = [], seconds, time.monotonic()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while (passed := time.monotonic() - self.began) < self.seconds:
            self.samples.append((passed, resident_mib()))
            if len(self.samples) % 12 == 0:
                print(f"{passed / 60:6.1f} min {self.samples[-1][1]:8.1f} MiB", flush=True)
            time.sleep(5)

    @property
    def over(self) -> bool:
        return time.monotonic() - self.began >= self.seconds

    def line(self) -> str:
        """Slope with its standard error, and the range."""
        hours, mib = np.array([(t / 3600, m) for t, m in self.samples if t >= SETTLING * self.seconds]).T
        (slope, level), covariance = np.polyfit(hours, mib, 1, cov=True)
        return f"{slope:+.1f} ± {covariance[0, 0] ** 0.5:.1f} MiB/hour over {hours[-1] - hours[0]:.2f} hours, {mib.min():.0f} to {mib.max():.0f} MiB"


def long_training(folder: Path, seconds: float) -> str:
    """One run that does not end by itself, stopped as by Ctrl-C."""
    config = quad_dependent.get_config("tiny")
    config.train.epochs, config.train.patience_epochs = 1e6, 10**6
    watch = Watch(seconds)
    stop = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    stop.start()
    try:
        workdirs.train_evaluate_report(config, folder / "long")
    except Interrupted as stopped:
        return f"{watch.line()}; {stopped}"
    raise AssertionError("the training was not to end by itself")


def whole_runs(folder: Path, seconds: float) -> str:
    """Runs from nothing to the report, each in a folder that is made for it."""
    watch, count = Watch(seconds), 0
    while not watch.over:
        config = quad_dependent.get_config("tiny")
        config.seed = count
        workdirs.train_evaluate_report(config, folder / "run")
        shutil.rmtree(folder / "run")
        count += 1
    return f"{watch.line()}; {count} runs"


if __name__ == "__main__":
    where, hours = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    where.mkdir(parents=True)
    memory.share_one_arena()
    programs.keep()
    for name, half in (("whole runs", whole_runs), ("one long training", long_training)):
        print(f"{name}: {half(where, hours * 1800)}", flush=True)
