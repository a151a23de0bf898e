"""Ablation of our own method: its four penalties in every combination, five seeds.

    ./launch/local.sh --mode=sweep --config=configs/sweeps/shared_noise.py:cpu --config.axes.seed=0,1,2 --workdir=runs/shared_noise

A told encoder, mixed micro-batches, group normalisation and structural equations are in all of them. Weights between and beyond these values, and energy
distances of whole images, with the other penalties in one weight, for axes are crossed:

    ONE="--config.axes.objective.moment_penalty=4.0 --config.axes.objective.interaction_penalty=1.0 --config.axes.objective.context_penalty=200.0"
    ./launch/local.sh --mode=sweep --config=configs/sweeps/shared_noise.py:cpu $ONE --config.axes.objective.energy_penalty=1.0,4.0,16.0 --workdir=runs/energy
    ./launch/local.sh --mode=sweep --config=configs/sweeps/shared_noise.py:cpu $ONE --config.axes.objective.energy_penalty=4.0 --config.axes.train.energy_patches=1,4 --workdir=runs/patches

They are 48, 15 and 10 runs.
"""

from causal_ctx import config, methods, sweep


def get_config(size: str = "paper"):
    """The sweep on quad_dependent at size "paper", "cpu" or "tiny"."""
    penalties = {f"objective.{name}_penalty": (0.0, methods.SHARED_NOISE[f"objective.{name}_penalty"]) for name in ("energy", "moment", "interaction", "context")}
    return sweep.sweep(config.resize(config.default(), size), {"method": ("cm_shared_noise",), **penalties, "seed": range(5)})
