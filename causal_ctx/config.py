"""Every field of a run, once: its default, its unit, what it may be. `validate` refuses what cannot work, in one sentence, before anything expensive."""

import json
import math

import ml_collections

from causal_ctx import data
from causal_ctx.methods import METHODS
from causal_ctx.models import context_module, conv_vae, normalisation

SIZES = ("paper", "cpu", "tiny")
CONTEXTS_PER_MICRO_BATCH = ("one", "mixed")
FROZEN_STATISTICS = ("moving", "fixed")
PLACEMENTS = ("auto", "device", "host")


class ConfigError(ValueError):
    """A config that cannot be run; the message is one sentence for the user."""


def default() -> ml_collections.ConfigDict:
    """The paper's lightweight setting (spec section 2), locked: an unknown field is an error."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.method = "cm_end_to_end"
    config.init_from = ""  # workdir of the trained run that cm_frozen and cm_fine_tune start from

    config.data = ml_collections.ConfigDict()
    config.data.name = "quad_dependent"
    config.data.resolution = 64  # pixels, a multiple of 16 for conv64; 28 for conv28
    config.data.train_per_context = 50_000  # images, split into training and validation
    config.data.held_out_per_context = 10_000  # images per context and per held-out composition
    config.data.validation_fraction = 0.3
    config.data.seed = 0  # of generated images; the run's own seed leaves the data as they are
    config.data.cache_dir = ""  # empty: $CAUSAL_CTX_CACHE, else the user's cache folder
    config.data.path = ""  # folder of a published archive to read in place of generating
    config.data.placement = "auto"  # of the training images: device (in its memory), host (read ahead of need), or auto by what fits; the same batches

    config.model = ml_collections.ConfigDict()
    config.model.backbone = "conv64"  # or conv28
    config.model.features = 128  # E, between context module and decoder; the latent width without a module
    config.model.noise_width = 32  # w_in
    config.model.concept_width = 8  # w_out
    config.model.depth = 2  # D, number of width points from w_in to w_out
    config.model.noise_mixing = "block"  # or reference (quirk Q1)
    config.model.composition = "reference"  # or cut (quirk Q2); the strict protocol scores the same weights under both
    config.model.module_normalisation = "generated"  # or batch, group (quirk Q4)
    config.model.backbone_normalisation = "generated"

    config.objective = ml_collections.ConfigDict()
    config.objective.beta = 1.0  # weight of the KL
    config.objective.group_penalty = 0.0  # on the block norms of the effective causal matrix
    config.objective.l2_penalty = 0.0  # on its Frobenius norm

    config.train = ml_collections.ConfigDict()
    config.train.epochs = 100  # an epoch draws as many images as the training set has
    config.train.batch_size = 512  # images per optimiser step, over all devices and micro-batches
    config.train.micro_batch = 64  # images whose statistics are normalised together
    config.train.contexts_per_micro_batch = "one"  # or mixed
    config.train.learning_rate = 1e-3
    config.train.final_learning_rate = 1e-5
    config.train.warmup_steps = 200  # a quarter of the run at most
    config.train.frozen_statistics = "moving"  # or fixed: whether running averages of a frozen backbone go on moving (quirk Q3)
    config.train.clamp_causal = True  # causal weights to [0, 1] after every step
    config.train.patience_epochs = 20  # early stopping on the validation ELBO
    config.train.min_improvement_nats = 1e-4
    config.train.steps_per_call = 8  # optimiser steps per compiled call

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.projections = 1_000  # of the strict protocol
    config.evaluation.calibration_images = 1_024  # generated per target set for the statistics of "generated" layers
    return config.lock()


def resize(config: ml_collections.ConfigDict, size: str) -> ml_collections.ConfigDict:
    """The same config at one of SIZES: the paper's, minutes on two CPU cores, or seconds for a test; ConfigError for another name."""
    if size not in SIZES:
        raise ConfigError(f"Size {size!r} is unknown; choose one of {', '.join(SIZES)} after the colon.")
    if config.model.backbone == "conv64":  # conv28 has one resolution
        config.data.resolution = {"cpu": 32, "tiny": 16}.get(size, config.data.resolution)
    if size == "cpu":
        config.data.update(train_per_context=5_000, held_out_per_context=2_000)
        config.evaluation.calibration_images = 512
        config.train.update(epochs=5, batch_size=128)  # many small steps: better at this budget than few large ones
    if size == "tiny":
        config.data.update(train_per_context=200, held_out_per_context=128)
        config.train.update(epochs=2, batch_size=128, steps_per_call=2)
        config.evaluation.update(projections=50, calibration_images=64)
    return config


def validate(config: ml_collections.ConfigDict, num_devices: int = 1) -> None:
    """Raises ConfigError, one sentence, for a value that no run can have."""
    for field, choices in {
        "method": METHODS,
        "data.name": data.TABLE,
        "data.placement": PLACEMENTS,
        "model.backbone": conv_vae.WIDTHS,
        "model.noise_mixing": context_module.NOISE_MIXING,
        "model.composition": context_module.COMPOSITION,
        "model.module_normalisation": normalisation.KINDS,
        "model.backbone_normalisation": normalisation.KINDS,
        "train.contexts_per_micro_batch": CONTEXTS_PER_MICRO_BATCH,
        "train.frozen_statistics": FROZEN_STATISTICS,
    }.items():
        if _get(config, field) not in choices:
            raise ConfigError(f"{field} is {_get(config, field)!r}; choose one of {', '.join(choices)}.")
    for field in POSITIVE:
        if not 0 < _get(config, field) < math.inf:
            raise ConfigError(f"{field} is {_get(config, field)}; it must be positive and finite.")
    for field in NOT_NEGATIVE:
        if not 0 <= _get(config, field) < math.inf:
            raise ConfigError(f"{field} is {_get(config, field)}; it must be finite and not negative.")
    for field in ("seed", "data.seed"):
        if _get(config, field) >= 2**32:
            raise ConfigError(f"{field} is {_get(config, field)}; give a number below 2^32.")
    source = METHODS[config.method].starts_from
    if source and not config.init_from:
        remedy = "give that run's folder as --config.init_from, or sweep over both"
        raise ConfigError(f"method is {config.method}, which starts from a trained {source}; {remedy}.")
    if config.init_from and not source:
        raise ConfigError(f"init_from is {config.init_from!r}, but {config.method} trains from scratch; leave it empty.")
    if not 0 < config.data.validation_fraction < 1:
        raise ConfigError(f"data.validation_fraction is {config.data.validation_fraction}; it must lie between 0 and 1.")
    _validate_sizes(config, num_devices)


POSITIVE = (
    "data.resolution data.train_per_context data.held_out_per_context model.features model.noise_width model.concept_width train.epochs train.batch_size "
    "train.micro_batch train.learning_rate train.patience_epochs train.steps_per_call evaluation.projections evaluation.calibration_images"
).split()
NOT_NEGATIVE = (
    "seed data.seed objective.beta objective.group_penalty objective.l2_penalty train.final_learning_rate train.warmup_steps train.min_improvement_nats"
).split()


def _validate_sizes(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """The checks that relate one number to another."""
    t, d, m = config.train, config.data, config.model
    if m.depth < 2:
        raise ConfigError(f"model.depth is {m.depth}; it counts width points, so give at least 2.")
    if t.batch_size % t.micro_batch:
        raise ConfigError(f"train.batch_size is {t.batch_size}, no multiple of train.micro_batch {t.micro_batch}; change one of them.")
    if t.micro_batch % num_devices:
        raise ConfigError(f"train.micro_batch is {t.micro_batch}, not divisible by {num_devices} devices; give a multiple of {num_devices}.")
    batch_normalised = {m.module_normalisation, m.backbone_normalisation} != {"group"}
    if batch_normalised and min(t.micro_batch, config.evaluation.calibration_images) < 2:
        raise ConfigError("train.micro_batch and evaluation.calibration_images must be at least 2, since one image has no variance; or normalise by group.")
    if m.module_normalisation == "group" and m.concept_width < 2:
        raise ConfigError(f"model.concept_width is {m.concept_width}; group normalisation of one feature is constant, so give at least 2.")
    if m.backbone == "conv64" and d.resolution % 16:
        raise ConfigError(f"data.resolution is {d.resolution}; the conv64 backbone halves it four times, so give a multiple of 16.")
    if m.backbone == "conv28" and d.resolution != 28:
        raise ConfigError(f"data.resolution is {d.resolution}; the conv28 backbone takes 28.")
    if d.held_out_per_context < 4:
        raise ConfigError(f"data.held_out_per_context is {d.held_out_per_context}; the data floor compares two halves, so give at least 4.")


def _get(config: ml_collections.ConfigDict, field: str):
    for part in field.split("."):
        config = config[part]
    return config


def differences(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
    """Names of fields in which two configs (as nested dicts) differ, dotted."""
    names = []
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            names.append(f"{prefix}{name} ({b!r} there, {a!r} here)")
    return names


def flat(fields: dict, prefix: str = "") -> dict[str, object]:
    """Nested fields as {dotted field: value}."""
    names = {}
    for name, value in fields.items():
        names |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return names


def to_json(config: ml_collections.ConfigDict) -> str:
    """The config as readable JSON."""
    return json.dumps(config.to_dict(), indent=2)


def from_json(text: str) -> ml_collections.ConfigDict:
    """The config that `to_json` wrote, on top of today's defaults; ConfigError for fields that no longer exist."""
    config = default()
    try:
        config.update(json.loads(text))
    except (KeyError, AttributeError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(f"The config cannot be read: {error}; was it written by another version?") from error
    return config
