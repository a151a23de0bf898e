"""CT-VAE (Gendron et al. 2023), on images that differ by one step of one factor: see `systems.System`.

Phase 1, the method mcq_vae, trains the autoencoder on images. Phase 2, ct_vae, starts from such a run, encodes every image once and trains the causal transition
layer on the codes; the autoencoder's variables stay in its state as a frozen collection, so that a run is whole without the one that it started from.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from causal_ctx import config as configs
from causal_ctx.config import StartError
from causal_ctx.data import transition_sets
from causal_ctx.data.transition_sets import TransitionData
from causal_ctx.data.transitions import SPLITS
from causal_ctx.evaluation import transitions
from causal_ctx.evaluation.codes import CodePredictor, in_batches
from causal_ctx.feed import CodeFeed, Feed, ImageFeed, call_shape
from causal_ctx.models.causal_transition import CausalTransition, Settings
from causal_ctx.models.mcq_vae import MCQVAE, Decoder, Encoder, encode_to_codes
from causal_ctx.models.quantiser import Quantiser
from causal_ctx.objectives.mcq_vae import CodedVAE, loss
from causal_ctx.objectives.transition import CausalCodes
from causal_ctx.progress import Progress
from causal_ctx.step import TrainState

LOG = logging.getLogger(__name__)
VALIDATED = 1_024  # validation images, or transitions, after every epoch


def load(config: ml_collections.ConfigDict) -> TransitionData:
    """As `transition_sets.load`."""
    return transition_sets.load(config.data)


def describe(config: ml_collections.ConfigDict, dataset: TransitionData, *folders: Path) -> dict:
    """Numbers of images and of transitions of every action in each split, and what is odd about them."""
    del config, folders
    counts = {split: np.bincount(dataset.pairs(split).actions, minlength=len(dataset.actions)).tolist() for split in SPLITS}
    problems = []
    for split in SPLITS:
        if missing := [name for name, count in zip(dataset.actions, counts[split]) if not count]:
            sentence = f"{dataset.name} has no {split} transitions of {', '.join(missing)}: nothing can be said of these actions there."
            problems.append({"level": "warning", "sentence": sentence})
    images = {split: len(dataset.images[split]) for split in SPLITS}
    return {"name": dataset.name, "images": images, "actions": list(dataset.actions), "transitions": counts, "problems": problems}


def describe_text(described: dict) -> str:
    """The numbers as lines: a row per action, a column per split."""
    width = max(map(len, described["actions"]))
    heading = " ".join(f"{split:>10}" for split in SPLITS)
    line = lambda name, numbers: f"{name:<{width}} " + " ".join(f"{number:>10,}" for number in numbers)
    rows = [line(name, numbers) for name, *numbers in zip(described["actions"], *(described["transitions"][split] for split in SPLITS))]
    said = [problem["sentence"] for problem in described["problems"]]
    images = line("images", [described["images"][split] for split in SPLITS])
    return "\n".join([described["name"], f"{'':<{width}} {heading}", images, *rows, *said])


def num_examples(config: ml_collections.ConfigDict, dataset: TransitionData) -> int:
    """The training images of mcq_vae, the training transitions of ct_vae."""
    return len(dataset.images["train"]) if config.method == "mcq_vae" else len(dataset.pairs("train").inputs)


def build_autoencoder(config: ml_collections.ConfigDict, channels: int) -> MCQVAE:
    """The MCQ-VAE of `config` for images of so many channels."""
    m = config.model
    quantiser = Quantiser(m.latent_width, m.num_codes, m.num_codebooks, m.codebook_update, m.codebook_decay, revival=m.revival > 0)
    return MCQVAE(Encoder(m.widths, m.latent_width, m.blocks, m.gain), quantiser, Decoder(m.widths, channels, m.output, m.blocks, m.gain))


def build_layer(config: ml_collections.ConfigDict, num_actions: int) -> CausalTransition:
    """The causal transition layer of `config`."""
    m = config.model
    settings = Settings(m.edge_convention, m.noise, m.dropout, m.rows_at_once, m.actions_at_once, m.shared_draws)
    return CausalTransition(m.num_codes, num_actions, tuple(m.hidden_widths), settings)


def objective(config: ml_collections.ConfigDict, dataset: TransitionData, *others: ml_collections.ConfigDict) -> CodedVAE | CausalCodes:
    """Of the phase that the method is."""
    del others
    autoencoder = CodedVAE(build_autoencoder(config, dataset.image_shape[-1]), dataset.image_shape, config.model.revival)
    return autoencoder if config.method == "mcq_vae" else CausalCodes(build_layer(config, len(dataset.actions)), autoencoder)


def build_predictor(config: ml_collections.ConfigDict, dataset: TransitionData, state: TrainState) -> CodePredictor:
    """The weights of `state` behind arrays."""
    model = build_autoencoder(config, dataset.image_shape[-1])
    if config.method == "mcq_vae":
        return CodePredictor(model, state.variables)
    return CodePredictor(model, state.collections["autoencoder"], build_layer(config, len(dataset.actions)), state.params)


def feed(runs: Sequence[ml_collections.ConfigDict], dataset: TransitionData, mesh: jax.sharding.Mesh, states: TrainState) -> Feed:
    """Images of the training split, or codes in one of the three modes to a micro-batch."""
    first, images = runs[0], dataset.images["train"]
    if first.method == "mcq_vae":
        return ImageFeed.of(runs, {"obs": images}, np.zeros((1, 0)), True, mesh)
    pairs = dataset.pairs("train")
    wanted = np.unique(np.concatenate([images.rows, pairs.inputs, pairs.outputs]))
    LOG.info("Encoding %d images, once.", len(wanted))
    codes = [_encoded(dataset, config, jax.tree.map(lambda leaf, i=i: leaf[i], states.collections["autoencoder"]), wanted) for i, config in enumerate(runs)]
    rows = lambda indices: np.searchsorted(wanted, indices).astype(np.int32)
    return CodeFeed(
        seeds=tuple(config.seed for config in runs),
        codes=np.stack(codes).reshape(len(codes), len(wanted), -1),
        alone=rows(images.rows),
        pairs=np.stack([rows(pairs.inputs), rows(pairs.outputs), pairs.actions.astype(np.int32)]),
        shape=call_shape(first, num_examples(first, dataset)),
        mix=tuple(first.train.mix),
        mesh=mesh,
    )


def refuse_source(config: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict) -> None:
    """Raises StartError where the run of `theirs` has another autoencoder than `config`, or saw other images."""
    fields = [f"model.{name}" for name in AUTOENCODER] + ["data.name", "data.resolution", "data.preprocess"]
    read = lambda run: {field: value for field, value in configs.flat(run.to_dict()).items() if field in fields} | {"model.revival > 0": run.model.revival > 0}
    ours, there = read(config), read(theirs)
    differing = [f"{field} ({there[field]!r} there, {ours[field]!r} here)" for field in ours if there[field] != ours[field]]
    if differing:
        raise StartError(f"The autoencoder in {config.init_from} is another one, differing in {', '.join(differing)}; start from one of this config.")


def take_over(config: ml_collections.ConfigDict, state: TrainState, source: TrainState) -> TrainState:
    """`state` with the autoencoder of `source`."""
    del config
    return state.replace(collections={"autoencoder": source.variables})


AUTOENCODER = "widths blocks latent_width num_codes num_codebooks output codebook_update".split()  # the fields of config.model that shape it


def validate(config: ml_collections.ConfigDict, dataset: TransitionData, state: TrainState) -> tuple[float, dict[str, float]]:
    """Of mcq_vae the loss of validation images; of ct_vae that of action mode and retrieval on validation transitions, without the regularisers."""
    predictor = build_predictor(config, dataset, state)
    if config.method == "mcq_vae":
        images = dataset.images["validation"]
        chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:VALIDATED])  # in their order the first ones share the value of a factor
        terms = in_batches(partial(_losses, objective(config, dataset), state.variables, config.objective.beta), images[chosen])
        scores = {name: float(values.mean()) for name, values in terms.items()}
        return scores["loss_squared_error"], scores
    pairs = dataset.pairs("validation")
    chosen = np.random.default_rng(0).permutation(len(pairs.inputs))[:VALIDATED]
    ends = np.concatenate([pairs.inputs[chosen], pairs.outputs[chosen]])
    before, after = np.split(_encoded(dataset, config, predictor.autoencoder, ends), 2)
    scores = transitions.validation_scores(predictor, before, after, pairs.actions[chosen], config.objective.gamma)
    return scores["loss_nats"], scores


@partial(jax.jit, static_argnums=0)
def _losses(objective: CodedVAE, variables: dict, beta: float, images: jax.Array) -> dict[str, jax.Array]:
    """The terms of the loss of each of images uint8 [n, H, W, C]."""
    one = lambda image: loss(objective.model.apply(variables, image[None]), image[None], beta)[1]
    return jax.lax.map(one, images.astype(jnp.float32) / 255, batch_size=64)


def evaluate(config: ml_collections.ConfigDict, dataset: TransitionData, best: TrainState, initial: TrainState, record) -> dict:
    """{"scores": ...} on test images and test transitions (spec/ctvae.md section 6)."""
    del initial, record
    predictor = build_predictor(config, dataset, best)
    acts = config.method == "ct_vae"
    with Progress("part", transitions.number_of_parts(config.evaluation, acts)) as progress:
        scores = transitions.autoencoder_scores(config.evaluation, dataset, predictor, progress.advance)
        if acts:
            scores |= transitions.transition_scores(config.evaluation, dataset, predictor, progress.advance)
    return {"scores": scores}


def uses(config: ml_collections.ConfigDict, dataset: TransitionData, state: TrainState) -> dict:
    """Images to codes and back; with a transition, codes under actions, and the action between two images."""
    predictor, images = build_predictor(config, dataset, state), dataset.images["test"][:256]
    codes = predictor.encode(images)
    found = {"encoding": (lambda: predictor.encode(images), len(images)), "decoding": (lambda: predictor.decode(codes), len(images))}
    if config.method == "ct_vae":
        actions = np.arange(len(codes)) % len(dataset.actions)
        found["action"] = (lambda: predictor.predict(codes, actions), len(codes))
        found["retrieval"] = (lambda: predictor.retrieve(codes, codes[::-1]), len(codes))
    return found


def _encoded(dataset: TransitionData, config: ml_collections.ConfigDict, autoencoder: dict, indices: np.ndarray) -> np.ndarray:
    """Codes [n, K, h, w] of the images `indices` [n], kept for as long as the data set: the frozen encoder sees every image once."""
    codebooks = jax.device_get(autoencoder["params"].get("quantiser") or autoencoder["batch_stats"]["quantiser"])["codebooks"]
    kernel = autoencoder["params"]["encoder"]["to_latents"]["linear"]["kernel"]
    key = (np.asarray(codebooks).tobytes(), np.asarray(kernel).tobytes(), indices.tobytes())
    if key not in dataset.encoded:
        model = build_autoencoder(config, dataset.image_shape[-1])
        dataset.encoded[key] = encode_to_codes(model, autoencoder, transition_sets.Images(dataset.factors, indices))
    return dataset.encoded[key]
