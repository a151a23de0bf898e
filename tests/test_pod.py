"""Many processes as one: what they compute, how they find each other, and what the others do when one is lost."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from causal_ctx import parallel, pod
from causal_ctx.config import ConfigError
from tests import pod_worker

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A port that is free, as is the one after it."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            two.bind(("127.0.0.1", pod.beside(port)))
            return port


def environment(port: int, count: int, index: int) -> dict[str, str]:
    own = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index), "PYTHONPATH": str(ROOT)}
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    return {**os.environ, **own, "XLA_FLAGS": flags}


def start(port: int, count: int, index: int, *command: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", *command], env=environment(port, count, index), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def in_a_pod(what: str, folder: Path, alone) -> tuple[list[dict], dict]:
    """(what every process of two found, what `alone` did meanwhile)."""
    port = free_port()
    processes = [start(port, 2, index, "tests.pod_worker", str(folder), what) for index in range(2)]
    ours = alone()
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return [dict(np.load(folder / f"process_{index}.npz", allow_pickle=False)) for index in range(2)], ours


def test_two_processes_compute_what_one_does(tmp_path):
    """The same examples in the same order; parameters, statistics and scores the same in both, and equal to one process' but for the order of sums."""
    (first, second), ours = in_a_pod("descend", tmp_path, pod_worker.descend)
    np.testing.assert_array_equal(first["drawn"], ours["drawn"])
    assert first.keys() == second.keys() == ours.keys()
    for name in ours:
        np.testing.assert_array_equal(first[name], second[name], name)
        np.testing.assert_allclose(first[name], ours[name], rtol=2e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_a_run_each(tmp_path):
    """Every run with its checkpoints; losses after an epoch of Adam, which enlarges rounding, to 2 %."""
    (first, second), ours = in_a_pod("train", tmp_path, lambda: pod_worker.train_and_use(tmp_path / "alone"))
    for name in ours:
        np.testing.assert_array_equal(first[name], second[name], name)
    np.testing.assert_allclose(first["best_losses"], ours["best_losses"], rtol=2e-2)
    np.testing.assert_allclose(first["images"], ours["images"], atol=0.05)
    for seed in range(2):
        assert sorted(path.name for path in (tmp_path / "runs" / str(seed) / "checkpoints").iterdir()) == ["best", "kept", "newest"]


SMALL = ["--config.data.resolution=16", "--config.evaluation.projections=10", "--config.data.held_out_per_context=64"]
QUAD, CODES = ["--config=configs/quad_dependent.py:tiny", *SMALL], ["--config=configs/ct_vae.py:quad,tiny"]


def command(flags: list[str], folder: Path, processes: int = 1) -> None:
    """Runs the program by launch/local_pod.sh, or alone."""
    line = [ROOT / "launch" / "local_pod.sh", str(processes)] if processes > 1 else [sys.executable, "-m", "causal_ctx.main"]
    own = {"PYTHON": sys.executable, "PORT": str(free_port()), "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run([*line, *flags, f"--workdir={folder}"], env={**os.environ, **own}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def scores(folder: Path) -> dict[str, float]:
    """Every number of every results.json below the folder but for costs, by its path."""
    def flat(value, name):
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return {name: value} if not parts else {key: leaf for part, inner in parts for key, leaf in flat(inner, f"{name}/{part}").items()}

    found = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("results.json")}
    costs = {"seconds", "images_per_second", "devices"}
    return {name: value for name, value in flat(found, "").items() if not costs & set(name.split("/")) and not isinstance(value, str)}


def assert_near(ours: dict[str, float], theirs: dict[str, float], relative: float, absolute: float) -> None:
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, number in ours.items():
        assert theirs[name] == (number if number is None else pytest.approx(number, rel=relative, abs=absolute)), name


@pytest.mark.slow
@pytest.mark.parametrize("flags, processes", [(QUAD, 2), (QUAD, 4), ([*QUAD, "--seeds=2"], 2)], ids=["run-2", "run-4", "sweep-2"])
def test_a_pod_on_this_machine_comes_to_the_scores_of_one_process(flags, processes, tmp_path):
    """The same table to 2 %, after Adam has enlarged the rounding of sums in another order."""
    command(flags, tmp_path / "alone")
    command(flags, tmp_path / "pod", processes)
    assert_near(scores(tmp_path / "alone"), scores(tmp_path / "pod"), 2e-2, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [QUAD, CODES], ids=["context", "transition"])
def test_a_pod_scores_weights_as_one_process_does(flags, tmp_path):
    command(flags, tmp_path / "run")
    alone = scores(tmp_path / "run")
    command([*flags, "--mode=evaluate"], tmp_path / "run", 2)
    assert_near(alone, scores(tmp_path / "run"), 1e-4, 1e-6)


@pytest.mark.slow
def test_a_pod_trains_ct_vae_on_the_codes_of_one_process(tmp_path):
    """Losses of both phases to 2 % of one process', as far as codes, which rounding can change, let them."""
    command(CODES, tmp_path / "alone")
    command(CODES, tmp_path / "pod", 2)
    for phase in ("", "mcq_vae"):
        alone, pod_ = ([json.loads(line) for line in (tmp_path / name / phase / "metrics.jsonl").read_text().splitlines()] for name in ("alone", "pod"))
        assert [line["step"] for line in alone] == [line["step"] for line in pod_]
        losses = [name for name in alone[0] if name.startswith("train/") and "loss" in name]
        assert losses and all(pod_[0][name] == pytest.approx(alone[0][name], rel=2e-2) for name in losses)


@contextlib.contextmanager
def rolls(count: int, monkeypatch, silence: float = 30.0, host: str = "127.0.0.1"):
    """RollCalls of `count` processes that are threads of this one, and the sentences with which they would end it."""
    port, ends = free_port(), []
    monkeypatch.setattr(pod, "SILENCE", silence)
    monkeypatch.setattr(pod, "GRACE", 0.0)
    monkeypatch.setattr(pod, "exit_alone", lambda status: ends.append(status))
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(pod.RollCall(pod.Pod(f"{host}:{port}", count, index))) for index in range(count)], ends
    time.sleep(0.1)  # for their threads
    pod._broken.clear()


def until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_the_others_hear_who_is_lost(monkeypatch, capsys):
    with rolls(3, monkeypatch) as (calls, ends):
        for call in calls:
            call.gather(10)
        assert calls[1].hosts == 1
        calls[2]._connection.shutdown(socket.SHUT_RDWR)  # as the system does for a process that is killed
        assert until(lambda: all(call.loss for call in calls[:2]) and len(ends) >= 2) and ends[0] == pod.LOST  # the third ends too, which is lost itself
        assert calls[0].loss.startswith(f"Process 2 of 3 on {socket.gethostname()} was lost") and "from the last checkpoint" in calls[1].loss
    assert "Process 2 of 3" in capsys.readouterr().err


def test_the_others_hear_why_one_ends(monkeypatch):
    with rolls(2, monkeypatch) as (calls, ends):
        for call in calls:
            call.gather(10)
        calls[1].leave(ConfigError("The disk is full."))
        assert until(lambda: ends) and ends == [1] and f"Process 1 of 2 on {socket.gethostname()} ended: The disk is full." in calls[0].loss


def test_an_error_that_follows_from_a_loss_names_the_loss(monkeypatch):
    with rolls(2, monkeypatch) as (calls, _):
        for call in calls:
            call.gather(10)
        calls[1]._connection.shutdown(socket.SHUT_RDWR)
        with pytest.raises(pod.PodError, match="Process 1 of 2 on .* was lost"):
            calls[0].leave(ValueError("Gloo AllReduce failed: connection reset by peer"))


def test_goodbye_is_no_loss(monkeypatch):
    with rolls(2, monkeypatch) as (calls, ends):
        for call in calls:
            call.gather(10)
        calls[1].leave()
        time.sleep(0.3)
        assert not ends and not calls[0].loss


def test_a_process_that_is_silent_is_lost(monkeypatch):
    monkeypatch.setattr(pod, "BEAT", 0.1)
    with rolls(2, monkeypatch, silence=0.8) as (calls, ends):
        for call in calls:
            call.gather(10)
        assert not until(lambda: ends, 1.5)
        calls[1]._leaving.set()  # which ends its signs of life
        assert until(lambda: ends) and "was not heard of for" in calls[0].loss


def test_missing_processes_are_named(monkeypatch, caplog):
    monkeypatch.setattr(pod, "BETWEEN_LINES", 0.4)
    port = free_port()
    with pod.RollCall(pod.Pod(f"127.0.0.1:{port}", 4, 0)) as first, pod.RollCall(pod.Pod(f"127.0.0.1:{port}", 4, 2)), caplog.at_level("INFO", "causal_ctx"):
        with pytest.raises(pod.PodError, match=r"Process 0 of 4 waited 1 s for processes 1, 3; check that the same command runs on every host"):
            first.gather(1.0)
    assert "Process 0 of 4 waits for processes 1, 3" in caplog.text
    with pod.RollCall(pod.Pod(f"127.0.0.1:{free_port()}", 4, 2)) as lonely, pytest.raises(pod.PodError, match=r"waited 1 s for process 0 at 127\.0\.0\.1:\d+"):
        lonely.gather(0.6)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as tried:
        tried.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_hosts_with_ipv6_alone_find_each_other(monkeypatch):
    with rolls(2, monkeypatch, host="[::1]") as (calls, ends):
        for call in calls:
            call.gather(10)
        assert not ends


def test_a_loss_ends_a_process_whose_errors_no_one_reads(monkeypatch):
    with rolls(2, monkeypatch) as (calls, ends):
        for call in calls:
            call.gather(10)

        class Closed:
            def write(self, _):
                raise BrokenPipeError

            flush = write

        monkeypatch.setattr(sys, "stderr", Closed())
        calls[1]._connection.shutdown(socket.SHUT_RDWR)
        assert until(lambda: ends) and ends[0] == pod.LOST


@pytest.mark.parametrize("count, index, sentence", [(2, 1, "a second process 1 came"), (3, 1, "a pod of 3 came")])
def test_a_process_of_another_pod_is_turned_away(monkeypatch, count, index, sentence):
    with rolls(2, monkeypatch) as (calls, ends):
        for call in calls:
            call.gather(10)
        with pod.RollCall(pod.Pod(calls[0].pod.address, count, index)) as stranger, pytest.raises(pod.PodError, match=sentence):
            stranger.gather(5)
        assert not ends


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x80\x04\x95", b"[]\n", b'{"process": true, "of": 2, "host": 3}\n', b"{" * 100_000, b"[" * 4000 + b"\n", b'{"process": -1, "of": 2, "host": "a"}\n'])
def test_what_is_no_process_is_not_let_in(monkeypatch, sent):
    with rolls(2, monkeypatch) as (calls, ends):
        with socket.create_connection(("127.0.0.1", calls[0].port)) as stranger, contextlib.suppress(OSError):
            stranger.sendall(sent)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100) == b""
        for call in calls:
            call.gather(10)
        assert not ends and sorted(calls[0]._roll.members) == [0, 1]


@pytest.mark.parametrize("given, sentence", [
    ({"JAX_NUM_PROCESSES": "2"}, "only JAX_NUM_PROCESSES is set"),
    ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "is no process of a pod"),
    ({"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "is no process of a pod"),
])
def test_an_impossible_environment_is_refused(monkeypatch, given, sentence):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=sentence), pod.joined("auto", 1):
        pass


def test_slurm_is_found_and_nothing_is_found_where_nothing_is(monkeypatch):
    """Also that the function of JAX that is asked is still there."""
    for name in [name for name in os.environ if name.startswith(("JAX_", "SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_"))]:
        monkeypatch.delenv(name)
    assert pod.described() is None
    with pod.joined("auto", 1):
        pass
    with pytest.raises(ConfigError, match="nothing here tells of a pod"), pod.joined("on", 1):
        pass
    for name, value in {"JOB_ID": "7", "STEP_NODELIST": "node[001-002]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0", "STEP_NUM_NODES": "2", "NNODES": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = pod.described()
    assert found.address.startswith("node001:") and (found.count, found.index, found.devices) == (2, 1, None)


def test_the_pods_commands_are_printed():
    done = subprocess.run([ROOT / "launch" / "local_pod.sh", "--dry-run", "2", "--workdir=a b"], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert "JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0" in first and second.endswith("-m causal_ctx.main --distributed=on --workdir=a\\ b &")
    after = subprocess.run([ROOT / "launch" / "local_pod.sh", "2", "--dry-run", "--workdir=a b"], capture_output=True, text=True, check=True)
    assert after.stdout == done.stdout
    refused = subprocess.run([ROOT / "launch" / "local_pod.sh", "--workdir=a"], capture_output=True, text=True)
    assert refused.returncode == 1 and "Give the number of processes first" in refused.stderr


def test_a_pod_on_a_port_in_use_is_refused_before_it_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = os.environ | {"PORT": str(port - 1), "PYTHON": sys.executable}
        refused = subprocess.run([ROOT / "launch" / "local_pod.sh", "2", "--workdir=a"], capture_output=True, text=True, env=environment)
    assert refused.returncode == 1 and f"Port {port} is in use, perhaps by another pod; give another: PORT={port + 99}" in refused.stderr


def test_messages_are_short_lines_of_json():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pod._send(ours, {"a": 1})
        ours.sendall(json.dumps("no object").encode() + b"\n")
        ours.shutdown(socket.SHUT_WR)
        assert list(pod._received(theirs)) == [{"a": 1}]


def test_devices_of_a_process_lie_side_by_side(monkeypatch):
    """In whatever order JAX lists those of a torus: a process' share of an axis is one piece of it."""
    devices = np.array(parallel.jax.devices())
    owners = {device: index for device, index in zip(devices, [0, 1, 0, 1, 1, 0, 1, 0])}

    class Device:
        def __init__(self, device):
            self.device, self.id, self.process_index = device, device.id, owners[device]

    monkeypatch.setattr(parallel.jax, "devices", lambda: [Device(device) for device in devices])
    monkeypatch.setattr(parallel, "Mesh", lambda devices, names, axis_types: devices)
    assert [device.process_index for device in parallel.data_mesh()] == [0, 0, 0, 0, 1, 1, 1, 1]
