"""Saving and restoring with Orbax: the newest states to resume from, the best one to evaluate, and those that are kept for good."""

import logging
import os
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from causal_ctx import parallel
from causal_ctx.files import DamagedError

LOG = logging.getLogger(__name__)
NAMES = ("newest", "best", "kept")
NEWEST = 2  # are there to resume from: should the last one be damaged, the one before it is not

Tree = Any  # a pytree of arrays
_writing: list[ocp.CheckpointManager] = []  # the one that may be at it


class SaveError(OSError):
    """A checkpoint that could not be written; the message is one sentence for the user."""


class Checkpoints:
    """The folders NAMES below `folder`, each with atomic Orbax checkpoints by step; used as a context manager, so that writing has ended on leaving.

    Checkpoints are written behind the back of the training, by all processes of a pod together, and restored onto whatever devices there are then. Each has
    a checksum of all its bytes, for what the storage does to them.
    """

    def __init__(self, folder: Path):
        most = {"newest": NEWEST, "best": 1, "kept": None}
        options = lambda name: ocp.CheckpointManagerOptions(max_to_keep=most[name], create=True, enable_async_checkpointing=True)
        self._folder = Path(folder)
        manager = lambda name: ocp.CheckpointManager(Path(folder).absolute() / name, options=options(name), item_handlers=ocp.StandardCheckpointHandler())
        self._managers = {name: manager(name) for name in NAMES}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        failed = None
        for manager in self._managers.values():
            try:
                manager.close()
            except Exception as error:
                failed = failed or error
        _writing[:] = [manager for manager in _writing if manager not in self._managers.values()]
        if failed and kind is None:
            raise self._failed(failed) from failed
        if failed:
            LOG.warning("%s", self._failed(failed))

    def save(self, name: str, step: int, tree: Tree) -> None:
        """Begins to write `tree` as a checkpoint of `step`, and drops those that are too many once it is there; nothing where one of that step or a later one
        is, which is what the same training comes to again.

        Raises SaveError where this checkpoint, or the one before, cannot be written.
        """
        if (self.step(name) or -1) >= step:
            return
        try:
            while _writing:  # one at a time, in all processes in one order
                _writing.pop().wait_until_finished()
            _writing.append(self._managers[name])
            self._managers[name].save(step, args=ocp.args.StandardSave({"tree": tree, "checksum": checksum(tree)}))
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Until what was begun is written. Raises SaveError where it cannot be."""
        try:
            for manager in self._managers.values():
                manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def step(self, name: str) -> int | None:
        """The latest step that has a checkpoint in the folder `name`, None before the first."""
        return self._managers[name].latest_step()

    def restore(self, name: str, like: Tree) -> Tree:
        """The latest checkpoint in the folder `name` that can be read, with the structure, types and shardings of `like`; a damaged one is said, and left.

        Raises DamagedError where there is none.
        """
        self.wait()
        steps = sorted(self._managers[name].all_steps(), reverse=True)
        if not steps:
            raise DamagedError(f"{self._folder} holds no {name} checkpoint; train first.")
        for step in steps:
            try:
                found, reason = self._read(name, step, like), ""
            except Exception as error:  # Orbax raises whatever the damaged file leads to
                found, reason = None, (str(error).splitlines() or [type(error).__name__])[0][:200]
            if not parallel.agree(found is None):
                return found
            LOG.warning("The %s checkpoint of step %d in %s cannot be read (%s).", name, step, self._folder, reason or "by another process")
        raise DamagedError(f"No {name} checkpoint in {self._folder} can be read ({reason}); was it written by another version? Train again in another --workdir.")

    def set_aside(self, step: int) -> None:
        """Moves newest checkpoints that are later than `step`, which could not be read, to the folder "damaged"."""
        for later in [found for found in self._managers["newest"].all_steps() if found > step]:
            source, target = self._folder / "newest" / str(later), self._folder / "damaged" / str(later)
            if parallel.is_first_process():
                target.parent.mkdir(exist_ok=True)
                while target.exists():
                    target = target.with_name(f"{target.name}-again")
                os.replace(source, target)
            LOG.warning("Going on from step %d; the damaged checkpoint of step %d is in %s.", step, later, target)
        parallel.meet("damaged checkpoints are aside")
        self._managers["newest"].reload()

    def _read(self, name: str, step: int, like: Tree) -> Tree:
        wanted = {"tree": like, "checksum": np.zeros((), np.uint32)}
        # A leaf that is described without a sharding, as one of NumPy would be, has Orbax read what is written of all leaves, in memory that never comes back.
        abstract = jax.tree.map(lambda leaf: leaf if isinstance(leaf, np.ndarray) else ocp.utils.to_shape_dtype_struct(leaf), wanted)
        found = self._managers[name].restore(step, args=ocp.args.StandardRestore(abstract))
        if int(found["checksum"]) != (now := checksum(found["tree"])):
            raise ValueError(f"its bytes have the checksum {now} in place of {int(found['checksum'])}")
        return found["tree"]

    def _failed(self, error: Exception) -> SaveError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        full = any(sign in str(error) for sign in ("No space left", "ENOSPC", "RESOURCE_EXHAUSTED", "quota"))
        remedy = "make room" if full else "see to the disk"
        return SaveError(f"A checkpoint cannot be written to {self._folder} ({reason}); {remedy} and start the same command again, which goes on from the last one.")


def checksum(tree: Tree) -> np.ndarray:
    """CRC-32 over the bytes of all leaves, uint32 []."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        plain = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        total = zlib.crc32(np.ascontiguousarray(parallel.on_host(plain)).reshape(-1).view(np.uint8), total)
    return np.array(total, np.uint32)
