"""Ablation: L2 norm of the causal matrix, cm_end_to_end, five seeds; all runs are one program.

    ./launch/local.sh --mode=reproduce --table=l2_penalty --dataset=quad_independent --size=cpu --workdir=runs/l2_penalty
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad_independent at size "paper", "cpu" or "tiny"."""
    run = config.default()
    run.data.name = "quad_independent"
    return sweep.sweep(config.resize(run, size), {"objective.l2_penalty": (0.0, 1.0, 10.0, 100.0), "seed": range(5)})
