"""Own arrays, target vectors, the entropy floor, and the table of data sets."""

import types

import numpy as np
import pytest

from causal_ctx import data
from causal_ctx.data import contexts


def images(n: int, value: int = 0, size: int = 4) -> np.ndarray:
    return np.full((n, size, size, 3), value, np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]


def own(**changes) -> data.ContextData:
    given = {"obs": images(10), "light": images(20, 50), "pose": images(10, 100)}
    return data.from_contexts({**given, **changes}, held_out={"light+pose": images(5, 200)})


def test_from_contexts_splits_every_row_once_and_names_everything():
    dataset = own()
    assert dataset.concepts == ("light", "pose")
    assert dataset.training_contexts == ("obs", "light", "pose")
    assert dataset.compositions == ("light+pose",)
    assert dataset.image_shape == (4, 4, 3)
    assert {c: len(x) for c, x in dataset.train.items()} == {"obs": 7, "light": 14, "pose": 7}
    rows = np.concatenate([dataset.train["light"], dataset.validation["light"]])[:, 0, 0, 0]
    assert sorted(rows) == list(range(50, 70)) and list(rows) != sorted(rows)
    assert set(dataset.held_out) == {"obs", "light", "pose", "light+pose"}
    assert dataset.held_out["light"] is dataset.validation["light"]
    assert dataset.train_latents is None


def test_from_contexts_depends_on_the_seed_only():
    given = {"obs": images(10), "light": images(10)}
    one, same, other = (data.from_contexts(given, seed=seed).train["obs"] for seed in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_floating_point_images_become_uint8():
    given = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 4, 4, 1)
    dataset = data.from_contexts({"obs": given, "light": given})
    values = np.sort(np.concatenate([dataset.train["obs"], dataset.validation["obs"]]).ravel())
    assert values.dtype == np.uint8 and values.tolist() == list(range(256))
    nearly_one = np.full((4, 4, 4, 1), 0.999)
    assert data.from_contexts({"obs": nearly_one, "light": nearly_one}).train["obs"].min() == 255


def test_targets():
    dataset = own()
    assert dataset.targets("obs").tolist() == [0, 0] and dataset.targets("obs").dtype == np.uint8
    assert dataset.targets("pose").tolist() == [0, 1]
    assert dataset.targets("light+pose").tolist() == dataset.targets("pose+light").tolist() == [1, 1]
    for wrong in ("lihgt", "light+", "obs+light", ""):
        with pytest.raises(ValueError, match="unknown concept .*known are light, pose"):
            dataset.targets(wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"light": images(4)}, "must be given as 'obs', got only 'light'"),
        ({}, "got only nothing"),
        ({"obs": images(4)}, "At least one intervention"),
        ({"obs": images(4), "a+b": images(4)}, "'a\\+b' is a composition"),
        ({"obs": images(4), "a": images(4, size=5)}, r"'a' must be \[n, H, W, C\] like those of 'obs', \[n, 4, 4, 3\], got \(4, 5, 5, 3\)"),
        ({"obs": images(4)[0], "a": images(4)[0]}, "'obs' must be"),
        ({"obs": images(0), "a": images(4)}, "'obs' must be"),
        ({"obs": images(4).astype(np.int64), "a": images(4)}, "uint8 or floating point in .*int64"),
        ({"obs": images(4).astype(np.float32), "a": images(4)}, r"must lie in \[0, 1\], got 0 to 3"),
        ({"obs": np.full((4, 4, 4, 3), np.nan), "a": images(4)}, r"must lie in \[0, 1\], got nan"),
        ({"obs": images(1), "a": images(4)}, "leaves training or validation without an image of 1"),
    ],
)
def test_wrong_contexts_are_refused_in_one_sentence(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.from_contexts(given)
    assert "\n" not in str(caught.value)


def test_wrong_held_out_and_fraction_are_refused():
    given = {"obs": images(4), "a": images(4), "b": images(4)}
    with pytest.raises(ValueError, match="unknown concept 'c'"):
        data.from_contexts(given, held_out={"a+c": images(4)})
    with pytest.raises(ValueError, match="'a\\+b' must be"):
        data.from_contexts(given, held_out={"a+b": images(4, size=5)})
    with pytest.raises(ValueError, match="The held-out context 'a\\+a' names an intervention twice; name each once"):
        data.from_contexts(given, held_out={"a+a": images(4)})
    with pytest.raises(ValueError, match="The held-out contexts 'a\\+b' and 'b\\+a' are the same interventions; keep one of them"):
        data.from_contexts(given, held_out={"a": images(4), "a+b": images(4), "b+a": images(4)})
    for fraction in (0.0, 1.0, -0.5, 2.0):
        with pytest.raises(ValueError, match=f"A validation_fraction of {fraction}"):
            data.from_contexts(given, validation_fraction=fraction)


def test_entropy_floor_of_uniform_values_in_one_channel():
    """Quadrature over the 256 values; the integral of the binary entropy over [0, 1] is 1 / (2 ln 2) bits."""
    ramp = np.zeros((1, 16, 16, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(256).reshape(16, 16), 255
    assert contexts.entropy_floor_bpp(ramp) * 256 / 255 == pytest.approx(1 / (2 * np.log(2)), abs=5e-5)


def test_entropy_floor_by_hand_and_in_chunks():
    assert contexts.entropy_floor_bpp(np.tile(np.uint8([0, 255]), (3, 2, 2, 1))) == 0
    p = 51 / 255
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    assert contexts.entropy_floor_bpp(np.full((3, 2, 2, 2), 51, np.uint8)) == pytest.approx(2 * entropy)
    large = np.random.default_rng(0).integers(0, 256, (30, 256, 256, 3), dtype=np.uint8)
    p = np.clip(large / 255, 1e-30, 1 - 1e-16)
    assert contexts.entropy_floor_bpp(large) == pytest.approx(-3 * np.mean(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def test_entropy_floor_of_every_held_out_context():
    assert own().entropy_floor_bpp.keys() == {"obs", "light", "pose", "light+pose"}


def test_true_effects_are_known_by_name_where_the_law_is():
    assert data.total_effects("quad_dependent", {"size"}).shape == (6, 6) and (data.total_effects("quad_dependent") != 0).sum() == 6 + 9
    np.testing.assert_array_equal(data.total_effects("quad_independent", ["quad1"]), np.eye(6))
    np.testing.assert_array_equal(data.total_effects("3dident/procedural", ["bg"]), np.eye(3))
    with pytest.raises(ValueError, match="unknown concept 'hue'"):
        data.total_effects("3dident/procedural", ["hue"])
    assert set(data.CAUSAL_LAWS) < set(data.TABLE)
    assert all(data.total_effects(name) is None for name in {*data.TABLE, "own"} - set(data.CAUSAL_LAWS))


@pytest.mark.parametrize("name", data.TABLE)
def test_loaded_data_bring_the_truth_of_every_training_context(name, monkeypatch):
    monkeypatch.setattr(data.importlib, "import_module", lambda path: types.SimpleNamespace(load=lambda _: own(), total_effects=lambda names: tuple(names)))
    expected = {"obs": (), "light": ("light",), "pose": ("pose",)} if name in data.CAUSAL_LAWS else None
    assert data.load(types.SimpleNamespace(name=name)).total_effects == expected


def test_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="Data set 'quad' is unknown; set data.name to one of quad_dependent, quad_independent"):
        data.load(types.SimpleNamespace(name="quad"))
