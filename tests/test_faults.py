"""Some faults of the campaign in `tests.faults`."""

import pytest

from tests import faults


@pytest.mark.slow
def test_runs_that_something_happens_to_end_as_those_that_nothing_happens_to(tmp_path):
    assert faults.campaign(tmp_path, number=6) == 0
