"""Data sets of images grouped by context. `load(config.data)` finds one by name; `from_contexts` takes own arrays."""

import importlib

from causal_ctx.data.contexts import ContextData, from_contexts

__all__ = ["TABLE", "ContextData", "from_contexts", "load", "register_with_tfds"]

TABLE = {
    "quad_dependent": "causal_ctx.data.quad",
    "quad_independent": "causal_ctx.data.quad",
    "mnist": "causal_ctx.data.mnist",
    "3dident": "causal_ctx.data.threedident",
    "3dident/procedural": "causal_ctx.data.threedident",
    "folder": "causal_ctx.data.folder",
}


def load(config) -> ContextData:
    """The data set `config.name`, made, cached or read as its module in `TABLE` says.

    `config` holds name, resolution, train_per_context, held_out_per_context, validation_fraction, seed, cache_dir and
    path, as `config.data` does. Raises ValueError for an unknown name.
    """
    if config.name not in TABLE:
        raise ValueError(f"Data set {config.name!r} is unknown; set data.name to one of {', '.join(TABLE)}.")
    return importlib.import_module(TABLE[config.name]).load(config)


def register_with_tfds() -> None:
    """Makes the data sets known to TensorFlow Datasets by name: tfds.data_source("causal_ctx_quad/dependent"). TensorFlow itself is not needed."""
    importlib.import_module("causal_ctx.data.tfds_builders")
