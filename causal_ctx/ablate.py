"""The mode `ablate_interventions`: trained runs scored under every subset of interventions and against simulated counterfactuals, as numbers, tables and figures."""

import json
import logging
from pathlib import Path

import ml_collections

from causal_ctx import parallel
from causal_ctx.config import ConfigError
from causal_ctx.evaluation import counterfactuals
from causal_ctx.evaluation.interventions import contexts_to_score, subset_distances
from causal_ctx.evaluation.wasserstein import NonFiniteImagesError
from causal_ctx.files import DamagedError, write_atomically
from causal_ctx.methods import METHODS
from causal_ctx.progress import Progress
from causal_ctx.reports import counterfactuals as counterfactual_reports
from causal_ctx.reports import figures, interventions, reading, system_reports
from causal_ctx.run import Run, load_run, load_runs
from causal_ctx.start import sourced
from causal_ctx.workdir import WorkdirError, prepare, refuse_empty, report, take, write_report

LOG = logging.getLogger(__name__)


def ablate_interventions(config: ml_collections.ConfigDict | None, workdir: Path) -> dict:
    """Writes interventions.json and figures of the trained run in `workdir`, its page anew, and prints the means by number of interventions; returns what interventions.json holds.

    Where the data set knows what an image would have been, counterfactuals and what interventions move are scored too (`evaluation.counterfactuals`). In a
    folder of runs, which takes no config, all with contexts are scored that were not yet, and reported as by `workdir.report`, which is returned; one that
    cannot be scored is left out with a warning. Raises WorkdirError where there is no run, not of this config, or its images are not finite, DamagedError
    where it has no trained weights.
    """
    if not (workdir / "config.json").exists():
        if config is not None:
            raise WorkdirError(f"{workdir} holds no run; train one first with --mode=train, or leave --config out for the runs in folders below it.")
        return _ablate_all(workdir)
    if METHODS[config.method].system != "context":
        raise WorkdirError(f"{workdir} holds a run of {config.method}, which knows actions and no interventions; its retrieval is scored by --mode=evaluate.")
    prepare(sourced(config, workdir), workdir)
    try:
        scores = _score(load_run(workdir))
    except NonFiniteImagesError as error:
        raise WorkdirError(f"{workdir} cannot be scored: {error}") from error
    if (workdir / "results.json").exists():
        write_report(reading.read_folder(workdir), workdir)
    print(*filter(None, (interventions.table(scores), counterfactual_reports.text(scores))), sep="\n\n")
    return scores


def _ablate_all(workdir: Path) -> dict:
    """Every run below `workdir` that knows contexts and has no legible interventions.json; then tables and page of them all."""
    folder = reading.read_folder(workdir)
    refuse_empty(folder, workdir)
    missing = [run for run in load_runs(folder.evaluated) if METHODS[run.config.method].system == "context" and not _scored(run)]
    for number, run in enumerate(missing, start=1):
        LOG.info("Run %d of %d: %s.", number, len(missing), run.workdir)
        if not _free(run.workdir):
            continue
        try:
            if parallel.is_first_process():
                (run.workdir / "interventions.json").unlink(missing_ok=True)
            _score(run)
        except (ConfigError, DamagedError, NonFiniteImagesError, WorkdirError) as error:
            LOG.warning("%s is left out: %s", run.workdir, error)
    return report(None, workdir)


def _free(workdir: Path) -> bool:
    """Takes `workdir`; whether no other program has it, in all processes what process 0 finds, which alone can tell and warns."""
    in_use = False
    try:
        take(workdir)
    except WorkdirError as error:
        in_use = True
        LOG.warning("%s is left out: %s", workdir, error)
    return not parallel.agree(in_use)


def _scored(run: Run) -> bool:
    """Whether there are tables of the run's interventions.json."""
    try:
        return "truth" in system_reports.labelled_results([("", run)])[0]
    except DamagedError:
        return False


def _score(run: Run) -> dict:
    """What interventions.json holds, written with its figures into the folder of `run`."""
    with Progress("interventions", total=len(contexts_to_score(run.data)) + counterfactuals.number_of_steps(run.data)) as progress:
        scores = subset_distances(run.config, run.data, run.predictor, lambda name: progress.advance(1, name))
        scores |= counterfactuals.against_truth(run.data, run.predictor, progress.advance)
    scores |= {"dataset": run.config.data.name, "method": run.config.method, "seed": run.config.seed}
    figures.save([interventions.picture(scores), *counterfactual_reports.pictures(run, scores)], run.workdir / "figures")
    write_atomically(run.workdir / "interventions.json", json.dumps(scores, indent=2))
    parallel.meet("scored")
    return scores
