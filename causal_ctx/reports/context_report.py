"""The report of context modules and their baselines: what `page` asks of this system."""

from collections.abc import Iterator

from causal_ctx.progress import duration
from causal_ctx.reports import ablations, composer, data_card, figures, graph_tables, tables, truth_tables
from causal_ctx.reports.published import CITATION
from causal_ctx.reports.reading import Folder, read_card
from causal_ctx.reports.system_report import MOST_LABELS, Section, SystemReport, by_label, number_of_runs, sections_of_best
from causal_ctx.reports.verdict import verdict

MEASURES = {
    "Concept": "sliced Wasserstein distance between held-out images of a context and images generated under that context's targets; mean over contexts.",
    "Composition": "the same for pairs of interventions that were never seen together in training, generated with both targets on.",
    "Reconstruction": "negative evidence lower bound per pixel, in bits (not divided by channels); of validation images, and of held-out compositions.",
    "Floor": "what a perfect model would reach: real against real images of disjoint halves; for reconstruction the entropy of the soft pixel values.",
    "Untrained": "the same model with its initial weights.",
    "Graph": f"{graph_tables.NOTE} By chance alone the AUROC of one seed lies 0.12 (standard deviation) from 0.5 where 9 of 30 pairs are edges, as in "
    "quad_dependent. Where none is, there is no AUROC, and SHD counts invented edges. The theorem behind the module identifies the concepts, not this graph, "
    "and in a module that is told no targets nothing ties a block to a concept.",
    "Differences": "are taken before rounding, so they can differ from those of the numbers shown by one in the last place.",
    "Protocol strict": "every generated image from its own noise, all held-out images, weights of the best epoch.",
    "Protocol paper": "as published: 50 directions, about 1,280 images, 64 noise vectors repeated, reconstruction of known contexts at the last epoch.",
    "Published": f"{CITATION}; mean ± standard error over seeds, measured under protocol paper, at the published training budget and image size.",
}


def comma_separated(results: list[dict], summary: bool | None = None) -> str:
    """`tables.comma_separated` of means and graphs (`summary`), of single contexts, or with None of both."""
    def told(seeds: list[dict]) -> Iterator[tuple]:
        yield from (line for line in tables.numbers(seeds) if summary is None or (line[2] == "mean") == summary)
        if summary is not False:
            yield from graph_tables.numbers(seeds)
            yield from truth_tables.numbers(seeds)

    return tables.comma_separated(results, told)


def summary_tables(results: list[dict]) -> list[tables.Table]:
    """Those of `tables`, then learned graphs where the true ones are known, and what the simulation says of runs that were scored against it."""
    return [*tables.summary_tables(results), *graph_tables.graph_tables(results), *truth_tables.truth_tables(results)]


def lead(named: list, results: list[dict]) -> str:
    """How many runs on which images, and what they cost."""
    run = named[0][1]
    H, W, C = run.data.image_shape
    images = sum(r["train"]["images"] for r in results)
    seconds = sum(r["train"]["seconds"] for r in results)
    return (f"{number_of_runs(results)} on images of {H} × {W} × {C} with {len(run.concepts)} concepts ({', '.join(run.concepts)}) and "
            f"{len(run.data.compositions)} held-out compositions; {images:,} training images drawn in {duration(seconds)}.")


def score(result: dict) -> float | None:
    """What the best seed has least of: the distance of held-out compositions."""
    return tables.value(result, "strict", "composition")


def sections(named: list, results: list[dict], folder: Folder) -> list[Section]:
    """The measures along the axes, the figures of the seed of each label that composes best, and the training of all runs."""
    grids = sections_of_best(named, results, score, lambda run: figures.pictures(run))
    curves = [picture for picture in [figures.training_curves(by_label(named))] if picture]
    return [Section("", ablations.pictures(results, folder.axes)), *grids, Section("All runs" if len(named) > 1 else "", curves)]


def data(named: list) -> list[tuple[str, Section]]:
    """(card, images) of the data sets of the runs, as far as the runs kept a card of them."""
    kept = {card["checked"].split("-")[-1]: (card, run) for _, run in named if (card := read_card(run.workdir))}
    folder = lambda key: f"data_{key}" if len(kept) > 1 else ""
    return [(data_card.html(card), Section("", [data_card.picture(run.data)], folder(key))) for key, (card, run) in list(kept.items())[:MOST_LABELS]]


REPORT = SystemReport(
    name="Context modules",
    note=tables.NOTE,
    measures=MEASURES,
    details=("contexts", "Every context", "Each context and held-out pair"),
    summary_tables=summary_tables,
    detail_tables=tables.detail_tables,
    comma_separated=comma_separated,
    verdict=verdict,
    lead=lead,
    sections=sections,
    compose=composer.of_interventions,
    score=score,
    data=data,
)
