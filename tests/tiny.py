"""A data set and a config so small that a step takes milliseconds."""

import contextlib

import numpy as np
import pytest

from causal_ctx import config as configs
from causal_ctx import data


def dataset(n: int = 48, resolution: int = 16) -> data.ContextData:
    """Three concepts ("light" brightens the top half, "red" raises red, "dark" darkens the bottom) on noisy grey images."""
    rng = np.random.default_rng(0)
    half = resolution // 2

    def images(*concepts):
        x = rng.integers(60, 180, size=(n, 1, 1, 3)) + rng.integers(0, 20, size=(n, resolution, resolution, 3))
        x[:, :half] += 50 * ("light" in concepts)
        x[..., 0] += 50 * ("red" in concepts)
        x[:, half:] -= 50 * ("dark" in concepts)
        return x.astype(np.uint8)

    contexts = {"obs": images(), **{name: images(name) for name in ("light", "red", "dark")}}
    return data.from_contexts(contexts, held_out={"light+red": images("light", "red")})


@contextlib.contextmanager
def run(folder, fill):
    """Yields (folder, config) of a run that `fill(config, folder)` has written; this data set stands in for quad meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        own, settings = dataset(), config(train__epochs=1)
        patch.setattr(data, "load", lambda _: own)
        fill(settings, folder)
        yield folder, settings


def config(**overrides):
    """A `tiny` config; overrides as dotted names with "__" for the dot, for example train__epochs=1."""
    c = configs.resize(configs.default(), "tiny")
    c.data.resolution = 16
    c.model.update(noise_width=4, concept_width=3, features=16)
    c.train.update(epochs=3, batch_size=32, micro_batch=16, steps_per_call=2, warmup_steps=2)
    for name, value in overrides.items():
        c.update_from_flattened_dict({name.replace("__", "."): value})
    return c
