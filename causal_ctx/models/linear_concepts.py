"""Linear Gaussian concepts behind an invertible map, with their exact likelihood: what is fitted to `data.linear_concepts` to see which concepts are recovered.

Letters: K concepts, w numbers in each, d = K w, n samples, T contexts; targets t in {0, 1}^K.

x = B_2 s(B_1 c + b) with s known and the matrices not, and for the concepts c one of two causal layers:

    structural  c_i = sum_{j != i} A_ij c_j + eps_i, without the sum where t_i = 1: the theorem's model. Effects pass through concepts, and an intervention stops them
    reduced     c = M_t eps with the matrix of `context_module.causal_layer`, composition "cut": the context module's own layer, whose blocks are free

The noise is eps_k = R_k z_k + m_k with z ~ N(0, I) and R, m of their own where t_k = 1. The module's noise is no longer Gaussian after its expressive layers, and
its causal weights are held in [0, 1] unless `train.clamp_causal` is False: here is its layer alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx.data.linear_concepts import K, WIDTH, World, slope_of_unbent, unbent, well_conditioned
from causal_ctx.models.context_module import block_linear, effective_causal_blocks, without_diagonal

STREAM = 2**17
FORMS = ("structural", "reduced")


def init(seed: int, form: str) -> dict:
    """Parameters of a fit, a dict of float64 arrays: a random map, hardly any effects, and noise N(0, I)."""
    rng, d = np.random.default_rng([seed, STREAM]), K * WIDTH
    blocks = {"structural": ("edges",), "reduced": ("causal_obs", "causal_ivn")}[form]
    causal = {name: 0.1 * rng.standard_normal((K, WIDTH, K, WIDTH)) for name in blocks}
    noise = {f"precision_{kind}": np.tile(np.eye(WIDTH), (K, 1, 1)) for kind in ("obs", "ivn")} | {f"mean_{kind}": np.zeros((K, WIDTH)) for kind in ("obs", "ivn")}
    return causal | noise | {"inner": well_conditioned(rng, d), "outer": well_conditioned(rng, d), "offset": 0.3 * rng.standard_normal(d)}


def of_world(world: World) -> dict:
    """The parameters with which the structural model is `world`, which violates no condition."""
    ivn = {"precision_ivn": np.eye(WIDTH) / world.scale[:, :, None], "mean_ivn": world.mean}
    inverse = {"inner": np.linalg.inv(world.second), "outer": np.linalg.inv(world.first), "offset": world.offset}
    return init(0, "structural") | {"edges": world.edges.reshape(K, WIDTH, K, WIDTH)} | ivn | inverse


def concepts(params: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The concepts [n, K, w] of observations [n, d], and log |det| of that map, [n]."""
    hidden = x @ params["inner"].T
    c = (unbent(hidden) - params["offset"][None]) @ params["outer"].T
    linear = sum(jnp.linalg.slogdet(params[name])[1] for name in ("inner", "outer"))
    return c.reshape(-1, K, WIDTH), linear + jnp.log(slope_of_unbent(hidden)).sum(axis=1)


def to_noise(params: dict, targets: jax.Array) -> jax.Array:
    """The matrix [d, d] with eps = matrix c under targets [K]."""
    if "edges" in params:
        hears = jnp.repeat(1 - targets, WIDTH)[:, None]
        return jnp.eye(K * WIDTH) - hears * without_diagonal(params["edges"]).reshape(K * WIDTH, K * WIDTH)
    blocks = effective_causal_blocks(params["causal_obs"], params["causal_ivn"], targets, "cut")
    return jnp.linalg.inv(blocks.reshape(K * WIDTH, K * WIDTH))


def noise_law(params: dict, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(R^-1 [K, w, w], m [K, w]) under targets [K]."""
    of = lambda name, t: jnp.where(t == 1, params[f"{name}_ivn"], params[f"{name}_obs"])
    return of("precision", targets[:, None, None]), of("mean", targets[:, None])


def nll_nats(params: dict, x: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean negative log likelihood of observations [n, d] under targets [K]."""
    c, log_det = concepts(params, x)
    matrix, (precision, mean) = to_noise(params, targets), noise_law(params, targets)
    eps = (c.reshape(len(c), -1) @ matrix.T).reshape(c.shape)
    z = block_linear(eps - mean[None], precision.mT)
    log_normal = -0.5 * (z**2 + jnp.log(2 * jnp.pi)).sum(axis=(1, 2))
    return -(log_normal + log_det + jnp.linalg.slogdet(precision)[1].sum() + jnp.linalg.slogdet(matrix)[1]).mean()


def loss_nats(params: dict, x: jax.Array, target_sets: jax.Array, seen: jax.Array) -> jax.Array:
    """`nll_nats` of observations [T, n, d] under target sets [T, K], mean over the contexts that are `seen` [T] 1."""
    each = jax.vmap(nll_nats, in_axes=(None, 0, 0))(params, x, target_sets)
    return (each * seen).sum() / seen.sum()


def draw(params: dict, targets: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Concepts [n, K, w] of the fitted law from z [n, K, w] ~ N(0, I) under targets [K]."""
    targets = jnp.asarray(targets)
    matrix, (precision, mean) = to_noise(params, targets), noise_law(params, targets)
    eps = block_linear(z, jnp.linalg.inv(precision).mT) + mean[None]
    return np.asarray(eps.reshape(len(z), -1) @ jnp.linalg.inv(matrix).T).reshape(z.shape)
