"""What a person reads while a run works."""

import logging

import pytest

from causal_ctx import progress


def test_the_first_call_says_nothing_of_the_time_that_is_left(caplog, monkeypatch):
    """A first call of 100 s, which compiles, then calls of 2 s."""
    clock = iter([0.0, 100.0, 102.0, 104.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "causal_ctx"), progress.Progress("step", 40, start=10, seconds_between_lines=0) as shown:
        for _ in range(3):
            shown.advance(10, "fine")
    assert [record.getMessage() for record in caplog.records] == ["step 20/40 fine", "step 30/40, 2 s left fine", "step 40/40, 0 s left fine"]


@pytest.mark.parametrize("seconds, said", [(42.4, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_told_as_a_person_would(seconds, said):
    assert progress.duration(seconds) == said
