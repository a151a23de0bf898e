"""Adam with the paper's schedule, parts that are frozen for a while, and the projection of the causal weights (spec sections 1.3, 2 and 3).

Letters: G groups of parameters. Everything a schedule depends on but its length may be traced, so that runs with different numbers share one program.
"""

import re
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import optax


DECAYS = ("cosine", "exponential")


def learning_rate(step: jax.Array, peak: jax.Array, final: jax.Array, warmup_steps: int, total_steps: int, decay: str = "cosine") -> jax.Array:
    """Linear warm-up to `peak`, then one of DECAYS to `final` over the rest. Short runs warm up over a quarter of their steps at most."""
    warmup = min(warmup_steps, total_steps // 4)
    rest = max(total_steps - warmup, 1)
    if decay == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, final / peak)(step - warmup)
    else:
        after = peak * (final / peak) ** ((step - warmup) / rest)
    return jnp.where(step < warmup, peak * step / max(warmup, 1), after)


def groups(rules: Sequence[str], tree: dict) -> dict:
    """The tree with the index of the first of the regular expressions `rules` that matches a leaf's whole path ("decoder/conv_0/kernel") in its place.

    Raises ValueError naming the leaves that no rule matches.
    """
    paths = jax.tree_util.tree_map_with_path(lambda path, _: "/".join(key.key for key in path), tree)
    index = lambda path: next((i for i, rule in enumerate(rules) if re.fullmatch(rule, path)), None)
    missed = [path for path in jax.tree.leaves(paths) if index(path) is None]
    if missed:
        raise ValueError(f"No rule says whether {', '.join(missed)} trains; add one to the method.")
    return jax.tree.map(index, paths)


def adam_in_groups(rules: Sequence[str]) -> optax.GradientTransformationExtraArgs:
    """Adam's direction, without learning rate, for each group of `rules` by itself; `update` takes `trains`, bool [G].

    A group that does not train gets zero updates and keeps its moments and its count as they are, so that it starts with the bias correction of a first step.
    """
    return optax.partition({i: _while_training(optax.scale_by_adam(), i) for i in range(len(rules))}, partial(groups, rules))


def _while_training(inner: optax.GradientTransformation, group: int) -> optax.GradientTransformationExtraArgs:
    """`inner` where trains[group]; as optax.conditionally_mask, with a select in place of a branch, which would copy the moments."""

    def update(updates, state, params=None, *, trains, **_):
        new_updates, new_state = inner.update(updates, state, params)
        choose = lambda new, old: jnp.where(trains[group], new, old)
        return jax.tree.map(lambda u: choose(u, jnp.zeros_like(u)), new_updates), jax.tree.map(choose, new_state, state)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def clamp_causal_weights(params: dict) -> dict:
    """The same parameters with the causal layer's obs and ivn weights clamped to [0, 1]."""

    def clamp(path, value):
        return jnp.clip(value, 0.0, 1.0) if path[-1].key in ("causal_obs", "causal_ivn") else value

    return jax.tree_util.tree_map_with_path(clamp, params)
