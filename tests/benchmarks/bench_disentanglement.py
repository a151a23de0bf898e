"""User CPU seconds of each disentanglement score in fast settings, on 64 codes that depend on the nine factors of Sprites.

    python -m tests.benchmarks.bench_disentanglement [SCORE ...] [ids] [dimensions=64] [FIELD of Settings=number]        (no SCORE: all four)

Code c is a random function of factor c mod 9 and, every third one, of the next factor too; real features have noise of a tenth of their deviation. No
images are encoded, so FactorVAE's seconds are those of its sampling and votes; the seconds of `represent` come on top.
"""

import resource
import sys

import numpy as np

from causal_ctx.evaluation.disentanglement import FAST, dci, factor_vae, mig, sap
from causal_ctx.evaluation.samplers import uniform_sampler

SIZES = (7, 7, 10, 5, 3, 7, 5, 3, 6)
IDS = 64


class Factors:
    """A full grid of factors without images."""

    factor_sizes = SIZES

    def index(self, factors):
        return np.ravel_multi_index(np.asarray(factors).T, SIZES)


def representation(dimensions: int, ids: bool, seed: int = 0):
    """indices [n] -> codes [n, dimensions]: ids or real features."""
    rng, number = np.random.default_rng(seed), np.arange(dimensions)
    first, second, weight = number % len(SIZES), (number + 1) % len(SIZES), (number % 3 == 0).astype(int)
    table = rng.integers(0, IDS, (dimensions, max(SIZES), max(SIZES))) if ids else rng.standard_normal((dimensions, max(SIZES), max(SIZES)))

    def represent(indices):
        factors = np.stack(np.unravel_index(indices, SIZES), axis=1)
        codes = table[number, factors[:, first], weight * factors[:, second]]
        return codes if ids else (codes + 0.1 * rng.standard_normal(codes.shape)).astype(np.float32)

    return represent


def main(arguments: list[str]) -> None:
    """Prints the score and its user CPU seconds, one line each."""
    fields = {key: int(value) for key, _, value in (a.partition("=") for a in arguments if "=" in a)}
    ids, wanted, dimensions = "ids" in arguments, {a for a in arguments if "=" not in a} - {"ids"}, fields.pop("dimensions", 64)
    settings, data, rng = FAST._replace(**fields), Factors(), np.random.default_rng(1)
    represent = representation(dimensions, ids)
    (train, codes), (test, codes_test) = ((f, represent(data.index(f))) for f in (rng.integers(0, SIZES, (n, 9)) for n in (settings.train, settings.test)))
    calls = {
        "dci": lambda: dci(codes, train, codes_test, test, settings),
        "mig": lambda: mig(codes, train, settings.bins),
        "sap": lambda: sap(codes, train, codes_test, test),
        "factor_vae": lambda: factor_vae(represent, uniform_sampler(data), len(SIZES), settings),
    }
    print(f"{'ids' if ids else 'real features'}, {dimensions} dimensions, {settings}")
    for name in calls if not wanted else (n for n in calls if n in wanted):
        began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        scores = calls[name]()
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - began
        print(f"{name}: {seconds:.2f} s, " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items() if key != "parameters"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
