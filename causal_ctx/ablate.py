"""The mode `ablate_interventions`: trained runs scored under every subset of interventions and against simulated counterfactuals, as numbers, tables and figures."""

import json
import logging
from pathlib import Path

import ml_collections

from causal_ctx.evaluation import counterfactuals
from causal_ctx.evaluation.interventions import contexts_to_score, subset_distances
from causal_ctx.files import write_atomically
from causal_ctx.progress import Progress
from causal_ctx.methods import METHODS
from causal_ctx.reports import counterfactuals as counterfactual_reports
from causal_ctx.reports import figures, interventions, reading
from causal_ctx.run import Run, load_run, load_runs
from causal_ctx.start import sourced
from causal_ctx.workdir import WorkdirError, prepare, report

LOG = logging.getLogger(__name__)


def ablate_interventions(config: ml_collections.ConfigDict | None, workdir: Path) -> dict:
    """Writes interventions.json and figures of the trained run in `workdir`, and prints the means by number of interventions; returns what interventions.json holds.

    Where the data set knows what an image would have been, counterfactuals and what interventions move are scored too (`evaluation.counterfactuals`). A folder
    of runs has all of its context modules scored that were not yet, and reported as by `workdir.report`, which is returned. Raises WorkdirError where there is
    no run, or not of this config, DamagedError where one has no trained weights.
    """
    if not (workdir / "config.json").exists() and config is None:
        return _ablate_all(workdir)
    if not (workdir / "config.json").exists():
        raise WorkdirError(f"{workdir} holds no run; train one first with --mode=train.")
    if METHODS[config.method].system != "context":
        raise WorkdirError(f"{workdir} holds a run of {config.method}, which knows actions and no interventions; its retrieval is scored by --mode=evaluate.")
    prepare(sourced(config, workdir), workdir)
    run = load_run(workdir)
    scores = _score(run)
    print(*filter(None, (interventions.table(scores), counterfactual_reports.text(scores))), sep="\n\n")
    return scores


def _ablate_all(folder: Path) -> dict:
    """Every run below `folder` that has a context module, or could have, and no interventions.json; then tables and page of them all."""
    runs = [run for run in load_runs(reading.read_folder(folder).evaluated) if METHODS[run.config.method].system == "context"]
    if not runs:
        raise WorkdirError(f"{folder} holds no evaluated run with contexts, nor do the folders directly below it; train one first.")
    missing = [run for run in runs if not reading.read_truth(run.workdir)]
    for number, run in enumerate(missing, start=1):
        LOG.info("Run %d of %d: %s.", number, len(missing), run.workdir)
        _score(run)
    return report(None, folder)


def _score(run: Run) -> dict:
    """What interventions.json holds, written with its figures into the folder of `run`."""
    with Progress("interventions", total=len(contexts_to_score(run.data)) + counterfactuals.number_of_contexts(run.data)) as progress:
        scores = subset_distances(run.config, run.data, run.predictor, lambda name: progress.advance(1, name))
        scores |= counterfactuals.against_truth(run.data, run.predictor, progress.advance)
    scores |= {"dataset": run.config.data.name, "method": run.config.method, "seed": run.config.seed}
    figures.save([interventions.picture(scores), *counterfactual_reports.pictures(run, scores)], run.workdir / "figures")
    write_atomically(run.workdir / "interventions.json", json.dumps(scores, indent=2))
    return scores
