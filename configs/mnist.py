"""MNIST contexts: scaled, shear, shift, swel, thic, thin; the pairs of them that are held out are ours, the paper has none for MNIST.

    python -m causal_ctx.main --config=configs/mnist.py:cpu --config.data.path=DIR --workdir=runs/mnist

DIR holds train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz (10,000 digits, enough for :cpu) or the published archive; without data.path the
training digits are found where TFDS keeps them, or downloaded.
"""

from causal_ctx import config


def get_config(size: str = "paper"):
    """The config at size "paper", "cpu" or "tiny"."""
    settings = config.default()
    settings.data.update(name="mnist", resolution=28, train_per_context=42_000, held_out_per_context=18_000)
    settings.model.update(backbone="conv28", noise_width=15, concept_width=5)
    return config.resize(settings, size)
