"""Quad with causally dependent factors: a context module learns four quadrant colours, size and orientation from single interventions.

    python -m causal_ctx.main --config=configs/quad_dependent.py:cpu --workdir=runs/quad
"""

from causal_ctx import config


def get_config(size: str = "paper"):
    """The config at size "paper", "cpu" or "tiny"."""
    return config.resize(config.default(), size)
