"""Writers: the numbers of metrics.jsonl against the same steps, each once. What training gives them is tested in test_train."""

import json
import sys
from types import SimpleNamespace

import pytest

from causal_ctx import parallel, writers
from causal_ctx.progress import MetricsLog


@pytest.fixture(autouse=True)
def unchosen(monkeypatch):
    monkeypatch.setattr(writers, "_chosen", [])


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """A stand-in for the package: its `runs` have what they were made with, {step: numbers} and whether they were finished."""
    class Run:
        url = None

        def __init__(self, **made):
            self.made, self.logged, self.finished = made, [], False
            module.runs.append(self)

        def log(self, numbers, step):
            self.logged.append((step, numbers))

        def finish(self):
            self.finished = True

    module = SimpleNamespace(runs=[], init=Run, Settings=lambda **fields: fields, Error=KeyError)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=name))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return module


def logged(folder, start, *steps):
    """A run in `folder` that goes on from step `start` and logs `steps`."""
    with MetricsLog(folder / "metrics.jsonl") as log:
        log.rewind(start)
        for step in steps:
            log.write({"step": step, "epoch": step / 2, "train/loss_nats": 1.0 * step})
            log.write({"step": step, "epoch": step / 2, "validation/elbo_bpp": 2.0 * step})


def test_wandb_has_every_record_once_under_one_id(wandb, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 3}')
    writers.choose(["wandb"])
    logged(tmp_path, 0, 2, 4, 6)
    logged(tmp_path, 4, 6, 8)
    first, second = wandb.runs
    assert first.logged[:2] == [(2, {"train/loss_nats": 2.0}), (2, {"validation/elbo_bpp": 4.0})]
    assert [step for run in wandb.runs for step, _ in run.logged] == [2, 2, 4, 4, 6, 6, 8, 8] and first.finished and second.finished
    assert first.made["id"] == second.made["id"] == (tmp_path / "wandb.txt").read_text() and first.made["resume"] == "allow"
    assert (first.made["project"], first.made["config"], first.made["mode"]) == ("causal_ctx", {"seed": 3}, "offline")
    logged(tmp_path, 0, 2)  # nothing was saved: another run, of which all is new
    assert wandb.runs[2].made["id"] != first.made["id"] and len(wandb.runs[2].logged) == 2


@pytest.mark.parametrize("known", [{"WANDB_API_KEY": "x"}, {"WANDB_MODE": "online"}, "machine api.wandb.ai login user password x\n"])
def test_wandb_sends_where_the_user_is_known_or_says_so(known, wandb, tmp_path, monkeypatch):
    for name, value in (known if isinstance(known, dict) else {}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text("" if isinstance(known, dict) else known)
    writers.choose(["wandb"])
    logged(tmp_path, 0)
    assert wandb.runs[0].made["mode"] == "online"


def test_wandb_that_refuses_is_one_sentence(wandb, tmp_path, monkeypatch):
    def refusing(**_):
        raise wandb.Error("no network")

    monkeypatch.setattr(wandb, "init", refusing)
    writers.choose(["wandb"])
    with pytest.raises(writers.WriterError, match=r"W&B cannot be had \('no network'\); set WANDB_MODE=offline"):
        logged(tmp_path, 0)


def test_only_the_first_process_writes(wandb, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "is_first_process", lambda: False)
    writers.choose(["wandb"])
    logged(tmp_path, 0, 2)
    assert not wandb.runs and not list(tmp_path.iterdir())


def test_what_cannot_be_had_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(writers.WriterError, match="--writers=tensorbord is unknown; choose some of tensorboard, wandb."):
        writers.choose(["tensorbord"])
    for name, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        with pytest.raises(writers.WriterError, match=rf"--writers={name} needs {package}, which is not installed; install causal_ctx\[{name}\]"):
            writers.choose([name])
    assert writers.opened(None, 0, 0) == []


def scalars(folder):
    """[(step, name, number)] as TensorBoard reads a folder of event files: what a later file was resumed before is dropped."""
    tensorboardX = pytest.importorskip("tensorboardX")
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:  # uint64 length, its checksum, an event, its checksum
            length = int.from_bytes(content[:8], "little")
            event = tensorboardX.proto.event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == event.session_log.START:
                found = [scalar for scalar in found if scalar[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def records(folder):
    """The same of metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], name, pytest.approx(number)) for line in lines for name, number in line.items() if "/" in name]


def test_tensorboard_shows_what_metrics_jsonl_holds(tmp_path):
    pytest.importorskip("tensorboardX")
    writers.choose(["tensorboard"])
    logged(tmp_path, 0, 2, 4, 6)
    logged(tmp_path, 4, 6, 8)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert scalars(tmp_path / "tensorboard") == records(tmp_path) and len(records(tmp_path)) == 8
