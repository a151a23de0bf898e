"""A finished run as an object: `load_run(workdir)` generates, reconstructs and encodes, with interventions given by name."""

import functools
from collections.abc import Iterable
from pathlib import Path

import jax
import ml_collections
import numpy as np

from causal_ctx import config as configs
from causal_ctx import data, parallel
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.data.contexts import as_uint8
from causal_ctx.evaluation.predict import Predictor, build_predictor
from causal_ctx.methods import METHODS
from causal_ctx.models.context_module import effective_causal_blocks
from causal_ctx.start import initial_state, restore


class Run:
    """What a workdir holds: `config`, `concepts`, `data`, and the best weights behind `generate`, `reconstruct` and `encode`.

    Letters: n images, H, W, C image, L latent width, K concepts, w concept width.
    """

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict):
        self.workdir, self.config = workdir, config

    @functools.cached_property
    def data(self) -> data.ContextData:
        """The run's data set, made or read from its cache when first asked for."""
        return data.load(self.config.data)

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the concepts, in the order of the target vector."""
        return self.data.concepts

    def targets(self, interventions: Iterable[str] | str) -> np.ndarray:
        """Target vector [K] of a set of concept names, or of a context name like "obs" or "a+b". Raises ValueError for unknown names."""
        name = interventions if isinstance(interventions, str) else "+".join(interventions)
        return self.data.targets(name or "obs")

    def generate(self, interventions: Iterable[str] | str, num: int, seed: int = 0) -> np.ndarray:
        """Mean images float32 [num, H, W, C] in [0, 1] under the interventions. The same seed gives the same exogenous noise under all of them."""
        noise = np.asarray(jax.random.normal(jax.random.key(seed), (num, self._predictor.latents)))
        return self._predictor.generate(self.targets(interventions), noise)

    def reconstruct(self, images: np.ndarray, interventions: Iterable[str] | str) -> np.ndarray:
        """Images [n, H, W, C], uint8 or floating point in [0, 1], encoded and decoded under their interventions: float32 [n, H, W, C]."""
        return self._predictor.reconstruct(self.targets(interventions), self._checked(images))

    def encode(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Posterior {"mean", "log_variance"}, each [n, L], of images [n, H, W, C], uint8 or floating point in [0, 1]."""
        return self._predictor.encode(self._checked(images))

    def causal_blocks(self, interventions: Iterable[str] | str) -> np.ndarray | None:
        """Effective causal matrix [K, w, K, w] under the interventions, row = hearing concept, column = speaking noise; None without a context module."""
        if not METHODS[self.config.method].module:
            return None
        module = self._predictor.variables["params"]["context_module"]
        targets = self.targets(interventions)
        return np.asarray(effective_causal_blocks(module["causal_obs"], module["causal_ivn"], targets, self.config.model.composition))

    def _checked(self, images: np.ndarray) -> np.ndarray:
        return as_uint8("given", images, self.data.image_shape)

    @functools.cached_property
    def _predictor(self) -> Predictor:
        with Checkpoints(self.workdir / "checkpoints") as checkpoints:
            best, _ = restore(checkpoints, "best", initial_state(self.config, self.data, parallel.data_mesh()))
        return build_predictor(self.config, self.data, best)


def load_run(workdir: str | Path) -> Run:
    """The run in `workdir`. Raises FileNotFoundError where there is none."""
    path = Path(workdir)
    if not (path / "config.json").exists():
        raise FileNotFoundError(f"{path} holds no run: config.json is missing; give the --workdir of a finished run.")
    return Run(path, configs.from_json((path / "config.json").read_text()))
