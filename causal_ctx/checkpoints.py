"""Saving and restoring with Orbax: the newest state to resume from, and the best one to evaluate."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from causal_ctx.files import DamagedError

Tree = Any  # a pytree of arrays


class Checkpoints:
    """`newest` and `best` below `folder`, each one atomic Orbax checkpoint; used as a context manager, so that writing has ended on leaving."""

    def __init__(self, folder: Path):
        options = lambda: ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
        self._folder = Path(folder)
        manager = lambda name: ocp.CheckpointManager(Path(folder).absolute() / name, options=options(), item_handlers=ocp.StandardCheckpointHandler())
        self._managers = {name: manager(name) for name in ("newest", "best")}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        for manager in self._managers.values():
            manager.close()

    def save(self, name: str, step: int, tree: Tree) -> None:
        """Writes `tree` as the checkpoint `name` ("newest" or "best") of `step`, then drops the one before it."""
        if self.step(name) == step:
            return
        if not self._managers[name].save(step, args=ocp.args.StandardSave(tree)):
            raise DamagedError(f"The {name} checkpoint in {self._folder} is of step {self.step(name)}, ahead of {step}; move it away or use another --workdir.")

    def step(self, name: str) -> int | None:
        """The step of checkpoint `name`, None before the first."""
        return self._managers[name].latest_step()

    def restore(self, name: str, like: Tree) -> Tree:
        """Checkpoint `name` with the structure, types and shardings of `like`. Raises DamagedError where there is none or it cannot be read."""
        step = self.step(name)
        if step is None:
            raise DamagedError(f"{self._folder} holds no {name} checkpoint; train first.")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._managers[name].restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # Orbax raises whatever the damaged file leads to
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise DamagedError(f"The {name} checkpoint of step {step} in {self._folder} cannot be read ({reason}); train again in another --workdir.") from error
