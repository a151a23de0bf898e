"""A run's folder and the stages that fill it: train, evaluate, report. Each stage reads only what the ones before it wrote."""

import json
import logging
import os
import socket
import time
from pathlib import Path

import filelock
import jax
import ml_collections

from causal_ctx import config as configs
from causal_ctx import parallel, systems
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.evaluation.wasserstein import NonFiniteImagesError
from causal_ctx.files import write_atomically
from causal_ctx.methods import METHODS, chosen, settled
from causal_ctx.progress import duration
from causal_ctx.reports import formats, labels, page, reading, system_reports
from causal_ctx.run import load_data, load_run, load_runs
from causal_ctx.plan import plan_of
from causal_ctx.start import initial_state, restore, source_config, source_of, sourced
from causal_ctx.train import train

LOG = logging.getLogger(__name__)


class WorkdirError(RuntimeError):
    """A folder that cannot take the run or does not hold it; the message is one sentence for the user."""


def train_evaluate_report(config: ml_collections.ConfigDict, workdir: Path) -> dict:
    """The default mode: whatever of training, evaluation and report `workdir` still lacks, and the run that it starts from, where none is given.

    Prints the tables of the run, and returns them as `told`.
    """
    fill(config, workdir)
    return told(reading.read_folder(workdir), workdir)


def fill(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """As `train_evaluate_report`, without a word on what came out."""
    given, source = config.init_from, METHODS[config.method].starts_from
    config = sourced(config, workdir)
    if source and (Path(config.init_from).absolute() != (workdir / source).absolute() or (given and complete(Path(config.init_from)))):
        source = ""  # another run than that of the first phase, or one that is ready
    refuse_other(config, workdir)
    if source:
        prepare(config, workdir)
        _fill_first_phase(config)
    if METHODS[config.method].starts_from and not started(workdir):
        source_config(config)  # refuses before anything is written
    prepare(config, workdir)
    if (workdir / "results.json").exists() and reading.read_results(workdir)["train"].get("finished"):
        if (workdir / "report.html").exists():
            return LOG.info("The run in %s is complete; its report is %s.", workdir, workdir / "report.html")
        return write_report(reading.read_folder(workdir), workdir)
    if source:
        LOG.info("Phase 2 of 2: %s, from the %s in %s.", config.method, source, config.init_from)
    dataset = checked_data(config, workdir)
    train(config, dataset, workdir)
    score(config, dataset, workdir)
    write_report(reading.read_folder(workdir), workdir)


def _fill_first_phase(config: ml_collections.ConfigDict) -> None:
    """The run that the run of `config` starts from, complete in the folder `config.init_from`."""
    folder = Path(config.init_from)
    refuse_other(source_of(config), folder)
    if not complete(folder):
        LOG.info("Phase 1 of 2: %s starts from %s, which is trained first.", config.method, METHODS[config.method].starts_from)
        fill(source_of(config), folder)
        LOG.info("Phase 1 of 2 is done; its tables and pictures are in %s.", folder / "report.html")


def complete(folder: Path) -> bool:
    """Whether the run in `folder` was trained to its end and scored, or diverged."""
    return (folder / "failure.json").exists() or ((folder / "results.json").exists() and reading.read_results(folder)["train"].get("finished"))


def evaluate_and_report(config: ml_collections.ConfigDict, workdir: Path) -> dict:
    """Scores the best weights in `workdir`, then as `report`."""
    if not (workdir / "config.json").exists():
        raise WorkdirError(f"{workdir} holds no run; train one first with --mode=train.")
    config = sourced(config, workdir)
    prepare(config, workdir)
    score(config, checked_data(config, workdir), workdir)
    return report(config, workdir)


def score(config: ml_collections.ConfigDict, dataset: systems.Data, workdir: Path) -> None:
    """Writes results.json of the trained run in `workdir`. Raises WorkdirError where its images are not finite."""
    began = time.monotonic()
    try:
        results = evaluate(config, dataset, workdir)
    except NonFiniteImagesError as error:
        raise WorkdirError(f"{workdir} cannot be scored: {error}") from error
    if parallel.is_first_process():
        (workdir / "interventions.json").unlink(missing_ok=True)  # of weights that may have been others
    write_atomically(workdir / "results.json", json.dumps(results, indent=2))
    parallel.meet("scored")
    LOG.info("Scored %s in %s.", workdir, duration(time.monotonic() - began))


def report(config: ml_collections.ConfigDict | None, workdir: Path) -> dict:
    """Writes tables, figures and page of the run in `workdir`, or of all runs in folders directly below it, and prints the tables; returns them as `told`."""
    del config  # every run carries its own
    folder = reading.read_folder(workdir)
    write_report(folder, workdir)
    return told(folder, workdir)


def write_report(folder: reading.Folder, workdir: Path) -> None:
    """Writes tables, figures and page of the runs in `folder` into `workdir`. Raises WorkdirError where there are none."""
    began = time.monotonic()
    refuse_empty(folder, workdir)
    LOG.info("Drawing the report of %s.", workdir)
    page.write_report(load_runs(folder.evaluated), workdir / "report.html", workdir / "figures", folder)
    LOG.info("Reported %s in %s.", workdir, duration(time.monotonic() - began))


def refuse_empty(folder: reading.Folder, workdir: Path) -> None:
    """Raises WorkdirError where no run in `folder` has results."""
    if not folder.evaluated and folder.diverged:
        raise WorkdirError(f"{workdir} holds nothing to report: {' '.join(_diverged(folder))}")
    if not folder.evaluated:
        raise WorkdirError(f"{workdir} holds no evaluated run, nor do the folders directly below it; train one first, or score it with --mode=evaluate.")


def told(folder: reading.Folder, workdir: Path) -> dict:
    """Prints the tables of the runs in `folder`, their cost, what they say and where the report in `workdir` is.

    Returns the same for programs: {"workdir", "report", "results": [results.json of every run, with its "label" and "workdir" and, where it was scored so,
    interventions.json as "truth"], "verdict": [sentences]}.
    """
    results, verdict = system_reports.labelled_results(labels.labelled([load_run(path) for path in folder.evaluated])), []
    for key, places in system_reports.by_system(results).items():
        system, own = system_reports.REPORTS[key], [results[place] for place in places]
        for table in system.summary_tables(own):
            print(f"\n{formats.text(table, elsewhere=system.note)}")
        print("\n".join(formats.paragraph(system.note)))
        verdict += system.verdict(own)
    print("", *(f"{path.name}: {_cost(result['train'])}" for path, result in zip(folder.evaluated, results)), sep="\n")
    for sentence in [*verdict, *_diverged(folder), *([f"{folder.unfinished} run(s) are not finished."] if folder.unfinished else [])]:
        print("\n" + "\n".join(formats.paragraph(sentence)))
    print(f"\nReport: {workdir / 'report.html'}")
    runs = [{name: value for name, value in result.items() if name != "config"} | {"workdir": str(path)} for path, result in zip(folder.evaluated, results)]
    return {"workdir": str(workdir), "report": str(workdir / "report.html"), "results": runs, "verdict": verdict}


def _diverged(folder: reading.Folder) -> list[str]:
    return [f"{name} diverged: {sentence}" for name, sentence in folder.diverged.items()]


def _cost(cost: dict) -> str:
    return f"{cost['images']:,} images in {duration(cost['seconds'])}, {cost['images_per_second']:.0f} images/s on {cost['devices']} device(s)"


def checked_data(config: ml_collections.ConfigDict, *folders: Path) -> systems.Data:
    """The data set of the runs in `folders`, validated; what is found stays there, for later starts.

    ConfigError for fields that it cannot be made from, and for data that no run makes sense with; what is only odd is logged.
    """
    dataset = load_data(config)
    described = systems.of(config).describe(config, dataset, *folders)
    for problem in described["problems"]:
        if problem["level"] == "warning":
            LOG.warning("Data: %s", problem["sentence"])
    refuse_errors(described)
    return dataset


def refuse_errors(described: dict) -> None:
    """Raises ConfigError with every error of what a system says of its data in its message."""
    if errors := [problem["sentence"] for problem in described.get("problems", ()) if problem["level"] == "error"]:
        raise configs.ConfigError(" ".join(errors))


def prepare(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Makes `workdir` and its config.json. Raises WorkdirError if it cannot be written, or holds a run of another config of which anything is there."""
    refuse_other(config, workdir)
    parallel.meet("looked at what is there")
    make(workdir, {"config.json": configs.to_json(settled(config))})


def started(workdir: Path) -> bool:
    """Whether anything was trained in `workdir`."""
    return (workdir / "results.json").exists() or any((workdir / "checkpoints").glob("*/*"))


def refuse_other(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Raises WorkdirError if `workdir` holds a run of another config of which anything is there; writes nothing."""
    if not started(workdir):
        return
    reading.read_config(workdir)
    asked, there = (json.loads(configs.to_json(run)) for run in (config, configs.from_json((workdir / "config.json").read_text())))
    for field in ("placement", "cache_dir"):  # where images lie changes no run
        there.setdefault("data", {})[field] = config.data[field]
    there["checkpoint"] = asked["checkpoint"]  # nor does what is kept of it
    if same_source(Path(there.get("init_from", "")), Path(config.init_from), workdir):
        there["init_from"] = asked["init_from"]
    differing = configs.differences(*(chosen(configs.flat(fields)) for fields in (asked, there)))
    if differing:
        raise WorkdirError(f"{workdir} holds a run of another config, differing in {', '.join(differing)}; choose another --workdir.")


def same_source(there: Path, asked: Path, workdir: Path) -> bool:
    """Whether two spellings of init_from mean one run: equal as absolute paths, or both a folder in `workdir` or beside it that was moved or copied with it."""
    there, asked, workdir = there.absolute(), asked.absolute(), workdir.absolute()
    went_along = there.name == asked.name and asked.parent in (workdir, workdir.parent)
    kept = [(folder / "config.json").read_text() for folder in (there, asked) if (folder / "config.json").exists()]
    return there == asked or (went_along and (not there.exists() or (len(kept) == 2 and kept[0] == kept[1])))


def make(workdir: Path, files: dict[str, str]) -> None:
    """Makes the folder and writes `files` {name: text} into it. Raises WorkdirError where that cannot be done."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        take(workdir)
        for name, text in files.items():
            write_atomically(workdir / name, text)
        parallel.meet("made")
    except OSError as error:
        raise WorkdirError(f"--workdir={workdir} cannot be written ({error.strerror}); choose a folder of yours.") from error


def take(workdir: Path) -> None:
    """Keeps other programs out of `workdir` until this one ends, however it ends. Raises WorkdirError where one that lives has taken it."""
    if workdir.resolve() in _taken or not parallel.is_first_process():
        return
    lock, owner = filelock.FileLock(workdir / ".lock", timeout=0), workdir / ".owner"
    try:
        lock.acquire()
    except filelock.Timeout:
        by = owner.read_text() if owner.exists() else "another program"
        raise WorkdirError(f"{workdir} is in use by {by}; wait for it, or choose another --workdir.") from None
    except NotImplementedError:
        LOG.warning("The file system of %s knows no locks; see to it that one program alone works there.", workdir)
    _taken[workdir.resolve()] = lock
    write_atomically(owner, f"process {os.getpid()} on {socket.gethostname()}")


_taken: dict[Path, filelock.FileLock] = {}  # by this program


def evaluate(config: ml_collections.ConfigDict, dataset: systems.Data, workdir: Path) -> dict:
    """The contents of results.json for the trained run in `workdir`. Raises WorkdirError where nothing was trained."""
    initial = initial_state(config, dataset, parallel.data_mesh())
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.step("best") is None:
            raise WorkdirError(f"{workdir} holds no trained weights yet; run it with --mode=train.")
        best, _ = restore(checkpoints, "best", initial)
        last, record = restore(checkpoints, "newest", initial)
    steps = int(last.step)
    images = steps * configs.phase(config).batch_size
    LOG.info("Scoring %s.", workdir)
    return {
        "dataset": config.data.name,
        "method": config.method,
        "backbone": config.model.backbone,
        "seed": config.seed,
        "train": {
            "images": images,
            "steps": steps,
            "seconds": record.seconds,
            "images_per_second": images / max(record.seconds, 1e-9),
            "devices": jax.device_count(),
            "best_epoch": record.best_epoch,
            "finished": plan_of(config, dataset).finished(steps, record),
        },
    } | systems.of(config).evaluate(config, dataset, best, initial, record)
