r"""3DIdent contexts: a teapot under a spotlight over a ground plane; interventions on the hues of background, object and spotlight, three held-out pairs.

    python -m causal_ctx.main --config=configs/3dident.py:cpu --workdir=runs/3dident

trains on `3dident/procedural`, images rendered here (see causal_ctx/data/threedident.py). The published images are read instead with

    --config.data.name=3dident --config.data.path=DIR_OR_3dident.zip

Published numbers belong to `3dident` alone, and were obtained with other backbones; none stands beside results on the rendered images.
"""

from causal_ctx import config


def get_config(size: str = "paper"):
    """The config at size "paper", "cpu" or "tiny"."""
    settings = config.default()
    settings.data.update(name="3dident/procedural", train_per_context=20_000, held_out_per_context=6_000, validation_fraction=0.2)
    settings = config.resize(settings, size)
    if size == "cpu":
        settings.train.epochs = 20  # hues are learned late
    return settings
