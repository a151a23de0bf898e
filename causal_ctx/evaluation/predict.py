"""A trained model as three functions of arrays: generate, ELBO and reconstruct, under the statistics that belong to a target set.

Letters: N number of images, H, W, C image, L latent width, K concepts, T target sets.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import PartitionSpec

from causal_ctx import parallel
from causal_ctx.data import ContextData
from causal_ctx.models import build_model, latent_width
from causal_ctx.models.context_module import QUIRK_RULES, effective_causal_blocks
from causal_ctx.models.conv_vae import ConvVAE
from causal_ctx.objectives import vae
from causal_ctx.step import TrainState

IMAGES_AT_ONCE = {"cpu": 64, "default": 1024}  # decoded together by one device: on a CPU more of them leave its caches
IMAGES_PER_CALL = 4096  # that one compiled call returns at most, before they go to the host


class Predictor(NamedTuple):
    """`model`, its `calibrating` twin, its trained `variables` and the latent width.

    `generate_all` takes T target sets for the same N noises, every other method ONE target set [K] for all N images.

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

    def statistics(self, target_sets: np.ndarray) -> dict:
        """What the "generated" layers of module and decoder sample with under each of the target sets [T, K], any compositions: leaves [T, ...].

        Every set has the statistics of the same `calibration_images` noises. The sets go one by one through one compiled call, in the memory of one.
        """
        return _statistics(self.calibrating, self.variables, np.asarray(target_sets, np.float32), (self.calibration_images, self.latents))

    def calibrated(self, targets: np.ndarray) -> dict:
        """Variables with the `statistics` of one target set [K]."""
        return _with_statistics(self.variables, jax.tree.map(lambda leaf: leaf[0], self.statistics(np.asarray(targets)[None])))

    @property
    def rules(self) -> tuple[str, ...]:
        """The composition rules under which the weights can be read: both readings of quirk Q2, or "structural" alone; none without a context module."""
        module = self.model.context_module
        return () if module is None else QUIRK_RULES if module.composition in QUIRK_RULES else (module.composition,)

    @property
    def intervenes(self) -> bool:
        """Whether interventions reach a context module."""
        return self.model.hears_targets

    @property
    def calibrates(self) -> bool:
        """Whether there are layers which sample with other statistics than they encode and score with."""
        return "generated" in (self.model.decoder.normalisation, getattr(self.model.context_module, "normalisation", ""))

    def with_quirks(self, **quirks: str) -> "Predictor | None":
        """The same weights under another `composition` (quirk Q2) or `noise_mixing` (quirk Q1); None without a context module."""
        if self.model.context_module is None:
            return None
        model, calibrating = (m.clone(context_module=m.context_module.clone(**quirks)) for m in (self.model, self.calibrating))
        return self._replace(model=model, calibrating=calibrating)

    def causal_blocks(self, targets: np.ndarray) -> np.ndarray | None:
        """Effective causal matrices [..., K, w, K, w] under targets [..., K], row = hearing concept, column = speaking noise; None without a context module."""
        if self.model.context_module is None:
            return None
        module = parallel.on_host(self.variables["params"]["context_module"])
        return np.asarray(effective_causal_blocks(module["causal_obs"], module["causal_ivn"], targets, self.model.context_module.composition))

    def generate(self, targets: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Mean images float32 [N, H, W, C] in [0, 1] under `targets` [K] from exogenous `noise` [N, L]."""
        return self.generate_all(np.asarray(targets)[None], noise)[0]

    def generate_all(self, target_sets: np.ndarray, noise: np.ndarray, statistics: dict | None = None) -> np.ndarray:
        """Mean images float32 [T, N, H, W, C] in [0, 1] under each of `target_sets` [T, K], all from the same exogenous `noise` [N, L].

        Equal to `generate` per set but for rounding (1e-4, on trained weights 1e-5). `statistics` of these sets may be given where they are known. The
        devices never hold more than `IMAGES_PER_CALL` images, or one batch of `IMAGES_AT_ONCE` each; the result is on the host, 4 T N H W C bytes.
        """
        sets, noise = np.asarray(target_sets, np.float32), np.asarray(noise, np.float32)
        statistics = self.statistics(sets) if statistics is None else statistics
        most = IMAGES_AT_ONCE.get(self.mesh.devices.flat[0].platform, IMAGES_AT_ONCE["default"]) * self.mesh.size
        size = -(-min(most, len(noise)) // self.mesh.size) * self.mesh.size
        calls = -(-len(sets) // max(1, IMAGES_PER_CALL // size))
        images = np.empty((len(sets), len(noise), *self.model.decoder.image_shape), np.float32)
        for columns in _groups(len(noise), size):
            z = parallel.place_rows(self.mesh, noise[columns])
            for rows in _groups(len(sets), -(-len(sets) // calls)):
                chosen = jax.tree.map(lambda leaf, rows=rows: leaf[rows], statistics)
                found = _generate_sets(self.model, self.variables, chosen, sets[rows], z, max(1, most // size), self.mesh)
                own = tuple(slice(indices[0], indices[-1] + 1) for indices in (rows, columns))
                images[own] = parallel.on_host(found)[: own[0].stop - own[0].start, : own[1].stop - own[1].start]
        return images

    def reconstruct(self, targets: np.ndarray, images: np.ndarray, made_under: np.ndarray | None = None) -> np.ndarray:
        """Mean images float32 [N, H, W, C] decoded under `targets` [K] from the posterior means of images uint8 [N, H, W, C].

        The images were made under `made_under` [K], None for the same targets; under others it is what they would have been.
        """
        def decode(x: jax.Array, both: jax.Array, _: int) -> jax.Array:
            before, after = jnp.split(both, 2, axis=1)
            return _generate(self.model, self.variables, _encode(self.model, self.variables, x, before).mean, after)

        return self._map(decode, images, np.concatenate([targets if made_under is None else made_under, targets]))

    def encode(self, targets: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
        """Posterior {"mean", "log_variance"}, each [N, L], of images uint8 [N, H, W, C] made under `targets` [K]."""
        return self._map(lambda x, t, _: _encode(self.model, self.variables, x, t), images, targets)._asdict()

    def elbo(self, targets: np.ndarray, images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
        """Per image, one posterior sample: {"elbo_nats", "reconstruction_nats", "kl_nats"}, each [N], for images uint8 [N, H, W, C].

        The samples are drawn per batch of `batch_size` images.
        """
        key = jax.random.key(seed)
        return self._map(lambda x, t, i: _elbo(self.model, self.variables, x, t, jax.random.fold_in(key, i)), images, targets)

    def _map(self, function: Callable, array: np.ndarray, targets: np.ndarray):
        """`function(rows, targets of the rows, batch number)` over all N rows in batches of one size, the last one filled up and cut again."""
        size = -(-min(self.batch_size, len(array)) // self.mesh.size) * self.mesh.size
        rows = parallel.place_rows(self.mesh, np.broadcast_to(np.asarray(targets, np.float32), (size, len(targets))))
        parts = []
        for number, start in enumerate(range(0, len(array), size)):
            part = np.asarray(array[start : start + size])
            filled = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            result = parallel.on_host(function(parallel.place_rows(self.mesh, filled), rows, number))
            parts.append(jax.tree.map(lambda a, n=len(part): a[:n], result))
        return jax.tree.map(lambda *a: np.concatenate(a), *parts)


def build_predictor(config: ml_collections.ConfigDict, dataset: ContextData, state: TrainState) -> Predictor:
    """The Predictor of a state."""
    k, shape, mesh = len(dataset.concepts), dataset.image_shape, parallel.data_mesh()
    model, calibrating = build_model(config, k, shape), build_model(config, k, shape, calibrating=True)
    return Predictor(model, calibrating, state.variables, latent_width(config, k), config.evaluation.calibration_images, mesh)


def _groups(number: int, size: int) -> np.ndarray:
    """Indices 0 .. number - 1 in rows of `size`; the last index fills up the last row."""
    return np.minimum(np.arange(-(-number // size) * size), number - 1).reshape(-1, size)


@partial(jax.jit, static_argnums=(0, 3))
def _statistics(model: ConvVAE, variables: dict, target_sets: jax.Array, noise_shape: tuple[int, int]) -> dict:
    key = jax.random.fold_in(jax.random.key(0), 2**31)  # of no one else: the images that are scored come from other noise
    z = jax.random.normal(key, noise_shape)

    def of_one_set(targets: jax.Array) -> dict:
        rows = jnp.broadcast_to(targets, (len(z), len(targets)))
        _, updated = model.apply(variables, z, rows, train=True, mutable=["batch_stats"], method="decode")
        return updated.get("batch_stats", {})

    return jax.lax.map(of_one_set, target_sets)


def _with_statistics(variables: dict, statistics: dict) -> dict:
    return variables | {"batch_stats": statistics} if statistics else variables


@partial(jax.jit, static_argnums=(0, 5, 6))
def _generate_sets(
    model: ConvVAE, variables: dict, statistics: dict, target_sets: jax.Array, z: jax.Array, sets_at_once: int, mesh: jax.sharding.Mesh
) -> jax.Array:
    """Every device decodes its own rows of z under all sets; left to the compiler, several sets at once would be gathered from all devices."""

    def on_one_device(variables: dict, statistics: dict, target_sets: jax.Array, z: jax.Array) -> jax.Array:
        def under_one_set(args: tuple[dict, jax.Array]) -> jax.Array:
            own, targets = args
            return _generate(model, _with_statistics(variables, own), z, jnp.broadcast_to(targets, (len(z), len(targets))))

        return jax.lax.map(under_one_set, (statistics, target_sets), batch_size=sets_at_once)

    rows = parallel.split(mesh, axis=0).spec
    specs = {"in_specs": (PartitionSpec(), PartitionSpec(), PartitionSpec(), rows), "out_specs": parallel.split(mesh, axis=1).spec}
    return jax.shard_map(on_one_device, mesh=mesh, **specs)(variables, statistics, target_sets, z)


@partial(jax.jit, static_argnums=0)
def _generate(model: ConvVAE, variables: dict, z: jax.Array, targets: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(model.apply(variables, z, targets, method="decode"))


@partial(jax.jit, static_argnums=0)
def _encode(model: ConvVAE, variables: dict, images: jax.Array, targets: jax.Array):
    return model.apply(variables, images.astype(jnp.float32) / 255, targets, method="encode")


@partial(jax.jit, static_argnums=0)
def _elbo(model: ConvVAE, variables: dict, images: jax.Array, targets: jax.Array, key: jax.Array) -> dict:
    images = images.astype(jnp.float32) / 255
    found = model.apply(variables, images, targets, key, train=False)
    reconstruction, kl = vae.reconstruction_nats(found.logits, images), vae.kl_nats(found.posterior)
    return {"elbo_nats": -(reconstruction + kl), "reconstruction_nats": reconstruction, "kl_nats": kl}
