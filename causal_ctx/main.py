"""Command line: python -m causal_ctx.main --config=configs/quad_dependent.py:cpu --workdir=runs/quad [--mode=MODE] [--config.field=value]."""

import contextlib
import errno
import json
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from causal_ctx import ablate, bench, doctor, export, identifiability, memory, output, pod, programs, reproduce, serve, sweep, writers
from causal_ctx import config as configs
from causal_ctx import workdir as workdirs
from causal_ctx.files import DamagedError
from causal_ctx.run import config_of
from causal_ctx.train import Interrupted, NonFiniteError

MODES = {
    "train": workdirs.train_evaluate_report,
    "evaluate": workdirs.evaluate_and_report,
    "report": workdirs.report,
    "sweep": sweep.run,
    "reproduce": reproduce.run,
    "ablate_interventions": ablate.ablate_interventions,
    "identifiability": identifiability.run,
    "export": export.export,
    "doctor": doctor.run,
    "bench": lambda config, workdir: bench.run(config, workdir, VERSUS.value),
    "serve": lambda config, workdir: serve.run(config, workdir, PORT.value),
}
WITHOUT_CONFIG, WITHOUT_WORKDIR = ("identifiability", "ablate_interventions", "report", "export", "doctor", "serve"), ("doctor",)  # modes that do without
OF_A_RUN = ("train", "evaluate", "ablate_interventions")  # modes that take the config of the run in their workdir where none is given
WITH_JSON = ("train", "evaluate", "report", "sweep", "reproduce", "ablate_interventions", "identifiability", "bench")  # modes that return what --output=json prints
CONFIG = config_flags.DEFINE_config_file("config", None, "File of the run's config, with an optional size after a colon: paper, cpu or tiny, for quad_dependent also fast; a workdir that holds a run knows its own.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: made, resumed, or refused if it holds another config. Of reproduce: runs/TABLE-DATASET-SIZE.")
MODE = flags.DEFINE_enum(
    "mode", "train", list(MODES),
    "train also evaluates and reports, and is a sweep where the flags ask for many runs; report takes one run or a folder of them; export writes its weights as a plain file; serve shows the page of what report takes, with live samples; identifiability simulates concepts of its own and takes no config; doctor needs neither.",
)
SEEDS = flags.DEFINE_integer("seeds", None, "How many seeds, counted from the config's, train together: a run's config becomes a sweep over them.", lower_bound=1)
TABLE = flags.DEFINE_string("table", "main", "Of reproduce: the published table, a file in configs/sweeps/.")
DATASET = flags.DEFINE_string("dataset", "quad_dependent", "Of reproduce: the data set, a file in configs/.")
DATA_PATH = flags.DEFINE_string("data_path", "", "Of reproduce: where the data set's files are, as data.path of a run.")
SIZE = flags.DEFINE_enum("size", "paper", list(configs.SIZES), "Of reproduce: the size of every run.")
COMPILATION_CACHE = flags.DEFINE_bool("compilation_cache", True, "Keep compiled programs in the cache folder, for the next start.")
VERSUS = flags.DEFINE_enum("vs", "", list(bench.VERSUS), "Of bench: a program to compare training with.")
PORT = flags.DEFINE_integer("port", 8321, "Of serve: where it listens on this machine; 0 takes a free port.", lower_bound=0, upper_bound=65535)
DISTRIBUTED = flags.DEFINE_enum("distributed", "auto", list(pod.MODES), "Join the other processes of a pod: where there are some, surely, or never.")
POD_WAIT_S = flags.DEFINE_float("pod_wait_s", 600.0, "Seconds to wait for the other processes.", lower_bound=1.0)
OUTPUT = flags.DEFINE_enum(
    "output", output.KINDS[0], list(output.KINDS),
    "What is said: text for a person, quiet warnings and errors alone, json one document on stdout at the end, with the progress as lines on stderr.",
)
WRITERS = flags.DEFINE_list("writers", [], f"Where the records of training also go: some of {', '.join(writers.TABLE)}, with commas between.")
PRINT_CONFIG = flags.DEFINE_bool("print_config", False, "Print the config and exit.")


def main(argv: list[str]) -> int:
    """Checks, then hands over to the mode. Returns the exit status: 0 done, 1 refused or failed with a sentence, 130 interrupted."""
    if len(argv) > 1:
        return refuse(f"The argument {argv[1]!r} is not a flag; write --name=value.")
    absl_logging.set_verbosity(absl_logging.WARNING)  # of the libraries below; our own lines are wanted
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("causal_ctx").setLevel(logging.WARNING if OUTPUT.value == "quiet" else logging.INFO)
    silence_what_is_said_twice()
    try:
        with pod.joined(DISTRIBUTED.value, POD_WAIT_S.value), output.opened(OUTPUT.value) as tell:
            return perform(tell)
    except Interrupted as stop:
        refuse(str(stop))
        return 130
    except (configs.ConfigError, workdirs.WorkdirError, writers.WriterError, DamagedError, NonFiniteError, pod.PodError, OSError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        refuse(f"The disk is full ({error.filename}); make room, and the same command goes on from the last checkpoint." if full else str(error))
        return pod.LOST if isinstance(error, pod.PodError) else 1


def silence_what_is_said_twice() -> None:
    """Where Orbax cannot write, its threads print and log the errors that it raises, too, and TensorStore those of calls that come back to it too late."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    absl_logging.get_absl_handler().addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    of_threads, of_callbacks = threading.excepthook, sys.excepthook
    threading.excepthook = lambda args: None if type(args.thread).__module__.startswith("orbax") else of_threads(args)
    sys.excepthook = lambda kind, error, trace: None if str(error) == "Event loop is closed" else of_callbacks(kind, error, trace)


def perform(tell: Callable[[dict], None]) -> int:
    """Does what the flags ask for, and has `tell` know what came out; the exit status, 1 after a sentence."""
    writers.choose(WRITERS.value)
    mode, config = asked_for()
    if PRINT_CONFIG.value:
        with a_reader_who_may_leave():
            print(configs.to_json(config) if config is not None else "Give --config to print one.")
        tell(json.loads(configs.to_json(config)) if config is not None else {})
        return 0
    if OUTPUT.value == "json" and mode not in WITH_JSON:
        return refuse(f"--mode={mode} has nothing to say in JSON; leave --output=json out.")
    workdir = WORKDIR.value or (f"runs/{TABLE.value}-{DATASET.value}-{SIZE.value}" if mode == "reproduce" else None)
    if workdir is None and mode not in WITHOUT_WORKDIR:
        return refuse("No --workdir was given; name the folder of the run.")
    if "://" in (workdir or ""):
        return refuse(f"--workdir={workdir} is an address, and runs need a folder, where files are renamed and locked; mount it on every host and name where.")
    if config is None and mode not in WITHOUT_CONFIG:
        there = f", and {workdir} holds no run to take it from" if mode in OF_A_RUN else ""
        return refuse(f"No --config was given{there}; try --config=configs/quad_dependent.py:cpu.")
    if COMPILATION_CACHE.value:
        programs.keep()
    tell(MODES[mode](config, Path(workdir or ".")))
    return 0


def asked_for() -> tuple[str, ml_collections.ConfigDict | None]:
    """(the mode, the valid config of the run or sweep) that the flags describe; ConfigError if they describe none."""
    mode, config = MODE.value, CONFIG.value
    if mode == "reproduce":
        if config is not None:
            raise configs.ConfigError("--mode=reproduce makes its own config from --table, --dataset and --size; leave --config out, or use --mode=sweep.")
        config = reproduce.sweep_of(TABLE.value, DATASET.value, SIZE.value, DATA_PATH.value)
    elif DATA_PATH.value:
        raise configs.ConfigError(f"--data_path={DATA_PATH.value} is of --mode=reproduce alone; give --config.data.path, or --config.run.data.path of a sweep.")
    if config is None and mode in OF_A_RUN and WORKDIR.value and (Path(WORKDIR.value) / "config.json").is_file():
        config = config_of(Path(WORKDIR.value))
    if config is None:
        if SEEDS.value is not None and mode in WITHOUT_CONFIG:
            raise configs.ConfigError(f"--seeds={SEEDS.value} is of no use to --mode={mode}, which trains no run of a config; leave it out.")
        return mode, None
    many = "axes" in config or SEEDS.value is not None
    mode = "sweep" if many and mode == "train" else mode
    if many and mode not in ("sweep", "reproduce"):
        raise configs.ConfigError(f"The flags describe a sweep, which --mode={mode} cannot do; use --mode=sweep, and --mode=report for its page.")
    if many or mode == "sweep":
        config = sweep.over_seeds(config, SEEDS.value)
        sweep.validate(config, jax.device_count())
    else:
        configs.validate(config, jax.device_count())
    return mode, config


def refuse(sentence: str) -> int:
    """Says the one sentence and returns exit status 1."""
    with contextlib.suppress(OSError):  # where no one reads the errors, the status still tells
        print("causal_ctx:", " ".join(sentence.split()), file=sys.stderr)
    return 1


@contextlib.contextmanager
def a_reader_who_may_leave() -> Iterator[None]:
    """What is printed within it ends the program quietly where the reader of its output has seen enough and closed it."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def parse(argv: list[str]) -> list[str]:
    """Flags from argv; exits with one sentence on a flag, config file or config field that is wrong."""
    for argument in argv[1:]:
        name, _, value = argument.partition("=")
        if name == "--config" and value and not Path(value.split(":")[0]).is_file():
            sys.exit(refuse(f"The config file {value.split(':')[0]} does not exist; the supplied ones are in configs/."))
    try:
        with a_reader_who_may_leave():
            return flags.FLAGS(argv)
    except Exception as error:  # a config file is code: whatever it raises is the user's to read, in one sentence
        text = str(error.args[0] if error.args else error).replace("\\n", " ")
        if "Traceback" in text:
            text = text[text.rindex("Error: ") + len("Error: ") :]
        if isinstance(error, (KeyError, AttributeError)):
            unknown = re.findall(r"\w+", text)[0]
            field = next((a.partition("=")[0].removeprefix("--config.") for a in argv if unknown in a), unknown)
            hint = re.search(r"did you mean.*?\?", text, re.IGNORECASE | re.DOTALL)
            text = f"The config has no field {field}; {hint[0].lower() if hint else 'see --print_config for those it has.'}"
        sys.exit(refuse(text))


def run() -> None:
    """The program: flags parsed, then `main`; Ctrl-C or SIGTERM outside of training ends it with a line."""
    memory.share_one_arena()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app.run(main, flags_parser=parse)
    except KeyboardInterrupt:
        refuse("Stopped; what was finished is kept, and the same command goes on.")
        pod.exit_alone(130)
        sys.exit(130)
    except SystemExit as ended:
        pod.exit_alone(ended.code if isinstance(ended.code, int) else 1)
        raise
    except Exception:
        sys.excepthook(*sys.exc_info())
        pod.exit_alone(1)
        sys.exit(1)


if __name__ == "__main__":
    run()
