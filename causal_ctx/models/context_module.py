"""The context module: exogenous noise to concepts to decoder features, under any set of interventions (Markham et al. 2026, section 3).

Letters: B batch, K concepts, w_in noise width, w_out concept width, D depth (number of width points), E features for the decoder;
targets t in {0, 1}^K: all zeros observe, a one intervenes on that concept. In every block matrix the row is the hearing concept and the column the speaking noise.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx.models.convolution import Dense, torch_uniform
from causal_ctx.models.normalisation import Norm

NOISE_MIXING = ("reference", "block")
QUIRK_RULES = ("reference", "cut")  # of quirk Q2: two readings of the same weights
COMPOSITION = (*QUIRK_RULES, "structural")


def block_linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """One linear map per concept: x [B, K, w], kernel [K, w, v] -> [B, K, v]."""
    return jnp.einsum("bkw,kwv->bkv", x, kernel)


def dense_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """All noises to all concepts: x [B, J, w], kernel [I, v, J, w] -> [B, I, v]."""
    return jnp.einsum("bjw,ivjw->biv", x, kernel)


def diagonal_blocks(kernel: jax.Array) -> jax.Array:
    """The blocks (k, k) of kernel [K, v, K, w] -> [K, v, w]."""
    return jnp.einsum("kvkw->kvw", kernel)


def noise_layer(z: jax.Array, obs: jax.Array, ivn: jax.Array, targets: jax.Array, mixing: str) -> jax.Array:
    """Intervenable noise u_k = W_k z_k with W_k = ivn_k where t_k = 1, else obs_k (spec section 1.1; bias and GELU are the caller's).

    z [B, K, w]; obs, ivn [K, w, K, w]; targets [B, K] -> [B, K, w]. With mixing "block" only the diagonal blocks act. With "reference" the observational
    context (no target at all) mixes the noises of all concepts through the whole of obs (quirk Q1).
    """
    t = targets[:, :, None]
    u = jnp.where(t == 1, block_linear(z, diagonal_blocks(ivn).mT), block_linear(z, diagonal_blocks(obs).mT))
    if mixing == "block":
        return u
    return jnp.where(targets.any(axis=1)[:, None, None], u, dense_blocks(z, obs))


def without_diagonal(kernel: jax.Array) -> jax.Array:
    """kernel [K, v, K, w] with the blocks (k, k) set to zero."""
    k = kernel.shape[0]
    return kernel * (1 - jnp.eye(k, dtype=kernel.dtype))[:, None, :, None]


def causal_layer(eps: jax.Array, obs: jax.Array, ivn: jax.Array, targets: jax.Array, composition: str) -> jax.Array:
    """Reduced-form structural equations c_i = eps_i + sum_{j != i} M_ij eps_j (spec section 1.3; the bias is the caller's).

    eps [B, K, w]; obs, ivn [K, w, K, w]; targets [B, K] -> [B, K, w]. An intervened noise speaks through ivn, an un-intervened one through obs, and an
    intervened concept hears no un-intervened noise. Whether it hears another intervened noise is the composition rule: "reference" keeps that block (quirk Q2),
    "cut" makes every intervention perfect.

    "structural", which is not in the paper, takes obs for the weights of structural equations c_i = eps_i + (1 - t_i) sum_{j != i} A_ij c_j and leaves ivn
    unused: effects pass through concepts, an intervention on one stops those that came through it, and what it does is what its concept did before. In K - 1
    rounds from c = eps, which solve the equations where A has no cycles; nothing keeps it from having any, and then effects end after K - 1 steps.
    """
    t = targets[:, :, None].astype(eps.dtype)
    if composition == "structural":
        concepts, edges = eps, without_diagonal(obs)
        for _ in range(len(obs) - 1):
            concepts = eps + (1 - t) * dense_blocks(concepts, edges)
        return concepts
    from_intervened = dense_blocks(t * eps, without_diagonal(ivn))
    from_others = dense_blocks((1 - t) * eps, without_diagonal(obs))
    if composition == "cut":
        return eps + (1 - t) * (from_intervened + from_others)
    return eps + from_intervened + (1 - t) * from_others


def effective_causal_blocks(obs: jax.Array, ivn: jax.Array, targets: jax.Array, composition: str = "reference") -> jax.Array:
    """The matrix M of `causal_layer` under targets [..., K]: [..., K, w_out, K, w_out] (spec section 1.3); identity on the diagonal but for cycles of "structural"."""
    k, w = obs.shape[:2]
    identity = jnp.eye(k * w, dtype=obs.dtype).reshape(k, w, k, w)

    def blocks(t):
        if composition == "structural":
            of_each_noise = lambda eps: causal_layer(eps, obs, ivn, jnp.broadcast_to(t, (k * w, k)), composition)
            return jnp.moveaxis(of_each_noise(identity.reshape(k * w, k, w)), 0, -1).reshape(k, w, k, w)
        hears, speaks = t[:, None, None, None], t[None, None, :, None]
        off_diagonal = speaks * without_diagonal(ivn) + (1 - speaks) * (1 - hears) * without_diagonal(obs)
        return identity + (off_diagonal if composition == "reference" else (1 - hears) * off_diagonal)

    return jnp.vectorize(blocks, signature="(k)->(k,w,k,w)")(jnp.asarray(targets, obs.dtype))


def expressive_widths(noise_width: int, concept_width: int, depth: int) -> tuple[int, ...]:
    """Widths floor(linspace(w_in, w_out, D)) of the expressive layers (spec section 1.2)."""
    return tuple(int(w) for w in np.floor(np.linspace(noise_width, concept_width, depth)))


class ContextModule(nn.Module):
    """z [B, K * w_in], targets [B, K] -> decoder features [B, E] (Markham et al. 2026, section 3).

    Targets are an array, so one compiled program serves any mix of contexts, and `jax.vmap` over targets gives all 2^K compositions at once.
    `normalisation` is a kind of `normalisation.Norm`: outside this package's own evaluation "generated" is plain BatchNorm with running averages; give
    "group" for a module that treats every example alike. The edges of "structural" begin near zero: where noises of all concepts are mixed from the start, it is
    chance which of them a part of the image comes to be encoded in. Raises ValueError for another `noise_mixing` than those of NOISE_MIXING, another
    `composition` than those of COMPOSITION, and z or targets of another width than the module was built for.
    """

    num_concepts: int
    noise_width: int
    concept_width: int
    depth: int
    out_features: int
    noise_mixing: str = "block"
    composition: str = "reference"
    normalisation: str = "generated"
    momentum: float = 0.9

    @nn.compact
    def __call__(self, z: jax.Array, targets: jax.Array, train: bool) -> jax.Array:
        for name, given, known in (("noise_mixing", self.noise_mixing, NOISE_MIXING), ("composition", self.composition, COMPOSITION)):
            if given not in known:
                raise ValueError(f"{name} is {given!r}; give one of {', '.join(known)}.")
        k, w_in, w_out = self.num_concepts, self.noise_width, self.concept_width
        if z.shape[1:] != (k * w_in,) or targets.shape != (z.shape[0], k):
            raise ValueError(f"z must be [B, {k * w_in}] and targets [B, {k}], got {z.shape} and {targets.shape}; reshape them or the module.")
        x = z.reshape(-1, k, w_in)

        init = torch_uniform(w_in)
        obs, ivn = (self.param(f"noise_{name}", init, (k, w_in, k, w_in)) for name in ("obs", "ivn"))
        x = noise_layer(x, obs, ivn, targets, self.noise_mixing) + self.param("noise_bias", init, (1, k, w_in))
        x = nn.gelu(x, approximate=False)

        widths = expressive_widths(w_in, w_out, self.depth)
        for layer, (w, v) in enumerate(zip(widths, widths[1:])):
            init = torch_uniform(w)
            x = block_linear(x, self.param(f"expressive_{layer}", init, (k, w, v))) + self.param(f"expressive_bias_{layer}", init, (1, k, v))
            x = Norm(self.normalisation, self.momentum, groups=k, name=f"norm_{layer}")(x.reshape(-1, k * v), train).reshape(-1, k, v)
            x = nn.gelu(x, approximate=False)

        init = torch_uniform(max((k - 1) * w_out, 1))
        edges = torch_uniform(max((k - 1) * w_out, 1), 0.01 if self.composition == "structural" else 1.0)
        obs, ivn = (self.param(f"causal_{name}", edges, (k, w_out, k, w_out)) for name in ("obs", "ivn"))
        concepts = causal_layer(x, obs, ivn, targets, self.composition) + self.param("causal_bias", init, (1, k, w_out))
        return Dense(self.out_features, name="unpool")(concepts.reshape(-1, k * w_out))
