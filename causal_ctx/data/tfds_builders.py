"""The data sets as TensorFlow Datasets builders, one mechanism for all; neither preparing nor reading them needs TensorFlow.

    import tensorflow_datasets as tfds, causal_ctx.data

    causal_ctx.data.register_with_tfds()  # imports this module, which registers the builders
    source = tfds.data_source("causal_ctx_quad/dependent", split="train")  # random access, no TensorFlow
    dataset = tfds.load("causal_ctx_quad/independent", split="test_compositions")  # tf.data, needs TensorFlow

On the command line: tfds build causal_ctx_quad/dependent --imports=causal_ctx.data.tfds_builders. The program `tfds` itself
(4.9.10) starts only where TensorFlow is installed; without, tfds.builder("causal_ctx_quad/dependent").download_and_prepare().

TFDS keeps a prepared data set in one file format. Where TensorFlow is not installed it is array_record, which
`data_source` reads; where it is, TFDS's default tfrecord, which `load` reads, unless file_format="array_record" is asked
for (tfds.data_source(..., builder_kwargs={"file_format": "array_record"})). To use both, give each its own `data_dir`.

The images are those of `causal_ctx.data.load` with the same counts and seed, and pass through its cache. Splits: "train"
holds "obs" and the single interventions, training and validation images, "test" the held-out images of the same
contexts, "test_compositions" the compositions. Where a context has no held-out images of its own, its validation images
are in "test" and not in "train". Each example: "image" uint8 [R, R, C], "context" (label, see
`info.features["context"].names`), "targets" uint8 [K] in the order of the concepts, and where the data set has latents
"latents" float32, NaN for images whose latents are not known.

Other counts or resolutions: tfds.builder("causal_ctx_quad", config=ContextsConfig(name="small", dataset="quad_dependent",
train_per_context=500, test_per_context=100)). Own folders: tfds.builder("causal_ctx_folder", config=folder_config("mine", DIR)).
TFDS knows a prepared data set by its name alone, so these names end with a checksum of the fields and files: other ones are prepared anew.
A data set more: a class at the end of this file.
"""

import dataclasses
import hashlib
import importlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from causal_ctx import data
from causal_ctx.data import cache, contexts, folder

CONTEXT_MODULE = """@inproceedings{markham2026intervening,
  author = {Markham, A. and Hirsch, I. and Chang, J. A. and Solus, L. and Aragam, B.},
  title = {Intervening to Learn and Compose Causally Disentangled Representations},
  booktitle = {Conference on Causal Learning and Reasoning (CLeaR), PMLR 323},
  pages = {1481--1525},
  year = {2026},
  note = {arXiv 2507.04754}
}"""
MNIST = """@article{lecun1998gradient,
  author = {LeCun, Y. and Bottou, L. and Bengio, Y. and Haffner, P.},
  title = {Gradient-based learning applied to document recognition},
  journal = {Proceedings of the IEEE},
  year = {1998}
}"""
MORPHO_MNIST = """@article{castro2019morpho,
  author = {Castro, D. C. and Tan, J. and Kainz, B. and Konukoglu, E. and Glocker, B.},
  title = {Morpho-MNIST: Quantitative Assessment and Diagnostics for Representation Learning},
  journal = {Journal of Machine Learning Research},
  year = {2019}
}"""
IDENT = """@inproceedings{zimmermann2021contrastive,
  author = {Zimmermann, R. S. and Sharma, Y. and Schneider, S. and Bethge, M. and Brendel, W.},
  title = {Contrastive Learning Inverts the Data Generating Process},
  booktitle = {International Conference on Machine Learning},
  year = {2021}
}"""
_DESCRIBING = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)} | {"license", "mark", "path"}  # fields that leave the images as they are
GENERATED_LICENSE = "Made by causal_ctx, Apache-2.0."
ARCHIVE_LICENSE = "That of the archive, which its record on Zenodo states."


@dataclasses.dataclass(kw_only=True)
class ContextsConfig(tfds.core.BuilderConfig):
    """What to prepare: the fields of `causal_ctx.data.load`, and how TFDS describes it.

    dataset: name in `data.TABLE`. manual_file: what has to be put into TFDS's manual folder, read in place of `path`.
    concepts, compositions, latents: names; None for those of the data set's module.
    mark: the end of the name of any config but the builders' own, which they append.
    """

    dataset: str
    resolution: int = 64
    channels: int = 3
    train_per_context: int = 50_000
    test_per_context: int = 10_000
    validation_fraction: float = 0.3
    seed: int = 0
    path: str = ""
    manual_file: str = ""
    license: str = GENERATED_LICENSE
    concepts: tuple[str, ...] | None = None
    compositions: tuple[str, ...] | None = None
    latents: tuple[str, ...] | None = None
    mark: str = dataclasses.field(default="", init=False)  # so that a changed copy gets its own

    def named(self, kind: str) -> tuple[str, ...]:
        """`concepts`, `compositions` or `latents`. Raises ValueError for a data set that has no fixed ones."""
        given = getattr(self, kind)
        module = importlib.import_module(data.TABLE[self.dataset])
        if given is None and kind != "latents" and not hasattr(module, kind.upper()):
            raise ValueError(f"The config {self.name!r} of {self.dataset} leaves {kind} open, which depend on the data; give them, or use folder_config.")
        return getattr(module, kind.upper(), ()) if given is None else given

    def fields(self, path: str | Path = "") -> ml_collections.ConfigDict:
        """Those of `causal_ctx.data.load`, which reads `path`, where given, in place of the config's own."""
        given = {name: getattr(self, name) for name in ("resolution", "train_per_context", "validation_fraction", "seed")}
        own = {"name": self.dataset, "path": str(path or self.path), "cache_dir": "", "held_out_per_context": self.test_per_context}
        return ml_collections.ConfigDict(given | own)

    def marked(self) -> "ContextsConfig":
        """This config under a name that ends with a checksum of whatever its images depend on."""
        if self.mark:
            return self
        said = {field.name: getattr(self, field.name) for field in dataclasses.fields(ContextsConfig) if field.name not in _DESCRIBING}
        path = Path(self.path).expanduser().resolve() if self.path else None
        files = folder.fingerprint(self.fields()) if path and self.dataset == "folder" else cache.stamp(path) if path and path.is_file() else None
        mark = hashlib.sha256(repr((said, path, files)).encode()).hexdigest()[:8]
        config = dataclasses.replace(self, name=f"{self.name}-{mark}")
        config.mark = mark
        return config


class ContextsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Prepares what `causal_ctx.data.load` gives for a `ContextsConfig`."""

    VERSION = tfds.core.Version("1.0.0")  # the major number is the generator's version of the data set's module
    DESCRIPTION, CITATION, HOMEPAGE = "", CONTEXT_MODULE, "https://arxiv.org/abs/2507.04754"

    def __init__(self, *, file_format=None, config=None, **kwargs):
        if file_format is None and importlib.util.find_spec("tensorflow") is None:
            file_format = "array_record"  # TFDS's own default is written and read by TensorFlow only
        if isinstance(config, ContextsConfig) and config not in self.BUILDER_CONFIGS:
            config = config.marked()
        super().__init__(file_format=file_format, config=config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        if config is None:
            raise ValueError(f"{self.name} needs to be told what to read; give config=causal_ctx.data.tfds_builders.folder_config(name, folder).")
        concepts, latents = config.named("concepts"), config.named("latents")
        names = (contexts.OBSERVATIONAL, *concepts, *config.named("compositions"))
        features = {
            "image": tfds.features.Image(shape=(config.resolution, config.resolution, config.channels), encoding_format="png"),
            "context": tfds.features.ClassLabel(names=names),
            "targets": tfds.features.Tensor(shape=(len(concepts),), dtype=np.uint8),
        }
        if latents:
            features["latents"] = tfds.features.Tensor(shape=(len(latents),), dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description=f"{self.DESCRIPTION} Concepts: {', '.join(concepts)}." + (f" Latents: {', '.join(latents)}." if latents else ""),
            citation=self.CITATION,
            homepage=self.HOMEPAGE,
            license=config.license,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        dataset = self._load(dl_manager)
        validated = [c for c, images in dataset.validation.items() if dataset.held_out[c] is not images]
        splits = {
            "train": {"train": list(dataset.train), "validation": validated},
            "test": {"held_out": list(dataset.train)},
            "test_compositions": {"held_out": list(dataset.compositions)},
        }
        return {split: self._generate_examples(dataset, parts) for split, parts in splits.items() if any(parts.values())}

    def _load(self, dl_manager) -> data.ContextData:
        config = self.builder_config
        path = config.path
        if config.manual_file and not path:
            path = Path(dl_manager.manual_dir) / config.manual_file
            if not path.exists():
                raise FileNotFoundError(f"{path} is not there; {' '.join(self.MANUAL_DOWNLOAD_INSTRUCTIONS.split())}")
        dataset = data.load(config.fields(path))
        found = (dataset.image_shape, dataset.concepts, set(dataset.compositions))
        said = ((config.resolution, config.resolution, config.channels), config.named("concepts"), set(config.named("compositions")))
        if found != said:
            raise ValueError(f"{config.dataset} holds images, concepts and compositions {found}, and the config {config.name!r} says {said}; correct it.")
        return dataset

    def _generate_examples(self, dataset: data.ContextData, parts: dict[str, list[str]]) -> Iterator[tuple[str, dict]]:
        """Examples of {field of `dataset`: contexts}."""
        width = len(self.builder_config.named("latents"))
        for part, names in parts.items():
            latents = getattr(dataset, f"{part}_latents") or {}
            for context in names:
                for row, image in enumerate(getattr(dataset, part)[context]):
                    example = {"image": _png(image), "context": context, "targets": dataset.targets(context)}
                    if width:
                        example["latents"] = np.float32(latents[context][row] if context in latents else np.full(width, np.nan))
                    yield f"{part}_{context}_{row}", example


def _png(image: np.ndarray) -> io.BytesIO:
    """An encoded file: TFDS would need TensorFlow to encode an array."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG", compress_level=1)
    buffer.seek(0)
    return buffer


def folder_config(name: str, path: str, **fields) -> ContextsConfig:
    """The config of "causal_ctx_folder" for own images below `path` (see `causal_ctx.data.folder`), looked at here; `fields` are those of `ContextsConfig`."""
    config = ContextsConfig(name=name, dataset="folder", path=str(path), license="Your own.", **fields)
    dataset = data.load(config.fields())
    return dataclasses.replace(config, channels=dataset.image_shape[-1], concepts=dataset.concepts, compositions=dataset.compositions)


def _quad(law: str) -> list[ContextsConfig]:
    """The whole, which takes minutes, and the two sizes of configs/, cpu and tiny."""
    said = {"dependent": "Latents of a linear-Gaussian causal model.", "independent": "Independent latents."}[law]
    sizes = {"": (64, 50_000, 10_000), "_cpu": (32, 5_000, 2_000), "_tiny": (16, 200, 128)}
    return [
        ContextsConfig(name=law + size, dataset=f"quad_{law}", resolution=r, train_per_context=n, test_per_context=m, description=said)
        for size, (r, n, m) in sizes.items()
    ]


class CausalCtxQuad(ContextsBuilder):
    """Generates quad from its law; downloads nothing."""

    DESCRIPTION = "Four coloured quadrants and a shape, in an observational, six interventional and nine composed contexts."
    BUILDER_CONFIGS = [config for law in ("dependent", "independent") for config in _quad(law)]


class CausalCtxMnist(ContextsBuilder):
    """Makes MNIST contexts from raw digits, or reads the published ones."""

    DESCRIPTION = "MNIST digits, scaled, sheared, shifted, swollen, thickened and thinned."
    CITATION = "\n".join((CONTEXT_MODULE, MORPHO_MNIST, MNIST))
    BUILDER_CONFIGS = [
        ContextsConfig(
            name="digits", dataset="mnist", resolution=28, channels=1, train_per_context=42_000, test_per_context=18_000, license="That of MNIST.",
            description="Made here from the 60,000 training digits, which are downloaded where they are not found; the held-out pairs are ours.",
        ),
        ContextsConfig(
            name="archive", dataset="mnist", resolution=28, channels=1, train_per_context=42_000, test_per_context=18_000, license=ARCHIVE_LICENSE,
            manual_file="normalized_mnist_concepts.tar.gz", compositions=(), description="The published images.",
        ),
    ]  # fmt: skip
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Only the config "archive" needs it: get normalized_mnist_concepts.tar.gz (unpacked about 1.4 GB; normalized_mnist_obs.csv and six more) from the record
    19346614 or 19346613 of Zenodo (zenodo.org/records/19346614), compare its MD5 (md5sum FILE) with the one that the record shows beside the file, and put it
    as it is into TFDS's manual folder, ~/tensorflow_datasets/downloads/manual or the manual_dir of your DownloadConfig.
    """


class CausalCtx3dident(ContextsBuilder):
    """Renders the stand-in of the 3DIdent contexts, or reads the published ones."""

    name = "causal_ctx_3dident"
    DESCRIPTION = "An object under a spotlight over a ground plane, with interventions on the hues of background, object and spotlight."
    CITATION = "\n".join((CONTEXT_MODULE, IDENT))
    BUILDER_CONFIGS = [
        ContextsConfig(
            name="procedural", dataset="3dident/procedural", train_per_context=20_000, test_per_context=6_000, validation_fraction=0.2,
            description="A stand-in rendered here, not the published images.",
        ),
        ContextsConfig(name="archive", dataset="3dident", manual_file="3dident.zip", license=ARCHIVE_LICENSE, description="The published images."),
    ]  # fmt: skip
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Only the config "archive" needs it: get 3dident.zip (its size is shown beside the file; it holds 3DIdent_Concepts/ and 3DIdent_Concepts_ood/) from the
    record 19346613 of Zenodo (zenodo.org/records/19346613), compare its MD5 (md5sum FILE) with the one that the record shows beside the file, and put it
    as it is into TFDS's manual folder, ~/tensorflow_datasets/downloads/manual or the manual_dir of your DownloadConfig.
    """


class CausalCtxFolder(ContextsBuilder):
    """Reads own images; takes config=folder_config(name, folder)."""

    DESCRIPTION = "Own images, a folder per context."
    BUILDER_CONFIGS = []
