"""Three seeds of quad_dependent:cpu in one program, side by side or one after the other within it, beside three programs in turn.

    python -m tests.benchmarks.bench_ensemble        (not a pytest test, whose session pretends to have eight devices)
"""

import copy
import statistics
import time

import jax
import numpy as np

from causal_ctx import config as configs
from causal_ctx import data, ensemble, parallel
from causal_ctx.start import build_feed, build_trainer, initial_state

ROUNDS, SEEDS = 5, 3


def main() -> None:
    """Prints seconds per call of eight steps of all seeds, turn by turn, and the ratio to programs in turn: median and range."""
    runs = []
    for seed in range(SEEDS):
        run = copy.deepcopy(configs.resize(configs.default(), "cpu"))
        run.seed = seed
        runs.append(run)
    dataset, mesh = data.load(runs[0].data), parallel.data_mesh()
    trainer, states = build_trainer(runs[0], dataset), [initial_state(run, dataset, mesh) for run in runs]
    everyone, alone = np.ones(SEEDS, bool), np.ones(1, bool)
    together = {kind: (ensemble.compiled(kind, trainer, mesh, SEEDS), build_feed(runs, dataset, mesh).batch(0, kind)) for kind in ("vmap", "map")}
    single, own = ensemble.compiled("vmap", trainer, mesh, 1), [build_feed([run], dataset, mesh).batch(0, "vmap") for run in runs]

    def in_turn():
        for state, batch in zip(states, own):
            jax.block_until_ready(single(ensemble.stack([state]), batch, alone))

    def at_once(kind):
        call, batch = together[kind]
        jax.block_until_ready(call(ensemble.stack(states), batch, everyone))

    ways = {"in turn": in_turn, "vmap": lambda: at_once("vmap"), "map": lambda: at_once("map")}
    seconds = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(seconds["in turn"][1:], values[1:])]  # the first round compiles
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name}: {statistics.median(values[1:]):.2f} s a call, first call {values[0]:.1f} s; {statistics.median(ratios):.2f} times as fast as in turn ({spread})")


if __name__ == "__main__":
    main()
