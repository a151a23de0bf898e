"""Data sets of images grouped by context. `load(config.data)` finds one by name; `from_contexts` takes own arrays."""

import dataclasses
import importlib
from collections.abc import Iterable

import numpy as np

from causal_ctx.data.contexts import ContextData, from_contexts, interventions

__all__ = ["TABLE", "ContextData", "from_contexts", "load", "register_with_tfds", "total_effects"]

TABLE = {
    "quad_dependent": "causal_ctx.data.quad",
    "quad_independent": "causal_ctx.data.quad",
    "mnist": "causal_ctx.data.mnist",
    "3dident": "causal_ctx.data.threedident",
    "3dident/procedural": "causal_ctx.data.threedident",
    "folder": "causal_ctx.data.folder",
}
# Whose law is known, and the module whose `total_effects` tells it. Of own images it is not, nor of the published 3dident, nor of mnist: its observational
# digits have sizes, slants and strokes of an unknown law.
CAUSAL_LAWS = {
    "quad_dependent": "causal_ctx.data.quad_scm",
    "quad_independent": "causal_ctx.data.quad_independent",
    "3dident/procedural": "causal_ctx.data.threedident",
}


def load(config) -> ContextData:
    """The data set `config.name`, made, cached or read as its module in `TABLE` says.

    `config` holds name, resolution, train_per_context, held_out_per_context, validation_fraction, seed, cache_dir and
    path, as `config.data` does. Raises ValueError for an unknown name.
    """
    if config.name not in TABLE:
        raise ValueError(f"Data set {config.name!r} is unknown; set data.name to one of {', '.join(TABLE)}.")
    dataset = importlib.import_module(TABLE[config.name]).load(config)
    if config.name not in CAUSAL_LAWS:
        return dataset
    effects = {context: total_effects(config.name, interventions(context)) for context in dataset.training_contexts}
    return dataclasses.replace(dataset, total_effects=effects)


def total_effects(name: str, interventions: Iterable[str] = ()) -> np.ndarray | None:
    """How the concepts of the data set `name` truly cause one another under perfect interventions, float64 [K, K]; None where that is not known.

    Row: the affected concept, column: the one whose noise moves it, in standard deviations of both (see `quad_scm.total_effects`). Off the diagonal it is 0
    exactly where the column's concept is no cause of the row's. Raises ValueError for a concept that the data set does not have.
    """
    return importlib.import_module(CAUSAL_LAWS[name]).total_effects(interventions) if name in CAUSAL_LAWS else None


def register_with_tfds() -> None:
    """Makes the data sets known to TensorFlow Datasets by name: tfds.data_source("causal_ctx_quad/dependent"). TensorFlow itself is not needed."""
    importlib.import_module("causal_ctx.data.tfds_builders")
