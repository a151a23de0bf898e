"""What a process of a pod does in `test_pod`, and one process alone: `python -m tests.pod_worker FOLDER descend|train`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax

from causal_ctx import export, parallel, pod, workdir
from causal_ctx.evaluation.predict import build_predictor
from causal_ctx.feed import ImageFeed
from causal_ctx.start import build_feed, build_trainer, initial_state
from causal_ctx.train import train_together
from tests import tiny


def descend() -> dict[str, np.ndarray]:
    """Three calls of plain gradient descent: Adam would turn rounding in a gradient of zero into whole steps."""
    config, dataset, mesh = tiny.config(), tiny.dataset(), parallel.data_mesh()
    trainer = build_trainer(config, dataset)._replace(optimizer=optax.with_extra_args_support(optax.scale(0.01)))
    state, feed = initial_state(config, dataset, mesh), build_feed([config], dataset, mesh)
    call = jax.jit(trainer.steps, out_shardings=parallel.replicated(mesh))
    drawn = np.stack([np.stack(ImageFeed.draw(feed, start)) for start in (0, 2, 4)])
    for start in (0, 2, 4):
        state, metrics = call(state, jax.tree.map(lambda leaf: leaf[0], feed.batch(start, "vmap")))
    predictor = build_predictor(config, dataset, state)
    found = export.named({"params": state.params, "metrics": metrics} | state.collections) | {"drawn": drawn}
    found["elbo"] = predictor.elbo(dataset.targets("red"), dataset.held_out["light+red"][:13])["elbo_nats"]
    return {name: np.asarray(parallel.on_host(leaf)) for name, leaf in found.items()}


def train_and_use(folder: Path) -> dict[str, np.ndarray]:
    """Two runs, of which every process trains one, with checkpoints, then images from the second."""
    dataset, runs = tiny.dataset(), [tiny.config(train__epochs=1, seed=seed) for seed in range(2)]
    folders = [folder / str(seed) for seed in range(2)]
    for path in folders:
        workdir.make(path, {"config.json": "{}"})
    trained = train_together(runs, dataset, folders, "shard" if jax.process_count() > 1 else "map")
    member, last = trained[1]
    predictor = build_predictor(runs[1], dataset, member.best(last))
    images = predictor.generate(dataset.targets("light+red"), np.random.default_rng(0).standard_normal((13, predictor.latents)))
    return {"images": images, "best_losses": np.array([member.record.best_loss for member, _ in trained]), "step": np.asarray(last.step)}


if __name__ == "__main__":
    with pod.joined("on", 60.0):
        results = descend() if sys.argv[2] == "descend" else train_and_use(Path(sys.argv[1]) / "runs")
        np.savez(Path(sys.argv[1]) / f"process_{jax.process_index()}.npz", **results)
