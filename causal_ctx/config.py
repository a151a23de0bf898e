"""Every field of a run, once: its default, its unit, what it may be. `validate` refuses what cannot work, in one sentence, before anything expensive."""

import json
import math

import ml_collections

from causal_ctx import data, kinds, optim
from causal_ctx.data import factor_sets, preprocessing
from causal_ctx.methods import AUTO, METHODS, USUAL, choice, conflict, of_system
from causal_ctx.models import causal_transition, context_module, conv_vae, mcq_vae, normalisation, quantiser

SIZES = ("paper", "cpu", "tiny")
DISENTANGLEMENT, PLACEMENTS = ("off", "fast", "full"), ("auto", "device", "host")


class ConfigError(ValueError):
    """A config that cannot be run; the message is one sentence for the user."""


class StartError(ConfigError):
    """A run that cannot start from the one named by `init_from`; the message is one sentence for the user."""


def default(system: str = "context") -> ml_collections.ConfigDict:
    """The published setting of a system, locked: an unknown field is an error. "context": the lightweight VAE (spec section 2); "transition": CT-VAE."""
    config = ml_collections.ConfigDict({"seed": 0, "method": {"context": "cm_end_to_end", "transition": "ct_vae"}[system]})
    config.init_from = ""  # workdir of the trained run that cm_frozen, cm_fine_tune and ct_vae start from; empty: it is trained first
    {"context": _context, "transition": _transition}[system](config)
    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.minutes = 10.0  # between checkpoints to resume from, at most; there is one at the end of every epoch in any case
    config.checkpoint.every_epochs = 0  # that often one is kept for good, in checkpoints/kept; 0: never
    return config.lock()


def phase(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """How the config's method trains: that block of the config."""
    return config[METHODS[config.method].phase]


def _context(config: ml_collections.ConfigDict) -> None:
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
    config.model.posterior = AUTO  # the method's own, or untold, told: whether the encoder knows the targets
    config.model.composition = AUTO  # or reference, cut (quirk Q2; the strict protocol scores the same weights under both), structural
    config.model.module_normalisation = config.model.backbone_normalisation = AUTO  # or generated, batch, group (quirk Q4)

    config.objective = ml_collections.ConfigDict()
    config.objective.beta = 1.0  # weight of the KL
    config.objective.energy_penalty = -1.0  # on how far generated images of a context are from real ones; -1: the method's own, 0 for the published ones
    config.objective.moment_penalty = -1.0  # on how far latents of a context are from the prior in mean and second moments; -1 as above
    config.objective.group_penalty = config.objective.l2_penalty = 0.0  # on the block norms of the effective causal matrix, and on its Frobenius norm

    config.train = _phase(epochs=100, batch_size=512, micro_batch=64, learning_rate=1e-3, final_learning_rate=1e-5)
    config.train.contexts_per_micro_batch = AUTO  # or one, mixed
    config.train.frozen_statistics = "moving"  # or fixed: whether running averages of a frozen backbone go on moving (quirk Q3)
    config.train.compute_dtype = "float32"  # or bfloat16, of what layers hand on in training; parameters, statistics and loss stay float32
    config.train.clamp_causal = True  # causal weights to [0, 1] after every step, but those of composition structural

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.projections = 1_000  # of the strict protocol
    config.evaluation.calibration_images = 1_024  # generated per target set for the statistics of "generated" layers


def _phase(**published) -> ml_collections.ConfigDict:
    """How parameters are trained."""
    block = ml_collections.ConfigDict()
    block.epochs = float(published["epochs"])  # or part of one; an epoch draws as many examples as there are: images, or transitions for ct_vae
    block.batch_size = published["batch_size"]  # examples per optimiser step, over all devices and micro-batches
    block.micro_batch = published["micro_batch"]  # examples that are normalised together, of one context or mode unless they are mixed
    block.learning_rate = published["learning_rate"]
    block.final_learning_rate = published["final_learning_rate"]
    block.decay = published.get("decay", "cosine")  # or exponential, of the learning rate on its way from one to the other
    block.warmup_steps = published.get("warmup_steps", 200)  # a quarter of the run at most
    block.patience_epochs = published.get("patience_epochs", 20)  # early stopping on the validation loss
    block.min_improvement = published.get("min_improvement", 1e-4)  # in the loss's unit
    block.steps_per_call = 8  # optimiser steps per compiled call
    return block


def _transition(config: ml_collections.ConfigDict) -> None:
    """CT-VAE as published for Shapes3D (spec/ctvae.md section 4), with the corrections of its quirks."""
    config.data = ml_collections.ConfigDict()
    config.data.name = "shapes3d"
    config.data.path = ""  # folder or file of the data; empty for quad, and for what TensorFlow Datasets has in its own folder
    config.data.resolution = 64  # pixels a side
    config.data.preprocess = "native"  # or reference, which crops 148 pixels first (quirk Q5)
    config.data.cache_dir = ""  # empty: $CAUSAL_CTX_CACHE, else the user's cache folder
    config.data.seed = 0  # of splits, pairs and subsets; the run's own seed leaves the data as they are
    config.data.partition = ""  # file with the split of every image; empty: the data set's own, else random
    config.data.variations = ""  # file of transitions; empty: drawn
    config.data.samples = 0  # drawn combinations per step of a factor, or images per side of an attribute; 0: 1,000, or 8
    config.data.keep = "all"  # or imbalance: "hair=0.1+eyes=0.5" keeps these fractions of the training pairs of the factors
    config.data.train_images = 0  # that the autoencoder and base mode see, at most; 0: all of the split
    config.data.held_out_images = 0  # the same of validation and of test
    config.data.placement = "auto"  # of the training images, as for contexts

    config.model = ml_collections.ConfigDict()
    config.model.backbone = "mcq"
    config.model.widths = (64, 128, 256)  # of the encoder, each after a halving
    config.model.blocks = 6  # residual ones
    config.model.gain = 2.45  # of initial kernels over PyTorch's default, the published 1: sqrt(6) keeps the scale of features from layer to layer
    config.model.latent_width = 128  # D
    config.model.num_codes = 64  # N, even
    config.model.num_codebooks = 1  # K, a divisor of D
    config.model.output = "tanh"  # as published; or sigmoid, which is flat where images are black and then does not learn (quirk Q6)
    config.model.codebook_update = "ema"  # moving averages; or gradient, the published one
    config.model.codebook_decay = 0.9  # of moving averages, per micro-batch
    config.model.revival = 0.3  # codes whose moving share is below revival / N are moved to a latent; 0, as published: never
    config.model.hidden_widths = (800, 100)  # discovery network, then a head in each hidden layer of attention
    config.model.edge_convention = "row_target"  # or row_source (quirks Q2, Q3)
    config.model.noise = "off"  # or exo, endo
    config.model.dropout = 0.1  # of node features (quirk Q12)
    config.model.shared_draws = True  # in retrieval, mask and graph of all actions from the same draws
    config.model.rows_at_once = 8  # of the graph: less memory, same values
    config.model.actions_at_once = 0  # in retrieval; 0: all

    config.objective = ml_collections.ConfigDict()
    config.objective.beta = 0.25  # commitment of the encoder to its codes
    config.objective.gamma = 1.5  # base and action mode against retrieval
    config.objective.identity = 0.01  # c_alpha
    config.objective.prior = 0.4  # c_beta
    config.objective.size = 0.01  # c_delta
    config.objective.positive = 0.1  # c_epsilon

    config.autoencoder = _phase(
        epochs=20, batch_size=64, micro_batch=64, learning_rate=5e-4, final_learning_rate=3.34e-4, decay="exponential", warmup_steps=0, min_improvement=1e-6
    )
    config.train = _phase(epochs=100, batch_size=80, micro_batch=16, learning_rate=5e-4, final_learning_rate=2.74e-4, decay="exponential", warmup_steps=0)
    config.train.mix = (1.0, 1.0, 1.0)  # how often a micro-batch is of mode base, action, retrieval

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.noise_seeds = 5  # of sampled retrieval, and draws of mask and graph in a prediction
    config.evaluation.pairs = 2_000  # test transitions that are scored, at most; 0: all
    config.evaluation.images = 2_000  # per split, for reconstructions and codes; 0: all
    config.evaluation.chain_steps = 5  # of one action repeated
    config.evaluation.disentanglement = "fast"  # or full, off
    config.evaluation.reduction = "variance"  # of features for DCI, or pca, none
    config.evaluation.keep = 64  # dimensions that DCI then sees


def transition(arguments: str, method: str) -> ml_collections.ConfigDict:
    """The config of `method`, mcq_vae or ct_vae, for "DATA", "SIZE" or "DATA,SIZE"; ConfigError for names of neither."""
    config, size = default("transition"), "paper"
    config.method = method
    for name in filter(None, arguments.split(",")):
        if name in factor_sets.TABLE:
            config.data.name = name
        elif name in SIZES:
            size = name
        else:
            known = f"one of {', '.join(factor_sets.TABLE)} and one of {', '.join(SIZES)}"
            raise ConfigError(f"{name!r} is no data set and no size; write {known} after the colon, with a comma between.")
    return resize(config, size)


def resize(config: ml_collections.ConfigDict, size: str, others: tuple[str, ...] = ()) -> ml_collections.ConfigDict:
    """The same config at one of SIZES: the paper's, minutes on two CPU cores, or seconds for a test; ConfigError, which names `others` too, for another name."""
    if size not in SIZES:
        raise ConfigError(f"Size {size!r} is unknown; choose one of {', '.join((*SIZES, *others))} after the colon.")
    {"context": _resize_context, "transition": _resize_transition}[METHODS[config.method].system](config, size)
    return config


def _resize_context(config: ml_collections.ConfigDict, size: str) -> None:
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


def _resize_transition(config: ml_collections.ConfigDict, size: str) -> None:
    if size == "cpu":
        config.data.update(resolution=32, samples=600, train_images=20_000, held_out_images=2_000)
        config.model.update(widths=(32, 64, 128), blocks=2, latent_width=64, hidden_widths=(64, 16), dropout=0.0)
        config.autoencoder.update(epochs=5, learning_rate=2e-3, final_learning_rate=1e-4, decay="cosine", warmup_steps=100)
        config.train.update(epochs=4, learning_rate=5e-3, final_learning_rate=2e-4, decay="cosine", warmup_steps=100)
        config.evaluation.update(pairs=1_000, images=1_000)
    if size == "tiny":
        config.data.update(resolution=16, samples=40, train_images=256, held_out_images=64)
        config.model.update(widths=(16, 16), blocks=1, latent_width=16, num_codes=16, hidden_widths=(16, 8))
        config.autoencoder.update(epochs=2, batch_size=32, micro_batch=32, steps_per_call=2)
        config.train.update(epochs=2, batch_size=48, steps_per_call=2)
        config.evaluation.update(noise_seeds=2, pairs=64, images=64, disentanglement="off")


def validate(config: ml_collections.ConfigDict, num_devices: int = 1) -> None:
    """Raises ConfigError, one sentence, for a value that no run can have."""
    if config.method not in METHODS:
        raise ConfigError(f"method is {config.method!r}; choose one of {', '.join(METHODS)}.")
    system = METHODS[config.method].system
    if config.keys() != default(system).keys():
        others = next(other for other in ("context", "transition") if config.keys() == default(other).keys())
        raise ConfigError(f"method is {config.method}, which is none of this config's system; choose one of {', '.join(of_system(others))}.")
    fields = flat(config.to_dict())
    if wrong := kinds.misfit(fields, flat(default(system).to_dict())):
        raise ConfigError(wrong)
    for field, choices in CHOICES[system].items():
        if fields[field] not in choices:
            raise ConfigError(f"{field} is {fields[field]!r}; choose one of {', '.join(map(str, choices))}.")
    for field in POSITIVE[system]:
        if not 0 < fields[field] < math.inf:
            raise ConfigError(f"{field} is {fields[field]}; it must be positive and finite.")
    for field in NOT_NEGATIVE[system]:
        if not 0 <= fields[field] < math.inf:
            raise ConfigError(f"{field} is {fields[field]}; it must be finite and not negative.")
    if not config.checkpoint.minutes > 0 or config.checkpoint.every_epochs < 0:
        raise ConfigError(f"checkpoint has minutes {config.checkpoint.minutes} and every_epochs {config.checkpoint.every_epochs}; give a positive and no negative one.")
    for field in ("seed", "data.seed"):
        if fields[field] >= 2**32:
            raise ConfigError(f"{field} is {fields[field]}; give a number below 2^32.")
    if config.init_from and not METHODS[config.method].starts_from:
        raise ConfigError(f"init_from is {config.init_from!r}, but {config.method} trains from scratch; leave it empty.")
    for name in PHASES[system]:
        _validate_phase(name, config[name], num_devices)
    {"context": _validate_context, "transition": _validate_transition}[system](config)


PHASES = {"context": ("train",), "transition": ("autoencoder", "train")}
CHOICES = {
    "context": {
        "data.name": data.TABLE,
        "data.placement": PLACEMENTS,
        "model.backbone": conv_vae.WIDTHS,
        "model.noise_mixing": context_module.NOISE_MIXING,
        "model.posterior": (AUTO, "untold", "told"),
        "model.composition": (AUTO, *context_module.COMPOSITION),
        **dict.fromkeys(("model.module_normalisation", "model.backbone_normalisation"), (AUTO, *normalisation.KINDS)),
        "train.contexts_per_micro_batch": (AUTO, "one", "mixed"),
        "train.frozen_statistics": ("moving", "fixed"),
        "train.compute_dtype": ("float32", "bfloat16"),
    },
    "transition": {
        "data.name": factor_sets.TABLE,
        "data.preprocess": preprocessing.KINDS,
        "data.placement": PLACEMENTS,
        "model.backbone": ("mcq",),
        "model.output": mcq_vae.OUTPUTS,
        "model.codebook_update": quantiser.UPDATES,
        "model.edge_convention": causal_transition.EDGE_CONVENTIONS,
        "model.noise": causal_transition.NOISES,
        "evaluation.disentanglement": DISENTANGLEMENT,
        "evaluation.reduction": ("none", "variance", "pca"),
    },
}
POSITIVE = {
    "context": (
        "data.resolution data.train_per_context data.held_out_per_context model.features model.noise_width model.concept_width "
        "evaluation.projections evaluation.calibration_images"
    ).split(),
    "transition": (
        "data.resolution model.blocks model.gain model.latent_width model.num_codes model.num_codebooks model.rows_at_once "
        "evaluation.noise_seeds evaluation.chain_steps evaluation.keep"
    ).split(),
}
NOT_NEGATIVE = {
    "context": "seed data.seed objective.beta objective.group_penalty objective.l2_penalty".split(),
    "transition": (
        "seed data.seed data.samples data.train_images data.held_out_images model.revival model.dropout model.actions_at_once objective.beta objective.gamma "
        "objective.identity objective.prior objective.size objective.positive evaluation.pairs evaluation.images"
    ).split(),
}


def _validate_phase(name: str, t: ml_collections.ConfigDict, num_devices: int) -> None:
    """The checks of a block that says how parameters are trained."""
    for field in ("epochs", "batch_size", "micro_batch", "learning_rate", "patience_epochs", "steps_per_call"):
        if not 0 < t[field] < math.inf:
            raise ConfigError(f"{name}.{field} is {t[field]}; it must be positive and finite.")
    for field in ("final_learning_rate", "warmup_steps", "min_improvement"):
        if not 0 <= t[field] < math.inf:
            raise ConfigError(f"{name}.{field} is {t[field]}; it must be finite and not negative.")
    if t.decay not in optim.DECAYS:
        raise ConfigError(f"{name}.decay is {t.decay!r}; choose one of {', '.join(optim.DECAYS)}.")
    if t.decay == "exponential" and not t.final_learning_rate:
        raise ConfigError(f"{name}.final_learning_rate is 0, which an exponential decay never reaches; give a positive one, or the decay cosine.")
    if t.batch_size % t.micro_batch:
        raise ConfigError(f"{name}.batch_size is {t.batch_size}, no multiple of {name}.micro_batch {t.micro_batch}; change one of them.")
    if t.micro_batch % num_devices:
        raise ConfigError(f"{name}.micro_batch is {t.micro_batch}, not divisible by {num_devices} devices; give a multiple of {num_devices}.")


def _validate_context(config: ml_collections.ConfigDict) -> None:
    """The checks that relate one number to another."""
    t, d, m, method = config.train, config.data, config.model, METHODS[config.method]
    if not 0 < d.validation_fraction < 1:
        raise ConfigError(f"data.validation_fraction is {d.validation_fraction}; it must lie between 0 and 1.")
    if m.depth < 2:
        raise ConfigError(f"model.depth is {m.depth}; it counts width points, so give at least 2.")
    layers = {part: choice(config, f"model.{part}_normalisation") for part in (("module", "backbone") if method.module else ("backbone",))}
    by_batch, calibrated = set(layers.values()) != {"group"}, "generated" in layers.values()
    if by_batch and t.micro_batch < 2 or calibrated and config.evaluation.calibration_images < 2:
        raise ConfigError("train.micro_batch and evaluation.calibration_images must be at least 2, since one image has no variance; or normalise by group.")
    widths = context_module.expressive_widths(m.noise_width, m.concept_width, m.depth)[1:]
    if layers.get("module") == "group" and min(widths) < 3:
        between = f"of model.depth {m.depth} between model.noise_width {m.noise_width} and model.concept_width {m.concept_width}"
        raise ConfigError(f"A concept has {', '.join(map(str, widths))} features in layers {between}; of fewer than 3 group normalisation leaves a sign; widen them.")
    if sentence := conflict(config):
        raise ConfigError(sentence)
    last = max((after for _, after in method.trains if after), default=0)
    if last and max(round(last * t.epochs), 1) >= t.epochs:
        raise ConfigError(f"train.epochs is {t.epochs}, of which {config.method} trains all of its parameters in none; give 2 or more.")
    if m.backbone == "conv64" and d.resolution % 16:
        raise ConfigError(f"data.resolution is {d.resolution}; the conv64 backbone halves it four times, so give a multiple of 16.")
    if m.backbone == "conv28" and d.resolution != 28:
        raise ConfigError(f"data.resolution is {d.resolution}; the conv28 backbone takes 28.")
    if d.held_out_per_context < 4:
        raise ConfigError(f"data.held_out_per_context is {d.held_out_per_context}; the data floor compares two halves, so give at least 4.")


def _validate_transition(config: ml_collections.ConfigDict) -> None:
    """The checks that relate one number to another."""
    d, m, mix = config.data, config.model, config.train.mix
    try:
        mcq_vae.code_grid((d.resolution, d.resolution), m.widths)
        quantiser.slice_width(m.latent_width, m.num_codebooks)
    except ValueError as error:
        raise ConfigError(f"The model does not fit data.resolution {d.resolution}, latent_width {m.latent_width}: {error}") from error
    if m.num_codes % 2:
        raise ConfigError(f"model.num_codes is {m.num_codes}; the positions of nodes are encoded in pairs of features, so give an even number.")
    if not m.widths or len(m.hidden_widths) < 2 or min(*m.widths, *m.hidden_widths) < 1:
        raise ConfigError(f"model.widths is {m.widths} and hidden_widths {m.hidden_widths}; give at least one and at least two positive widths.")
    if config.evaluation.reduction == "pca" and config.evaluation.keep >= 1_000:
        raise ConfigError(f"evaluation.keep is {config.evaluation.keep}; principal components are of 1,000 samples at least, so keep fewer.")
    if not m.dropout < 1:
        raise ConfigError(f"model.dropout is {m.dropout}; it must lie below 1.")
    if not 0 <= m.codebook_decay < 1:
        raise ConfigError(f"model.codebook_decay is {m.codebook_decay}; it must lie in [0, 1).")
    if len(mix) != 3 or not all(0 <= share < math.inf for share in mix) or not sum(mix):
        raise ConfigError(f"train.mix is {tuple(mix)}; give three weights for the modes base, action and retrieval, not all zero.")


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
    try:
        fields = json.loads(text)
        method = METHODS.get(fields.get("method"), METHODS["cm_end_to_end"])
        config = default(method.system)
        if unknown := sorted(flat(fields).keys() - flat(config.to_dict()).keys()):
            raise ConfigError(f"The config cannot be read: {', '.join(unknown)} is no field today; was it written by another version?")
        if method.system == "context":  # a choice that it does not name is younger than the run
            config.update_from_flattened_dict(USUAL)
        config.update({name: _tuples(value) for name, value in fields.items()})
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"The config cannot be read: {error}; was it written by another version?") from error
    return config


def _tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
