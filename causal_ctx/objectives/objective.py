"""What a training step asks of a model: fresh variables, a loss, a projection."""

from typing import NamedTuple, Protocol

import jax


class Batch(NamedTuple):
    """images uint8 [..., B, H, W, C] and targets [..., B, K]; leading axes are S and R in training."""

    images: jax.Array
    targets: jax.Array


class Objective(Protocol):
    """A pure description of a model and its loss, equal and hashable where two programs may be shared."""

    def init(self, key: jax.Array) -> dict:
        """Fresh variables: {"params": ..., and collections that are updated but not by gradients}."""

    def loss(self, variables: dict, numbers: dict[str, jax.Array], batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[dict, dict]]:
        """(mean loss of one micro-batch, ({collection: its new state}, {name_with_unit: mean term})); `numbers` are those of `config.objective`."""

    def project(self, params: dict) -> dict:
        """The nearest parameters that are allowed."""
