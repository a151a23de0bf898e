"""Who hears whom in the graph of CT-VAE: does entry (i, j) mean that node i depends on j, or that it speaks to j (spec section 2.10)? Three seeds of each.

Phase 1 does not depend on the axis and yet is trained for every member of it; one autoencoder for all is --config.axes.method=ct_vae --config.run.init_from=FOLDER.

    ./launch/local.sh --config=configs/sweeps/ct_vae/edge_convention.py:cpu --workdir=runs/edges

The default is row_target by this sweep on quad at size cpu (one autoencoder for all, at the published learning rate), mean and standard error of three seeds:

    test pairs                                       row_target       row_source
    action found; most frequent answer 0.094         0.724 +- 0.006   0.515 +- 0.011
    factor found, either way; 0.187                  0.768 +- 0.002   0.638 +- 0.020
    codes after an action, nats per node             1.757 +- 0.049   2.035 +- 0.037
    expected image, squared error; copy 0.072        0.039 +- 0.002   0.056 +- 0.001
    of the pixels that change; copy 0.407            0.127 +- 0.005   0.237 +- 0.001
    image of the likeliest codes, squared error      0.049 +- 0.002   0.061 +- 0.001
    action found in what the model itself made       0.490 +- 0.014   0.238 +- 0.018

Where the action reaches the nodes, it is found and predicted better; row_source touches more of them (30 % against 12 %).
"""

from causal_ctx import config, sweep


def get_config(size: str = "paper"):
    """The sweep on quad at size "paper", "cpu" or "tiny"."""
    axes = {"method": ("mcq_vae", "ct_vae"), "model.edge_convention": ("row_target", "row_source"), "seed": range(3)}
    return sweep.sweep(config.transition(f"quad,{size}", "ct_vae"), axes)
