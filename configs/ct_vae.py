"""CT-VAE."""
from causal_ctx import config


def get_config(arguments: str = "shapes3d,paper"):
    """The config for "DATA,SIZE"."""
    return config.transition(arguments, "ct_vae")
