"""causal_ctx: context modules and causal transitions for causally disentangled generative models, in JAX and Flax."""

__all__ = ["load_run"]


def __getattr__(name: str):
    """`causal_ctx.load_run`, imported when first used so that `import causal_ctx.data` stays light."""
    if name == "load_run":
        from causal_ctx.run import load_run

        return load_run
    raise AttributeError(f"module 'causal_ctx' has no attribute {name!r}")
