"""Phase 1 of CT-VAE by itself."""
from causal_ctx import config


def get_config(arguments: str = "shapes3d,paper"):
    """The config for "DATA,SIZE"."""
    return config.transition(arguments, "mcq_vae")
