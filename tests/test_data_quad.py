"""quad from config to ContextData: shapes, splits, cache, published archive, refused fields."""

import ml_collections
import numpy as np
import pytest

from causal_ctx import data
from causal_ctx.data import quad, quad_renderer

SPELLINGS = {
    "documented": (lambda c: "obs1" if c == "obs" else f"ivn_{c}", lambda a, b: f"{a}-{b}"),
    "short": (lambda c: c, lambda a, b: f"{a}-{b.removeprefix('quad')}"),
}


def config(**changes) -> ml_collections.ConfigDict:
    fields = {"name": "quad_dependent", "resolution": 16, "train_per_context": 20, "held_out_per_context": 8}
    fields |= {"validation_fraction": 0.3, "seed": 0, "cache_dir": "", "path": ""}
    return ml_collections.ConfigDict({**fields, **changes})


@pytest.fixture
def renders(monkeypatch):
    """Counts the images that are rendered."""
    counted, original = [], quad_renderer.render
    monkeypatch.setattr(quad_renderer, "render", lambda factors, *a: (counted.append(len(factors)), original(factors, *a))[1])
    return counted


@pytest.mark.parametrize("name", list(quad.LAWS))
def test_load(name):
    dataset = data.load(config(name=name))
    assert dataset.name == name and dataset.concepts == ("quad1", "quad2", "quad3", "quad4", "size", "orientation")
    assert dataset.training_contexts == ("obs", *dataset.concepts)
    assert len(dataset.compositions) == 9 and {"quad1+quad2", "quad1+orientation", "quad2+size"} < set(dataset.compositions)
    assert "quad2+quad1" not in dataset.compositions and "quad3+quad4" not in dataset.compositions
    assert dataset.image_shape == (16, 16, 3)
    assert dataset.targets("quad2+size").tolist() == [0, 1, 0, 0, 1, 0]
    assert {len(x) for x in dataset.train.values()} == {14} and {len(x) for x in dataset.validation.values()} == {6}
    assert set(dataset.held_out) == {*dataset.train, *dataset.compositions} and {len(x) for x in dataset.held_out.values()} == {8}
    for images, latents in ((dataset.train, dataset.train_latents), (dataset.held_out, dataset.held_out_latents)):
        for context in images:
            assert np.array_equal(images[context], quad.render(name, latents[context], 16))
    train, held_out = (np.concatenate(list(x.values())) for x in (dataset.train_latents, dataset.held_out_latents))
    assert not set(train.ravel()) & set(held_out.ravel())


def test_second_start_renders_nothing(renders):
    first, second = data.load(config()), data.load(config())
    assert sum(renders) == 7 * 20 + 16 * 8
    assert np.array_equal(first.held_out["size"], second.held_out["size"])
    data.load(config(validation_fraction=0.5))
    assert sum(renders) == 7 * 20 + 16 * 8
    other = data.load(config(seed=1))
    assert sum(renders) == 2 * (7 * 20 + 16 * 8)
    assert not np.array_equal(first.held_out["size"], other.held_out["size"])


def test_blocks_leave_no_seam(monkeypatch):
    whole = data.load(config()).train["obs"]
    monkeypatch.setattr(quad, "_ROWS", 3)
    assert np.array_equal(whole, data.load(config(train_per_context=20, held_out_per_context=7)).train["obs"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_per_context": 0}, "leaves training or validation without an image of 0"),
        ({"held_out_per_context": -1}, "data.held_out_per_context must be positive, got -1"),
        ({"resolution": 15}, "resolution of quad must be a positive even number of pixels, got 15"),
        ({"resolution": 0}, "must be a positive even number"),
        ({"seed": -1}, "data.seed must not be negative, got -1"),
        ({"validation_fraction": 1.0}, "A validation_fraction of 1.0"),
        ({"name": "cube"}, "Data set 'cube' is unknown"),
    ],
)
def test_impossible_fields_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(config(**changes))


def write_archive(folder, spelling: str, channels_first: bool = True) -> data.ContextData:
    dataset = data.load(config())
    single, pair = SPELLINGS[spelling]
    labels = {c: pair(*c.split("+")) if "+" in c else single(c) for c in dataset.held_out}
    files = {labels[c]: np.concatenate([dataset.train[c], dataset.validation[c]]) for c in dataset.train}
    for context in ("obs", *dataset.concepts):
        files[SPELLINGS["documented"][0](context)] = files.pop(labels[context])
    files |= {f"holdout/{labels[c]}_holdout": x for c, x in dataset.held_out.items()}
    for label, images in files.items():
        (folder / "quad" / label).mkdir(parents=True)
        np.savez(folder / "quad" / label / "dataset.npz", images=images.transpose(0, 3, 1, 2) if channels_first else images)
    return dataset


@pytest.mark.parametrize(("spelling", "channels_first", "inner"), [("documented", True, ""), ("short", False, "quad")])
def test_archive_round_trip(tmp_path, spelling, channels_first, inner, renders, caplog):
    dataset = write_archive(tmp_path, spelling, channels_first)
    renders.clear()
    archived = data.load(config(path=str(tmp_path / inner)))
    assert not renders and not caplog.records
    assert archived.concepts == dataset.concepts and archived.compositions == dataset.compositions
    assert archived.train_latents is None and archived.held_out_latents is None
    for context in dataset.held_out:
        assert np.array_equal(archived.held_out[context], dataset.held_out[context])
    for context in dataset.train:
        got, expected = (np.concatenate([d.train[context], d.validation[context]]) for d in (archived, dataset))
        assert sorted(x.tobytes() for x in got) == sorted(x.tobytes() for x in expected)
    assert len(data.load(config(path=str(tmp_path), train_per_context=10)).train["obs"]) == 7


def test_archive_problems_are_one_sentence(tmp_path):
    dataset = write_archive(tmp_path, "documented")
    with pytest.raises(ValueError, match=r"images of shape \(20, 16, 16, 3\), not \[n, 64, 64, 3\]; set data.resolution"):
        data.load(config(path=str(tmp_path), resolution=64))
    file = tmp_path / "quad" / "ivn_size" / "dataset.npz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="ivn_size/dataset.npz holds no readable array 'images'"):
        data.load(config(path=str(tmp_path)))
    np.savez(file, images=dataset.train["size"].astype(np.float32) * 2)
    with pytest.raises(ValueError, match="outside 0..255"):
        data.load(config(path=str(tmp_path)))
    np.savez(file, images=np.array([{}], object))
    with pytest.raises(ValueError, match="holds no readable array"):
        data.load(config(path=str(tmp_path)))
    file.unlink()
    (tmp_path / "quad" / "holdout" / "quad1-quad3_holdout" / "dataset.npz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks .*ivn_size/dataset.npz, .*quad1-quad3_holdout/dataset.npz; set data.path") as caught:
        data.load(config(path=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_archive_warns_of_repeated_images(tmp_path, caplog):
    dataset = write_archive(tmp_path, "documented")
    np.savez(tmp_path / "quad" / "holdout" / "ivn_size_holdout" / "dataset.npz", images=dataset.train["size"])
    with caplog.at_level("WARNING", logger="causal_ctx"):
        data.load(config(path=str(tmp_path)))
    assert "Held-out images of size repeat training images" in caplog.text
