"""Phase 1 of CT-VAE by itself: images to a grid of codes and back (Gendron et al. 2023).

    python -m causal_ctx.main --config=configs/mcq_vae.py:quad,cpu --workdir=runs/mcq
    python -m causal_ctx.main --config=configs/mcq_vae.py:sprites,cpu --config.data.path=SHEETS --config.model.num_codebooks=4 --workdir=runs/sprites_mcq

The data set and the size stand after the colon: see configs/ct_vae.py.
"""

from causal_ctx import config


def get_config(arguments: str = ""):
    """The config for "DATA", "SIZE" or "DATA,SIZE"."""
    return config.transition(arguments, "mcq_vae")
