"""CT-VAE: codes that cause one another, actions on them, and which action led from one image to another (Gendron et al. 2023).

    python -m causal_ctx.main --config=configs/ct_vae.py:quad,cpu --workdir=runs/ct
    python -m causal_ctx.main --config=configs/ct_vae.py:sprites,cpu --config.data.path=SHEETS --workdir=runs/sprites

After the colon stand a data set (sprites, quad, shapes3d, cars3d, dsprites, smallnorb or celeba; shapes3d, as published, if none) and a size. Phase 1, a run of
mcq_vae, is trained in the folder mcq_vae of the workdir, unless --config.init_from names one that is there already; of many seeds each has its own.
"""

from causal_ctx import config


def get_config(arguments: str = ""):
    """The config for "DATA", "SIZE" or "DATA,SIZE"."""
    return config.transition(arguments, "ct_vae")
