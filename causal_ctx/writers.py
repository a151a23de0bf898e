"""Where the records of metrics.jsonl also go, for those who watch runs elsewhere: TensorBoard and Weights & Biases. The packages are extras.

metrics.jsonl stays the truth; a writer holds the same numbers against the same steps, each once, however often a run is resumed.
"""

import importlib.util
import json
import logging
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from causal_ctx import parallel
from causal_ctx.files import write_atomically

LOG = logging.getLogger(__name__)
PROJECT = "causal_ctx"


class WriterError(ValueError):
    """A writer that cannot be had; the message is one sentence for the user."""


class Writer(Protocol):
    """A mirror of one run's records: constructed with the run's folder, the step that it goes on from, and the last step that was logged before it stopped."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers {"train/...", "validation/..."} of one record."""

    def close(self) -> None:
        """What was written stays."""


class TensorBoard:
    """Scalars in the folder `tensorboard` of the run, by tensorboardX. TensorBoard leaves out what was logged after the step that the run was resumed from."""

    def __init__(self, folder: Path, step: int, logged: int):
        import tensorboardX

        del logged
        ours = folder / "tensorboard"
        files = len(list(ours.glob("*"))) if ours.exists() else 0  # of two in one second the later would be named, and so take the place of the earlier
        self._writer = tensorboardX.SummaryWriter(str(ours), purge_step=step + 1, filename_suffix=f".{files}")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """As `Writer.write`."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self) -> None:
        """As `Writer.close`."""
        self._writer.close()


class WandB:
    """A run of the project `causal_ctx`, under the id in the folder's wandb.txt; kept in the folder where WANDB_MODE says nothing and no one is logged in.

    W&B takes a step once, so what a resumed run repeats is left to the first time: the numbers are the same. Raises WriterError where W&B refuses.
    """

    def __init__(self, folder: Path, step: int, logged: int):
        import wandb

        kept, config = folder / "wandb.txt", folder / "config.json"
        goes_on = step > 0 and kept.exists()
        if not goes_on:
            write_atomically(kept, secrets.token_hex(4))
        self._logged = logged if goes_on else 0
        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        run = {"project": PROJECT, "name": folder.name, "id": kept.read_text(), "config": json.loads(config.read_text()) if config.exists() else {}}
        ours = wandb.Settings(silent=True, console="off")  # what a person reads is ours
        try:  # "create_new": runs that train together are open together
            self._run = wandb.init(**run, dir=str(folder), mode=mode, resume="allow", reinit="create_new", settings=ours)
        except wandb.Error as error:
            raise WriterError(f"W&B cannot be had ({error}); set WANDB_MODE=offline, or leave --writers=wandb out.") from error
        LOG.info("W&B has %s as run %s, %s.", folder.name, kept.read_text(), f"at {self._run.url}" if mode == "online" else f"{mode}, in {folder / 'wandb'}")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """As `Writer.write`."""
        if step > self._logged:
            self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """As `Writer.close`."""
        self._run.finish()


def logged_in() -> bool:
    """Whether W&B knows the user: by WANDB_API_KEY, or an entry for its host in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


TABLE = {"tensorboard": ("tensorboardX", TensorBoard), "wandb": ("wandb", WandB)}  # the package that a writer needs is that of the extra of its name
_chosen: list[str] = []  # by this program


def choose(names: Sequence[str]) -> None:
    """From now on the runs of this program have the writers `names`. Raises WriterError for an unknown one, and in process 0 for a missing package."""
    for name in names:
        if name not in TABLE:
            raise WriterError(f"--writers={name} is unknown; choose some of {', '.join(TABLE)}.")
        if parallel.is_first_process() and not _is_installed(TABLE[name][0]):
            raise WriterError(f"--writers={name} needs {TABLE[name][0]}, which is not installed; install causal_ctx[{name}], or leave it out.")
    _chosen[:] = dict.fromkeys(names)


def _is_installed(package: str) -> bool:
    """A folder of that name in the current one, such as W&B's own of runs, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def opened(folder: Path, step: int, logged: int) -> list[Writer]:
    """The chosen writers of the run in `folder`, which goes on from `step` after it was logged up to step `logged`; none but in process 0."""
    return [TABLE[name][1](folder, step, logged) for name in _chosen] if parallel.is_first_process() else []
