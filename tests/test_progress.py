"""What a person reads while a run works."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

from causal_ctx import progress, train


def test_the_first_call_says_nothing_of_the_time_that_is_left_and_of_speed(caplog, monkeypatch):
    """A first call of 100 s, which compiles, then calls of 2 s; a step has 300 images."""
    clock = iter([0.0, 100.0, 102.0, 104.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "causal_ctx"), progress.Progress("step", 40, start=10, seconds_between_lines=0, images=300) as shown:
        for _ in range(3):
            shown.advance(10, "fine")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["step 20/40, fine", "step 30/40, 2 s left, 1,500 images/s, fine", "step 40/40, 0 s left, 1,500 images/s, fine"]


def test_the_bar_on_a_terminal_says_the_same(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    shown = progress.Progress("step", 40, images=300)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown.advance(10), shown.advance(10, "loss 3 nats")
    (task,) = shown._bar.tasks
    with shown._bar.console.capture() as narrow:
        shown._bar.console.print(shown._bar.get_renderable(), width=60)
    (line,) = re.sub(r"\x1b\[[\d;]*m", "", narrow.get()).splitlines()
    assert re.search(r"20/40 \d:\d\d:\d\d 3,000 images/s,.*…", line)
    assert (task.completed, task.total, task.fields["note"]) == (20, 40, "3,000 images/s, loss 3 nats")
    monkeypatch.setattr(progress.Progress, "bars", False)
    assert progress.Progress("step", 40)._bar is None


def test_losses_are_told_in_words():
    """Of runs that train together their mean, over the steps in which a term is any's."""
    two = {"loss_nats": np.array([[1.0, 2.0], [3.0, 4.0]]), "kl_nats": np.full((2, 2), 12.34567), "gradient_norm": np.ones((2, 2))}
    unit = lambda *told: SimpleNamespace(unit=told[0], told=told[1:])
    assert train.losses(two, unit("nats", "loss_nats", "kl_nats", "base/loss")) == "loss 2.5 nats, kl 12.35"
    one = {"loss_squared_error": np.array([[0.5]]), "base/loss": np.array([[0.0, 4.0]]), "weight/base": np.array([[0.0, 0.5]])}
    assert train.losses(one, unit("squared_error", "loss_squared_error", "base/loss")) == "loss 0.5 squared error, base loss 8"


@pytest.mark.parametrize("seconds, said", [(42.4, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_told_as_a_person_would(seconds, said):
    assert progress.duration(seconds) == said
