"""The mode `ablate_interventions`: a trained run scored under every subset of interventions and against simulated counterfactuals, as numbers, tables and figures."""

import json
from pathlib import Path

import ml_collections

from causal_ctx.evaluation import counterfactuals
from causal_ctx.evaluation.interventions import contexts_to_score, subset_distances
from causal_ctx.files import write_atomically
from causal_ctx.progress import Progress
from causal_ctx.methods import METHODS
from causal_ctx.reports import counterfactuals as counterfactual_reports
from causal_ctx.reports import figures, interventions
from causal_ctx.run import load_run
from causal_ctx.start import sourced
from causal_ctx.workdir import WorkdirError, prepare


def ablate_interventions(config: ml_collections.ConfigDict, workdir: Path) -> dict:
    """Writes interventions.json and figures of the trained run in `workdir`, and prints the means by number of interventions.

    Where the data set knows what an image would have been, counterfactuals and what interventions move are scored too (`evaluation.counterfactuals`).
    Returns what interventions.json holds. Raises WorkdirError where there is no run of this config, DamagedError where it has no trained weights.
    """
    if not (workdir / "config.json").exists():
        raise WorkdirError(f"{workdir} holds no run; train one first with --mode=train.")
    if METHODS[config.method].system != "context":
        raise WorkdirError(f"{workdir} holds a run of {config.method}, which knows actions and no interventions; its retrieval is scored by --mode=evaluate.")
    prepare(sourced(config, workdir), workdir)
    run = load_run(workdir)
    with Progress("interventions", total=len(contexts_to_score(run.data)) + counterfactuals.number_of_contexts(run.data)) as progress:
        scores = subset_distances(run.config, run.data, run.predictor, lambda name: progress.advance(1, name))
        scores |= counterfactuals.against_truth(run.data, run.predictor, progress.advance)
    scores |= {"dataset": run.config.data.name, "method": run.config.method, "seed": run.config.seed}
    write_atomically(workdir / "interventions.json", json.dumps(scores, indent=2))
    figures.save([interventions.picture(scores), *counterfactual_reports.pictures(run, scores)], workdir / "figures")
    print(*filter(None, (interventions.table(scores), counterfactual_reports.text(scores))), sep="\n\n")
    return scores
