"""The paper's main comparison, all six methods, and our own beside them, five seeds; the runs that start from base_pooled start from that of their own seed.

    ./launch/local.sh --mode=sweep --config=configs/sweeps/main.py:cpu --workdir=runs/main
    ./launch/local.sh --mode=reproduce --table=main --dataset=quad_dependent --size=cpu --seeds=3 --workdir=runs/main
"""

from causal_ctx import config, sweep
from causal_ctx.methods import of_system


def get_config(size: str = "paper"):
    """The sweep on quad_dependent at size "paper", "cpu" or "tiny"."""
    return sweep.sweep(config.resize(config.default(), size), {"method": of_system("context"), "seed": range(5)})
