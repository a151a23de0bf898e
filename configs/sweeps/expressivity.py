"""Ablation: depth and widths of the context module's expressive layers, cm_end_to_end, five seeds; every shape is a program of its own.

    ./launch/local.sh --mode=reproduce --table=expressivity --dataset=quad_independent --size=cpu --workdir=runs/expressivity
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad_independent at size "paper", "cpu" or "tiny"."""
    run = config.default()
    run.data.name = "quad_independent"
    axes = {"model.depth": (2, 4), "model.noise_width": (16, 32), "model.concept_width": (8, 16, 32), "seed": range(5)}
    return sweep.sweep(config.resize(run, size), axes)
