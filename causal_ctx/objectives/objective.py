"""What a training step asks of a model: fresh variables, a loss, a projection."""

from typing import NamedTuple, Protocol

import jax


class ImageBatch(NamedTuple):
    """images uint8 [..., B, H, W, C] and targets [..., B, K]; leading axes are S and R in training."""

    images: jax.Array
    targets: jax.Array


Batch = tuple  # of arrays [..., B, ...]: an ImageBatch, or another named tuple that the objective and its feed agree on


class Objective(Protocol):
    """A pure description of a model and its loss, equal and hashable where two programs may be shared.

    unit: of the loss, which is the term "loss_<unit>". told: the terms that a person reads while it trains, the loss first.
    A term "a/b" beside a term "weight/a" is a sum over the examples that have it, and the weight is how many those are, both per example of the batch: see
    `means`.
    """

    unit: str
    told: tuple[str, ...]

    def init(self, key: jax.Array) -> dict:
        """Fresh variables: {"params": ..., and collections that are updated but not by gradients}."""

    def loss(self, variables: dict, numbers: dict[str, jax.Array], batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[dict, dict]]:
        """(mean loss of one micro-batch, ({collection: its new state}, {name_with_unit: mean term})); `numbers` are those of `config.objective`."""

    def project(self, params: dict, collections: dict) -> tuple[dict, dict]:
        """The nearest (parameters, collections) that are allowed."""


def means(metrics: dict) -> dict[str, float]:
    """Means of terms [S] over the steps that have them; a term that none has is left out, as are the weights (see `Objective`)."""
    weight = lambda name: metrics.get(f"weight/{name.split('/')[0]}")
    found = {}
    for name, values in metrics.items():
        if name.startswith("weight/"):
            continue
        if (of := weight(name)) is None:
            found[name] = float(values.mean())
        elif of.sum() > 0:
            found[name] = float(values.sum() / of.sum())
    return found
