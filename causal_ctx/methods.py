"""The methods as data: what each is, sees and trains, and from which run it starts (spec section 3; for the two of CT-VAE spec/ctvae.md section 4)."""

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import ml_collections

# The two parts of the parameters, named by their path, that a method treats alike: NEW is what a context module brings or changes the shape of.
NEW = r"context_module/.*|encoder/(targets|mean|log_variance)/.*"
BACKBONE = r"(encoder|decoder)/.*"

AUTO = "auto"  # leaves a choice to the method; so does a negative number

# What fields that leave it to the method mean: our reading of the published methods, and our own method.
USUAL = {
    "model.posterior": "untold",
    "model.composition": "reference",
    "model.module_normalisation": "generated",
    "model.backbone_normalisation": "generated",
    "train.contexts_per_micro_batch": "one",
    "objective.energy_penalty": 0.0,
    "objective.moment_penalty": 0.0,
}
SHARED_NOISE = {
    "model.posterior": "told",
    "model.composition": "cut",
    "model.module_normalisation": "batch",
    "model.backbone_normalisation": "group",
    "train.contexts_per_micro_batch": "mixed",
    "objective.energy_penalty": 2.0,
    "objective.moment_penalty": 4.0,
}


class Method(NamedTuple):
    """One row of a paper's comparison.

    module: a context module stands between noise and decoder.
    contexts: the images that are seen, "all" or "obs" for the observational ones alone.
    targets: the module is told the intervention targets; False is t = 0 for every image.
    starts_from: the method of the trained run (`init_from`) whose BACKBONE tensors are copied; empty: from scratch.
    trains: ordered rules (regex of parameter paths, fraction of the epochs after which they train, None for never); the first that matches counts.
    system: which of the published systems it belongs to, a key of `systems.TABLE`.
    phase: the block of the config that says how it trains.
    choices: what fields of the config mean that leave the choice to the method, see `choice`.
    """

    module: bool
    contexts: str = "all"
    targets: bool = True
    starts_from: str = ""
    trains: tuple[tuple[str, float | None], ...] = ((NEW, 0.0), (BACKBONE, 0.0))
    system: str = "context"
    phase: str = "train"
    choices: Mapping[str, object] = USUAL


METHODS = {
    "base": Method(module=False, contexts="obs"),
    "base_pooled": Method(module=False),
    "cm_end_to_end": Method(module=True),
    "cm_pooled": Method(module=True, targets=False),
    "cm_frozen": Method(module=True, starts_from="base_pooled", trains=((NEW, 0.0), (BACKBONE, None))),
    "cm_fine_tune": Method(module=True, starts_from="base_pooled", trains=((NEW, 0.0), (BACKBONE, 0.2))),
    "cm_shared_noise": Method(module=True, choices=SHARED_NOISE),
    "mcq_vae": Method(module=False, trains=((".*", 0.0),), system="transition", phase="autoencoder"),
    "ct_vae": Method(module=False, starts_from="mcq_vae", trains=((".*", 0.0),), system="transition"),
}


def of_system(system: str) -> list[str]:
    """Names of the methods of a system, in the order of the table."""
    return [name for name, method in METHODS.items() if method.system == system]


def chosen(fields: Mapping[str, object]) -> dict[str, object]:
    """{dotted field: value} of a config with what its method chooses in place of what is left to it, by "auto" or a negative number."""
    own = METHODS[fields["method"]].choices if fields.get("method") in METHODS else {}
    left = lambda value: value == AUTO or (isinstance(value, float) and value < 0)
    return {field: own[field] if field in own and left(value) else value for field, value in fields.items()}


def choice(config: ml_collections.ConfigDict, field: str) -> object:
    """The value that a dotted field of a run's config has, as in `chosen`."""
    block, name = field.split(".")
    return chosen({"method": config.method, field: config[block][name]})[field]


def conflict(config: ml_collections.ConfigDict) -> str:
    """What is wrong with the choices of a run of the context system, in one sentence; empty where nothing is."""
    method = METHODS[config.method]
    for name in ("energy_penalty", "moment_penalty"):
        if not (config.objective[name] == -1 or 0 <= config.objective[name] < math.inf):
            return f"objective.{name} is {config.objective[name]}; it must be finite and not negative, or -1 for the method's own."
        if choice(config, f"objective.{name}") and config.train.micro_batch < 2:
            return f"train.micro_batch is {config.train.micro_batch}, without pairs to compare; give at least 2, or objective.{name} 0."
    if choice(config, "model.posterior") == "told" and not (method.module and method.targets):
        return f"model.posterior is told, but {config.method} knows no targets; leave it auto, or choose another method."
    return ""


def settled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of a run's config that leaves nothing to its method: what is written down, so that a run stays what it was when its method changes."""
    fixed = copy.deepcopy(config)
    for block, _, name in (field.partition(".") for field in USUAL):
        if name in fixed[block]:
            fixed[block][name] = choice(config, f"{block}.{name}")
    return fixed
