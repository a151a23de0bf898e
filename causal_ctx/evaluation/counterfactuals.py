"""What one image would have been under an intervention, and what an intervention moves, against simulated ground truth.

Letters: n images, H, W, C image, K concepts. Latents are those of the concepts, [n, K], in standard deviations that they have in "obs".

The truth keeps the exogenous noise of every row and replaces the mechanisms of the intervened concepts (`ContextData.counterfactuals`); their own noise keeps
its rank, which no sample of single contexts determines. So the simulation itself, with the own noise of the intervened concepts drawn anew, is what a model can
be asked for ("redrawn"): it and the truth are two draws of one law given all that is known, so that in pixels no answer which makes no use of that noise has a
root mean squared error below "redrawn" over the root of two; one that does may be better or worse by chance. Latents are read off all of them, the redrawn
image too, by one probe, whose own error is added. Of `others`, the latents that were not intervened on, a model can know those exactly that are no effects of
the intervened ones.
"""

from collections.abc import Iterable

import jax
import numpy as np
from scipy.stats import spearmanr

from causal_ctx.data import ContextData
from causal_ctx.data.contexts import OBSERVATIONAL
from causal_ctx.evaluation import graph
from causal_ctx.evaluation.predict import Predictor
from causal_ctx.evaluation.probe import MOST_IMAGES, Probe, explained, fit_probe
from causal_ctx.evaluation.protocols import fresh_noise
from causal_ctx.progress import Advance, untold

IMAGES = 1_024
NOISE = 2**20  # index of `fresh_noise` that no distance has


def can_be_scored(dataset: ContextData) -> bool:
    """Whether the data set knows what an image would have been, the latents behind it, and what truly moves what."""
    return dataset.counterfactual_latents is not None and dataset.total_effects is not None


def concept_probe(dataset: ContextData) -> Probe:
    """A probe of the concepts' latents, fitted to as many training images of every context."""
    each = MOST_IMAGES // len(dataset.train)
    latents = np.concatenate([dataset.concept_latents(dataset.train_latents[name][:each]) for name in dataset.train])
    return fit_probe(np.concatenate([images[:each] for images in dataset.train.values()]), latents)


def counterfactual_errors(dataset: ContextData, predictor: Predictor, probe: Probe, num: int = IMAGES, advance: Advance = untold) -> dict:
    """Errors of images that are encoded as observational ones and decoded under an intervention, for all single interventions and held-out compositions.

    {"images", "contexts": {context: errors}, "mean": {"concept", "composition": errors}}, where errors are
    {"pixel", "latent", "others"}: {"model", "unchanged", "redrawn", "floor"}, root mean squared, pixels in [0, 1].

    "unchanged" takes the image as it was for the answer, "redrawn" the simulated image with other own noise of the intervened concepts; "floor" is, for pixels,
    the true image encoded and decoded under its own targets, for latents the probe on the true image. "others" is absent where every concept was intervened on.
    `advance` is called with 1 and the name after each context.
    """
    factual = dataset.counterfactuals(OBSERVATIONAL, num)
    read = probe.read(factual)
    scale = dataset.concept_latents(dataset.train_latents[OBSERVATIONAL]).std(axis=0)
    found = {}
    for name in [*dataset.training_contexts[1:], *dataset.compositions]:
        targets, true = dataset.targets(name), dataset.counterfactuals(name, num)
        latents = dataset.counterfactual_latents(name, num)
        made = predictor.reconstruct(targets, factual, dataset.targets(OBSERVATIONAL))
        redrawn = dataset.counterfactuals(name, num, True)
        pixels = {"model": made, "unchanged": factual / 255, "redrawn": redrawn / 255, "floor": predictor.reconstruct(targets, true)}
        values = {"model": probe.read(made), "unchanged": read, "redrawn": probe.read(redrawn), "floor": probe.read(true)}
        kept = targets == 0
        columns = {"latent": slice(None)} | ({"others": kept} if kept.any() else {})
        found[name] = {"pixel": {kind: _rms(images - true / 255) for kind, images in pixels.items()}} | {
            what: {kind: _rms(((value - latents) / scale)[:, chosen]) for kind, value in values.items()} for what, chosen in columns.items()
        }
        advance(1, name)
    groups = {"concept": dataset.training_contexts[1:], "composition": dataset.compositions}
    means = {group: _mean_errors(found[name] for name in names) for group, names in groups.items() if names}
    return {"images": num, "contexts": found, "mean": means}


def effects(dataset: ContextData, predictor: Predictor, probe: Probe, num: int = IMAGES, advance: Advance = untold) -> dict:
    """Whether an intervention on a concept moves that concept and what it causes, and nothing else; and whose noise a concept follows.

    {"learned", "true": [K, K], "noise": {"learned", "true": [K, K]}, "probe_r2": {concept: R2 on held-out images}, "true_images": compared, **compared}, where
    compared are {"scores": `graph.scores`, "rank_correlation", "moved_in_vain", "own_noise"}, of the model and of images without a fault.

    Entry (j, k) is how far latent j moves when concept k alone is intervened on and all exogenous noise is kept: the mean absolute difference, learned as the
    probe reads it off generated images, true as simulated. The scores compare "learned" with the true graph of total effects, diagonals left out;
    "rank_correlation" is Spearman's of learned and true entries off the diagonal, None where either are all equal; "moved_in_vain" is the part of all learned
    movement off the diagonal that goes to concepts which the intervention does not truly move, None where none moves another. "true_images" are the simulated
    ones of the same noise, read by the same probe, which mistakes some movements for others: what a perfect model has.

    Entry (j, k) of "noise" is the part of the variance of latent j in "obs" that the noise of concept k leaves open when all other noises are known, Sobol's
    total index (estimated as by Jansen 1999); rows sum to more than one where noises act together. True it is that of linear effects, the square of
    `ContextData.total_effects`, and hidden causes have the rest. "own_noise" is the mean over the concepts of the part of their variance under their own
    intervention that goes when their own noise does not vary, Sobol's first-order index: 1 for a concept that is a function of its noise, as in truth. Both
    None of models that hear no interventions. `advance` is called with 1 and the name after each single intervention.
    """
    names = dataset.training_contexts[1:]
    sets = np.stack([dataset.targets(name) for name in (OBSERVATIONAL, *names)])
    noise, other = (fresh_noise(NOISE + draw, num, predictor.latents) for draw in range(2))
    statistics = predictor.statistics(sets)
    of_set = lambda number: jax.tree.map(lambda leaf: leaf[number : number + 1], statistics)
    scale = dataset.concept_latents(dataset.train_latents[OBSERVATIONAL]).std(axis=0)
    read = [probe.read(images) for images in predictor.generate_all(sets, noise, statistics)]
    learned = _movement(read, scale)
    latents = [dataset.counterfactual_latents(name, num) for name in (OBSERVATIONAL, *names)]
    true, real = _movement(latents, scale), [probe.read(dataset.counterfactuals(name, num)) for name in (OBSERVATIONAL, *names)]
    causes = graph.learned_once(np.stack([dataset.total_effects[name] for name in dataset.training_contexts]) != 0)["interventions"]
    apart = ~np.eye(len(names), dtype=bool)
    block = np.arange(predictor.latents) * len(names) // predictor.latents
    follows, own = [], []
    for k, name in enumerate(names):
        if predictor.intervenes:
            redrawn = lambda number, chosen: probe.read(predictor.generate_all(sets[number : number + 1], np.where(chosen, other, noise), of_set(number))[0])
            follows.append(_part_drawn(read[0], redrawn(0, block == k)))
            own.append(1 - _part_drawn(read[k + 1], redrawn(k + 1, block != k))[k])
        advance(1, name)

    def compared(found: np.ndarray, own: list[float]) -> dict:
        varied = np.ptp(found[apart]) > 0 and np.ptp(true[apart]) > 0
        in_vain = float(found[apart & ~causes].sum() / max(found[apart].sum(), 1e-12)) if causes[apart].any() else None  # else it is all, of anything
        rank = float(spearmanr(found[apart], true[apart]).statistic) if varied else None
        return {"scores": graph.scores(found, causes), "rank_correlation": rank, "moved_in_vain": in_vain, "own_noise": float(np.mean(own)) if own else None}

    shown = np.concatenate([probe.read(images) for images in dataset.held_out.values()])
    behind = dataset.concept_latents(np.concatenate([dataset.held_out_latents[name] for name in dataset.held_out]))
    of_the_latent = [np.corrcoef(real[k + 1][:, k], latents[k + 1][:, k])[0, 1] ** 2 for k in range(len(names))]  # which is its own noise under its intervention
    return {
        "learned": learned.tolist(),
        "true": true.tolist(),
        **compared(learned, own),
        "true_images": compared(_movement(real, scale), of_the_latent),
        "noise": {"learned": np.stack(follows, axis=1).tolist() if follows else None, "true": (dataset.total_effects[OBSERVATIONAL] ** 2).tolist()},
        "probe_r2": dict(zip(dataset.concepts, explained(shown, behind).tolist())),
    }


def against_truth(dataset: ContextData, predictor: Predictor, advance: Advance = untold) -> dict:
    """{"counterfactuals": `counterfactual_errors`, "effects": `effects`} with one probe for both; empty where the data set does not know the truth."""
    if not can_be_scored(dataset):
        return {}
    probe = concept_probe(dataset)
    return {"counterfactuals": counterfactual_errors(dataset, predictor, probe, advance=advance), "effects": effects(dataset, predictor, probe, advance=advance)}


def number_of_steps(dataset: ContextData) -> int:
    """How often `against_truth` calls `advance`."""
    return 2 * (len(dataset.training_contexts) - 1) + len(dataset.compositions) if can_be_scored(dataset) else 0


def _movement(latents: list[np.ndarray], scale: np.ndarray) -> np.ndarray:
    """[K, K] of latents [n, K] under "obs" and every single intervention: row the concept that moves, column the one that is intervened on."""
    before, *after = latents
    return np.stack([np.abs((moved - before) / scale).mean(axis=0) for moved in after], axis=1)


def _part_drawn(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """[K] of latents [n, K] before and after some of their causes were drawn anew: the part of their variance that these leave open when all others are known."""
    return ((after - before) ** 2).mean(axis=0) / np.maximum(2 * np.concatenate([before, after]).var(axis=0), 1e-12)


def _mean_errors(errors: Iterable[dict]) -> dict:
    errors = list(errors)
    return {what: {kind: float(np.mean([error[what][kind] for error in errors if what in error])) for kind in kinds} for what, kinds in errors[0].items()}


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference**2).mean()))
