"""Ablation: peak learning rate, which the paper does not vary, cm_end_to_end, five seeds; all runs are one program.

    ./launch/local.sh --mode=reproduce --table=learning_rate --dataset=quad_independent --size=cpu --workdir=runs/learning_rate
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad_independent at size "paper", "cpu" or "tiny"."""
    run = config.default()
    run.data.name = "quad_independent"
    return sweep.sweep(config.resize(run, size), {"train.learning_rate": (3e-4, 1e-3, 3e-3), "seed": range(5)})
