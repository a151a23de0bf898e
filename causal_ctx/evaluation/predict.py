"""A trained model as three functions of arrays: generate, ELBO and reconstruct, under the statistics that belong to a target set.

Letters: N number of images, H, W, C image, L latent width, K concepts.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from causal_ctx import parallel
from causal_ctx.data import ContextData
from causal_ctx.models import build_model, latent_width
from causal_ctx.models.conv_vae import ConvVAE
from causal_ctx.objectives import vae
from causal_ctx.step import TrainState


class Predictor(NamedTuple):
    """`model`, its `calibrating` twin, its trained `variables` and the latent width; every method takes ONE target set [K] for all N images.

    As in NVAE, layers normalised as "generated" sample with statistics of `calibration_images` images generated under that target set, while images are
    encoded and scored with the running averages of training. Examples are split over `mesh`.
    """

    model: ConvVAE
    calibrating: ConvVAE
    variables: dict
    latents: int
    calibration_images: int
    mesh: jax.sharding.Mesh
    batch_size: int = 256

    def calibrated(self, targets: np.ndarray) -> dict:
        """Variables whose "generated" layers of module and decoder have the statistics of images generated under `targets` [K], any composition."""
        rows = np.broadcast_to(np.asarray(targets, np.float32), (self.calibration_images, len(targets)))
        return _calibrate(self.calibrating, self.variables, rows, self.latents)

    def with_other_composition(self) -> "Predictor | None":
        """The same weights under the other composition rule (quirk Q2); None without a context module."""
        if self.model.context_module is None:
            return None
        rule = "reference" if self.model.context_module.composition == "cut" else "cut"
        model, calibrating = (m.clone(context_module=m.context_module.clone(composition=rule)) for m in (self.model, self.calibrating))
        return self._replace(model=model, calibrating=calibrating)

    def generate(self, targets: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Mean images float32 [N, H, W, C] in [0, 1] under `targets` [K] from exogenous `noise` [N, L]."""
        variables = self.calibrated(targets)
        return self._map(lambda z, t, _: _generate(self.model, variables, z, t), noise, targets)

    def reconstruct(self, targets: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Mean images float32 [N, H, W, C] decoded from the posterior means of images uint8 [N, H, W, C] under `targets` [K]."""
        decode = lambda x, t, _: _generate(self.model, self.variables, _encode(self.model, self.variables, x).mean, t)
        return self._map(decode, images, targets)

    def encode(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Posterior {"mean", "log_variance"}, each [N, L], of images uint8 [N, H, W, C]."""
        return self._map(lambda x, *_: _encode(self.model, self.variables, x), images, np.zeros(1))._asdict()

    def elbo(self, targets: np.ndarray, images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
        """Per image, one posterior sample: {"elbo_nats", "reconstruction_nats", "kl_nats"}, each [N], for images uint8 [N, H, W, C].

        The samples are drawn per batch of `batch_size` images.
        """
        key = jax.random.key(seed)
        return self._map(lambda x, t, i: _elbo(self.model, self.variables, x, t, jax.random.fold_in(key, i)), images, targets)

    def _map(self, function: Callable, array: np.ndarray, targets: np.ndarray):
        """`function(rows, targets of the rows, batch number)` over all N rows in batches of one size, the last one filled up and cut again."""
        size = -(-min(self.batch_size, len(array)) // self.mesh.size) * self.mesh.size
        rows = parallel.place(self.mesh, np.broadcast_to(np.asarray(targets, np.float32), (size, len(targets))), axis=0)
        parts = []
        for number, start in enumerate(range(0, len(array), size)):
            part = np.asarray(array[start : start + size])
            filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            result = jax.device_get(function(parallel.place(self.mesh, filled, axis=0), rows, number))
            parts.append(jax.tree.map(lambda a, n=len(part): a[:n], result))
        return jax.tree.map(lambda *a: np.concatenate(a), *parts)


def build_predictor(config: ml_collections.ConfigDict, dataset: ContextData, state: TrainState) -> Predictor:
    """The Predictor of a state."""
    k, shape, mesh = len(dataset.concepts), dataset.image_shape, parallel.data_mesh()
    model, calibrating = build_model(config, k, shape), build_model(config, k, shape, calibrating=True)
    return Predictor(model, calibrating, state.variables, latent_width(config, k), config.evaluation.calibration_images, mesh)


@partial(jax.jit, static_argnums=(0, 3))
def _calibrate(model: ConvVAE, variables: dict, targets: jax.Array, latents: int) -> dict:
    key = jax.random.fold_in(jax.random.key(0), 2**31)  # of no one else: the images that are scored come from other noise
    z = jax.random.normal(key, (len(targets), latents))
    _, updated = model.apply(variables, z, targets, train=True, mutable=["batch_stats"], method="decode")
    return variables | {"batch_stats": variables["batch_stats"] | updated["batch_stats"]} if updated else variables


@partial(jax.jit, static_argnums=0)
def _generate(model: ConvVAE, variables: dict, z: jax.Array, targets: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(model.apply(variables, z, targets, method="decode"))


@partial(jax.jit, static_argnums=0)
def _encode(model: ConvVAE, variables: dict, images: jax.Array):
    return model.apply(variables, images.astype(jnp.float32) / 255, method="encode")


@partial(jax.jit, static_argnums=0)
def _elbo(model: ConvVAE, variables: dict, images: jax.Array, targets: jax.Array, key: jax.Array) -> dict:
    images = images.astype(jnp.float32) / 255
    logits, posterior = model.apply(variables, images, targets, key, train=False)
    reconstruction, kl = vae.reconstruction_nats(logits, images), vae.kl_nats(posterior)
    return {"elbo_nats": -(reconstruction + kl), "reconstruction_nats": reconstruction, "kl_nats": kl}
