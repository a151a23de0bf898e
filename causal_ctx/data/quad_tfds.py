"""quad as a TensorFlow Datasets builder, "causal_ctx_quad"; neither making nor reading it needs TensorFlow.

    import tensorflow_datasets as tfds
    import causal_ctx.data.quad_tfds  # registers the builder

    source = tfds.data_source("causal_ctx_quad/dependent", split="train")  # random access, no TensorFlow
    dataset = tfds.load("causal_ctx_quad/independent", split="test_compositions")  # tf.data, needs TensorFlow

TFDS keeps a prepared data set in one file format. Where TensorFlow is not installed it is array_record, which
`data_source` reads; where it is, TFDS's default tfrecord, which `load` reads, unless file_format="array_record" is asked
for (tfds.data_source(..., builder_kwargs={"file_format": "array_record"})). To use both, give each its own `data_dir`.

Splits: "train" and "test" hold "obs" and the six single interventions, "test_compositions" the nine pairs. Each
example: "image" uint8 [R, R, 3], "context" (label, see `info.features["context"].names`), "targets" uint8 [6] in the
order of `quad.CONCEPTS`, "latents" float32 [8] in the order of `quad_scm.LATENTS`. The images are those of
`causal_ctx.data.load` with the same counts and seed.

Other counts or resolutions: tfds.builder("causal_ctx_quad", config=QuadConfig(name="small", law="quad_dependent",
train_per_context=500, test_per_context=100)).
"""

import dataclasses
import importlib.util
import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from causal_ctx.data import contexts, quad, quad_scm

_DESCRIPTION = "Four coloured quadrants and a shape, in an observational, six interventional and nine composed contexts."
_ROWS = 2048  # rendered at a time


@dataclasses.dataclass(kw_only=True)
class QuadConfig(tfds.core.BuilderConfig):
    """What to generate: a law of `quad.LAWS`, pixels per side, images per context, seed."""

    law: str
    resolution: int = 64
    train_per_context: int = 50_000
    test_per_context: int = 10_000
    seed: int = 0


class CausalCtxQuad(tfds.core.GeneratorBasedBuilder):
    """Generates quad from its law; downloads nothing."""

    VERSION = tfds.core.Version(f"{quad.GENERATOR_VERSION}.0.0")
    BUILDER_CONFIGS = [
        QuadConfig(name="dependent", law="quad_dependent", description="Latents of a linear-Gaussian causal model."),
        QuadConfig(name="independent", law="quad_independent", description="Independent latents."),
    ]

    def __init__(self, *, file_format=None, **kwargs):
        if file_format is None and importlib.util.find_spec("tensorflow") is None:
            file_format = "array_record"  # TFDS's own default is written and read by TensorFlow only
        super().__init__(file_format=file_format, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        resolution = self.builder_config.resolution
        features = {
            "image": tfds.features.Image(shape=(resolution, resolution, 3), encoding_format="png"),
            "context": tfds.features.ClassLabel(names=quad.TRAINING_CONTEXTS + quad.COMPOSITIONS),
            "targets": tfds.features.Tensor(shape=(len(quad.CONCEPTS),), dtype=np.uint8),
            "latents": tfds.features.Tensor(shape=(len(quad_scm.LATENTS),), dtype=np.float32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), description=_DESCRIPTION)

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager
        config = self.builder_config
        return {
            "train": self._generate_examples("train", quad.TRAINING_CONTEXTS, config.train_per_context),
            "test": self._generate_examples("held_out", quad.TRAINING_CONTEXTS, config.test_per_context),
            "test_compositions": self._generate_examples("held_out", quad.COMPOSITIONS, config.test_per_context),
        }

    def _generate_examples(self, split: str, names: tuple[str, ...], count: int) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for context in names:
            latents = quad.sample_latents(config.law, split, context, count, config.seed)
            for row, image in enumerate(_images(config, latents)):
                targets = contexts.targets(context, quad.CONCEPTS)
                yield f"{context}_{row}", {"image": _png(image), "context": context, "targets": targets, "latents": latents[row].astype(np.float32)}


def _images(config: QuadConfig, latents: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(latents), _ROWS):
        yield from quad.render(config.law, latents[start : start + _ROWS], config.resolution)


def _png(image: np.ndarray) -> io.BytesIO:
    """An encoded file: TFDS would need TensorFlow to encode an array."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    buffer.seek(0)
    return buffer
