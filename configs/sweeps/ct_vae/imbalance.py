"""CT-VAE with a tenth of the training pairs of one factor, beside all of them; three seeds of each. Retrieval is tested on all pairs.

Phase 1 does not depend on the axis and yet is trained for every member of it; one autoencoder for all is --config.axes.method=ct_vae --config.run.init_from=FOLDER.

    ./launch/local.sh --config=configs/sweeps/ct_vae/imbalance.py:cpu --workdir=runs/imbalance
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad at size "paper", "cpu" or "tiny"."""
    axes = {"method": ("mcq_vae", "ct_vae"), "data.keep": ("all", "quad1=0.1"), "seed": range(3)}
    return sweep.sweep(config.transition(f"quad,{size}", "ct_vae"), axes)
