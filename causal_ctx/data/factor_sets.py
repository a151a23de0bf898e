"""Sets of images described by factors, by name: what the causal transition models learn on."""

import importlib

from causal_ctx.data.factors import FactorData

TABLE = {
    "sprites": "causal_ctx.data.sprites",
    "quad": "causal_ctx.data.quad_factors",
    "shapes3d": "causal_ctx.data.dense_sets",
    "dsprites": "causal_ctx.data.dense_sets",
    "smallnorb": "causal_ctx.data.dense_sets",
    "cars3d": "causal_ctx.data.cars3d",
    "celeba": "causal_ctx.data.celeba",
}


def load(config) -> FactorData:
    """The factor data set `config.name`, composed, rendered, cached or read as its module in `TABLE` says.

    `config` holds name, path (folder or file of the data; empty for quad, and for what TensorFlow Datasets has in its own folder), resolution (pixels a
    side), preprocess ("native" or "reference", see `preprocessing`) and cache_dir. Raises ValueError for an unknown name.
    """
    if config.name not in TABLE:
        raise ValueError(f"Factor data set {config.name!r} is unknown; set data.name to one of {', '.join(TABLE)}.")
    return importlib.import_module(TABLE[config.name]).load(config)
