"""The mode `ablate_interventions`: a trained run scored under every subset of interventions, as numbers, table and figure."""

import json
from pathlib import Path

import ml_collections

from causal_ctx.evaluation.interventions import contexts_to_score, subset_distances
from causal_ctx.files import write_atomically
from causal_ctx.progress import Progress
from causal_ctx.methods import METHODS
from causal_ctx.reports import figures, interventions
from causal_ctx.run import load_run
from causal_ctx.start import sourced
from causal_ctx.workdir import WorkdirError, prepare


def ablate_interventions(config: ml_collections.ConfigDict, workdir: Path) -> dict:
    """Writes interventions.json and figures/interventions.png of the trained run in `workdir` and prints the means by number of interventions.

    Returns what interventions.json holds. Raises WorkdirError where there is no run of this config, DamagedError where it has no trained weights.
    """
    if not (workdir / "config.json").exists():
        raise WorkdirError(f"{workdir} holds no run; train one first with --mode=train.")
    if METHODS[config.method].system != "context":
        raise WorkdirError(f"{workdir} holds a run of {config.method}, which knows actions and no interventions; its retrieval is scored by --mode=evaluate.")
    prepare(sourced(config, workdir), workdir)
    run = load_run(workdir)
    with Progress("interventions", total=len(contexts_to_score(run.data))) as progress:
        scores = subset_distances(run.config, run.data, run.predictor, lambda name: progress.advance(1, name))
    scores |= {"dataset": run.config.data.name, "method": run.config.method, "seed": run.config.seed}
    write_atomically(workdir / "interventions.json", json.dumps(scores, indent=2))
    figures.save([interventions.picture(scores)], workdir / "figures")
    print(interventions.table(scores))
    return scores
