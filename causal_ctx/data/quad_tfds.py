"""Importing this registers quad with TensorFlow Datasets, as "causal_ctx_quad", and every other data set too; see `tfds_builders`."""

from causal_ctx.data.tfds_builders import CausalCtxQuad, ContextsConfig

__all__ = ["CausalCtxQuad", "ContextsConfig"]
