"""Quad with independent factors: every intervention changes the law of one factor and of nothing else.

    python -m causal_ctx.main --config=configs/quad_independent.py:cpu --workdir=runs/quad_independent
"""

from causal_ctx import config


def get_config(size: str = "paper"):
    """The config at size "paper", "cpu" or "tiny"."""
    settings = config.default()
    settings.data.name = "quad_independent"
    return config.resize(settings, size)
