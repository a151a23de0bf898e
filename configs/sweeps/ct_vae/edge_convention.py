"""Who hears whom in the graph of CT-VAE: does entry (i, j) mean that node i depends on j, or that it speaks to j (spec section 2.10)? Three seeds of each.

Phase 1 does not depend on the axis and yet is trained for every member of it; one autoencoder for all is --config.axes.method=ct_vae --config.run.init_from=FOLDER.

    ./launch/local.sh --config=configs/sweeps/ct_vae/edge_convention.py:cpu --workdir=runs/edges
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad at size "paper", "cpu" or "tiny"."""
    axes = {"method": ("mcq_vae", "ct_vae"), "model.edge_convention": ("row_target", "row_source"), "seed": range(3)}
    return sweep.sweep(config.transition(f"quad,{size}", "ct_vae"), axes)
