"""The step and the loop: devices, resuming, early stopping and refusing to go on with numbers that are none."""

import importlib.util
import json
import re
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from causal_ctx import parallel, writers
from causal_ctx.checkpoints import Checkpoints
from causal_ctx.data import batches
from causal_ctx.objectives.objective import ImageBatch
from causal_ctx.plan import Plan, plan_of
from causal_ctx.methods import choice
from causal_ctx.start import build_trainer, initial_state, restore
from causal_ctx.train import Interrupted, NonFiniteError, check_finite, train
from tests import tiny
from tests.test_writers import records, scalars


@pytest.fixture(scope="module")
def dataset():
    return tiny.dataset()


def some_batch(config, dataset, steps=2):
    shape = (config.train.batch_size // config.train.micro_batch, config.train.micro_batch)
    sizes = [len(x) for x in dataset.train.values()]
    drawn = [batches.draw(0, s, sizes, shape, choice(config, "train.contexts_per_micro_batch") == "one") for s in range(steps)]
    contexts, indices = (np.stack(part) for part in zip(*drawn))
    targets = np.stack([dataset.targets(name) for name in dataset.train]).astype(np.float32)
    return ImageBatch(batches.gather(dataset.train, contexts, indices), targets[contexts])


def numbers(leaf):
    return np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


@pytest.mark.parametrize("method", ["cm_end_to_end", "cm_shared_noise"])
def test_one_device_equals_eight_and_the_step_is_traced_once(method, dataset):
    """Statistics and gradients are global: sharding the examples over eight devices changes only the order of float sums.

    With plain gradient descent in small steps: Adam would turn rounding in a gradient that is zero but for rounding (a bias before a BatchNorm) into whole
    steps, and in larger ones rounding grows tenfold with every call.
    """
    config = tiny.config(method=method)
    batch = some_batch(config, dataset)
    results, traces = [], []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        trainer = build_trainer(config, dataset)._replace(optimizer=optax.with_extra_args_support(optax.scale(0.001)))

        def steps(state, batch):
            traces.append(len(devices))
            return trainer.steps(state, batch)

        call = jax.jit(steps, in_shardings=(parallel.replicated(mesh), parallel.split(mesh, 2)), out_shardings=parallel.replicated(mesh))
        state = jax.device_put(initial_state(config, dataset, mesh), parallel.replicated(mesh))
        for _ in range(3):
            state, metrics = call(state, batch)
        results.append(jax.device_get((state.params, state.collections, metrics)))
    assert traces == [1, 8]
    for one, eight in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(one, eight, rtol=1e-3, atol=1e-5)


def test_update_averages_gradients_over_micro_batches(dataset):
    """Two equal micro-batches without noise in the batch statistics give the gradient norm of one."""
    config = tiny.config(model__module_normalisation="group", model__backbone_normalisation="group")
    trainer = build_trainer(config, dataset)
    state = initial_state(config, dataset, parallel.data_mesh())
    batch = jax.tree.map(lambda a: a[0, :1], some_batch(config, dataset))
    key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
    one = jax.tree.map(lambda a: a[0], batch)
    gradient = jax.jit(jax.grad(lambda params, *rest: trainer.objective.loss({"params": params}, *rest), has_aux=True))
    gradients = [gradient(state.params, state.hyper.objective, one, k)[0] for k in jax.random.split(key, 2)]
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


def test_effects_in_structural_equations_have_either_sign_and_begin_near_zero(dataset, tmp_path):
    config = tiny.config(train__epochs=1, model__composition="structural")
    first, last = initial_state(config, dataset, parallel.data_mesh()), train(config, dataset, tmp_path)[1]
    before, after = (np.asarray(state.params["context_module"]["causal_obs"]) for state in (first, last))
    assert 0 < np.abs(before).max() < 0.01 and np.abs(after - before).max() > 1e-4 and after.min() < -1e-3 < 1e-3 < after.max()


def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(dataset, tmp_path, monkeypatch, caplog):
    """Its log, and what TensorBoard shows of it, too."""
    config = tiny.config()
    caplog.set_level("INFO", "causal_ctx")
    *whole, record = train(config, dataset, tmp_path / "whole")
    assert re.search(r"training step (\d+)/\1, 0 s left, [\d,]+ images/s, loss \S+ nats, reconstruction \S+, kl \S+", caplog.text)
    monkeypatch.setattr(writers, "_chosen", ["tensorboard"] if importlib.util.find_spec("tensorboardX") else [])

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

    plain, stops = batches.draw, []
    while True:
        monkeypatch.setattr(batches, "draw", interrupting(plain))
        try:
            *resumed, resumed_record = train(config, dataset, tmp_path / "resumed")
            break
        except Interrupted as stop:
            assert "resumes" in str(stop)
            stops.append(int(re.search(r"step (\d+)", str(stop))[1]))
    assert len(stops) == 2 and any(step % plan_of(config, dataset).steps_per_epoch for step in stops), "one stop must fall inside an epoch"
    chex.assert_trees_all_equal(*(jax.tree.map(numbers, pair) for pair in (whole, resumed)))
    assert (record.best_epoch, record.best_loss) == (resumed_record.best_epoch, resumed_record.best_loss)
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "resumed")]
    untimed = [[{k: v for k, v in record.items() if k != "seconds"} for record in log] for log in lines]
    assert untimed[0] == untimed[1]
    if writers._chosen:
        assert len(list((tmp_path / "resumed" / "tensorboard").iterdir())) == 3
        assert scalars(tmp_path / "resumed" / "tensorboard") == records(tmp_path / "resumed")


def test_non_finite_loss_stops_names_step_and_term_and_keeps_the_last_good_checkpoint(dataset, tmp_path):
    config = tiny.config(train__epochs=1)
    train(config, dataset, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        good = checkpoints.step("newest")
    explosive = tiny.config(train__epochs=4, train__learning_rate=1e30)
    with pytest.raises(NonFiniteError, match=r"\w+ is (nan|inf|-inf) at step \d+; what was saved before is kept"):
        train(explosive, dataset, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.step("newest") == good
        state, _ = restore(checkpoints, "newest", initial_state(config, dataset, parallel.data_mesh()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_the_earliest_step_and_the_term_that_failed_first_are_named():
    fine, late, early = np.zeros(3), np.array([0, 0, np.nan]), np.array([0, np.inf, np.nan])
    metrics = {"gradient_norm": early, "kl_nats": early, "loss_nats": early, "reconstruction_nats": fine}
    with pytest.raises(NonFiniteError, match="kl_nats is inf at step 101;"):
        check_finite(metrics, 100)
    with pytest.raises(NonFiniteError, match="gradient_norm is inf at step 101;"):
        check_finite(metrics | {"kl_nats": late, "loss_nats": late}, 100)
    check_finite({"loss_nats": fine}, 100)


@pytest.mark.parametrize("images, batch, cap, expected", [(24_500, 512, 8, (8, 48)), (245_000, 512, 8, (8, 480)), (3_500, 128, 8, (3, 27)), (10, 512, 8, (1, 1))])
def test_an_epoch_is_a_whole_number_of_equal_calls_within_one_percent(images, batch, cap, expected):
    plan = Plan.of(tiny.config(train__batch_size=batch, train__steps_per_call=cap), images)
    assert (plan.steps_per_call, plan.steps_per_epoch) == expected


@pytest.mark.slow
def test_the_last_epoch_may_be_a_part_of_one(dataset, tmp_path, monkeypatch):
    """It ends with a validation and a checkpoint, as whole ones do, at a whole number of calls."""
    losses = iter([100.0, 50.0])
    monkeypatch.setattr("causal_ctx.train.validate", lambda *_: (next(losses), {}))
    config = tiny.config(train__epochs=1.5)
    plan = plan_of(config, dataset)
    best, last, record = train(config, dataset, tmp_path)
    assert plan.steps_per_epoch < int(last.step) < 2 * plan.steps_per_epoch and int(last.step) % plan.steps_per_call == 0
    assert int(best.step) == int(last.step) and (record.best_epoch, record.best_loss) == (2, 50.0)


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights(dataset, tmp_path, monkeypatch):
    losses = iter([100.0, 50.0, 60.0, 70.0, 80.0, 10.0])
    monkeypatch.setattr("causal_ctx.train.validate", lambda *_: (next(losses), {}))
    best, last, record = train(tiny.config(train__epochs=6, train__patience_epochs=2), dataset, tmp_path)
    assert (record.best_epoch, record.best_loss, record.last_loss) == (2, 50.0, 70.0)
    assert int(last.step) == 2 * int(best.step)  # stopped two epochs after the second


def test_base_never_sees_an_intervention(dataset, tmp_path, monkeypatch):
    seen, gather = [], batches.gather
    monkeypatch.setattr(batches, "gather", lambda images, *rest: seen.append(tuple(images)) or gather(images, *rest))
    train(tiny.config(method="base", train__epochs=1), dataset, tmp_path)
    assert set(seen) == {("obs",)}
