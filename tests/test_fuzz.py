"""Thousands of broken configs and files: each is read or refused with a sentence, none ends in another error."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from causal_ctx import config as configs
from causal_ctx.config import ConfigError
from causal_ctx.files import DamagedError
from causal_ctx.reports import formats, reading, system_reports
from tests.test_graph_tables import scored as graph_results
from tests.test_reports_transitions import results as transition_results

MANY = settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {system: sorted(configs.flat(configs.default(system).to_dict())) for system in ("context", "transition")}
RESULTS = {"context": graph_results(), "transition": transition_results()}


@pytest.mark.parametrize("system", FIELDS)
@MANY
@given(st.data())
def test_any_value_of_any_field_is_valid_or_refused(system, data):
    """Refused by the type of the field, as a flag is, or by `validate`; what is valid is read back from its own text."""
    config = configs.default(system)
    for field in data.draw(st.lists(st.sampled_from(FIELDS[system]), min_size=1, max_size=3)):
        try:
            config.update_from_flattened_dict({field: data.draw(JSON | st.tuples(st.integers(-2, 9), st.integers(-2, 9)))})
        except (TypeError, ValueError, KeyError, OverflowError):
            return
    try:
        configs.validate(config, data.draw(st.integers(1, 9)))
    except ConfigError as refused:
        assert str(refused).endswith(".") and "\n" not in str(refused).strip()
        return
    assert configs.from_json(configs.to_json(config)).to_dict() == config.to_dict()


@MANY
@given(JSON, st.data())
def test_any_text_in_place_of_a_config_is_read_or_refused(broken, data):
    fields = configs.default().to_dict()
    place = data.draw(st.sampled_from(sorted(fields)))
    fields[place] = broken
    for text in (json.dumps(fields), json.dumps(fields)[: data.draw(st.integers(0, 200))], json.dumps(broken)):
        try:
            configs.from_json(text)
        except ConfigError:
            pass


def places(tree, path=()):
    """All paths within nested dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("system", RESULTS)
@MANY
@given(st.data(), JSON, st.booleans())
def test_any_damage_to_results_is_read_or_refused(system, tmp_path_factory, data, value, removed):
    """Results with a field of another kind, or without one, as tables or as one sentence."""
    found = copy.deepcopy(RESULTS[system])
    *parents, last = data.draw(st.sampled_from(PLACES[system]))
    inner = found
    for key in parents:
        inner = inner[key]
    if removed:
        del inner[last]
    else:
        inner[last] = value
    folder = FOLDERS.setdefault(system, tmp_path_factory.mktemp(system))
    (folder / "results.json").write_text(json.dumps(found))
    try:
        read = [system_reports.legible(reading.read_results(folder) | {"label": "run", "config": {}}, folder)]
        assert all(map(formats.text, system_reports.summary_tables(read)))
    except DamagedError as refused:
        assert "is not as a run writes it" in str(refused)


PLACES = {system: list(places(found)) for system, found in RESULTS.items()}
FOLDERS: dict = {}
