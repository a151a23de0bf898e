"""A finished run as an object: `load_run(workdir)` generates, reconstructs and encodes, with interventions and actions given by name."""

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import ml_collections
import numpy as np

from causal_ctx import config as configs
from causal_ctx import data, export, parallel, systems
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.data.contexts import OBSERVATIONAL, as_uint8
from causal_ctx.data.contexts import subsets as all_subsets
from causal_ctx.data.transition_sets import TransitionData
from causal_ctx.evaluation.codes import Acted, CodePredictor
from causal_ctx.evaluation.predict import Predictor, build_predictor
from causal_ctx.files import DamagedError
from causal_ctx.methods import METHODS
from causal_ctx.reports import reading
from causal_ctx.start import restore, shape_of_state
from causal_ctx.step import TrainState
from causal_ctx.systems import transition

MOST_SUBSETS = 1024  # of concepts: those of ten
SHOWN = 3  # folders that a refusal names
KEPT_SETS = 256  # of interventions, whose statistics a run keeps: those asked for last


class Run:
    """What a workdir holds: `config`, `concepts`, `data`, and the best weights behind `generate`, `reconstruct` and `encode`.

    Letters: n images, H, W, C image, L latent width, K concepts, w concept width.
    """

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict):
        self.workdir, self.config, self.same_data = workdir, config, None  # another run of this one's data
        self._statistics: dict[bytes, dict] = {}

    @functools.cached_property
    def data(self) -> data.ContextData:
        """The run's data set, made or read from its cache when first asked for."""
        return self.same_data.data if self.same_data else load_data(self.config)

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the concepts, in the order of the target vector."""
        return self.data.concepts

    def targets(self, interventions: Iterable[str] | str) -> np.ndarray:
        """Target vector [K] of a set of concept names, or of a context name like "obs" or "a+b". Raises ValueError for unknown names."""
        return self.data.targets(self._name(interventions))

    def generate(self, interventions: Iterable[str] | str, num: int, seed: int = 0) -> np.ndarray:
        """Mean images float32 [num, H, W, C] in [0, 1] under the interventions. The same seed gives the same exogenous noise under all of them."""
        return self._generate(self.targets(interventions)[None], num, seed)[0]

    def generate_all(self, num: int, seed: int = 0, subsets: Iterable[Iterable[str] | str] | None = None) -> dict[str, np.ndarray]:
        """`generate` under many sets of interventions by one call: {context name: images float32 [num, H, W, C]}, the same noise in all of them.

        `subsets` are sets of concept names or context names; None is all 2^K, "obs" first. Raises ValueError for unknown names, and where 2^K is
        above MOST_SUBSETS.
        """
        if subsets is None and 2 ** len(self.concepts) > MOST_SUBSETS:
            number = len(self.concepts)
            raise ValueError(f"{number} concepts have {2**number:,} subsets, more than {MOST_SUBSETS:,}; name those wanted in subsets.")
        names = [self._name(subset) for subset in (all_subsets(self.concepts) if subsets is None else subsets)]
        images = self._generate(np.array([self.targets(name) for name in names]), num, seed) if names else ()
        return dict(zip(names, images))

    def reconstruct(self, images: np.ndarray, interventions: Iterable[str] | str, made_under: Iterable[str] | str | None = None) -> np.ndarray:
        """Images [n, H, W, C], uint8 or floating point in [0, 1], encoded and decoded under their interventions: float32 [n, H, W, C].

        With `made_under` the images are of those interventions, and what comes back is what they would have been under the others.
        """
        before = None if made_under is None else self.targets(made_under)
        return self.predictor.reconstruct(self.targets(interventions), self._checked(images), before)

    def encode(self, images: np.ndarray, interventions: Iterable[str] | str = OBSERVATIONAL) -> dict[str, np.ndarray]:
        """Posterior {"mean", "log_variance"}, each [n, L], of images [n, H, W, C], uint8 or floating point in [0, 1], made under the interventions."""
        return self.predictor.encode(self.targets(interventions), self._checked(images))

    def causal_blocks(self, interventions: Iterable[str] | str) -> np.ndarray | None:
        """Effective causal matrix [K, w, K, w] under the interventions, row = hearing concept, column = speaking noise; None without a context module."""
        return self.predictor.causal_blocks(self.targets(interventions))

    def _name(self, interventions: Iterable[str] | str) -> str:
        if not isinstance(interventions, str):
            interventions = "+".join(sorted(interventions, key=lambda name: self.concepts.index(name) if name in self.concepts else -1))
        return interventions or OBSERVATIONAL

    def _generate(self, target_sets: np.ndarray, num: int, seed: int) -> np.ndarray:
        """Images [T, num, H, W, C] under `target_sets` [T, K], ValueError for a num below 1; what "generated" layers need is estimated once per set and kept for the KEPT_SETS last ones."""
        if num < 1:
            raise ValueError(f"num is {num}; generate at least 1 image.")
        wanted = {targets.tobytes(): targets for targets in target_sets}
        held = {key: self._statistics[key] for key in wanted if key in self._statistics}
        if unknown := [key for key in wanted if key not in held]:
            found = parallel.on_host(self.predictor.statistics(np.stack([wanted[key] for key in unknown])))
            held |= {key: jax.tree.map(lambda leaf, i=i: leaf[i].copy(), found) for i, key in enumerate(unknown)}  # a view would keep those of all T sets
        others = {key: kept for key, kept in self._statistics.items() if key not in held}
        self._statistics = dict(list((others | held).items())[-KEPT_SETS:])
        statistics = jax.tree.map(lambda *leaves: np.stack(leaves), *(held[targets.tobytes()] for targets in target_sets))
        noise = np.asarray(jax.random.normal(jax.random.key(seed), (num, self.predictor.latents)))
        return self.predictor.generate_all(target_sets, noise, statistics)

    def _checked(self, images: np.ndarray) -> np.ndarray:
        return as_uint8("given", images, self.data.image_shape)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The best weights, behind arrays in place of names."""
        return build_predictor(self.config, self.data, best_state(self))


class TransitionRun:
    """What a workdir of CT-VAE holds: `config`, `data`, and the best weights behind images, codes and names of actions.

    Letters: n images, H, W, C image, K codebooks, h, w grid of nodes, A actions.
    """

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict):
        self.workdir, self.config, self.same_data = workdir, config, None

    @functools.cached_property
    def data(self) -> TransitionData:
        """The run's data, made or read when first asked for."""
        return self.same_data.data if self.same_data else load_data(self.config)

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the A actions, "hair up", .., "hair down", in the order of their numbers."""
        return self.data.actions

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Codes [n, K, h, w] of images [n, H, W, C], uint8 or floating point in [0, 1]."""
        return self.predictor.encode(self._checked(images))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Images float32 [n, H, W, C] of codes [n, K, h, w]."""
        return self.predictor.decode(codes)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images [n, H, W, C] through their codes: float32 [n, H, W, C]."""
        return self.decode(self.encode(images))

    def apply(self, images: np.ndarray, *actions: str, likeliest: bool = False, seed: int = 0) -> np.ndarray:
        """Images float32 [n, H, W, C] that are expected after the named actions, or those of the likeliest codes; `seed` draws masks and graphs.

        Of several actions, one after the other, each is on the likeliest codes after the one before. Raises ValueError for unknown actions and for a run of
        mcq_vae, which has none.
        """
        codes, expected = self.encode(images), None
        for found in self._acted(codes, actions, seed):
            codes, expected = found.codes, found.images
        return self.decode(codes) if likeliest or expected is None else expected

    def chain(self, images: np.ndarray, *actions: str, seed: int = 0) -> list[np.ndarray]:
        """What `apply` expects after the first of the named actions, after the first two, and so on, each acted once: images float32 [n, H, W, C] for every
        action. Raises ValueError as `apply`."""
        return [found.images for found in self._acted(self.encode(images), actions, seed)]

    def retrieve(self, before: np.ndarray, after: np.ndarray, seed: int | None = 0) -> tuple[list[str], np.ndarray]:
        """(the likeliest actions, n names; probabilities [n, A]) between images [n, H, W, C] before and after; a `seed` of None takes thresholds in place of
        draws of masks and graphs. Raises ValueError as `apply`."""
        log_probs = self._acting().retrieve(self.encode(before), self.encode(after), seed)
        return [self.actions[best] for best in log_probs.argmax(axis=1)], np.exp(log_probs)

    def _acted(self, codes: np.ndarray, actions: Iterable[str], seed: int) -> Iterator[Acted]:
        """What is predicted of codes [n, K, h, w] after each action, on the likeliest codes after the one before."""
        for number, name in enumerate(actions):
            found = self._acting().predict(codes, np.full(len(codes), self._action(name)), seed=seed + number)
            codes = found.codes
            yield found

    def _action(self, name: str) -> int:
        if name not in self.actions:
            raise ValueError(f"There is no action {name!r}; choose one of {', '.join(self.actions)}.")
        return self.actions.index(name)

    def _acting(self) -> CodePredictor:
        if self.predictor.transition is None:
            raise ValueError(f"The run in {self.workdir} is of {self.config.method}, which knows no actions; load one of ct_vae.")
        return self.predictor

    def _checked(self, images: np.ndarray) -> np.ndarray:
        return as_uint8("given", images, self.data.image_shape)

    @functools.cached_property
    def predictor(self) -> CodePredictor:
        """The best weights, behind arrays in place of names."""
        return transition.build_predictor(self.config, self.data, best_state(self))


RUNS = {"context": Run, "transition": TransitionRun}


def best_state(run: Run | TransitionRun) -> TrainState:
    """The state of the best epoch, or with exported weights. Raises DamagedError where there is none or it cannot be read."""
    like = shape_of_state(run.config, run.data, parallel.data_mesh())
    if (run.workdir / export.WEIGHTS).exists():
        variables = parallel.everywhere(parallel.data_mesh(), export.read(run.workdir / export.WEIGHTS, like.variables))
        return like.replace(params=variables.pop("params"), collections=variables)
    with Checkpoints(run.workdir / "checkpoints") as checkpoints:
        return restore(checkpoints, "best", like)[0]


def load_data(config: ml_collections.ConfigDict) -> systems.Data:
    """The run's data set; ConfigError for fields that it cannot be made from."""
    try:
        return systems.of(config).load(config)
    except (ValueError, FileNotFoundError) as error:
        raise configs.ConfigError(str(error)) from error


def config_of(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in `workdir`; DamagedError for a config.json that cannot be read, or that is none of this version."""
    kept = json.dumps(reading.read_config(workdir))
    try:
        return configs.from_json(kept)
    except configs.ConfigError as error:
        raise DamagedError(f"{workdir / 'config.json'}: {error}") from error


def load_run(workdir: str | Path) -> Run | TransitionRun:
    """The run in `workdir`. Raises FileNotFoundError where there is none, DamagedError as `config_of`."""
    path = Path(workdir)
    if not (path / "config.json").exists():
        below = sorted(str(kept.parent) for kept in path.glob("*/config.json"))
        others = f", or of {len(below) - SHOWN} others" if len(below) > SHOWN else ""
        remedy = f"give that of a run below it: {', '.join(below[:SHOWN])}{others}." if below else "give the --workdir of a finished run."
        raise FileNotFoundError(f"{path} holds no run: config.json is missing; {remedy}")
    config = config_of(path)
    return RUNS[METHODS[config.method].system](path, config)


def load_runs(workdirs: Iterable[str | Path]) -> list[Run | TransitionRun]:
    """The runs in `workdirs`, those of the same data with one data set. Raises FileNotFoundError as `load_run`."""
    runs, first = [load_run(workdir) for workdir in workdirs], {}
    for run in runs:
        content = (METHODS[run.config.method].system, run.config.data.to_json())
        run.same_data = first[content] if first.setdefault(content, run) is not run else None
    return runs
