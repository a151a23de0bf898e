r"""Own images: one folder per context in data.path, named obs, after the concept that is intervened on, or a+b for held-out compositions.

    python -m causal_ctx.main --config=configs/folder.py:cpu --config.data.path=DIR --workdir=runs/own

PNG, JPEG, or array files obs.npz with the key "images"; any size, resized to data.resolution with a notice; grey or RGB. `causal_ctx/data/folder.py`
says what DIR may hold. Takes as long as quad with as many images: minutes at size cpu on two cores, where at most 5,000 images of every context are taken.
"""

from causal_ctx import config


def get_config(size: str = "paper"):
    """The config at size "paper", "cpu" or "tiny"."""
    settings = config.default()
    settings.data.name = "folder"
    return config.resize(settings, size)
