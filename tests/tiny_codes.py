"""A factor data set and a CT-VAE so small that a step takes milliseconds."""

import numpy as np

from causal_ctx import config as configs
from causal_ctx.data import factors, transition_sets, transitions
from causal_ctx.data.transitions import SPLITS

SIZES = {"brightness": 4, "place": 4, "hue": 3}


def compose(values: np.ndarray) -> np.ndarray:
    """Images uint8 [n, 8, 8, 3]: a square of a brightness, in one of four corners, on a ground of a hue."""
    images = np.zeros((len(values), 8, 8, 3), np.uint8)
    for image, (brightness, place, hue) in zip(images, values):
        image[..., hue] = 90
        row, column = divmod(place, 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 60 * (brightness + 1)
    return images


def dataset(seed: int = 0) -> transition_sets.TransitionData:
    """All 48 images, in splits large enough that every action is in each."""
    data = factors.composed("corners", SIZES, (8, 8, 3), compose)
    splits = np.zeros(len(data), np.uint8)
    splits[data.factors(np.arange(len(data)))[:, 2] == 1] = 1
    made = transitions.both_ways(transitions.neighbour_pairs(data, 50, seed), np.zeros(len(data), np.uint8), 3)
    made = made._replace(splits=(np.arange(len(made.inputs)) % 3).astype(np.uint8))
    images = {split: transition_sets.Images(data, np.arange(len(data))) for split in SPLITS}
    return transition_sets.TransitionData(data, images, made, np.bincount(transitions.select(made, "train").actions, minlength=6))


def config(method: str = "ct_vae", **overrides):
    """A `tiny` config; overrides as dotted names with "__" for the dot."""
    c = configs.transition("quad,tiny", method)
    c.data.resolution = 8
    c.model.update(widths=(8,), blocks=1, latent_width=8, num_codes=8, hidden_widths=(8, 4), rows_at_once=16)
    c.autoencoder.update(epochs=2, batch_size=16, micro_batch=16)
    c.train.update(epochs=2, batch_size=16, micro_batch=8)
    c.evaluation.chain_steps = 2
    for name, value in overrides.items():
        c.update_from_flattened_dict({name.replace("__", "."): value})
    return c
