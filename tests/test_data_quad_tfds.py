"""The TFDS builder: a round trip in a process where TensorFlow cannot be imported."""

import collections
import subprocess
import sys

import numpy as np
import pytest

from causal_ctx.data import contexts, quad


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
def small(monkeypatch):
    import tensorflow_datasets as tfds

    from causal_ctx.data import quad_tfds

    tfds.disable_progress_bar()
    for config in quad_tfds.CausalCtxQuad.BUILDER_CONFIGS:
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
    from causal_ctx.data import quad_tfds

    config = quad_tfds.QuadConfig(name="own", law="quad_independent", resolution=16, train_per_context=2, test_per_context=1, seed=3)
    builder = small.builder("causal_ctx_quad", config=config, data_dir=tmp_path)
    builder.download_and_prepare()
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 14, "test": 7, "test_compositions": 9}
    latents = {tuple(example["latents"]) for example in builder.as_data_source("train")}
    assert tuple(quad.sample_latents("quad_independent", "train", "size", 2, 3)[1].astype(np.float32)) in latents


def test_quad_alone_imports_no_tfds():
    program = "import sys, causal_ctx.data.quad; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
