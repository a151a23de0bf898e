"""Adam with the paper's schedule, and the projection of the causal weights (spec sections 1.3 and 2)."""

import jax
import jax.numpy as jnp
import ml_collections
import optax


def learning_rate_schedule(config: ml_collections.ConfigDict, total_steps: int) -> optax.Schedule:
    """Linear warm-up to `learning_rate`, cosine to `final_learning_rate` over the rest. Short runs warm up over a quarter of their steps at most."""
    warmup = min(config.train.warmup_steps, total_steps // 4)
    peak, final = config.train.learning_rate, config.train.final_learning_rate
    return optax.warmup_cosine_decay_schedule(peak if not warmup else 0.0, peak, warmup, max(total_steps, warmup + 1), final)


def clamp_causal_weights(params: dict) -> dict:
    """The same parameters with the causal layer's obs and ivn weights clamped to [0, 1]."""

    def clamp(path, value):
        return jnp.clip(value, 0.0, 1.0) if path[-1].key in ("causal_obs", "causal_ivn") else value

    return jax.tree_util.tree_map_with_path(clamp, params)
