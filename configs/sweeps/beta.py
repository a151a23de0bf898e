"""Ablation: weight of the KL, cm_end_to_end, five seeds; all runs are one program.

    ./launch/local.sh --mode=reproduce --table=beta --dataset=quad_independent --size=cpu --workdir=runs/beta
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad_independent at size "paper", "cpu" or "tiny"."""
    run = config.default()
    run.data.name = "quad_independent"
    return sweep.sweep(config.resize(run, size), {"objective.beta": (0.5, 1.0, 2.0, 4.0), "seed": range(5)})
