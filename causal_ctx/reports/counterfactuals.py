"""What `evaluation.counterfactuals` measured, as tables for a terminal and as figures: errors per context, what interventions move, and images beside the truth.

`scores` is its dict, a part of interventions.json: "counterfactuals" and "effects".
"""

from collections.abc import Mapping, Sequence

import numpy as np

from causal_ctx.data.contexts import OBSERVATIONAL
from causal_ctx.evaluation.graph import THRESHOLD
from causal_ctx.reports import formats
from causal_ctx.reports.canvas import above, beside, label, label_width, tiles
from causal_ctx.reports.charts import heat_maps
from causal_ctx.reports.figures import Picture
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import Row, Table, estimate

KNOWN = ("model", "unchanged", "redrawn", "floor")
KINDS = {"pixel": "pixels", "latent": "all latents", "others": "latents left alone"}
NOTE = (
    "An observational image is encoded and decoded under the interventions; the truth keeps its exogenous noise. Root mean squared errors: pixels in [0, 1]; "
    "latents in their observational standard deviations, as a probe reads them that was trained on real images. Unchanged: the image as it was. Redrawn: "
    "the simulation with other own noise of the intervened concepts; in pixels no answer that makes no use of that noise is below it over the root of two. Floor: the true "
    "image, encoded and decoded under its own interventions for pixels, and read by the probe for latents. Latents left alone: those not intervened on."
)
EFFECTS_NOTE = (
    "How far each concept (row) moves when another (column) is intervened on and the noise is kept, in observational standard deviations: as the probe reads it "
    "off generated images, and as simulated. Compared off the diagonal. True images: what the same probe reads "
    "off the simulated ones, what a perfect model has. Moved in vain: the part of all movement that goes to concepts which the intervention does "
    f"not truly move. AUROC 0.5 is chance; SHD takes movements above {THRESHOLD} of the largest for edges. Own noise: the part of a concept's variance under "
    "an intervention on it that goes when its own noise does not vary, mean over the concepts; in truth all of it."
)
EFFECTS = ("AUROC", "SHD", "precision", "recall", "rank correlation", "moved in vain", "own noise")
SHOWN_CONTEXTS, SHOWN_IMAGES = 15, 4


def text(scores: dict) -> str:
    """Both tables for a terminal; empty where nothing was measured."""
    return "\n".join(formats.text(table) for table in tables(scores))


def tables(scores: dict) -> list[Table]:
    """Errors of counterfactual images and what interventions move; none where the truth is not known."""
    if "counterfactuals" not in scores:
        return []
    errors, moved = scores["counterfactuals"], scores["effects"]
    groups = tuple(
        (f"{group}, mean", tuple(Row(KINDS[what], tuple(Estimate(kinds[kind]) for kind in KNOWN)) for what, kinds in means.items()))
        for group, means in errors["mean"].items()
    )
    r2 = ", ".join(f"{name} {value:.2f}" for name, value in moved["probe_r2"].items())
    return [
        Table("Counterfactual images against the truth", "error", groups, NOTE, KNOWN, {}),
        Table("What interventions move against the truth", "", (("all single interventions", effects_rows({"generated images": [moved]})),),
              f"{EFFECTS_NOTE} R2 of the probe on held-out images: {r2}.", EFFECTS, {}, {"SHD": 0}),
    ]


def effects_rows(moved: Mapping[str, Sequence[dict]]) -> tuple[Row, ...]:
    """Cells in the order of EFFECTS of every label's `evaluation.counterfactuals.effects`, mean ± standard error; last of what the probe makes of true images.

    Those are one row where all labels have the same, as runs of the same images have.
    """
    row = lambda label, found: Row(label, tuple(effects_numbers(found).values()))
    true = {label: row("true images", [effects["true_images"] for effects in found[:1]]) for label, found in moved.items()}
    alike = len(set(true.values())) == 1
    return *(row(label, found) for label, found in moved.items()), *(
        [next(iter(true.values()))] if alike else [Row(f"true images, {label}", cells) for label, (_, cells) in true.items()]
    )


def effects_numbers(found: Sequence[dict]) -> dict[str, Estimate | None]:
    """{column of EFFECTS: mean ± standard error} of the effects of several seeds; None for what none of them has."""
    numbers = lambda of: (*(of["scores"][name] for name in ("auroc", "shd", "precision", "recall")), of["rank_correlation"], of["moved_in_vain"], of["own_noise"])
    return dict(zip(EFFECTS, map(estimate, zip(*map(numbers, found)))))


def pictures(run, scores: dict) -> list[Picture]:
    """Movements, and with a context module whose noise concepts follow, as heat maps, learned beside true, and images of some contexts beside the truth; none
    where the truth is not known."""
    return [_movements(run, scores), *_noises(run, scores), _images(run)] if "effects" in scores else []


def _movements(run, scores: dict) -> Picture:
    learned, true = (np.array(scores["effects"][kind]) for kind in ("learned", "true"))
    return Picture(
        "effects", "What interventions move", heat_maps({"as generated": learned, "in truth": true}, run.concepts, sides=("intervened on", "moves")),
        EFFECTS_NOTE,
        f"Heat maps of how far each of the concepts {', '.join(run.concepts)} moves under each single intervention, learned and true.",
    )


def _noises(run, scores: dict) -> list[Picture]:
    learned, true = (scores["effects"]["noise"][kind] for kind in ("learned", "true"))
    if learned is None:
        return []
    maps = {"as generated": np.array(learned), "in truth": np.array(true)}
    return [Picture(
        "noise", "Whose noise a concept follows", heat_maps(maps, run.concepts, sides=("noise of", "varies"), diagonal=True),
        "The part of the variance of each concept (row) in observational images that one noise (column) leaves open when all others are known: as the probe reads it "
        "off generated images, and in truth. Where noises act together a row sums to more than one; in truth hidden causes have what is missing.",
        f"Heat maps of how much of the variance of each of the concepts {', '.join(run.concepts)} the noise of each makes, learned and true.",
    )]


def _images(run) -> Picture:
    """Rows: the images as they were, then for every context what they become, by the model on the left and in truth on the right."""
    data, names = run.data, [*run.data.training_contexts[1:], *run.data.compositions][:SHOWN_CONTEXTS]
    factual = data.counterfactuals(OBSERVATIONAL, SHOWN_IMAGES)
    rows = [(name, run.reconstruct(factual, name, OBSERVATIONAL), data.counterfactuals(name, SHOWN_IMAGES)) for name in (OBSERVATIONAL, *names)]
    width = label_width([name for name, *_ in rows])
    strips = [beside([label(name, width, 1.0), beside(tiles(made)), beside(tiles(true))], gap=20) for name, made, true in rows]
    wide = beside(tiles(factual)).width
    heading = beside([label("", width), label("model", wide), label("truth", wide)], gap=20)
    return Picture(
        "counterfactuals", "Counterfactuals", above([heading, *strips]),
        "Observational images (first row), and what each would have been under the interventions of its row: the model, which saw the first row alone, on the left; "
        "the truth on the right. Columns keep their exogenous noise. Rows with a plus were never trained on.",
        f"{SHOWN_IMAGES} images under each of the contexts {', '.join(names)}, generated and true.",
    )
