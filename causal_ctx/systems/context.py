"""The context module and its baselines (Markham et al. 2026), on images grouped by context: see `systems.System`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from causal_ctx import config as configs
from causal_ctx import data, optim, parallel
from causal_ctx.config import StartError
from causal_ctx.data import ContextData, card
from causal_ctx.data.contexts import subsets
from causal_ctx.evaluation import protocols
from causal_ctx.evaluation.predict import build_predictor
from causal_ctx.feed import ImageFeed
from causal_ctx.files import write_atomically
from causal_ctx.methods import BACKBONE, METHODS, choice
from causal_ctx.models import build_model
from causal_ctx.objectives.context_vae import ContextVAE
from causal_ctx.progress import Progress
from causal_ctx.reports import data_card, reading
from causal_ctx.step import TrainState


def load(config: ml_collections.ConfigDict) -> ContextData:
    """As `data.load`."""
    return data.load(config.data)


def describe(config: ml_collections.ConfigDict, dataset: ContextData, *folders: Path) -> card.Card:
    """The data card of `dataset`: the one that a folder keeps where it is of these data, else made, and kept in all of them."""
    kept = {folder: reading.read_card(folder) for folder in folders}
    identity = card.identity(dataset, config.train.micro_batch)
    sound = lambda found: not any(problem["level"] == "error" for problem in found.get("problems", ()))  # errors are looked at again: they may be mended
    known = [found for found in kept.values() if found and found.get("checked") == identity and sound(found)]
    described = known[0] if known else card.describe(dataset, config.train.micro_batch)
    for folder, found in kept.items():
        if found != described:
            write_atomically(folder / "data_card.json", json.dumps(described, indent=2))
    return described


def describe_text(described: card.Card) -> str:
    """As `data_card.text`."""
    return data_card.text(described)


def seen(config: ml_collections.ConfigDict, images: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The contexts among `images` that the config's method is trained on."""
    return images if METHODS[config.method].contexts == "all" else {"obs": images["obs"]}


def num_examples(config: ml_collections.ConfigDict, dataset: ContextData) -> int:
    """The training images that the method sees."""
    return sum(map(len, seen(config, dataset.train).values()))


def objective(config: ml_collections.ConfigDict, dataset: ContextData, *others: ml_collections.ConfigDict) -> ContextVAE:
    """The lightweight VAE, with or without context module."""
    runs = (config, *others)
    penalties = [number for run in runs for number in (run.objective.group_penalty, run.objective.l2_penalty)]
    module = METHODS[config.method].module
    return ContextVAE(
        model=build_model(config, len(dataset.concepts), dataset.image_shape),
        image_shape=dataset.image_shape,
        num_concepts=len(dataset.concepts),
        clamp_causal=config.train.clamp_causal and module and choice(config, "model.composition") != "structural",
        energy_penalised=any(choice(run, "objective.energy_penalty") for run in runs),
        moments_penalised=any(choice(run, "objective.moment_penalty") for run in runs),
        penalised=module and any(penalties),
        compute_dtype=config.train.compute_dtype,
    )


def feed(runs: Sequence[ml_collections.ConfigDict], dataset: ContextData, mesh: jax.sharding.Mesh, states: TrainState) -> ImageFeed:
    """Images of one context, or of several, in a micro-batch."""
    del states
    images = seen(runs[0], dataset.train)
    targets = np.stack([dataset.targets(name) for name in images])
    return ImageFeed.of(runs, images, targets, choice(runs[0], "train.contexts_per_micro_batch") == "one", mesh)


def refuse_source(config: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict) -> None:
    """Raises StartError where the run of `theirs` has a backbone of other shapes than `config`, as far as their fields tell: see `take_over`."""
    fields = ("model.backbone", "data.resolution")
    ours, there = configs.flat(config.to_dict()), configs.flat(theirs.to_dict())
    differing = [f"{field} ({there[field]!r} there, {ours[field]!r} here)" for field in fields if there[field] != ours[field]]
    if differing:
        raise StartError(f"The backbone in {config.init_from} is another one: {', '.join(differing)}; start from a run of the same backbone.")


def take_over(config: ml_collections.ConfigDict, state: TrainState, source: TrainState) -> TrainState:
    """`state` with the backbone of `source`, running averages included. Raises StartError naming every tensor that is missing there or has another shape."""
    rules = [rule for rule, _ in METHODS[config.method].trains]
    groups = {name: optim.groups(rules, tree) for name, tree in state.variables.items()}
    chosen = dict(jax.tree_util.tree_leaves_with_path(groups))
    taken = dict(jax.tree_util.tree_leaves_with_path(source.variables))
    copied = {path: leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state.variables) if rules[chosen[path]] == BACKBONE}
    refuse_misfits(config.init_from, copied, {path: leaf.shape for path, leaf in taken.items()})
    variables = jax.tree_util.tree_map_with_path(lambda path, ours: taken[path] if path in copied else ours, state.variables)
    return state.replace(params=variables.pop("params"), collections=variables)


def refuse_misfits(folder: str, ours: dict, theirs: dict) -> None:
    """Raises StartError naming every tensor of {path: shape} `ours` that is missing in `theirs` or has another shape there."""
    name = lambda path: "/".join(key.key for key in path[1:])
    there = lambda path: list(theirs[path]) if path in theirs else "missing"
    misfits = [f"{name(path)} ({there(path)} there, {list(shape)} here)" for path, shape in ours.items() if theirs.get(path) != shape]
    if misfits:
        raise StartError(f"The backbone in {folder} is another one: {', '.join(misfits)}; start from a run of the same backbone.")


def validate(config: ml_collections.ConfigDict, dataset: ContextData, state: TrainState) -> tuple[float, dict[str, float]]:
    """Loss without penalties of the validation images in nats per image, mean over the contexts that the method sees; and their ELBO."""
    predictor = build_predictor(config, dataset, state)
    scores = [predictor.elbo(dataset.targets(name), images) for name, images in seen(config, dataset.validation).items()]
    elbo, kl = (float(np.mean([score[name].mean() for score in scores])) for name in ("elbo_nats", "kl_nats"))
    loss = -elbo + (config.objective.beta - 1) * kl
    return loss, {"loss_nats": loss, "elbo_nats": elbo, "elbo_bpp": protocols.nats_to_bits_per_pixel(-elbo, dataset.image_shape)}


def evaluate(config: ml_collections.ConfigDict, dataset: ContextData, best: TrainState, initial: TrainState, record) -> dict:
    """{"protocols": both protocols with their floors (spec section 5), "graph": the causal blocks against the truth, where both are there}."""
    predictor, untrained = (build_predictor(config, dataset, state) for state in (best, initial))
    with Progress("distance", protocols.number_of_distances(config, dataset, predictor)) as progress:
        strict = protocols.strict(config, dataset, predictor, untrained, tuple(seen(config, dataset.validation)), progress.advance)
        losses = {"in_distribution_bpp": record.last_loss, "in_distribution_best_bpp": record.best_loss}
        reconstruction = {name: protocols.nats_to_bits_per_pixel(nats, dataset.image_shape) for name, nats in losses.items()}
        if dataset.compositions:
            unseen, beta = {name: dataset.held_out[name] for name in dataset.compositions}, config.objective.beta
            known = strict["reconstruction"]["out_of_distribution_bpp"]  # with beta 1
            reconstruction["out_of_distribution_bpp"] = known if beta == 1 else protocols.reconstruction_bpp(predictor, dataset, unseen, beta)
        paper = protocols.paper(dataset, predictor, reconstruction, progress.advance)
    graph = protocols.graph(config, dataset, predictor, untrained)
    return {"protocols": {"strict": strict, "paper": paper}} | ({"graph": graph} if graph else {})


def uses(config: ml_collections.ConfigDict, dataset: ContextData, state: TrainState) -> dict:
    """ELBO of images, and images under all subsets of interventions, whose statistics are known: by one call, and by a loop over the subsets."""
    predictor = build_predictor(config, dataset, state)
    images, sets = dataset.train["obs"][:1024], np.array([dataset.targets(name) for name in subsets(dataset.concepts[:6])])
    noise = np.random.default_rng(0).standard_normal((64, predictor.latents)).astype(np.float32)
    known = parallel.on_host(predictor.statistics(sets))
    each = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], known) for i in range(len(sets))]
    return {
        "evaluation": (lambda: predictor.elbo(dataset.targets("obs"), images), len(images)),
        "generation": (lambda: predictor.generate_all(sets, noise, known), len(sets) * len(noise)),
        "generation, a loop": (lambda: [predictor.generate_all(t[None], noise, s) for t, s in zip(sets, each)], len(sets) * len(noise)),
    }
