"""The step and the loop: devices, resuming, early stopping and refusing to go on with numbers that are none."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from causal_ctx import parallel
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.data import batches
from causal_ctx.step import Batch
from causal_ctx.train import Interrupted, NonFiniteError, build_trainer, initial_state, restore, train
from tests import tiny


@pytest.fixture(scope="module")
def dataset():
    return tiny.dataset()


def some_batch(config, dataset, steps=2):
    shape = (config.train.batch_size // config.train.micro_batch, config.train.micro_batch)
    sizes = [len(x) for x in dataset.train.values()]
    drawn = [batches.draw(0, s, sizes, shape, True) for s in range(steps)]
    contexts, indices = (np.stack(part) for part in zip(*drawn))
    targets = np.stack([dataset.targets(name) for name in dataset.train]).astype(np.float32)
    return Batch(batches.gather(dataset.train, contexts, indices), targets[contexts])


def assert_trees_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        np.testing.assert_array_equal(x, y)


def test_one_device_equals_eight_and_the_step_is_traced_once(dataset):
    """Statistics and gradients are global: sharding the examples over eight devices changes only the order of float sums.

    With plain gradient descent: Adam would turn rounding in a gradient that is zero but for rounding (a bias before a BatchNorm) into whole steps.
    """
    config = tiny.config()
    batch = some_batch(config, dataset)
    results, traces = [], []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        trainer = build_trainer(config, dataset, total_steps=10)._replace(optimizer=optax.sgd(1e-5))

        def steps(state, batch):
            traces.append(len(devices))
            return trainer.steps(state, batch)

        call = jax.jit(steps, in_shardings=(parallel.replicated(mesh), parallel.split(mesh, 2)), out_shardings=parallel.replicated(mesh))
        state = jax.device_put(trainer.init(0, dataset.image_shape, len(dataset.concepts)), parallel.replicated(mesh))
        for _ in range(3):
            state, metrics = call(state, batch)
        results.append(jax.device_get((state.params, state.batch_stats, metrics)))
    assert traces == [1, 8]
    for one, eight in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-3, atol=1e-5)


def test_update_averages_gradients_over_micro_batches(dataset):
    """Two equal micro-batches without noise in the batch statistics give the gradient norm of one."""
    config = tiny.config(model__module_normalisation="group", model__backbone_normalisation="group")
    trainer = build_trainer(config, dataset, total_steps=10)
    state = initial_state(config, dataset, parallel.data_mesh())
    batch = jax.tree.map(lambda a: a[0, :1], some_batch(config, dataset))
    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
    one = jax.tree.map(lambda a: a[0], batch)
    gradient = jax.jit(jax.grad(trainer.loss, has_aux=True))
    gradients = [gradient(state.params, {}, one, k)[0] for k in jax.random.split(key, 2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    _, metrics = jax.jit(trainer.update)(state, jax.tree.map(lambda a: jnp.concatenate([a, a]), batch))
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(mean)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)


def test_causal_weights_stay_clamped(dataset, tmp_path):
    best, last, _ = train(tiny.config(train__epochs=1), dataset, tmp_path)
    for state in (best, last):
        for name in ("causal_obs", "causal_ivn"):
            weights = np.asarray(state.params["context_module"][name])
            assert weights.min() == 0.0 and 0.0 < weights.max() <= 1.0


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(dataset, tmp_path, monkeypatch):
    config = tiny.config()
    _, whole, record = train(config, dataset, tmp_path / "whole")

    signals_after = iter([5, 3, 10**9])  # the run is interrupted twice, once in mid-epoch

    def interrupting(make):
        remaining = next(signals_after)

        def counted(*args):
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                signal.raise_signal(signal.SIGINT)
            return make(*args)

        return counted

    plain, stops = batches.draw, 0
    while True:
        monkeypatch.setattr(batches, "draw", interrupting(plain))
        try:
            _, resumed, resumed_record = train(config, dataset, tmp_path / "resumed")
            break
        except Interrupted as stop:
            assert "resumes" in str(stop)
            stops += 1
    assert stops == 2
    assert_trees_equal(whole, resumed)
    assert (record.best_epoch, record.best_elbo_nats) == (resumed_record.best_epoch, resumed_record.best_elbo_nats)
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "resumed")]
    untimed = [[{k: v for k, v in record.items() if k != "seconds"} for record in log] for log in lines]
    assert untimed[0] == untimed[1]


def test_non_finite_loss_stops_names_step_and_term_and_keeps_the_last_good_checkpoint(dataset, tmp_path):
    config = tiny.config(train__epochs=1)
    train(config, dataset, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        good = checkpoints.step("newest")
    explosive = tiny.config(train__epochs=4, train__learning_rate=1e30)
    with pytest.raises(NonFiniteError, match=r"(nats|norm|ELBO) is (nan|inf|-inf) at step \d+; the last good checkpoint is kept"):
        train(explosive, dataset, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.step("newest") == good
        state, _ = restore(checkpoints, "newest", initial_state(config, dataset, parallel.data_mesh()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_early_stopping_keeps_the_best_weights(dataset, tmp_path, monkeypatch):
    elbos = iter([-100.0, -50.0, -60.0, -70.0, -80.0, -10.0])
    monkeypatch.setattr("causal_ctx.train.validation_elbo_nats", lambda *_: next(elbos))
    best, last, record = train(tiny.config(train__epochs=6, train__patience_epochs=2), dataset, tmp_path)
    assert (record.best_epoch, record.best_elbo_nats, record.last_elbo_nats) == (2, -50.0, -70.0)
    assert int(last.step) == 2 * int(best.step)  # stopped two epochs after the second


def test_base_never_sees_an_intervention(dataset, tmp_path, monkeypatch):
    seen, gather = [], batches.gather
    monkeypatch.setattr(batches, "gather", lambda images, *rest: seen.append(tuple(images)) or gather(images, *rest))
    train(tiny.config(method="base", train__epochs=1), dataset, tmp_path)
    assert set(seen) == {("obs",)}
