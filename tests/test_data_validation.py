"""Every fault of a data set has its sentence before anything is trained; sound data have none; the card says what is there."""

import json
import re

import numpy as np
import pytest

from causal_ctx import config as configs
from causal_ctx import data, workdir
from causal_ctx.data import card, separation, validation
from causal_ctx.evaluation.wasserstein import sliced_wasserstein
from causal_ctx.reports import data_card
from causal_ctx.reports.page import write_report
from tests import tiny
from tests.test_reports import FakeRun


def noisy(n: int = 100, shift: int = 0, seed: int = 0, shape=(8, 8, 3)) -> np.ndarray:
    """Random images, brighter by `shift`."""
    rng = np.random.default_rng(seed)
    return (shift + rng.integers(0, 100, (n, 1, 1, shape[2])) + rng.integers(0, 50, (n, *shape))).astype(np.uint8)


def sound(**changes) -> data.ContextData:
    """Two concepts and their composition; `changes` replace fields, or with "__" one context of a field."""
    fields = dict(
        name="own", concepts=("a", "b"),
        train={"obs": noisy(seed=1), "a": noisy(shift=50, seed=2), "b": noisy(shift=100, seed=3)},
        validation={"obs": noisy(20, seed=4), "a": noisy(20, 50, 5), "b": noisy(20, 100, 6)},
        held_out={"obs": noisy(80, seed=7), "a": noisy(80, 50, 8), "b": noisy(80, 100, 9), "a+b": noisy(80, 100, 10)},
    )
    for name, value in changes.items():
        field, _, context = name.partition("__")
        fields[field] = fields[field] | {context.replace("_and_", "+"): value} if context else value
    return data.ContextData(**fields)


def without(contexts: dict, name: str) -> dict:
    return {context: images for context, images in contexts.items() if context != name}


def test_sound_data_have_no_problem():
    assert validation.problems(sound(), micro_batch=64) == []


def test_of_the_generated_data_orientation_may_hardly_show_which_is_no_error():
    config = configs.resize(configs.default(), "tiny")
    for name in ("quad_dependent", "quad_independent"):
        config.data.name = name
        found = validation.problems(data.load(config.data), config.train.micro_batch)
        assert {(problem.level, problem.context) for problem in found} <= {("warning", "orientation")}


@pytest.mark.parametrize("changes, level, context, sentence", [
    (dict(train__a=noisy(50, 50)), "warning", "a", "trains on 50 images, fewer than a micro-batch of 64"),
    (dict(held_out__a=noisy(3, 50)), "error", "a", "has 3 held-out images; the data floor compares two halves"),
    (dict(held_out__a=noisy(10, 50)), "warning", "a", "measures on fewer than 64 are mostly noise"),
    (dict(validation__b=noisy(0)), "error", "b", "Context 'b' has no validation images"),
    (dict(train=without(sound().train, "a")), "error", "a", "Context 'a' has no training images"),
    (dict(train=without(sound().train, "obs")), "error", "obs", "Context 'obs' has no training images"),
    (dict(held_out__mist=noisy()), "error", "mist", "names the unknown concept 'mist'"),
    (dict(train__a=noisy(shape=(8, 4, 3))), "error", "a", "have shape 8 x 4 x 3, others 8 x 8 x 3"),
    (dict(train__a=noisy()[..., 0]), "error", "a", "have shape 8 x 8, others 8 x 8 x 3"),
    (dict(train__a=noisy() / 255), "error", "a", "are float64, not uint8 in 0..255"),
    (dict(train__a=noisy() // 148), "error", "a", "hold values from 0 to 1 as uint8, where white is 255; multiply them by 255"),
    (dict(train__a=noisy() // 10), "warning", "a", "hold values from 0 to 14 alone"),
    (dict(held_out__a_and_b=np.repeat(noisy(1), 80, 0)), "error", "a+b", "All held-out images of context 'a+b' are the same"),
    (dict(train__a=np.repeat(noisy(50, 50), 2, 0)), "warning", "a", "Of 100 training images of context 'a' only 50 differ"),
    (dict(train__a=np.concatenate([noisy(80, 50), np.zeros((20, 8, 8, 3), np.uint8)])), "warning", "a", "20% of the training images of context 'a' have one"),
    (dict(held_out__a=sound().train["a"]), "warning", "a", "100 of the 100 held-out images looked at of context 'a' are also training images, of 'a'"),
    (dict(validation__obs=sound().train["b"][:9]), "warning", "obs", "9 of the 9 validation images looked at"),
    (dict(held_out__a_and_b=np.concatenate([noisy(80, 100, 10), sound().train["b"][:2]])), "error", "a+b", "compositions must not be seen"),
    (dict(train__a=noisy(seed=2)), "warning", "a", "Context 'a' cannot be told from 'obs' by 100 images each"),
    (dict(train__b=noisy(shift=50, seed=3)), "warning", "a", "Contexts 'a' and 'b' cannot be told from each other"),
    (dict(held_out__a_and_b=noisy(80, 0, 10)), "warning", "a+b", "Context 'a+b' cannot be told from 'obs' by 80 images each"),
])
def test_every_fault_has_its_level_context_and_sentence(changes, level, context, sentence):
    found = validation.problems(sound(**changes), micro_batch=64)
    assert [(p.level, p.context) for p in found if sentence in p.sentence] == [(level, context)], found


@pytest.mark.parametrize("shape, sentence", [((1, 1, 3), "Images have shape 1 x 1 x 3"), ((8, 8, 2), "Images have shape 8 x 8 x 2")])
def test_images_that_are_none_are_refused_once(shape, sentence):
    every = {split: {c: noisy(20, shape=shape) for c in getattr(sound(), split)} for split in ("train", "validation", "held_out")}
    (problem,) = validation.problems(sound(**every))
    assert problem.level == "error" and sentence in problem.sentence


def test_no_concept_is_an_error_and_one_is_a_warning():
    only = lambda names: {split: {c: getattr(sound(), split)[c] for c in names} for split in ("train", "validation", "held_out")}
    (none,) = validation.problems(sound(concepts=(), **only(["obs"])))
    assert none.level == "error" and "has no concept" in none.sentence
    (one,) = validation.problems(sound(concepts=("a",), **only(["obs", "a"])))
    assert one.level == "warning" and "one concept, 'a'; it trains, but there is nothing to compose" in one.sentence


def test_errors_come_first():
    found = validation.problems(sound(train__a=noisy(50, 50), held_out__b=noisy(3, 100)), micro_batch=64)
    assert [problem.level for problem in found] == sorted(problem.level for problem in found) and {p.level for p in found} == {"error", "warning"}


def test_images_of_one_value_may_repeat_between_splits():
    black = np.zeros((1, 8, 8, 3), np.uint8)
    changes = dict(train__a=np.concatenate([sound().train["a"], black]), held_out__a=np.concatenate([sound().held_out["a"], black]))
    assert validation.problems(sound(**changes)) == []


def test_large_data_are_looked_at_in_part_and_a_widespread_leak_is_found(monkeypatch):
    leaking = sound(held_out__a=sound().train["a"])
    monkeypatch.setattr(validation, "SAMPLE_BYTES", sum(images.nbytes for images in leaking.train.values()))
    (problem,) = validation.problems(leaking)
    number, total = map(int, re.match(r"(\d+) of the (\d+) held-out images", problem.sentence).groups())
    assert 0 < number < total < 100


def test_a_small_leak_into_a_composition_is_an_error_in_large_data_too(monkeypatch):
    leaking = sound(train__a=noisy(2000, 50, 2), held_out__a_and_b=np.concatenate([noisy(2000, 50, 2)[:60], noisy(1940, 100, 10)]))
    monkeypatch.setattr(validation, "SAMPLE_BYTES", 0.2 * sum(images.nbytes for contexts in (leaking.train, leaking.validation, leaking.held_out) for images in contexts.values()))
    found = [problem for problem in validation.problems(leaking) if "are also training images" in problem.sentence]
    assert [problem.level for problem in found] == ["error"], found


def test_distance_is_the_sliced_wasserstein_distance():
    x, y = noisy(seed=1), noisy(shift=30, seed=2)
    directions = np.random.default_rng(0).normal(size=(192, 5)).astype(np.float32)
    projected = [separation.project(images, directions) for images in (x, y)]
    expected = sliced_wasserstein(x, y, directions)
    assert separation.distance(*projected) == pytest.approx(expected, rel=1e-5)
    assert separation.compare(*projected).distance == pytest.approx(expected, rel=1e-5)


def test_p_value_is_that_of_divisions_made_one_by_one(monkeypatch):
    monkeypatch.setattr(separation, "DIVISIONS", 40)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 12)).astype(np.float32), rng.normal(0.2, 1, size=(3, 12)).astype(np.float32)
    pool, inside = np.concatenate([x, y], 1), np.tile(np.arange(24) < 12, (39, 1))
    inside = np.random.default_rng(0).permuted(inside, axis=1)
    by_chance = [separation.distance(pool[:, chosen], pool[:, ~chosen]) for chosen in inside]
    expected = (1 + sum(d >= separation.distance(x, y) for d in by_chance)) / 40
    assert 0.05 < expected < 0.95 and separation.compare(x, y).p_value == pytest.approx(expected)


def test_p_values_of_one_law_are_uniform_and_of_a_copy_one():
    rng = np.random.default_rng(1)
    samples = rng.normal(size=(60, 2, 2, 30)).astype(np.float32)
    p = [separation.compare(x, y).p_value for x, y in samples]
    assert 0.4 < np.mean(p) < 0.6 and np.mean(np.array(p) <= 0.2) == pytest.approx(0.2, abs=0.15)
    assert separation.compare(samples[0, 0], samples[0, 0]).p_value == 1


def test_the_card_holds_what_there_is():
    described = card.describe(sound(held_out__a=noisy(10, 50)), 64)
    assert json.loads(json.dumps(described)) == described
    row = described["contexts"]["a"]
    assert (row["training"], row["validation"], row["held_out"], row["side"]) == (100, 20, 10, 100)
    assert row["mean"] == pytest.approx(sound().train["a"].mean() / 255) and row["standard_deviation"] == pytest.approx(sound().train["a"].std() / 255)
    assert row["p_value"] == 1 / separation.DIVISIONS and row["distance"] > 3 * row["halves"]
    assert row["entropy_floor_bpp"] == data.contexts.entropy_floor_bpp(sound().train["a"])
    assert "distance" not in described["contexts"]["obs"] and described["contexts"]["a+b"]["training"] == 0
    assert [problem["context"] for problem in described["problems"]] == ["a"]


def test_the_card_of_unsound_data_is_its_problems():
    described = card.describe(sound(train__a=noisy() / 255))
    assert described["contexts"] == {} and described["problems"][0]["level"] == "error" and "float64" in data_card.text(described)


def test_the_fingerprint_changes_with_the_data():
    other = noisy(100, 50, seed=2)
    other[0, 0, 0, 0] ^= 1
    prints = {validation.fingerprint(sound(**changes)) for changes in ({}, {}, dict(train__a=other), dict(train__a=noisy(99, 50, 2)), dict(name="b"))}
    assert len(prints) == 4


@pytest.fixture
def loaded(monkeypatch):
    """A function that makes `load_data` find the given data set; counts how often cards are made."""
    made, describe = [], card.describe
    monkeypatch.setattr(card, "describe", lambda *given: made.append(given) or describe(*given))

    def use(dataset):
        monkeypatch.setattr(data, "load", lambda _: dataset)
        return made

    return use


def test_a_start_refuses_errors_in_one_message_and_logs_warnings(loaded, tmp_path, caplog):
    loaded(sound(held_out__a=noisy(3, 50), held_out__b=noisy(2, 100), train__a=noisy(5, 50)))
    for _ in range(2):
        caplog.clear()
        with pytest.raises(configs.ConfigError, match="'a' has 3 held-out images.*'b' has 2 held-out images"):
            workdir.checked_data(tiny.config(), tmp_path)
        assert any("fewer than a micro-batch of 16" in record.message for record in caplog.records)


def test_errors_are_looked_at_again_since_they_may_be_mended(loaded, tmp_path, monkeypatch):
    leaked, rest = noisy(100, 50), noisy(100, 60)
    monkeypatch.setattr(validation, "fingerprint", lambda dataset: "the same, since it looks at a few images")
    loaded(sound(train__a=leaked, held_out__a_and_b=leaked))
    with pytest.raises(configs.ConfigError, match="compositions must not be seen"):
        workdir.checked_data(tiny.config(), tmp_path)
    loaded(sound(train__a=leaked, held_out__a_and_b=rest))
    workdir.checked_data(tiny.config(), tmp_path)


def test_a_run_is_refused_before_it_is_compiled_and_keeps_its_folder(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "train", lambda *_: pytest.fail("must not train"))
    loaded(sound(train__a=noisy() // 148))
    with pytest.raises(configs.ConfigError, match="multiply them by 255"):
        workdir.train_evaluate_report(tiny.config(), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").exists()


def test_a_second_start_remembers_unless_the_data_or_the_micro_batch_changed(loaded, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    made = loaded(sound())
    for _ in range(2):
        workdir.checked_data(tiny.config(), *folders)
    assert len(made) == 1 and json.loads((folders[1] / "data_card.json").read_text())["problems"] == []
    (folders[0] / "data_card.json").write_text("damaged")
    workdir.checked_data(tiny.config(), *folders)
    assert len(made) == 1 and json.loads((folders[0] / "data_card.json").read_text())
    loaded(sound(train__a=noisy(90, 50, 2)))
    workdir.checked_data(tiny.config(), *folders)
    workdir.checked_data(tiny.config(train__micro_batch=32), *folders)
    assert len(made) == 3


def test_text_and_html_hold_every_context_escaped():
    name = "<i>'a\""
    odd = {split: {c.replace("a", name): x for c, x in getattr(sound(), split).items()} for split in ("train", "validation", "held_out")}
    described = card.describe(sound(concepts=(name, "b"), **odd, name="own<br>"), micro_batch=200)
    text, html = data_card.text(described), data_card.html(described)
    assert name + "+b" in text and max(map(len, text.splitlines())) <= 120 and "warning: Context" in text
    assert "<i>" not in html and "<br>" not in html and "&lt;i&gt;&#x27;a&quot;+b" in html and html.count("<tr>") == 5


def test_picture_shows_images_and_mean_of_every_context():
    drawn = data_card.picture(sound(), num=4)
    assert drawn.image.mode == "RGBA" and "a+b" in drawn.alt
    mean = sound().train["obs"].mean((0, 1, 2))
    right = np.asarray(drawn.image)[200, -4, :3]  # inside the mean image of "obs" or "a"
    assert (abs(right - mean) < 60).all()
    grey = sound(**{split: {c: x[..., :1] for c, x in getattr(sound(), split).items()} for split in ("train", "validation", "held_out")})
    assert data_card.picture(grey).image.width > 0


def test_the_page_holds_the_card_and_its_picture_once_per_data_set(tmp_path):
    runs = [FakeRun(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two", "old"))]
    name = 'quad<1>"'
    for run in runs:
        run.data.train = {"obs": noisy(12, shape=run.data.image_shape), name: noisy(12, 50, shape=run.data.image_shape)}
        described = card.describe(sound()) | {"concepts": [name], "problems": [{"level": "warning", "context": "", "sentence": "Context <b> is odd."}]}
        if run.workdir.name != "old":  # written before there were cards
            (run.workdir / "data_card.json").write_text(json.dumps(described))
    text = write_report(runs, tmp_path / "report.html", tmp_path / "figures").read_text()
    assert text.count("<h2>Data</h2>") == 1 and text.count("Context &lt;b&gt; is odd.") == 1 and "quad<1>" not in text
    assert (tmp_path / "figures" / "data.png").exists()
    assert "<h2>Data</h2>" not in write_report(runs[2:], tmp_path / "old.html").read_text()
