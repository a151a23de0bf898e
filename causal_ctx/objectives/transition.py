"""What the causal transition layer optimises in each mode: nats and regularisers (Gendron et al. 2023; spec sections 2.11 and 3).

Letters: B batch, n nodes, N codes, A actions. Every term is computed per example; a loss is its mean over the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from causal_ctx.data.transitions import MODES
from causal_ctx.models import causal_transition
from causal_ctx.models.causal_transition import PRIOR, CausalTransition, Transition, code_nats
from causal_ctx.objectives.mcq_vae import CodedVAE


class CodeBatch(NamedTuple):
    """before, after: codes uint8 or int32 [..., B, n]; actions, modes: int32 [..., B]. A mode is a position in MODES, and all of a micro-batch have one."""

    before: jax.Array
    after: jax.Array
    actions: jax.Array
    modes: jax.Array


class CausalCodes(NamedTuple):
    """An `objective.Objective` with the numbers of `Coefficients`: phase 2 of CT-VAE, which trains `layer` on codes.

    The autoencoder's variables are the collection "autoencoder": frozen, and at hand wherever the state is.
    """

    layer: CausalTransition
    autoencoder: CodedVAE
    unit: str = "nats"
    told: tuple[str, ...] = ("loss_nats", *(f"{mode}/loss" for mode in MODES))

    def init(self, key: jax.Array) -> dict:
        """Fresh variables of both."""
        params = jax.jit(self.layer.init)(jax.random.fold_in(key, 0))["params"]
        return {"params": params, "autoencoder": self.autoencoder.init(key)}

    def loss(self, variables: dict, numbers: dict[str, jax.Array], batch: CodeBatch, key: jax.Array) -> tuple[jax.Array, tuple[dict, dict]]:
        """Loss of one micro-batch in its mode (spec section 3), with (the frozen collection, mean terms, named by mode)."""
        weights, settings = self.layer.apply({"params": variables["params"]}), self.layer.settings
        weigh = Coefficients(**{name: numbers[name] for name in Coefficients._fields})
        before, after, actions = batch.before.astype(jnp.int32), batch.after.astype(jnp.int32), batch.actions

        def without():
            return base_loss(*causal_transition.base(weights, settings, before, key), before, weigh)

        def under_action():
            return action_loss(causal_transition.action(weights, settings, before, actions, key), after, weigh, key)

        def between():
            return retrieval_loss(causal_transition.retrieve(weights, settings, before, after, key), actions)

        value, terms = jax.lax.switch(batch.modes[0], _alike(dict(zip(MODES, (without, under_action, between)))))
        return value, ({"autoencoder": variables["autoencoder"]}, {"loss_nats": value, **terms})

    def project(self, params: dict, collections: dict) -> tuple[dict, dict]:
        """The same."""
        return params, collections


def _alike(branches: dict[str, Callable]) -> list[Callable]:
    """Branches () -> (loss, terms) made to return the terms of all modes, named "mode/term", zero where they are another's, and "weight/mode", one for their own."""
    names = {mode: list(jax.eval_shape(branch)[1]) for mode, branch in branches.items()}
    zeros = {f"{mode}/{name}": jnp.zeros(()) for mode in branches for name in names[mode]} | {f"weight/{mode}": jnp.zeros(()) for mode in branches}

    def alike(mode: str) -> Callable:
        def branch():
            value, terms = branches[mode]()
            return value, zeros | {f"{mode}/{name}": term for name, term in terms.items()} | {f"weight/{mode}": jnp.ones(())}

        return branch

    return [alike(mode) for mode in branches]


class Coefficients(NamedTuple):
    """Weights of the terms, as published for Shapes3D. gamma: base and action mode against retrieval; the others are the paper's c_alpha (identity),
    c_beta (prior), c_delta (size) and c_epsilon (positive trial)."""

    gamma: float = 1.5
    identity: float = 0.01
    prior: float = 0.4
    size: float = 0.01
    positive: float = 0.1


def base_loss(out: Transition, alone: jax.Array, codes: jax.Array, weigh: Coefficients) -> tuple[jax.Array, dict]:
    """Without intervention codes [B, n] stay as they are, also when every node is on its own (`alone` [B, n, N]): (loss, mean terms)."""
    terms = {"latent_nats": code_nats(out.log_probs, codes), "identity_nats": code_nats(alone, codes), "identity_error": identity_error(out.graph)}
    loss = terms["latent_nats"] + weigh.identity * (terms["identity_nats"] + terms["identity_error"])
    return _means(weigh.gamma * loss, terms | _described(out, codes))


def action_loss(out: Transition, after: jax.Array, weigh: Coefficients, key: jax.Array) -> tuple[jax.Array, dict]:
    """The action leads to the codes `after` [B, n]: (loss, mean terms). `key` draws the target of the prior, anew in every step (quirk Q8)."""
    uniform = jax.random.uniform(jax.random.fold_in(key, PRIOR), out.present.shape)
    terms = {
        "latent_nats": code_nats(out.log_probs, after),
        "prior_kl_nats": prior_kl_nats(out.present, uniform),
        "graph_size": graph_size(out.graph),
        "positive_trial": jnp.exp(log_positive_trial(out.absent)),
    }
    loss = terms["latent_nats"] + weigh.prior * terms["prior_kl_nats"] + weigh.size * terms["graph_size"] + weigh.positive * terms["positive_trial"]
    return _means(weigh.gamma * loss, terms | _described(out, after))


def retrieval_loss(log_probs: jax.Array, actions: jax.Array) -> tuple[jax.Array, dict]:
    """Nats of the true actions int [B] under log_probs [B, A], with the shares of actions and of factors (action modulo A/2) that are found."""
    nats = -jnp.take_along_axis(log_probs, actions[:, None], axis=1)[:, 0]
    found, factors = log_probs.argmax(axis=1), log_probs.shape[1] // 2
    return _means(nats, {"retrieval_nats": nats, "action_accuracy": found == actions, "factor_accuracy": found % factors == actions % factors})


def identity_error(graph: jax.Array) -> jax.Array:
    """Mean square of graph - identity: [..., n, n] -> [...]."""
    return ((graph - jnp.eye(graph.shape[-1]).reshape((1,) * (graph.ndim - 2) + graph.shape[-2:])) ** 2).mean(axis=(-2, -1))


def prior_kl_nats(present: jax.Array, uniform: jax.Array) -> jax.Array:
    """KL(softmax(uniform) || softmax(present)), each over all pairs: both [..., n, n], uniform from U(0, 1) -> [...] (quirk Q8)."""
    flat = lambda x: jax.nn.log_softmax(x.reshape(*x.shape[:-2], -1))
    target, ours = flat(uniform), flat(present)
    return (jnp.exp(target) * (target - ours)).sum(axis=-1)


def graph_size(graph: jax.Array) -> jax.Array:
    """Frobenius norm of graphs in {0, 1}, the root of the number of edges: [..., n, n] -> [...]; the gradient of the empty graph is zero."""
    edges = (graph**2).sum(axis=(-2, -1))
    return jnp.where(edges > 0, jnp.sqrt(jnp.where(edges > 0, edges, 1.0)), 0.0)


def log_positive_trial(absent: jax.Array) -> jax.Array:
    """log ||v||, v_i = prod_j absent_ij the probability that row i is empty: probabilities that there is no edge [..., n, n] -> [...].

    All in logarithms: neither the products nor their squares underflow (quirk Q9).
    """
    log_empty = jnp.log(jnp.maximum(absent, jnp.finfo(absent.dtype).tiny)).sum(axis=-1)
    return 0.5 * jax.nn.logsumexp(2 * log_empty, axis=-1)


def _described(out: Transition, codes: jax.Array) -> dict:
    """What is watched and not optimised: shares of nodes whose code is right and that are touched, and of pairs that are edges, each [B]."""
    right = out.log_probs.argmax(axis=-1) == codes
    return {"code_accuracy": right.mean(axis=-1), "mask_rate": out.mask.mean(axis=-1), "edge_rate": out.graph.mean(axis=(-2, -1))}


def _means(loss: jax.Array, terms: dict) -> tuple[jax.Array, dict]:
    loss = loss.mean()
    return loss, {"loss": loss, **{name: jnp.asarray(term, jnp.float32).mean() for name, term in terms.items()}}
