"""The report of CT-VAE's two phases, autoencoder and causal transition: what `page` asks of this system."""

from causal_ctx.progress import duration
from causal_ctx.reports import composer, transition_ablations, transition_figures, transition_tables
from causal_ctx.reports.reading import Folder
from causal_ctx.reports.system_report import Section, SystemReport, by_label, number_of_runs, sections_of_best
from causal_ctx.reports.transition_verdict import verdict

MEASURES = {
    "Retrieval": f"which of the actions led from the first image of a test pair to the second, from the codes of both. {transition_tables.RETRIEVAL}",
    "Images after an action": transition_tables.IMAGES,
    "Codes": transition_tables.CODES,
    "Chains": transition_tables.CHAIN,
    "Autoencoder": transition_tables.AUTOENCODER + transition_tables.USAGE,
    "Disentanglement": transition_tables.DISENTANGLEMENT,
    "Every action": transition_tables.ACTIONS,
}


def score(result: dict) -> float | None:
    """What the best seed has least of: wrong actions, or where none were retrieved error after actions, or error of reconstruction."""
    accuracy = transition_tables.value(result, "retrieval", "sampled", "action", "mean")
    if accuracy is not None:
        return -accuracy
    mse = transition_tables.value(result, "action", "expected_mse")
    return transition_tables.value(result, "reconstruction", "validation_mse") if mse is None else mse


def lead(named: list, results: list[dict]) -> str:
    """How many runs on which images, factors and pairs, and what they cost."""
    data = named[0][1].data
    H, W, C = data.image_shape
    train, test = (len(data.pairs(split).actions) for split in ("train", "test"))
    images, seconds = (sum(r["train"][key] for r in results) for key in ("images", "seconds"))
    names = ", ".join(data.factors.factor_names)
    return (f"{number_of_runs(results)} on images of {H} × {W} × {C} with {data.num_factors} factors ({names}), each of which two actions move: "
            f"{train:,} training and {test:,} test pairs; {images:,} training examples drawn (images by mcq_vae, pairs by ct_vae) in {duration(seconds)}.")


def sections(named: list, results: list[dict], folder: Folder) -> list[Section]:
    """The measures along the axes, the figures of the best seed of each label, and the training of all runs."""
    curves = [picture for picture in [transition_figures.training_curves(by_label(named))] if picture]
    best = sections_of_best(named, results, score, lambda run: transition_figures.pictures(run))
    return [Section("", transition_ablations.pictures(results, folder.axes)), *best, Section("All runs" if len(named) > 1 else "", curves)]


REPORT = SystemReport(
    name="Causal transitions",
    note=transition_tables.NOTE,
    measures=MEASURES,
    details=("actions", "Every action", "Accuracy on every action"),
    summary_tables=transition_tables.summary_tables,
    detail_tables=transition_tables.detail_tables,
    comma_separated=transition_tables.comma_separated,
    verdict=verdict,
    lead=lead,
    sections=sections,
    compose=composer.of_actions,
    score=score,
    data=lambda named: [],
)
