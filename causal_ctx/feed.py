"""Batches on their way to the step, the same bits in the same order wherever the images wait: in the devices' memory, or on the host, read ahead of need.

Letters: N members, S steps per call, R micro-batches, B examples of one micro-batch, H, W, C image, K concepts, d = H * W * C, M training images.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from causal_ctx import ensemble, parallel
from causal_ctx.config import ConfigError
from causal_ctx.data import ContextData, batches
from causal_ctx.plan import plan_of, seen
from causal_ctx.step import Batch

LOG = logging.getLogger(__name__)
AHEAD = 2  # calls whose batches are read while one trains
MOST_OF_FREE = 0.5  # of a device's free memory that images take unasked: the rest is for states and activations
BYTES_AT_ONCE = 1 << 28  # on their way to the devices
NOTABLE_WAIT = 0.05  # of the time


class Feed(NamedTuple):
    """What runs that train together draw from.

    images: {context: uint8 [n, H, W, C]} that their method sees. targets: [contexts, K]. shape: (S, R, B). one_context: per micro-batch.
    rows: all the images flat, uint8 [M, d], on every device; None where they stay on the host.
    """

    seeds: tuple[int, ...]
    images: Mapping[str, np.ndarray]
    targets: np.ndarray
    shape: tuple[int, int, int]
    one_context: bool
    mesh: Mesh
    rows: jax.Array | None

    def batch(self, start: int, kind: str) -> Batch:
        """The batches [N, S, R, B, ...] of the call that begins at step `start`, laid out for the ensemble's `kind`: a pure function of every run's seed."""
        return self._finish(self._read(start, kind), kind)

    def batches(self, starts: range, kind: str) -> Iterator[Batch]:
        """`batch` of all `starts` in turn, read while those before them train; says so where training waited for them notably."""
        waited, began = 0.0, time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self._read, start, kind) for start in starts[:AHEAD]]
            try:
                for number in range(len(starts)):
                    asked = time.monotonic()
                    read = ahead.pop(0).result()
                    waited += (time.monotonic() - asked) if number else 0.0
                    ahead += [pool.submit(self._read, start, kind) for start in starts[number + AHEAD : number + AHEAD + 1]]
                    yield self._finish(read, kind)
            finally:
                for future in ahead:
                    future.cancel()
                passed = time.monotonic() - began
                if waited > NOTABLE_WAIT * passed and len(starts) > 1:
                    LOG.info("Training waited %.0f %% of its time for images; see --config.data.placement.", 100 * waited / passed)

    def draw(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Contexts and indices within them of all members and processes, int [N, S, R, B]."""
        sizes, (steps, *rest) = [len(array) for array in self.images.values()], self.shape
        drawn = [[batches.draw(seed, step, sizes, tuple(rest), self.one_context) for step in range(start, start + steps)] for seed in self.seeds]
        contexts, indices = (np.array([[step[part] for step in member] for member in drawn]) for part in (0, 1))
        return contexts, indices

    def _read(self, start: int, kind: str) -> tuple[jax.Array, jax.Array]:
        """(images [N, S, R, B, H, W, C], or their row numbers [N, S, R, B]; targets [N, S, R, B, K]): the host's part, of this process' share."""
        axis = ensemble.batch_axis(kind)
        contexts, indices = (part[(slice(None),) * axis + (parallel.local_slice(part.shape[axis]),)] for part in self.draw(start))
        if self.rows is None:
            chosen = batches.gather(self.images, contexts, indices)
        else:
            firsts = np.cumsum([0, *(len(array) for array in self.images.values())])
            chosen = (firsts[contexts] + indices).astype(np.int32)
        return parallel.place(self.mesh, chosen, axis), parallel.place(self.mesh, self.targets[contexts], axis)

    def _finish(self, read: tuple[jax.Array, jax.Array], kind: str) -> Batch:
        """The batch out of what `_read` gave; in the caller's thread, so that all processes launch their programs in one order."""
        chosen, targets = read
        if self.rows is None:
            return Batch(chosen, targets)
        image_shape = next(iter(self.images.values())).shape[1:]
        return Batch(_take(image_shape, parallel.split(self.mesh, ensemble.batch_axis(kind)), self.rows, chosen), targets)


def build_feed(configs: Sequence[ml_collections.ConfigDict], dataset: ContextData, mesh: Mesh) -> Feed:
    """The feed of runs that differ in seed and numbers alone, with the images where `data.placement` wants them; ConfigError where they do not fit there."""
    config, t = configs[0], configs[0].train
    images = seen(config, dataset.train)
    place = placement(config.data.placement, sum(array.nbytes for array in images.values()), mesh)
    return Feed(
        seeds=tuple(config.seed for config in configs),
        images=images,
        targets=np.stack([dataset.targets(name) for name in images]).astype(np.float32),
        shape=(plan_of(config, dataset).steps_per_call, t.batch_size // t.micro_batch, t.micro_batch),
        one_context=t.contexts_per_micro_batch == "one",
        mesh=mesh,
        rows=on_devices(images, mesh) if place == "device" else None,
    )


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
