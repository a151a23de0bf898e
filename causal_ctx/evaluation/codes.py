"""Trained CT-VAE weights behind arrays: images to codes and back, codes under actions, and the action between two of them.

Letters: n examples, H, W, C image, h, w grid of nodes, D latent width, K codebooks of N codes, A actions, M = K h w nodes.

Everything is computed a batch at a time, so that memory does not grow with n. A `seed` of None takes every probability above a half for certain and adds no
noise ("deterministic"); otherwise masks and graphs are drawn, as in the reference ("sampled", quirk Q11). What is predicted is the mean over several draws.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx import parallel
from causal_ctx.models import causal_transition
from causal_ctx.models.causal_transition import CausalTransition
from causal_ctx.models.mcq_vae import MCQVAE, encode_to_codes

DRAWS = 5  # of mask and graph, over which a prediction is averaged
BATCH = 256  # examples at a time; in `retrieve` examples times actions that are computed together


class Acted(NamedTuple):
    """Codes [n, K, h, w], the likeliest after the action; mask float32 [n, K, h, w], one where the action touches; nats [n] per node of the codes that were
    to come (nan where none were given); images float32 [n, H, W, C] that are expected, those of the mean latents of all codes by their probability, if asked for."""

    codes: np.ndarray
    mask: np.ndarray
    nats: np.ndarray
    images: np.ndarray | None = None


class Graphs(NamedTuple):
    """Of each example: present float32 [n, M, M], the probability of every edge, and mask float32 [n, M]."""

    present: np.ndarray
    mask: np.ndarray


class CodePredictor(NamedTuple):
    """`autoencoder` are the variables of `model`; `transition` is None while there is no transition layer, `params` its parameters."""

    model: MCQVAE
    autoencoder: dict
    transition: CausalTransition | None = None
    params: dict | None = None

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Codes [n, K, h, w], the smallest unsigned integers, of images uint8 [n, H, W, C]."""
        return encode_to_codes(self.model, self.autoencoder, images, BATCH)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Latents before quantisation, float32 [n, h * w * D], of images uint8 [n, H, W, C]."""
        return self.represent(images)[1]

    def represent(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes and features, as from `encode` and `features`, by the encoder once."""
        codes, features = in_batches(partial(_represent, self.model, self.autoencoder), images)
        return codes.astype(np.min_scalar_type(self.model.quantiser.num_codes - 1)), features

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Images float32 [n, H, W, C] in [0, 1] of codes [n, K, h, w]."""
        return in_batches(partial(_decode, self.model, self.autoencoder), codes.astype(np.int32))

    def decode_expected(self, probabilities: np.ndarray) -> np.ndarray:
        """Images float32 [n, H, W, C] in [0, 1] of the mean latents of codes with probabilities [n, K, h, w, N]."""
        return in_batches(partial(_decode_expected, self.model, self.autoencoder), probabilities)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [n, H, W, C] through their codes: float32 [n, H, W, C]."""
        return self.decode(self.encode(images))

    def act(self, codes: np.ndarray, actions: np.ndarray | None, after: np.ndarray | None = None, seed: int | None = None) -> Acted:
        """Codes [n, K, h, w] under actions int [n], or under none (base mode): see `Acted`; `after` [n, K, h, w] are the codes that were to come."""
        flat, wanted = _flat(codes), _flat(codes if after is None else after)
        chosen = np.zeros(len(flat), np.int32) if actions is None else np.asarray(actions, np.int32)
        run = partial(_act, self.transition, self.params, actions is not None)
        found, mask, nats = in_batches(_seeded(run, seed), flat, chosen, wanted)
        return Acted(found.reshape(codes.shape), mask.reshape(codes.shape), np.full(len(flat), np.nan) if after is None else nats)

    def predict(
        self, codes: np.ndarray, actions: np.ndarray, after: np.ndarray | None = None, draws: int = DRAWS, seed: int = 0, images: bool = True
    ) -> Acted:
        """`act` with probabilities of codes, and of the mask, that are means over `draws` of mask and graph: what a trained layer is asked for.

        Training sees drawn graphs alone; thresholded ones hold other edges. The expected image is the guess of least squared error, as far as the decoder is
        linear.
        """
        wanted, chosen = codes if after is None else after, np.asarray(actions, np.int32)
        run = _seeded(partial(_predict, self, draws, images), seed)
        found, mask, nats, shown = in_batches(run, codes.astype(np.int32), chosen, wanted.astype(np.int32))
        return Acted(found, mask, np.full(len(codes), np.nan) if after is None else nats, shown)

    def graphs(self, codes: np.ndarray, actions: np.ndarray | None, seed: int | None = None) -> Graphs:
        """The graphs of codes [n, K, h, w] under actions int [n] or none: M^2 numbers for each example."""
        flat = _flat(codes)
        chosen = np.zeros(len(flat), np.int32) if actions is None else np.asarray(actions, np.int32)
        return Graphs(*in_batches(_seeded(partial(_graphs, self.transition, self.params, actions is not None), seed), flat, chosen))

    def retrieve(self, before: np.ndarray, after: np.ndarray, seed: int | None = None) -> np.ndarray:
        """Log-probabilities float32 [n, A] of the action between codes, both [n, K, h, w]."""
        together = min(self.transition.settings.actions_at_once or self.transition.num_actions, self.transition.num_actions)
        run = _seeded(partial(_retrieve, self.transition, self.params), seed)
        return in_batches(run, _flat(before), _flat(after), size=max(BATCH // together, 1))


def in_batches(function: Callable, *arrays: np.ndarray, size: int = BATCH) -> Any:
    """`function` on `size` rows at a time of arrays [n, ...], its results (arrays [size, ...] or tuples of them) joined.

    The last batch is filled up with rows of the first, so that one program serves all; a few rows take a smaller one (`parallel.batch_rows`). Batches are
    split over the devices that divide them, so that random draws do not depend on how many those are. Of no rows at all one of zeros is made, for the shapes.
    """
    n, parts, mesh = len(arrays[0]), [], parallel.data_mesh()
    size = parallel.batch_rows(n, size)
    for start in range(0, max(n, 1), size):
        rows = np.arange(start, start + size) % max(n, 1)
        batch = (array[rows] if n else np.zeros((1, *array.shape[1:]), array.dtype) for array in arrays)
        made = parallel.on_host(function(*(parallel.place_rows(mesh, array) for array in batch)))
        parts.append(jax.tree.map(lambda leaf: leaf[: n - start], made))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _flat(codes: np.ndarray) -> np.ndarray:
    return np.asarray(codes).reshape(len(codes), int(np.prod(codes.shape[1:]))).astype(np.int32)


def _seeded(function: Callable, seed: int | None) -> Callable:
    """`function(..., key, chance)` with another key for every batch that it is called on."""
    if seed is None:
        return lambda *arrays: function(None, "deterministic", *arrays)
    calls = iter(range(1 << 31))
    return lambda *arrays: function(jax.random.fold_in(jax.random.key(seed), next(calls)), "sampled", *arrays)


@partial(jax.jit, static_argnums=0)
def _represent(model: MCQVAE, variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    z = model.apply(variables, images.astype(jnp.float32) / 255, method="encode")
    return model.apply(variables, z, method=lambda bound, latents: bound.quantiser.indices(latents)), z.reshape(len(z), -1)


@partial(jax.jit, static_argnums=0)
def _decode(model: MCQVAE, variables: dict, codes: jax.Array) -> jax.Array:
    return jnp.clip(model.apply(variables, codes, method="decode_codes"), 0, 1)


@partial(jax.jit, static_argnums=0)
def _decode_expected(model: MCQVAE, variables: dict, probabilities: jax.Array) -> jax.Array:
    return jnp.clip(model.apply(variables, probabilities, method="decode_expected"), 0, 1)


@partial(jax.jit, static_argnums=(0, 2, 4))
def _act(layer: CausalTransition, params: dict, acts: bool, key, chance: str, codes, actions, after) -> tuple[jax.Array, jax.Array, jax.Array]:
    out = _transition(layer, params, acts, key, chance, codes, actions)
    return out.log_probs.argmax(-1).astype(jnp.int32), out.mask, causal_transition.code_nats(out.log_probs, after)


def _predict(predictor: CodePredictor, draws: int, images: bool, key, chance: str, codes, actions, after) -> tuple[jax.Array, ...]:
    del chance
    variables, keys = (predictor.autoencoder, predictor.params), jax.random.split(key, draws)
    return _mean_over_draws((predictor.model, predictor.transition), images, variables, keys, codes, actions, after)


@partial(jax.jit, static_argnums=(0, 1))
def _mean_over_draws(models: tuple[MCQVAE, CausalTransition], images: bool, variables: tuple[dict, dict], keys, codes, actions, after):
    """The likeliest codes, the mask and the nats per node of `after`, by probabilities that are means over `keys`; and the expected images, or None."""

    (model, layer), (autoencoder, params), flat = models, variables, lambda codes: codes.reshape(len(codes), -1)

    def drawn(total, key):
        out = _transition(layer, params, True, key, "sampled", flat(codes), actions)
        return (jnp.logaddexp(total[0], out.log_probs), total[1] + out.mask), None

    start = jnp.full((*flat(codes).shape, layer.num_codes), -jnp.inf), jnp.zeros(flat(codes).shape)
    (log_probs, mask), _ = jax.lax.scan(drawn, start, keys)
    log_probs, mask = log_probs - jnp.log(len(keys)), (mask / len(keys)).reshape(codes.shape)
    shown = _decode_expected(model, autoencoder, jnp.exp(log_probs).reshape(*codes.shape, -1)) if images else None
    return log_probs.argmax(-1).astype(jnp.int32).reshape(codes.shape), mask, causal_transition.code_nats(log_probs, flat(after)), shown


@partial(jax.jit, static_argnums=(0, 2, 4))
def _graphs(layer: CausalTransition, params: dict, acts: bool, key, chance: str, codes, actions) -> tuple[jax.Array, jax.Array]:
    out = _transition(layer, params, acts, key, chance, codes, actions)
    return out.present, out.mask


def _transition(layer: CausalTransition, params: dict, acts: bool, key, chance: str, codes, actions) -> causal_transition.Transition:
    if acts:
        return layer.apply({"params": params}, codes, actions, key, chance, method="action")
    return layer.apply({"params": params}, codes, key, chance, method="base")[0]


@partial(jax.jit, static_argnums=(0, 3))
def _retrieve(layer: CausalTransition, params: dict, key, chance: str, before, after) -> jax.Array:
    return layer.apply({"params": params}, before, after, key, chance, method="retrieve")
