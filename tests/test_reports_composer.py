"""What the page's composer is given: the right images in the right rows, truth beside them, keys that no name can break."""

import json

import numpy as np
import pytest

from causal_ctx.data import quad_factors, transition_sets
from causal_ctx.data.contexts import subsets
from causal_ctx.reports import charts, composer, page
from tests.test_reports import CONCEPTS, FakeRun
from tests.test_reports_transitions import settings, transition_run, untrained


def tile(sheet: composer.Sheet, row: int, column: int, shape=(32, 32)) -> np.ndarray:
    H, W = shape
    return np.asarray(sheet.image)[row * H : (row + 1) * H, column * W : (column + 1) * W]


def result(method="cm_end_to_end", seed=0, **context) -> dict:
    strict = {"concept": {"obs": 0.11, "quad1": 0.12}, "composition": {"quad1+quad2": 0.2}, "floor": {"composition": {"quad1+quad2": 0.02}}}
    return {"method": method, "seed": seed, "protocols": {"strict": strict}}


def test_every_set_has_its_images_under_the_positions_of_its_concepts(tmp_path):
    run = FakeRun(tmp_path)
    found = composer.of_interventions([("run", run)], [result()], [0])
    (entry,), sheets = found.data["entries"], found.sheets
    assert entry["concepts"] == list(CONCEPTS) and len(entry["rows"]) == 8 and not entry["blind"]
    for name in subsets(CONCEPTS):
        key = ",".join(str(i) for i, concept in enumerate(CONCEPTS) if concept in name.split("+"))
        wanted = run.generate(name.split("+") if name != "obs" else (), composer.NOISES, 0)
        for column in (0, composer.NOISES - 1):
            np.testing.assert_allclose(tile(sheets[entry["sheet"]], entry["rows"][key], column), 255 * wanted[column], atol=0.51)
    real = entry["real"]
    np.testing.assert_array_equal(tile(sheets[real["sheet"]], real["rows"]["0,2"], 3), run.data.held_out["quad1+size"][3])
    assert "0,1,2" not in real["rows"] and "of other noise" in real["kind"]
    assert entry["contexts"]["0,1"] == {"trained": False, "distance": 0.2, "floor": 0.02} and entry["contexts"]["0"] == {"trained": True, "distance": 0.12}
    assert entry["contexts"][""]["trained"] and "0,1,2" not in entry["contexts"]


def test_real_images_share_their_noise_where_the_data_can_draw_that(tmp_path):
    run = FakeRun(tmp_path)
    run.data.counterfactuals = lambda name, n: np.full((n, 32, 32, 3), 10 * subsets(CONCEPTS).index(name), np.uint8)
    found = composer.of_interventions([("run", run), ("again", run)], [result(), result(seed=1)], [0, 1])
    assert len(found.sheets) == 3  # the real ones once
    real = found.data["entries"][1]["real"]
    assert real == found.data["entries"][0]["real"] and "a noise of its own" in real["kind"]
    assert tile(found.sheets[real["sheet"]], real["rows"]["0,1,2"], 0).max() == 70


@pytest.mark.parametrize("rows, shape, tile", [(273, (64, 64, 3), (64, 64)), (64, (256, 128, 1), (128, 64)), (160, (128, 128, 3), (128, 128)), (3, (5, 7, 3), (5, 7))])
def test_sheets_stay_within_what_the_page_can_hold(rows, shape, tile):
    rng = np.random.default_rng(0)
    images = [np.full((8, *shape), rng.integers(256), np.uint8) for _ in range(rows)]
    drawn = composer.sheet(images, "")
    assert drawn.tile == tile and max(drawn.image.size) < 16_384 and page._data_uri(drawn.image, 90)
    high = drawn.image.height // tile[0]
    for row in (0, rows // 2, rows - 1):
        across, below = row // high * 8 + 7, row % high
        cell = np.asarray(drawn.image)[below * tile[0] : (below + 1) * tile[0], across * tile[1] : (across + 1) * tile[1]]
        assert (cell == images[row][0, 0, 0, 0]).all()


def test_a_method_that_saw_no_intervention_was_trained_on_none(tmp_path):
    found = composer.of_interventions([("run", FakeRun(tmp_path, method="base"))], [result("base")], [0])
    assert {key for key, known in found.data["entries"][0]["contexts"].items() if known["trained"]} == {""}


def test_few_held_out_images_are_shown_as_many_as_there_are(tmp_path):
    run = FakeRun(tmp_path)
    run.data.held_out["size"] = run.data.held_out["size"][:5]
    real = composer.of_interventions([("run", run)], [result()], [0]).data["entries"][0]["real"]
    assert real["columns"] == 5 and len(real["rows"]) == 7


def test_a_method_told_of_no_interventions_has_one_row(tmp_path):
    found = composer.of_interventions([("run", FakeRun(tmp_path, method="base_pooled"))], [result("base_pooled")], [0])
    assert found.data["entries"][0]["blind"] and list(found.data["entries"][0]["rows"]) == [""]


def test_the_first_in_order_are_taken_and_keep_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(composer, "MOST_ENTRIES", 2)
    runs = [(f"run{i}", FakeRun(tmp_path / str(i))) for i in range(3)]
    found = composer.of_interventions(runs, [result(seed=i) for i in range(3)], [2, 0, 1])
    assert [(e["label"], e["run"], e["seed"]) for e in found.data["entries"]] == [("run2", 2, 2), ("run0", 0, 0)]
    later = found.numbered(5)["entries"]
    assert [e["sheet"] for e in later] == [e["sheet"] + 5 for e in found.data["entries"]] and later[0]["real"]["sheet"] == 5


@pytest.mark.parametrize("K", [3, 6, 7, 20, 40])
def test_of_many_concepts_singles_held_out_pairs_and_some_larger_sets_are_drawn(K, tmp_path):
    concepts = tuple(f"c{i}" for i in range(K))
    data = FakeRun(tmp_path, concepts=concepts[:3]).data
    data.concepts, data.compositions = concepts, ("c2+c0",)
    names = composer.sets_to_draw(data)
    assert len(names) == len(set(names)) and names[0] == "obs"
    if K <= composer.MOST_WHOLE:
        assert sorted(names) == sorted(subsets(concepts))
        return
    assert len(names) <= composer.MOST_ROWS and {*concepts, "c0+c2"} <= set(names) and any(name.count("+") > 1 for name in names)


def test_concepts_of_any_name_keep_their_keys(tmp_path):
    concepts = ('</script><b>"', "1", "0")
    found = composer.of_interventions([("run", FakeRun(tmp_path, concepts=concepts))], [result()], [0])
    assert set(found.data["entries"][0]["rows"]) == {"", "0", "1", "2", "0,1", "0,2", "1,2", "0,1,2"}


@pytest.fixture(scope="module")
def acting(tmp_path_factory):
    data = transition_sets.load(settings())
    run = transition_run(tmp_path_factory.mktemp("acting") / "ct", data, untrained(len(data.actions)))
    return run, composer.of_actions([("ct", run)], [{"method": "ct_vae", "seed": 0}], [0])


def test_chains_start_from_test_images_and_end_in_what_the_data_has(acting):
    run, found = acting
    (entry,), sheets = found.data["entries"], found.sheets
    data, shape = run.data, run.data.image_shape[:2]
    starts = data.images["test"].rows[entry["images"]]
    assert len(entry["rows"]) == 1 + 16 + 256 and len(starts) == composer.STARTS
    values = data.factors.factors(starts)
    up, down = 3, 3 + data.num_factors
    for chain, moved in (("3", 1), (f"3,{down}", 0)):
        for place, start in enumerate(values):
            there = start[up] + 1 < data.factors.factor_sizes[up]
            assert entry["real"]["exists"][chain][place] == there
            wanted = quad_factors.render((start + moved * np.eye(8, dtype=int)[up])[None], shape[0])[0] if there else np.full((*shape, 3), 128)
            np.testing.assert_array_equal(tile(sheets[entry["real"]["sheet"]], entry["rows"][chain], place, shape), wanted)


def test_expected_images_and_retrieved_actions_are_the_models(acting):
    run, found = acting
    entry, data = found.data["entries"][0], run.data
    images = data.factors.images(data.images["test"].rows[entry["images"]])
    codes = run.predictor.encode(images)
    shown = lambda chain, place: tile(found.sheets[entry["sheet"]], entry["rows"][chain], place, data.image_shape[:2])
    np.testing.assert_allclose(shown("", 2), 255 * run.predictor.decode(codes)[2], atol=0.51)
    after = run.predictor.predict(codes, np.full(len(codes), 5), seed=0)
    assert np.abs(shown("5", 1) / 255 - after.images[1]).mean() < 0.05  # of other draws of mask and graph
    for action, answers in entry["retrieved"].items():
        assert [answer is not None for answer in answers] == entry["real"]["exists"][action]
        assert all(0 <= best < 16 and 1 / 16 <= probability <= 1 for best, probability in filter(None, answers))


def test_only_what_knows_actions_is_composed(acting):
    assert composer.of_actions([("mcq", acting[0])], [{"method": "mcq_vae", "seed": 0}], [0]) is None
    assert [len(chain) for chain in composer.chains_to_draw(30)] == [0] + [1] * 30 == [len(chain) for chain in composer.chains_to_draw(30, 1)]
    assert len(composer.chains_to_draw(4)) == 21 and len(composer.chains_to_draw(4, 1)) == 5


def test_curves_for_the_page_are_those_of_the_figure():
    log = [{"images": 10 * i, "train/loss_nats": float(i)} for i in range(1200)] + [{"images": 5, "train/loss_nats": float("nan")}, {"images": 7}]
    (panel,) = charts.panels({"a": [log, log[:50]], "b": [[]]}, {"a": [3, 4], "b": [0]}, ["train/loss_nats"])
    long, few, none = panel["lines"]
    assert panel["title"] == "loss, nats" and panel["floor"] is None and [long["name"], few["name"], none["name"]] == ["a, seed 3", "a, seed 4", "b"]
    assert len(long["points"]) == charts.MOST_POINTS and len(few["points"]) == 50 and few["points"][7] == [70, 7.0] and none["points"] == []
    assert np.allclose(np.mean(long["points"], axis=0), [5995, 599.5]) and long["colour"] != none["colour"]
    json.dumps(panel, allow_nan=False)
    (validation,) = charts.panels({"a": [[{"images": 1, "validation/elbo_bpp": 2.0}]]}, {"a": [0]}, ["validation/elbo_bpp"], floor_bpp=0.5)
    assert validation["floor"] == 0.5
