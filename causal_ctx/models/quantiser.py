"""The multi-codebook quantiser of MCQ-VAE (Gendron et al. 2023; spec section 1.2): every slice of a latent becomes the nearest code of its own codebook.

Letters: B batch, h, w grid of nodes, D latent width, K codebooks, N codes per codebook, d = D / K width of a slice. Latents are [B, h, w, D], slice k being the
channels k d to (k + 1) d: disjoint, where the reference's overlap (quirk Q1). Indices are [B, K, h, w], codebook first, as the causal layer numbers its nodes.

Indices come first and latents second, so that a causal layer can put other indices between the two.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

UPDATES = ("gradient", "ema")
UNSEEN = 1e-12  # share below which a moving average holds no more than rounding


class Usage(NamedTuple):
    """How evenly the codes of each codebook are used, each [K].

    entropy_bits: of the distribution over codes, 0 to log2(N). perplexity_codes: 2^entropy, the number of codes that an even use with this entropy would have.
    dead_codes: codes that nothing uses.
    """

    entropy_bits: jax.Array
    perplexity_codes: jax.Array
    dead_codes: jax.Array


def slices(z: jax.Array, num_codebooks: int) -> jax.Array:
    """Latents [B, h, w, D] -> [B, h, w, K, d]. Raises ValueError unless K divides D."""
    width = z.shape[-1]
    return z.reshape(*z.shape[:-1], num_codebooks, slice_width(width, num_codebooks))


def slice_width(latent_width: int, num_codebooks: int) -> int:
    """d = D / K. Raises ValueError unless K divides D."""
    if num_codebooks < 1 or latent_width % num_codebooks:
        raise ValueError(f"Latents {latent_width} wide cannot be split evenly among {num_codebooks} codebooks; give a multiple of their number.")
    return latent_width // num_codebooks


def nearest(z: jax.Array, codebooks: jax.Array) -> jax.Array:
    """The index of the code nearest to each slice: z [B, h, w, D], codebooks [K, N, d] -> int32 [B, K, h, w]; of equally near codes the first."""
    # |z - e|^2 without |z|^2, which all codes share. In full float32: accelerators round factors by default, and close codes would swap.
    products = jnp.einsum("bhwkd,knd->bhwkn", slices(z, len(codebooks)), codebooks, precision="highest")
    distances = (codebooks**2).sum(-1)[None, None, None] - 2 * products
    return jnp.moveaxis(distances.argmin(-1).astype(jnp.int32), -1, 1)


def lookup(indices: jax.Array, codebooks: jax.Array) -> jax.Array:
    """The codes of indices [B, K, h, w] in codebooks [K, N, d], side by side: latents [B, h, w, D]."""
    codes = _entries(jnp.moveaxis(indices, 1, -1), codebooks)
    return codes.reshape(*codes.shape[:-2], -1)


@jax.custom_vjp
def _entries(indices: jax.Array, codebooks: jax.Array) -> jax.Array:
    """indices [B, h, w, K], codebooks [K, N, d] -> [B, h, w, K, d]."""
    return jax.vmap(lambda index, codebook: codebook[index], in_axes=(-1, 0), out_axes=-2)(indices, codebooks)


def _totals(values: jax.Array, indices: jax.Array, num_codes: int) -> jax.Array:
    """The transpose of `_entries`: values [B, h, w, K, d] summed per code of indices [B, h, w, K] -> [K, N, d]."""
    return jnp.einsum("bhwkn,bhwkd->knd", jax.nn.one_hot(indices, num_codes), values, precision="highest")


# As a matrix product the gradient is the same sum every time; a scatter's order of additions varies on a GPU.
_entries.defvjp(
    lambda indices, codebooks: (_entries(indices, codebooks), (indices, codebooks)),
    lambda saved, gradient: (None, _totals(gradient, saved[0], saved[1].shape[1])),
)


def straight_through(z: jax.Array, q: jax.Array) -> jax.Array:
    """The value of q, exactly, with the gradient going to z alone."""
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


def losses(z: jax.Array, q: jax.Array, num_codebooks: int, beta: float | jax.Array) -> jax.Array:
    """Per example and codebook, beta mean (sg(q) - z)^2 + mean (q - sg(z))^2 over a slice's nodes and channels: z, q [B, h, w, D] -> [B, K].

    The loss of the paper is the sum over codebooks of the mean over examples. Moving-average codebooks take no gradient: for them the second term is a constant.
    """
    stop = jax.lax.stop_gradient
    mean_square = lambda x: (slices(x, num_codebooks) ** 2).mean(axis=(1, 2, 4))
    return beta * mean_square(stop(q) - z) + mean_square(q - stop(z))


def code_shares(indices: jax.Array, num_codes: int) -> jax.Array:
    """The fraction of its nodes that each code has: indices [B, K, h, w] -> float32 [K, N], rows sum to 1."""
    counts = jax.nn.one_hot(indices, num_codes, dtype=jnp.int32).sum(axis=(0, 2, 3))
    return counts / (indices.size // indices.shape[1])


def usage(shares: jax.Array) -> Usage:
    """Usage of codebooks whose codes have shares [K, N]."""
    entropy = jax.scipy.special.entr(shares).sum(-1)
    return Usage(entropy / jnp.log(2.0), jnp.exp(entropy), (shares == 0).sum(-1))


def code_sums(z: jax.Array, indices: jax.Array, num_codes: int) -> jax.Array:
    """Per node, the sum of the slices that each code stands for: z [B, h, w, D], indices [B, K, h, w] -> [K, N, d]; share times average."""
    k = indices.shape[1]
    return _totals(slices(z, k), jnp.moveaxis(indices, 1, -1), num_codes) / (indices.size // k)


def centres(shares: jax.Array, sums: jax.Array, codebooks: jax.Array) -> jax.Array:
    """Codebooks [K, N, d] at the average slice of each code, from running `code_shares` and `code_sums` (van den Oord et al. 2017, appendix A.1).

    Both are relative to the number of nodes, so they do not depend on the batch size. A code unseen for long stays where it is: smoothing would pull it to zero.
    """
    seen = (shares > UNSEEN)[..., None]
    return jnp.where(seen, sums / jnp.where(seen, shares[..., None], 1.0), codebooks)


def candidates(key: jax.Array, z: jax.Array, num_codebooks: int, num_codes: int) -> jax.Array:
    """Slices drawn at random, with replacement, from latents [B, h, w, D]: one for every code, [K, N, d]."""
    pool = slices(z, num_codebooks).reshape(-1, num_codebooks, z.shape[-1] // num_codebooks)
    rows = jax.random.randint(key, (num_codebooks, num_codes), 0, len(pool))
    return jax.vmap(lambda own, row: own[row], in_axes=(1, 0))(pool, rows)


def revive(params: dict, batch_stats: dict, threshold: float | jax.Array) -> tuple[dict, dict]:
    """A `Quantiser`'s (params, batch_stats) with each code whose share is below `threshold` / N moved to its candidate and given the share 1 / N.

    For a quantiser with `revival`, after the optimiser's step; threshold 0 moves none. Raises ValueError for a quantiser that draws no candidates.
    """
    if "candidates" not in batch_stats:
        raise ValueError("This quantiser draws no candidates for its dead codes; build it with revival=True.")
    even = 1 / batch_stats["shares"].shape[1]
    dead = batch_stats["shares"] < threshold * even
    move = lambda new, old: jnp.where(dead[..., None], new, old)
    new = batch_stats["candidates"]
    stats = batch_stats | {"shares": jnp.where(dead, even, batch_stats["shares"])}
    if "codebooks" in params:
        return params | {"codebooks": move(new, params["codebooks"])}, stats
    return params, stats | {"codebooks": move(new, stats["codebooks"]), "sums": move(even * new, stats["sums"])}


class Quantiser(nn.Module):
    """K codebooks of N codes for latents D wide, uniform in +-1/N at first.

    update: "gradient" (codebooks are parameters, the paper) or "ema" (they are the moving averages of their latents, with `decay` per batch).
    revival: keep the running shares and the candidates that `revive` needs. Nothing counts as used at first, so that the first revival lays every code that the
    first batch does not use upon one of its latents: codes that start farther apart than the latents do would all be one code to them.
    What moves by averages lies in the collection "batch_stats". Raises ValueError unless K divides D, and for an unknown update.
    """

    width: int
    num_codes: int
    num_codebooks: int = 1
    update: str = "gradient"
    decay: float = 0.99
    revival: bool = False

    def setup(self):
        if self.update not in UPDATES:
            raise ValueError(f"A quantiser cannot be updated by {self.update!r}; choose one of {', '.join(UPDATES)}.")
        k, n, d = self.num_codebooks, self.num_codes, slice_width(self.width, self.num_codebooks)
        uniform = lambda key: jax.random.uniform(key, (k, n, d), jnp.float32, -1 / n, 1 / n)
        seen = 0.0 if self.revival else 1 / n
        if self.update == "ema":
            self.moving = self.variable("batch_stats", "codebooks", lambda: uniform(self.make_rng("params")))
            self.sums = self.variable("batch_stats", "sums", lambda: self.moving.value * seen)
        else:
            self.learned = self.param("codebooks", uniform)
        if self.tracks:
            self.shares = self.variable("batch_stats", "shares", lambda: jnp.full((k, n), seen, jnp.float32))
        if self.revival:
            self.candidates = self.variable("batch_stats", "candidates", lambda: jnp.zeros((k, n, d)))

    @property
    def tracks(self) -> bool:
        """Whether `track` does anything."""
        return self.update == "ema" or self.revival

    def codebooks(self) -> jax.Array:
        """Codebooks [K, N, d]."""
        return self.moving.value if self.update == "ema" else self.learned

    def indices(self, z: jax.Array) -> jax.Array:
        """First step: latents [B, h, w, D] -> indices int32 [B, K, h, w] of the nearest codes."""
        if z.shape[-1] != self.width:
            raise ValueError(f"The latents are {z.shape[-1]} wide and the quantiser takes {self.width}; build both with one width.")
        return nearest(z, self.codebooks())

    def latents(self, indices: jax.Array) -> jax.Array:
        """Second step: indices [B, K, h, w] -> their codes [B, h, w, D], with a gradient to codebooks that are parameters."""
        return lookup(indices, self.codebooks())

    def expected(self, probabilities: jax.Array) -> jax.Array:
        """The mean of `latents` where codes are only probable: [B, K, h, w, N] -> [B, h, w, D]."""
        means = jnp.einsum("bkhwn,knd->bhwkd", probabilities, self.codebooks(), precision="highest")
        return means.reshape(*means.shape[:3], self.width)

    def track(self, z: jax.Array, indices: jax.Array, key: jax.Array | None) -> None:
        """Moves what moves by averages towards latents z [B, h, w, D] with their nearest codes [B, K, h, w]; nothing in the paper's setting.

        Raises ValueError when candidates are to be drawn and there is no key.
        """
        if self.is_initializing() or not self.tracks:
            return
        z, n = jax.lax.stop_gradient(z), self.num_codes
        blend = lambda old, new: self.decay * old + (1 - self.decay) * new
        self.shares.value = blend(self.shares.value, code_shares(indices, n))
        if self.update == "ema":
            self.sums.value = blend(self.sums.value, code_sums(z, indices, n))
            self.moving.value = centres(self.shares.value, self.sums.value, self.moving.value)
        if self.revival:
            if key is None:
                raise ValueError("Reviving dead codes draws random latents; give the model a key.")
            self.candidates.value = candidates(key, z, self.num_codebooks, n)
