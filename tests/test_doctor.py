"""The doctor says what is there, what is wrong and what to do, and changes nothing."""

import os
import types
from importlib import metadata

import jax
import numpy as np
import pytest

from causal_ctx import config as configs
from causal_ctx import data, doctor, parallel
from tests import tiny
from tests.test_data_validation import noisy, sound
from tests.test_main import CONFIG, call


def lines(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_without_a_config_it_tells_of_the_machine_alone(capsys, tmp_path):
    doctor.run(None, tmp_path)
    told = dict(line.split(maxsplit=1) for line in lines(capsys) if not line.startswith(("data", "compiled", "device")))
    assert told["jax"] == jax.__version__ and told["numpy"] == np.__version__ and set(doctor.PACKAGES) <= set(told)
    assert told["tensorflow"].endswith("not needed") and told["processes"].startswith("1, of which 1 answered; 8 devices, 8 of them here")
    assert "GiB" in told["memory"] and "usable of" in told["cores"]
    assert not list(tmp_path.iterdir())


def test_every_device_and_cache_is_listed(monkeypatch, tmp_path):
    monkeypatch.setattr(parallel, "device_memory", lambda device: parallel.Memory(2**31, 2**30) if device.id == 3 else None)
    told = dict(doctor.machine(str(tmp_path)))
    assert told["device 3"] == "cpu, cpu, 1.0 GiB free of 2.0 GiB" and told["device 4"] == "cpu, cpu, in the machine's memory"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images.npy").write_bytes(bytes(3 << 20))
    assert dict(doctor.machine(str(tmp_path)))["data cache"].startswith(f"{tmp_path}: 3 MiB, ")
    assert dict(doctor.machine(str(tmp_path / "not" / "made")))["data cache"].startswith(f"{tmp_path}/not/made: 0 MiB, ")
    assert not (tmp_path / "not").exists()


def test_a_file_that_goes_while_sizes_are_added_up_counts_nothing(monkeypatch, tmp_path):
    for name in ("stays", "goes"):
        (tmp_path / name).write_bytes(bytes(1000))
    (tmp_path / "link").symlink_to(tmp_path / "stays")
    assert doctor.size(tmp_path) == 2000
    walk = os.walk

    def meanwhile(folder):
        for found in walk(folder):
            (tmp_path / "goes").unlink()
            yield found

    monkeypatch.setattr(os, "walk", meanwhile)
    assert doctor.size(tmp_path) == 1000


def test_memory_of_a_device_that_tells_it():
    device = lambda stats: types.SimpleNamespace(memory_stats=lambda: stats)
    assert parallel.device_memory(device({"bytes_limit": 10, "bytes_in_use": 4})) == parallel.Memory(10, 6)
    assert parallel.device_memory(device(None)) is None


def test_a_missing_package_is_said(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert "MISSING" in doctor.version("jax")


def test_processes_that_were_announced_but_do_not_take_part_are_a_warning():
    told = lambda environment: [value for name, value in doctor.processes(environment) if name == "WARNING"]
    assert told({}) == told({"SLURM_NTASKS": "1", "TPU_WORKER_HOSTNAMES": "localhost"}) == told({"SLURM_NTASKS": "many"}) == []
    assert told({"SLURM_NTASKS": "4"}) == ["SLURM_NTASKS announces 4 processes, but 1 take part; start every one with the same command."]
    assert told({"TPU_WORKER_HOSTNAMES": "a,b"})[0].startswith("TPU_WORKER_HOSTNAMES announces 2")


def test_all_processes_are_asked(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(doctor.multihost_utils, "process_allgather", lambda own: np.array([0, 1, 3, 3]))
    assert next(doctor.processes({}))[1].startswith("4, of which 3 answered")


@pytest.mark.parametrize("fault", [{}, {"train__a": noisy() // 148}])
def test_with_a_config_it_prints_the_card_and_refuses_errors(fault, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(data, "load", lambda _: sound(**fault))
    if fault:
        with pytest.raises(configs.ConfigError, match="multiply them by 255"):
            doctor.run(tiny.config(), tmp_path)
    else:
        doctor.run(tiny.config(), tmp_path)
    out = "\n".join(lines(capsys))
    assert "2 concepts (a, b)" in out and "a+b" in out and ("multiply them by 255" in out) == bool(fault) != ("found nothing wrong" in out)
    assert not list(tmp_path.iterdir())


def test_the_command_line_needs_neither_workdir_nor_config():
    status, out, errors = call("--mode=doctor", CONFIG)
    assert status == 0 and "orientation" in out and "tensorflow" in out and "Traceback" not in errors
    status, out, errors = call("--mode=doctor", CONFIG, "--config.data.path=/nowhere")
    assert status == 1 and len(errors.strip().splitlines()) == 1 and "The archive lacks" in errors
