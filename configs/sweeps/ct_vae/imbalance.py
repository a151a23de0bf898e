"""CT-VAE with a tenth of the training pairs of one factor, beside all of them; three seeds of each. Retrieval is tested on all pairs.

Phase 1 does not depend on the axis and yet is trained for every member of it; one autoencoder for all is --config.axes.method=ct_vae --config.run.init_from=FOLDER.

    ./launch/local.sh --config=configs/sweeps/ct_vae/imbalance.py:cpu --workdir=runs/imbalance

On quad at size cpu (one autoencoder for all, at the published learning rate), mean and standard error of three seeds; accuracy of retrieval on all test pairs:

    training pairs of quad1, up and down     799 each         80 each
    quad1 up                                 0.914 +- 0.012   0.014 +- 0.003
    quad1 down                               0.976 +- 0.011   0.021 +- 0.008
    quad2 up                                 0.833 +- 0.044   0.848 +- 0.026
    quad2 down                               0.791 +- 0.012   0.894 +- 0.016
    all actions                              0.724 +- 0.006   0.592 +- 0.008

At this budget a factor with a tenth of the pairs is all but lost, although its pairs look like those of the other three quadrants: each action has heads and a
graph of its own, which 80 pairs do not train. Of the other fourteen actions seven rise and seven fall, none by more than 0.11.
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad at size "paper", "cpu" or "tiny"."""
    axes = {"method": ("mcq_vae", "ct_vae"), "data.keep": ("all", "quad1=0.1"), "seed": range(3)}
    return sweep.sweep(config.transition(f"quad,{size}", "ct_vae"), axes)
