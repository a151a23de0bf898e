"""Action retrieval over all actions in one call beside a loop over actions, turn by turn in one process, and the peak memory of a training step of each mode.

    python -m tests.benchmarks.bench_transition        (n = N = 64, A = 18, batch 16; not a pytest test, whose session pretends to have eight devices)

Both sides are compiled once, and the loop calls `action` with one action for the whole batch. Each share of touched nodes is had by adding to the mask's bias;
fresh weights touch about a half. The gradient of the loop is that of its mean nats under each action; the one call's that of its retrieval loss.
"""

import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from causal_ctx.models import causal_transition as ct
from causal_ctx.objectives import transition as objective

BATCH, NODES, CODES, ACTIONS = 16, 64, 64, 18
BIASES = (0.0, -2.25)  # added to the mask's: about a half and a tenth of the nodes are touched
ROUNDS = 5
SETTINGS = ct.Settings()


def main() -> None:
    """Prints seconds of one call and of the loop and their ratio, forward and gradient; and each mode's peak of memory in a step."""
    w, key = jax.jit(lambda key: ct.CausalTransition(CODES, ACTIONS).init_with_output(key)[0])(jax.random.key(0)), jax.random.key(1)
    before, after = pairs(NODES)
    one, nats = partial(jax.jit(ct.retrieve, static_argnums=1), settings=SETTINGS), jax.jit(nats_under)
    one_gradient, one_action = jax.jit(jax.grad(retrieval_loss)), jax.jit(jax.grad(lambda *arguments: nats_under(*arguments).mean()))
    for bias in BIASES:
        w_biased = w._replace(mask_bias=w.mask_bias + bias)
        share = jax.jit(lambda w: ct.action(w, SETTINGS, before, jnp.arange(BATCH), key).mask.mean())(w_biased)
        print(f"\nshare of touched nodes {share:.2f}", flush=True)
        call = lambda: one(w_biased, before=before, after=after, key=key)
        loop = lambda: jax.nn.log_softmax(-jnp.stack([nats(w_biased, before, after, key, a) for a in range(ACTIONS)], axis=1))
        compare("forward", call, loop)
        print(f"largest difference: {jnp.abs(call() - loop()).max():.1e}", flush=True)
        compare("gradient", lambda: one_gradient(w_biased, before, after, key), lambda: summed(one_action, w_biased, before, after, key))
    for nodes in (64, 256):
        before, after = (jax.ShapeDtypeStruct((BATCH, nodes), jnp.int32) for _ in range(2))
        for name, loss in {"base": base_loss, "action": action_loss, "retrieve": retrieval_loss}.items():
            memory = jax.jit(jax.value_and_grad(loss)).lower(w, before, after, key).compile().memory_analysis()
            print(f"n = {nodes}, {name}: {memory.temp_size_in_bytes / 2**20:.0f} MiB", flush=True)


def pairs(nodes: int) -> tuple[jax.Array, jax.Array]:
    """Codes before and after, [B, n] each."""
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.integers(CODES, size=(BATCH, nodes)), jnp.int32) for _ in range(2))


def nats_under(w: ct.Weights, before: jax.Array, after: jax.Array, key: jax.Array, action: jax.Array) -> jax.Array:
    """Mean nats [B] of the codes `after` when one action is applied to all examples."""
    return ct.code_nats(ct.action(w, SETTINGS, before, jnp.full(BATCH, action), key).log_probs, after)


def retrieval_loss(w: ct.Weights, before: jax.Array, after: jax.Array, key: jax.Array) -> jax.Array:
    return objective.retrieval_loss(ct.retrieve(w, SETTINGS, before, after, key), jnp.arange(BATCH) % ACTIONS)[0]


def action_loss(w: ct.Weights, before: jax.Array, after: jax.Array, key: jax.Array) -> jax.Array:
    return objective.action_loss(ct.action(w, SETTINGS, before, jnp.arange(BATCH) % ACTIONS, key), after, objective.Coefficients(), key)[0]


def base_loss(w: ct.Weights, before: jax.Array, after: jax.Array, key: jax.Array) -> jax.Array:
    return objective.base_loss(*ct.base(w, SETTINGS, before, key), before, objective.Coefficients())[0]


def summed(gradient, *arguments) -> ct.Weights:
    """The sum over actions of their gradients."""
    total = gradient(*arguments, 0)
    for action in range(1, ACTIONS):
        total = jax.tree.map(jnp.add, total, gradient(*arguments, action))
    return total


def compare(name: str, one_call, loop) -> None:
    """Prints the seconds of both in turns and how many times the loop takes as long; a first round compiles."""
    seconds = []
    for _ in range(ROUNDS + 1):
        seconds.append([])
        for function in (one_call, loop):
            began = time.perf_counter()
            jax.block_until_ready(function())
            seconds[-1].append(time.perf_counter() - began)
    calls, loops = zip(*seconds[1:])
    spread = lambda values: f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
    print(f"{name:8}  one call {spread(calls)} s, loop {spread(loops)} s, ratio {spread([b / a for a, b in seconds[1:]])}", flush=True)


if __name__ == "__main__":
    main()
