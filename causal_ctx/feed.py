"""Batches on their way to the step, the same bits in the same order wherever the images wait: in the devices' memory, or on the host, read ahead of need.

Letters: N members, S steps per call, R micro-batches, B examples of one micro-batch, H, W, C image, K concepts, d = H * W * C, M training images.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from causal_ctx import ensemble, parallel
from causal_ctx.config import ConfigError, phase
from causal_ctx.data import batches, transitions
from causal_ctx.objectives.objective import Batch, ImageBatch
from causal_ctx.objectives.transition import CodeBatch
from causal_ctx.plan import Plan

LOG = logging.getLogger(__name__)
AHEAD = 2  # calls whose batches are read while one trains
MOST_OF_FREE = 0.5  # of a device's free memory that images take unasked: the rest is for states and activations
BYTES_AT_ONCE = 1 << 28  # on their way to the devices
NOTABLE_WAIT = 0.05  # of the time


class Feed:
    """What runs that train together draw from: `batch` is a pure function of every run's seed."""

    def batch(self, start: int, kind: str) -> Batch:
        """The batches [N, S, R, B, ...] of the call that begins at step `start`, laid out for the ensemble's `kind`."""
        return self.finish(self.read(start, kind), kind)

    def batches(self, starts: range, kind: str) -> Iterator[Batch]:
        """`batch` of all `starts` in turn, read while those before them train; says so where training waited for them notably."""
        waited, began = 0.0, time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self.read, start, kind) for start in starts[:AHEAD]]
            try:
                for number in range(len(starts)):
                    asked = time.monotonic()
                    read = ahead.pop(0).result()
                    waited += (time.monotonic() - asked) if number else 0.0
                    ahead += [pool.submit(self.read, start, kind) for start in starts[number + AHEAD : number + AHEAD + 1]]
                    yield self.finish(read, kind)
            finally:
                for future in ahead:
                    future.cancel()
                passed = time.monotonic() - began
                if waited > NOTABLE_WAIT * passed and len(starts) > 1:
                    LOG.info("Training waited %.0f %% of its time for its batches; see --config.data.placement.", 100 * waited / passed)

    def read(self, start: int, kind: str) -> tuple[jax.Array, ...]:
        """The host's part, of this process' share."""
        raise NotImplementedError

    def finish(self, read: tuple[jax.Array, ...], kind: str) -> Batch:
        """The batch out of what `read` gave; in the caller's thread, so that all processes launch their programs in one order."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFeed(Feed):
    """images: {context: uint8 [n, H, W, C]} that the runs' method sees. targets: [contexts, K]. shape: (S, R, B). one_context: per micro-batch.
    rows: all the images flat, uint8 [M, d], on every device; None where they stay on the host.
    """

    seeds: tuple[int, ...]
    images: Mapping[str, np.ndarray]
    targets: np.ndarray
    shape: tuple[int, int, int]
    one_context: bool
    mesh: Mesh
    rows: jax.Array | None

    @classmethod
    def of(cls, configs: Sequence[ml_collections.ConfigDict], images: Mapping[str, np.ndarray], targets: np.ndarray, one_context: bool, mesh: Mesh):
        """The feed of runs that differ in seed and numbers alone, with the images where `data.placement` wants them; ConfigError where they do not fit there."""
        place = placement(configs[0].data.placement, sum(array.nbytes for array in images.values()), mesh)
        shape = call_shape(configs[0], sum(map(len, images.values())))
        rows = on_devices(images, mesh) if place == "device" else None
        return cls(tuple(config.seed for config in configs), images, targets.astype(np.float32), shape, one_context, mesh, rows)

    def draw(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and indices within them of all members and processes, int [N, S, R, B]."""
        sizes, (steps, *rest) = [len(array) for array in self.images.values()], self.shape
        drawn = [[batches.draw(seed, step, sizes, tuple(rest), self.one_context) for step in range(start, start + steps)] for seed in self.seeds]
        contexts, indices = (np.array([[step[part] for step in member] for member in drawn]) for part in (0, 1))
        return contexts, indices

    def read(self, start: int, kind: str) -> tuple[jax.Array, jax.Array]:
        """(images [N, S, R, B, H, W, C], or their row numbers [N, S, R, B]; targets [N, S, R, B, K])."""
        axis = ensemble.batch_axis(kind)
        contexts, indices = (parallel.own_share(part, axis) for part in self.draw(start))
        if self.rows is None:
            chosen = batches.gather(self.images, contexts, indices)
        else:
            firsts = np.cumsum([0, *(len(array) for array in self.images.values())])
            chosen = (firsts[contexts] + indices).astype(np.int32)
        return parallel.place(self.mesh, chosen, axis), parallel.place(self.mesh, self.targets[contexts], axis)

    def finish(self, read: tuple[jax.Array, jax.Array], kind: str) -> ImageBatch:
        """As `Feed.finish`."""
        chosen, targets = read
        if self.rows is None:
            return ImageBatch(chosen, targets)
        image_shape = next(iter(self.images.values())).shape[1:]
        return ImageBatch(_take(image_shape, parallel.split(self.mesh, ensemble.batch_axis(kind)), self.rows, chosen), targets)


@dataclasses.dataclass(frozen=True, eq=False)
class CodeFeed(Feed):
    """Draws codes of pairs of images, for ct_vae.

    codes: uint8 or wider [N, M, n], of M images, once per member. alone: rows int [m] of the images for base mode. pairs: rows before, rows
    after and actions, int [3, T]. shape: (S, R, B). mix: of modes.
    """

    seeds: tuple[int, ...]
    codes: np.ndarray
    alone: np.ndarray
    pairs: np.ndarray
    shape: tuple[int, int, int]
    mix: tuple[float, ...]
    mesh: Mesh

    @functools.cached_property
    def held(self) -> Callable[[str], jax.Array]:
        """The codes where an ensemble of a kind has its states; placed once."""
        put = {"shard": parallel.place_rows}
        return functools.cache(lambda kind: put.get(kind, parallel.everywhere)(self.mesh, self.codes))

    def draw(self, start: int) -> np.ndarray:
        """Rows before, rows after, actions and modes of all members and processes, int32 [4, N, S, R, B]."""
        steps, *rest = self.shape
        sizes, drawn = (len(self.alone), self.pairs.shape[1]), np.empty((4, len(self.seeds), *self.shape), np.int32)
        for member, seed in enumerate(self.seeds):
            for step in range(steps):
                modes, rows = transitions.draw_batch(seed, start + step, sizes, tuple(rest), self.mix)
                alone, of_pair = np.where(modes == 0, rows.T, 0).T, np.where(modes == 0, 0, rows.T).T
                itself, one = np.stack([self.alone[alone], self.alone[alone], np.zeros_like(rows)]), self.pairs[:, of_pair]
                drawn[:3, member, step] = np.where((modes == 0)[None, :, None], itself, one)
                drawn[3, member, step] = modes[:, None]
        return drawn

    def read(self, start: int, kind: str) -> tuple[jax.Array, ...]:
        """Rows before, rows after, actions and modes, int32 [N, S, R, B] each."""
        axis = ensemble.batch_axis(kind)
        return tuple(parallel.place(self.mesh, parallel.own_share(part, axis), axis) for part in self.draw(start))

    def finish(self, read: tuple[jax.Array, ...], kind: str) -> CodeBatch:
        """As `Feed.finish`."""
        before, after, actions, modes = read
        held = self.held(kind)
        sharding = parallel.split(self.mesh, ensemble.batch_axis(kind))
        return CodeBatch(_take_codes(sharding, held, before), _take_codes(sharding, held, after), actions, modes)


def call_shape(config: ml_collections.ConfigDict, num_examples: int) -> tuple[int, int, int]:
    """(S, R, B) of a run's calls, whose epoch draws `num_examples`."""
    t = phase(config)
    return Plan.of(config, num_examples).steps_per_call, t.batch_size // t.micro_batch, t.micro_batch


def placement(wanted: str, num_bytes: int, mesh: Mesh) -> str:
    """"device" or "host" for `wanted` "auto", "device" or "host"; the same in all processes.

    "auto" takes devices that tell their memory and have room; those that do not tell are CPUs, where a copy in memory saves nothing.
    """
    told = [parallel.device_memory(device) for device in mesh.local_devices]
    free = min(memory.free for memory in told) if all(told) else None
    if wanted == "host":
        return wanted
    fits = free is not None and num_bytes <= MOST_OF_FREE * free if wanted == "auto" else free is None or num_bytes <= free
    if jax.process_count() > 1:  # one answer for all, so that none waits for another that has given up
        fits = bool(np.all(multihost_utils.process_allgather(np.bool_(fits))))
    if wanted == "device" and not fits:
        raise ConfigError(f"data.placement is device, but the images need {num_bytes:,} bytes and a device has less free; use auto or host.")
    return "device" if fits else "host"


def on_devices(images: Mapping[str, np.ndarray], mesh: Mesh) -> jax.Array:
    """All images [n, H, W, C], context after context, as one array [M, d] on every device, written there piece by piece.

    Flat, because TPUs pad the last two axes of an array to whole tiles.
    """
    held, width = parallel.replicated(mesh), int(np.prod(next(iter(images.values())).shape[1:]))
    rows = jax.jit(lambda: jnp.zeros((sum(map(len, images.values())), width), jnp.uint8), out_shardings=held)()
    write = jax.jit(partial(jax.lax.dynamic_update_slice_in_dim, axis=0), donate_argnums=0, out_shardings=held)
    at, step = 0, max(1, BYTES_AT_ONCE // width)
    for array in images.values():
        for first in range(0, len(array), step):
            piece = np.ascontiguousarray(array[first : first + step]).reshape(-1, width)
            rows = write(rows, jax.make_array_from_process_local_data(held, piece, piece.shape), at)
            at += len(piece)
    return rows


@partial(jax.jit, static_argnums=(0, 1))
def _take(image_shape: tuple[int, int, int], sharding: jax.sharding.NamedSharding, rows: jax.Array, numbers: jax.Array) -> jax.Array:
    """Images [..., H, W, C] of the row numbers [...]; every device takes its own."""
    images = rows.at[numbers].get(mode="promise_in_bounds").reshape(*numbers.shape, *image_shape)
    return jax.lax.with_sharding_constraint(images, sharding)


@partial(jax.jit, static_argnums=0)
def _take_codes(sharding: jax.sharding.NamedSharding, codes: jax.Array, rows: jax.Array) -> jax.Array:
    """Codes [N, ..., n] of rows [N, ...] of each member's codes [N, M, n]; every device takes its own."""
    chosen = jax.vmap(lambda own, row: own.at[row].get(mode="promise_in_bounds"))(codes, rows)
    return jax.lax.with_sharding_constraint(chosen, sharding)
