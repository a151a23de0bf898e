"""Normalisation as a named choice: how features are standardised in training and at evaluation (quirk Q4 of the reference).

Letters: B batch, C features.
"""

import flax.linen as nn
import jax

KINDS = ("batch", "generated", "group")


class Norm(nn.Module):
    """Standardises the features x [B, ..., C], then scales and shifts them; same shape out.

    kind:
      * "batch": BatchNorm over the examples of one micro-batch in training, over running averages at evaluation (the reference).
      * "generated": trained the same; images are encoded and scored with the running averages, but sampled with the statistics of images generated under
        the wanted targets (`evaluation.predict.Predictor.calibrated`), for any composition, as NVAE does with its re-adjusted BatchNorm.
      * "group": GroupNorm over `groups` groups of features of one example: no batch enters, training and evaluation are the same function.
      * "running": always the running averages, also in training (for the "batch" layers of a model whose "generated" ones are being calibrated).
    """

    kind: str
    momentum: float = 0.9
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind == "group":
            return nn.GroupNorm(num_groups=self.groups, epsilon=1e-5, name="group")(x)
        return nn.BatchNorm(use_running_average=not train or self.kind == "running", momentum=self.momentum, epsilon=1e-5, name="batch")(x)
