"""What the program says on stdout, to a person, to no one, or to a program."""

import json
import logging

import pytest

from causal_ctx import output, parallel
from causal_ctx.progress import Progress

LOG = logging.getLogger("causal_ctx")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    level = LOG.level
    monkeypatch.setattr(Progress, "bars", True)
    yield
    LOG.setLevel(level)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", output.KINDS)
def test_each_kind_says_its_own_and_process_0_alone(kind, first, capsys, monkeypatch):
    monkeypatch.setattr(parallel, "is_first_process", lambda: first)
    with output.opened(kind) as tell:
        print("a table")
        tell({"verdict": ["fine"]})
        informed, bars = LOG.isEnabledFor(logging.INFO), Progress.bars
    said = capsys.readouterr().out
    assert (said == "a table\n") == (kind == "text" and first) and (informed, bars) == (kind != "quiet" and first, kind == "text")
    assert json.loads(said) == {"verdict": ["fine"]} if kind == "json" and first else "verdict" not in said


def test_numbers_that_json_does_not_know_are_null():
    assert json.loads(output.text({"a": [float("nan"), 1.5, -float("inf")]}), parse_constant=pytest.fail) == {"a": [None, 1.5, None]}
