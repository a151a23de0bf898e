"""CT-VAE with a tenth of the training pairs of one factor, beside all of them; three seeds of each. Retrieval is tested on all pairs.

    ./launch/local.sh --config=configs/sweeps/imbalance.py:cpu --workdir=runs/imbalance
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad at size "paper", "cpu" or "tiny"."""
    axes = {"method": ("mcq_vae", "ct_vae"), "data.keep": ("all", "quad1=0.1"), "seed": range(3)}
    return sweep.sweep(config.transition(f"quad,{size}", "ct_vae"), axes)
