"""3DIdent: rendered pixels against hand computation and a second ray-caster, the law of the stand-in."""

import importlib.util
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from causal_ctx import config as configs
from causal_ctx import data
from causal_ctx.data import contexts, generated, threedident
from causal_ctx.data import threedident_renderer as renderer
from causal_ctx.reports.published import published

SINGLES = ("obs", *threedident.CONCEPTS)
EVERY = SINGLES + threedident.COMPOSITIONS
HUES = {c: renderer.LATENTS.index(hue) for c, hue in threedident.HUES.items()}


def config(**changes) -> ml_collections.ConfigDict:
    fields = {"name": "3dident/procedural", "resolution": 16, "train_per_context": 20, "held_out_per_context": 8}
    fields |= {"validation_fraction": 0.2, "seed": 0, "cache_dir": "", "path": ""}
    return ml_collections.ConfigDict({**fields, **changes})


def latents(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 10))


def moved(raw: np.ndarray, *concepts: str) -> np.ndarray:
    """The same latents with other hues of `concepts`."""
    raw = raw.copy()
    for concept in concepts:
        raw[:, HUES[concept]] *= -1
    return raw


# Geometry. Raw zeros but for hues: the object at (0, 0, 0.75), the lamp at (0, 4, 7.5), the camera at (0, 5.2, 4.6) looking at (0, 0, -0.1).


def pixel_of(point, resolution: int) -> tuple[int, int]:
    """Row and column that show a point; by hand for a camera in the plane x = 0, whose right is -x."""
    x, y, z = np.subtract(point, [0, 5.2, 4.6])
    depth = (-5.2 * y - 4.7 * z) / np.hypot(5.2, 4.7)
    height = (-4.7 * y + 5.2 * z) / np.hypot(5.2, 4.7)
    scale = resolution / 2 / (depth * np.tan(np.radians(24.5)))
    return int(resolution / 2 - scale * height), int(resolution / 2 - scale * x)


def ground_colour(point) -> np.ndarray:
    """A lit point of the ground under a red lamp, (1, 0.2, 0.2), on red ground, (1, 0.4, 0.4), without shadow."""
    ray = np.subtract(point, [0, 4, 7.5])
    ray /= np.linalg.norm(ray)
    cosine, edge = ray @ [0, -4, -6.75] / np.hypot(4, 6.75), np.cos(np.radians(17.5))
    fade = np.clip((cosine - edge) / (0.4 * (1 - edge)), 0, 1)
    return 255 * np.array([1, 0.4, 0.4]) * (0.22 + 0.78 * np.array([1, 0.2, 0.2]) * fade**2 * (3 - 2 * fade) * -ray[2])


def test_pixels_by_hand():
    image = renderer.render(np.zeros((1, 10)), 256)[0]
    assert image[0, 0].tolist() == image[0, -1].tolist() == [56, 22, 22]  # ambient light only: 0.22 (1, 0.4, 0.4)
    row, column = pixel_of((0, 0, 0.75), 256)
    assert image[row, column, 0] > 56 and image[row, column, 1:].tolist() == [0, 0]  # pure red: the object
    shadow = pixel_of((0, -1.6, -1.95), 256)  # where the line from the lamp through the object's centre ends
    assert image[shadow].tolist() == [56, 22, 22]
    for point in ((2.3, -1.6, -1.95), (-2.3, -1.6, -1.95), (1.5, 0.1, -1.95), (1.9, -3.2, -1.95)):
        lit = image[pixel_of(point, 256)]
        assert lit[0] > 80 and np.abs(lit - ground_colour(point)).max() <= 4  # the pixel's centre lies beside the point
    assert image[pixel_of((3.6, -1.6, -1.95), 256)].tolist() == [56, 22, 22]  # outside the cone


def test_hues_of_the_box():
    colours = renderer.colour(np.pi / 2 * np.array([-1, -2 / 3, 0, 2 / 3, 1]), 1.0)
    np.testing.assert_allclose(colours, [[0.5, 0, 1], [1, 0, 1], [1, 0, 0], [1, 1, 0], [0.5, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(renderer.colour(np.array([0.0]), 0.6), [[1, 0.4, 0.4]])


def test_parts_lie_in_the_bounding_sphere():
    for centre, q in renderer._parts():
        values, axes = np.linalg.eigh(q)
        points = np.random.default_rng(0).standard_normal((2000, 3))
        points = points / np.linalg.norm(points, axis=1, keepdims=True) / np.sqrt(values) @ axes.T + centre
        assert np.linalg.norm(points, axis=1).max() < renderer.SIZE


def reference(raw: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Second path in float64, one ray at a time, every ray against every part: means of four rays and single rays [R, R, 3], and whether the four
    meet the same thing [R, R]."""
    rotation = np.eye(3)
    for axis, angle in enumerate(np.pi / 2 * raw[3:6]):
        turn, (i, j) = np.eye(3), [k for k in range(3) if k != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = np.sin(angle) * np.array([-1, 1]) * (1 if axis != 1 else -1)
        rotation = turn @ rotation
    centre = 1.2 * raw[:3] + [0, 0, 0.75]
    parts = [(centre + rotation @ c, rotation @ q @ rotation.T) for c, q in renderer._parts()]
    theta = np.pi / 2 * raw[6]
    lamp, edge = np.array([4 * np.sin(theta), 4 * np.cos(theta), 7.5]), np.cos(np.radians(17.5))
    rgb = [np.array(renderer.colour(np.pi / 2 * raw[7 + i], s)) for i, s in enumerate((1.0, 0.8, 0.6))]

    def meet(origin, along):
        hits = []
        for index, (c, q) in enumerate(parts):
            roots = np.roots([along @ q @ along, 2 * along @ q @ (origin - c), (origin - c) @ q @ (origin - c) - 1])
            hits += [(root.real, index) for root in roots if abs(root.imag) < 1e-12 and root.real > 1e-6]
        return min(hits, default=(np.inf, -1))

    def trace(row, column):
        y, x = ((np.array([row, column]) / resolution) * 2 - 1) * np.tan(np.radians(24.5))
        forward = np.array([0, -5.2, -4.7]) / np.hypot(5.2, 4.7)
        camera, along = np.array([0, 5.2, 4.6]), forward + x * np.array([-1, 0, 0]) - y * np.array([0, -4.7, 5.2]) / np.hypot(5.2, 4.7)
        distance, index = meet(camera, along)
        if index < 0:
            distance, normal, base = (-1.95 - 4.6) / along[2], np.array([0, 0, 1.0]), rgb[2]
        point = camera + distance * along
        if index >= 0:
            normal, base = parts[index][1] @ (point - parts[index][0]), rgb[0]
            normal /= np.linalg.norm(normal)
        to_lamp = (lamp - point) / np.linalg.norm(lamp - point)
        fade = np.clip((to_lamp @ (lamp - centre) / np.linalg.norm(lamp - centre) - edge) / (0.4 * (1 - edge)), 0, 1)
        shadow = meet(point + 1e-4 * normal, to_lamp)[1] >= 0
        strength = fade**2 * (3 - 2 * fade) * max(normal @ to_lamp, 0) * (not shadow)
        return np.clip(base * (0.22 + 0.78 * rgb[1] * strength), 0, None), (index >= 0, shadow)

    grid = [(r + 0.5, c + 0.5) for r in range(resolution) for c in range(resolution)]
    single = [trace(*pixel)[0] for pixel in grid]
    four = [[trace(r + a, c + b) for a in (-0.25, 0.25) for b in (-0.25, 0.25)] for r, c in grid]
    mean = [np.mean([colour for colour, _ in rays], axis=0) for rays in four]
    same = np.array([len({what for _, what in rays}) == 1 for rays in four])
    shape = (resolution, resolution, 3)
    return *(255 * np.minimum(np.reshape(x, shape), 1) for x in (mean, single)), same.reshape(resolution, resolution)


def test_images_match_a_second_ray_caster():
    raw = latents(3, seed=4)
    for image, one in zip(renderer.render(raw, 14), raw):
        mean, single, same = reference(one, 14)
        off = [np.abs(image - expected).max(-1) for expected in (mean, single)]
        assert np.minimum(*off).max() < 1.5 and (~same).sum() > 10
        assert off[0][~same].max() < 1.5  # edges of the object and of shadows are smoothed


@pytest.mark.parametrize("resolution", [14, 64])
def test_no_pixel_near_the_object_or_its_shadow_is_left_out(resolution):
    raw = latents(40, seed=2)
    scene, view = renderer._Scene(raw), renderer._view(resolution)
    centre = 1.2 * raw[:, :3] + [0, 0, 0.75]
    lamp = np.stack([4 * np.sin(np.pi / 2 * raw[:, 6]), 4 * np.cos(np.pi / 2 * raw[:, 6]), np.full(40, 7.5)], 1)

    def passes(origin, along):
        """Whether any of the lines [n, R^2, 4, 3] of a pixel from origin [n, 3] comes closer than SIZE to the centre: bool [n, R^2]."""
        offset = np.broadcast_to((centre - origin)[:, None, None], along.shape)
        return (np.linalg.norm(np.cross(offset, along), axis=-1) / np.linalg.norm(along, axis=-1) < renderer.SIZE).any(-1)

    rays, ground = (np.moveaxis(view[name].astype(float), 0, -1)[None] for name in ("rays", "ground"))
    shown = passes(renderer.CAMERA, np.broadcast_to(rays, (40, *rays.shape[1:])))
    shaded = passes(lamp, ground - lamp[:, None, None])
    _, cosine = renderer._spot(scene.axis[..., None], view["centre_ground"][:, None] - scene.light[..., None])
    for found, wanted in ((renderer._may_show_object(scene, view), shown), (renderer._may_be_in_shadow(scene, view, cosine), shaded)):
        assert found[wanted].all() and wanted.mean() > 0.05 and found.mean() < 0.5


def test_each_hue_colours_its_own_part():
    raw = latents(8, seed=1)
    raw[:, 7:] = -0.6
    before = renderer.render(raw).astype(int)
    changed = {c: (renderer.render(moved(raw, c)) != before).any(-1) for c in threedident.CONCEPTS}
    edge = changed["bg"] & changed["obj"]  # a pixel across the outline shows both
    for image in range(8):
        assert 100 < changed["obj"][image].sum() < 1200 and edge[image].sum() < 0.4 * changed["obj"][image].sum()
        assert changed["bg"][image].sum() > 2000 and (changed["bg"] | changed["obj"])[image].all()
    assert not changed["sl"].all((1, 2)).any() and changed["sl"].mean() > 0.1
    unlit = changed["bg"] & ~changed["sl"] & ~edge
    ambient = np.round(255 * 0.22 * renderer.colour(np.array(-0.6 * np.pi / 2), 0.6))
    assert (np.abs(before[unlit] - ambient) <= 1).all()  # the ground outside the cone and in shadow


def test_images_depend_on_their_own_latents_alone():
    raw = latents(40)
    images = renderer.render(raw, 32)
    assert np.array_equal(images, renderer.render(raw, 32, threads=1)) and np.array_equal(images[17:19], renderer.render(raw[17:19], 32))
    assert images.dtype == np.uint8 and len(np.unique(images.reshape(40, -1), axis=0)) == 40
    assert renderer.render(raw[:0], 32).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(("raw", "resolution", "message"), [
    (np.zeros((2, 9)), 16, r"must be \[n, 10\] with values in \[-1, 1\], got shape \(2, 9\)"),
    (np.full((1, 10), 1.5), 16, "scale them first"),
    (np.full((1, 10), np.nan), 16, "scale them first"),
    (np.zeros((1, 10)), 1, "must be at least 2 pixels, got 1"),
])
def test_impossible_latents_are_refused(raw, resolution, message):
    with pytest.raises(ValueError, match=message):
        renderer.render(raw, resolution)


# The law of the stand-in.


@pytest.mark.parametrize("context", contexts.subsets(threedident.CONCEPTS))
def test_interventions_move_their_hue_to_the_other_half(context):
    raw = generated.sample_latents(threedident.GENERATOR, "train", context, 4000, 0)
    assert raw.shape == (4000, 10) and np.array_equal(raw[:7], generated.sample_latents(threedident.GENERATOR, "train", context, 7, 0))
    halves = {c: (0, 1) if c in contexts.interventions(context) else (-1, 0) for c in threedident.CONCEPTS}
    for column, name in enumerate(renderer.LATENTS):
        low, high = next((halves[c] for c, hue in threedident.HUES.items() if hue == name), (-1, 1))
        assert low <= raw[:, column].min() < low + 0.01 and high - 0.01 < raw[:, column].max() <= high
        assert np.mean(raw[:, column]) == pytest.approx((low + high) / 2, abs=0.05)
    assert np.abs(np.corrcoef(raw.T) - np.eye(10)).max() < 5 / np.sqrt(4000)


def test_streams_share_no_number():
    draws = [generated.sample_latents(threedident.GENERATOR, split, c, 50, seed) for seed in (0, 1) for split in generated.SPLITS for c in EVERY]
    assert len(np.unique(draws)) == np.size(draws)


def test_load_and_second_start(monkeypatch, tmp_path):
    dataset = data.load(config())
    assert dataset.name == "3dident/procedural" and dataset.training_contexts == SINGLES
    assert dataset.concepts == ("bg", "obj", "sl") and dataset.compositions == ("bg+obj", "bg+sl", "obj+sl")
    assert dataset.targets("bg+sl").tolist() == [1, 0, 1] and dataset.image_shape == (16, 16, 3)
    assert {len(x) for x in dataset.train.values()} == {16} and {len(x) for x in dataset.validation.values()} == {4}
    assert {len(x) for x in dataset.held_out.values()} == {8} and tuple(dataset.held_out) == EVERY
    for context, images in dataset.held_out.items():
        assert np.array_equal(images, renderer.render(dataset.held_out_latents[context], 16))
    assert np.array_equal(dataset.train["sl"], renderer.render(dataset.train_latents["sl"], 16))
    for context in contexts.subsets(dataset.concepts):
        assert dataset.simulate(context, 2).shape == (2, 16, 16, 3)
    assert np.array_equal(dataset.simulate("sl+bg", 8), dataset.held_out["bg+sl"])
    (folder,) = (tmp_path / "cache").iterdir()  # the slash of the name makes no folder of its own
    assert folder.name == "3dident-procedural-16px-20-8-seed0-v1"
    monkeypatch.setattr(generated, "_image_blocks", lambda *_: pytest.fail("rendered again"))
    assert np.array_equal(data.load(config()).held_out["obj"], dataset.held_out["obj"])


def test_distances_are_as_calibrated():
    """Small sample: 300 images a side and 200 directions, whose own distance is 0.027; the docstring has the large one."""
    directions = np.random.default_rng(0).standard_normal((64 * 64 * 3, 200)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)

    def projected(context):
        images = renderer.render(generated.sample_latents(threedident.GENERATOR, "held_out", context, 300, 0))
        return np.sort(images.reshape(300, -1).astype(np.float32) / 255 @ directions, axis=0)

    obs = projected("obs")
    distance = {c: np.sqrt(np.mean((projected(c) - obs) ** 2)) for c in threedident.CONCEPTS}
    assert np.mean(list(distance.values())) == pytest.approx(0.07, abs=0.015)
    assert distance["obj"] > 0.028


def test_published_numbers_are_not_of_the_stand_in():
    tasks = {"mean": "concept", **{c: "concept" for c in SINGLES}, **{c: "composition" for c in threedident.COMPOSITIONS}}
    for context, task in tasks.items():
        assert published("3dident", "tvae", task, context, "disent_conv") is not None  # our names are the published ones
        for method, backbone in (("tvae", "disent_conv"), ("cm_end_to_end", "nvae"), ("cm_end_to_end", "conv64")):
            assert published("3dident/procedural", method, task, context, backbone) is None


@pytest.mark.parametrize("size", configs.SIZES)
def test_config(size):
    specification = importlib.util.spec_from_file_location("config_3dident", Path(__file__).parents[1] / "configs" / "3dident.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    settings = module.get_config(size)
    configs.validate(settings)
    counts = (settings.data.train_per_context, settings.data.held_out_per_context)
    assert settings.data.name == "3dident/procedural" and counts == {"paper": (20_000, 6_000), "cpu": (5_000, 2_000), "tiny": (200, 128)}[size]


def test_name_and_path_must_agree():
    with pytest.raises(ValueError, match="3dident/procedural is rendered, but data.path is '/data'; set data.name to 3dident to read it"):
        data.load(config(path="/data"))
    with pytest.raises(ValueError, match=r"3dident is read from the published archive \(3dident.zip, zenodo.org/records/19346613\); set data.path to its folder or zip file"):
        data.load(config(name="3dident"))
