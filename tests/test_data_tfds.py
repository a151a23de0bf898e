"""The TFDS builders: round trips in a process where TensorFlow cannot be imported."""

import collections
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from causal_ctx import data
from causal_ctx.data import contexts, quad

README = (Path(__file__).parent.parent / "README.md").read_text()
PROGRAM = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "register_with_tfds" in block)


class WithoutTensorFlow:
    """An import finder as it is, but for TensorFlow, which it does not find."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, attribute):
        return getattr(self.finder, attribute)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else self.finder.find_spec(name, path, target)


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [WithoutTensorFlow(finder) for finder in sys.meta_path])
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture
def tfds():
    import tensorflow_datasets

    data.register_with_tfds()
    tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


@pytest.fixture
def small(tfds, monkeypatch):
    from causal_ctx.data import tfds_builders

    for config in tfds_builders.CausalCtxQuad.BUILDER_CONFIGS:
        for field, value in {"resolution": 16, "train_per_context": 4, "test_per_context": 3}.items():
            monkeypatch.setattr(config, field, value)
    return tfds


def check(source, law: str, split: str, names: tuple[str, ...], count: int, info):
    """Every image of every context is there once, with its pixels, latents and targets."""
    labels = info.features["context"].names
    by_context = collections.defaultdict(list)
    for example in source:
        by_context[labels[example["context"]]].append(example)
        assert example["targets"].tolist() == contexts.targets(labels[example["context"]], quad.CONCEPTS).tolist()
    assert set(by_context) == set(names)
    for name, examples in by_context.items():
        examples.sort(key=lambda example: example["latents"].tolist())
        latents = quad.sample_latents(law, split, name, count, 0)
        latents = latents[np.lexsort(latents.T[::-1])]
        assert np.array_equal([example["latents"] for example in examples], latents.astype(np.float32))
        assert np.array_equal([example["image"] for example in examples], quad.render(law, latents, 16))


@pytest.mark.parametrize("variant", ["dependent", "independent"])
def test_round_trip(small, variant, tmp_path):
    builder = small.builder(f"causal_ctx_quad/{variant}", data_dir=tmp_path)
    source = small.data_source(f"causal_ctx_quad/{variant}", data_dir=tmp_path)
    law = f"quad_{variant}"
    check(source["train"], law, "train", quad.TRAINING_CONTEXTS, 4, builder.info)
    check(source["test"], law, "held_out", quad.TRAINING_CONTEXTS, 3, builder.info)
    check(source["test_compositions"], law, "held_out", quad.COMPOSITIONS, 3, builder.info)
    again = small.data_source(f"causal_ctx_quad/{variant}", split="train[:5]", data_dir=tmp_path)
    assert len(again) == 5 and again[0]["image"].dtype == np.uint8


def test_own_counts(small, tmp_path):
    from causal_ctx.data import tfds_builders

    config = tfds_builders.ContextsConfig(name="own", dataset="quad_independent", resolution=16, train_per_context=2, test_per_context=1, seed=3)
    builder = small.builder("causal_ctx_quad", config=config, data_dir=tmp_path)
    builder.download_and_prepare()
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 14, "test": 7, "test_compositions": 9}
    latents = {tuple(example["latents"]) for example in builder.as_data_source("train")}
    assert tuple(quad.sample_latents("quad_independent", "train", "size", 2, 3)[1].astype(np.float32)) in latents


@pytest.mark.parametrize("module", ["causal_ctx.data", "causal_ctx.data.quad"])
def test_data_alone_imports_no_tfds(module):
    program = f"import sys, {module}; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_outside_program_of_ten_lines(tmp_path):
    """As an outside user runs it: another folder, another process, no TensorFlow found."""
    assert len(PROGRAM.splitlines()) <= 10
    (tmp_path / "tensorflow.py").write_text("raise ImportError('not needed')")
    paths = os.pathsep.join([str(Path(data.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TFDS_DATA_DIR": str(tmp_path / "tfds"), "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("1400 (16, 16, 3) (8,) ")


def test_what_tfds_build_does(small, tmp_path):
    """The build command itself, since the program `tfds` around it wants TensorFlow for other commands."""
    simple_parsing = pytest.importorskip("simple_parsing")
    from tensorflow_datasets.scripts.cli import build

    parser = simple_parsing.ArgumentParser()
    parser.add_arguments(build.Args, dest="build")
    arguments = ["causal_ctx_quad/independent_cpu", "--imports=causal_ctx.data.tfds_builders", f"--data_dir={tmp_path}"]
    parser.parse_args(arguments).build.execute()
    assert len(small.builder("causal_ctx_quad/independent_cpu", data_dir=tmp_path).as_data_source("train")) == 28


BUILDERS = [("quad", "dependent"), ("quad", "independent_cpu"), ("mnist", "digits"), ("mnist", "archive"), ("3dident", "procedural"), ("3dident", "archive")]


@pytest.mark.parametrize(("name", "variant"), BUILDERS)
def test_every_builder_describes_itself(tfds, name, variant, tmp_path):
    cls = tfds.builder_cls(f"causal_ctx_{name}")
    config = next(config for config in cls.BUILDER_CONFIGS if config.name == variant)
    if config.dataset not in data.TABLE:
        pytest.skip(f"this checkout has no data set {config.dataset}")
    builder = tfds.builder(f"causal_ctx_{name}/{variant}", data_dir=tmp_path)
    module = __import__(data.TABLE[config.dataset], fromlist=["load"])
    assert builder.version.major == module.GENERATOR_VERSION
    info = builder.info
    assert info.features["context"].names[0] == "obs" and info.features["targets"].shape == (len(module.CONCEPTS),)
    assert "Markham" in info.citation and info.as_proto.redistribution_info.license == config.license and info.homepage
    assert ", ".join(module.CONCEPTS) in info.description
    if not config.manual_file:
        return
    (tmp_path / "downloads" / "manual").mkdir(parents=True)
    (tmp_path / "downloads" / "manual" / "other").touch()
    with pytest.raises(FileNotFoundError, match=f"{config.manual_file} is not there; .*{config.manual_file}.*zenodo.*MD5.*put it.*manual folder"):
        builder.download_and_prepare()


def test_procedural_3dident(tfds, tmp_path):
    if "3dident/procedural" not in data.TABLE:
        pytest.skip("this checkout has no data set 3dident/procedural")
    from causal_ctx.data import tfds_builders

    config = tfds_builders.ContextsConfig(name="few", dataset="3dident/procedural", resolution=16, train_per_context=3, test_per_context=2)
    builder = tfds.builder("causal_ctx_3dident", config=config, data_dir=tmp_path)
    builder.download_and_prepare()
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 12, "test": 8, "test_compositions": 6}
    assert all(np.isfinite(example["latents"]).all() for split in ("train", "test") for example in builder.as_data_source(split))


def test_own_folders(tfds, tmp_path):
    """Grey images; validation images that stand in for held-out ones are in test alone."""
    from causal_ctx.data import tfds_builders

    rng = np.random.default_rng(0)
    given = {name: rng.integers(0, 256, (10, 8, 8), dtype=np.uint8) for name in ("obs", "<b>", "z", "z+<b>", "held_out/z")}
    for name, images in given.items():
        (tmp_path / "own" / name).mkdir(parents=True)
        for row, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "own" / name / f"{row}.png")
    config = tfds_builders.folder_config("mine", tmp_path / "own", resolution=8)
    builder = tfds.builder("causal_ctx_folder", config=config, data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    assert builder.info.features["context"].names == ["obs", "<b>", "z", "z+<b>"]
    found = collections.defaultdict(list)
    for split in ("train", "test", "test_compositions"):
        for example in builder.as_data_source(split):
            assert example["image"].shape == (8, 8, 1) and set(example) == {"image", "context", "targets"}
            found[split, builder.info.features["context"].int2str(int(example["context"]))].append(example["image"].tobytes())
    expected = {key: sorted(image.tobytes() for image in images) for key, images in given.items()}
    for context in ("obs", "<b>"):
        assert len(found["test", context]) == 3 and sorted(found["train", context] + found["test", context]) == expected[context]
    assert sorted(found["train", "z"]) == expected["z"] and sorted(found["test", "z"]) == expected["held_out/z"]
    assert sorted(found["test_compositions", "z+<b>"]) == expected["z+<b>"]


def test_what_changed_is_prepared_anew(tfds, tmp_path):
    """TFDS itself goes by the name alone."""
    from causal_ctx.data import tfds_builders

    def prepared(name: str, config):
        builder = tfds.builder(f"causal_ctx_{name}", config=config, data_dir=tmp_path / "tfds")
        builder.download_and_prepare()
        return builder

    def quad(**fields):
        given = {"dataset": "quad_dependent", "resolution": 16, "train_per_context": 2, "test_per_context": 1}
        return prepared("quad", tfds_builders.ContextsConfig(name="small", **given | fields))

    first = quad()
    assert quad().data_path == first.data_path and first.builder_config.name.startswith("small-")
    assert quad(train_per_context=3).info.splits["train"].num_examples == 21 and first.info.splits["train"].num_examples == 14
    assert len({quad(**fields).data_path for fields in ({}, {"seed": 1}, {"validation_fraction": 0.5}, {"dataset": "quad_independent"})}) == 4
    changed = prepared("quad", dataclasses.replace(first.builder_config, train_per_context=4))
    assert changed.info.splits["train"].num_examples == 28
    for name in ("obs", "z"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for row in range(4):
            Image.new("L", (8, 8), row).save(tmp_path / "own" / name / f"{row}.png")
    own = lambda: prepared("folder", tfds_builders.folder_config("mine", tmp_path / "own", resolution=8))
    values = lambda builder: sorted({int(example["image"].max()) for split in ("train", "test") for example in builder.as_data_source(split)})
    before = own()
    assert own().data_path == before.data_path and values(before) == [0, 1, 2, 3]
    Image.new("L", (8, 8), 200).save(tmp_path / "own" / "z" / "3.png")
    assert values(own()) == [0, 1, 2, 3, 200] and values(before) == [0, 1, 2, 3]
    state = before.__getstate__()  # as another process is handed it
    again = type(before).__new__(type(before))
    again.__setstate__(state)
    assert again.data_path == before.data_path


def test_instructions_name_what_is_read(tfds):
    for name in ("mnist", "3dident"):
        cls = tfds.builder_cls(f"causal_ctx_{name}")
        said = " ".join(cls.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        [file] = [config.manual_file for config in cls.BUILDER_CONFIGS if config.manual_file]
        assert f"get {file}" in said and "put it as it is into TFDS's manual folder" in said


def test_a_folder_builder_wants_its_folder_and_the_shape_that_is_there(tfds, tmp_path):
    from causal_ctx.data import tfds_builders

    with pytest.raises(ValueError, match="causal_ctx_folder needs to be told what to read; give config="):
        tfds.builder("causal_ctx_folder", data_dir=tmp_path)
    with pytest.raises(ValueError, match="leaves concepts open, which depend on the data; give them, or use folder_config"):
        tfds.builder("causal_ctx_folder", config=tfds_builders.ContextsConfig(name="x", dataset="folder"), data_dir=tmp_path)
    wrong = tfds_builders.ContextsConfig(name="wrong", dataset="quad_dependent", resolution=16, train_per_context=2, test_per_context=1, channels=1)
    with pytest.raises(ValueError, match=r"quad_dependent holds images, concepts and compositions \(\(16, 16, 3\).*the config 'wrong-[0-9a-f]{8}' says \(\(16, 16, 1\)"):
        tfds.builder("causal_ctx_quad", config=wrong, data_dir=tmp_path).download_and_prepare()
