"""The command line as a user meets it: every refusal is one sentence without a stack trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import content

ROOT = Path(__file__).parent.parent
CONFIG, CODES = "--config=configs/quad_dependent.py:tiny", "--config=configs/ct_vae.py"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder of the test's own in which the supplied configs are."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def call(*arguments, timeout=300):
    """(exit status, output, errors) of python -m causal_ctx.main."""
    done = subprocess.run([sys.executable, "-m", "causal_ctx.main", *arguments], capture_output=True, text=True, timeout=timeout)
    return done.returncode, done.stdout, done.stderr


FORKED = """
import json, os, sys
from causal_ctx import main
for line in sys.stdin:
    folder, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["main.py", *arguments]
        main.run()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def program():
    """A program that has read its imports once, and for every list of arguments goes on in a child of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", FORKED], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server
        server.stdin.close()


@pytest.fixture
def called(program, tmp_path):
    """As `call`, where the imports are not what is tested."""
    def in_a_child(*arguments):
        program.stdin.write(json.dumps([str(tmp_path), arguments]) + "\n")
        program.stdin.flush()
        return int(program.stdout.readline()), (tmp_path / "out").read_text(), (tmp_path / "err").read_text()

    return in_a_child


@pytest.mark.parametrize("arguments, sentence", [
    ([CONFIG, "--config.train.epochz=3"], 'The config has no field train.epochz; did you mean "epochs"'),
    ([CONFIG, "--config.train.epochs=many"], "could not convert string to float: 'many'"),
    ([CONFIG, "--config.train.epochs=-2"], "train.epochs is -2.0; it must be positive and finite."),
    (["--config=configs/quad_dependent.py:huge"], "Size 'huge' is unknown; choose one of paper, cpu, tiny, fast after the colon."),
    (["--config=configs/nowhere.py"], "The config file configs/nowhere.py does not exist"),
    ([CONFIG, "train"], "The argument 'train' is not a flag; write --name=value."),
    ([CONFIG], "No --workdir was given"),
    (["--workdir=w"], "No --config was given, and w holds no run to take it from; try --config="),
    ([CONFIG, "--workdir=gs://bucket/w"], "--workdir=gs://bucket/w is an address, and runs need a folder"),
    ([CONFIG, "--workdir=/proc/w"], "--workdir=/proc/w cannot be written"),
    (["--mode=doctor", "--output=json"], "--mode=doctor has nothing to say in JSON; leave --output=json out"),
    ([CONFIG, "--workdir=w", "--writers=tensorboard,files"], "--writers=files is unknown; choose some of tensorboard, wandb"),
    ([CONFIG, "--mode=dance", "--workdir=w"], "dance"),
    ([CONFIG, "--mode=reproduce"], "--mode=reproduce makes its own config from --table, --dataset and --size; leave --config out"),
    ([CONFIG, "--data_path=/digits", "--workdir=w"], "--data_path=/digits is of --mode=reproduce alone; give --config.data.path"),
    (["--mode=report", "--seeds=2", "--workdir=w"], "--seeds=2 is of no use to --mode=report, which trains no run of a config; leave it out."),
    ([CONFIG, "--mode=evaluate", "--seeds=2", "--workdir=w"], "The flags describe a sweep, which --mode=evaluate cannot do"),
    ([CODES + ":sprites,tiny", "--workdir=w"], "data.path"),
    ([CODES + ":sprites,tiny", "--workdir=w", "--config.data.path=/nowhere"], "/nowhere"),
    ([CODES + ":quad,tiny", "--workdir=w", "--config.data.resolution=18"], "Images of 18x18 pixels cannot be halved 2 times; give multiples of 4"),
    ([CODES + ":quad,tiny", "--workdir=w", "--config.model.num_codebooks=3"], "Latents 16 wide cannot be split evenly among 3 codebooks"),
    ([CODES + ":quad,tiny", "--workdir=w", "--config.data.keep=shape=often"], "data.keep is 'shape=often'"),
    ([CODES + ":quad,huge"], "'huge' is no data set and no size"),
    ([CONFIG, "--workdir=w", "--config.method=ct_vae"], "method is ct_vae, which is none of this config's system"),
    ([CONFIG, "--workdir=w", "--config.method=cm_frozen", "--config.init_from=nowhere"], "nowhere holds no run to start from"),
])
def test_refusals_are_one_sentence(arguments, sentence, called):
    status, out, errors = called(*arguments)
    assert status == 1 and sentence in errors and "Traceback" not in errors
    *told, refusal = errors.strip().splitlines()
    assert refusal.startswith("causal_ctx: ") and all("is trained first" in line for line in told)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_every_config_is_valid_and_printed(path, called):
    status, out, _ = called(f"--config={path}:tiny", "--config.seed=7", "--print_config")
    size, name = ('"train_images": 256', "shapes3d") if path.stem in ("mcq_vae", "ct_vae") else ('"train_per_context": 200', path.stem)
    assert status == 0 and '"seed": 7' in out and size in out and f'"name": "{name}' in out


@pytest.mark.parametrize("mode", ["train", "evaluate", "ablate_interventions"])
def test_a_workdir_that_holds_a_run_knows_its_config(mode, called, tmp_path):
    _, printed, _ = called(CONFIG, "--config.seed=7", "--print_config")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text(printed)
    assert called(f"--mode={mode}", "--workdir=w", "--print_config") == (0, printed, "")
    (tmp_path / "w" / "config.json").write_text("{")
    status, _, errors = called(f"--mode={mode}", "--workdir=w")
    assert status == 1 and errors.startswith("causal_ctx: w/config.json is not valid JSON") and "Traceback" not in errors


@pytest.mark.parametrize("flag", ["--help", "--print_config"])
def test_a_reader_who_has_seen_enough_is_no_error(flag):
    command = [sys.executable, "-m", "causal_ctx.main", "--config=configs/quad_dependent.py", flag]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=buffered)
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait(60) == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB, and a function that gives it room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("disks can be mounted here by root alone, or not at all")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_a_sentence_and_with_room_it_is_the_whole_one(small_disk, tmp_path):
    disk, make_room = small_disk
    flags = [CONFIG, "--config.data.resolution=16", "--config.evaluation.projections=10", "--config.data.held_out_per_context=64"]
    status, _, err = call(*flags, f"--workdir={disk / 'run'}")
    assert status == 1 and "Traceback" not in err and "raised an exception" not in err
    assert err.splitlines()[-1].startswith("causal_ctx: A checkpoint cannot be written") and "make room" in err.splitlines()[-1]
    make_room()
    assert call(*flags, f"--workdir={disk / 'run'}")[0] == 0 == call(*flags, f"--workdir={tmp_path / 'whole'}")[0]
    assert content(disk / "run") == content(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_from_the_command_line_is_complete_then_refuses_another_config(tmp_path):
    flags = [CONFIG, f"--workdir={tmp_path / 'w'}"]
    status, out, errors = call(*flags)
    assert status == 0 and "Composition" in out and "Report:" in out
    status, out, errors = call(*flags)
    assert status == 0 and "is complete" in errors
    status, out, errors = call(*flags, "--output=json")
    assert status == 0 and json.loads(out)["results"][0]["method"] == "cm_end_to_end" and "is complete" in errors
    assert call(*flags, "--output=quiet") == (0, "", "")
    status, out, errors = call(*flags, "--config.seed=3")
    assert status == 1 and "differing in seed (0 there, 3 here)" in errors
