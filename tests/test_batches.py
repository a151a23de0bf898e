"""Batch indices are a pure function of (seed, step); images follow them to the devices with the same bits whatever the way."""

import logging
import os
import time
import types

import jax
import numpy as np
import pytest

from causal_ctx import config as configs
from causal_ctx import ensemble, feed, parallel, start, workdir
from causal_ctx.data import ContextData, batches
from tests import tiny

SIZES = (10, 20, 5)


@pytest.mark.parametrize("one_context", [True, False])
def test_pure_in_seed_and_step_and_within_bounds(one_context):
    draw = lambda seed, step: batches.draw(seed, step, SIZES, (8, 64), one_context)
    contexts, indices = draw(3, 7)
    for again, first in zip(draw(3, 7), (contexts, indices)):
        np.testing.assert_array_equal(again, first)
    assert not np.array_equal(draw(3, 8)[1], indices) and not np.array_equal(draw(4, 7)[1], indices)
    assert contexts.shape == indices.shape == (8, 64)
    assert (indices >= 0).all() and (indices < np.array(SIZES)[contexts]).all()
    assert all(len(np.unique(row)) == 1 for row in contexts) == one_context


def test_contexts_and_examples_are_uniform():
    drawn = [batches.draw(0, step, SIZES, (8, 64), False) for step in range(200)]
    contexts, indices = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*drawn))
    np.testing.assert_allclose(np.bincount(contexts) / len(contexts), np.full(3, 1 / 3), atol=0.01)
    for context, size in enumerate(SIZES):
        chosen = indices[contexts == context]
        np.testing.assert_allclose(np.bincount(chosen, minlength=size) / len(chosen), np.full(size, 1 / size), atol=0.01)


def test_gather_takes_the_named_rows():
    images = {name: np.arange(n, dtype=np.uint8)[:, None, None, None] + 50 * i for i, (name, n) in enumerate(zip("abc", SIZES))}
    contexts, indices = batches.draw(0, 0, SIZES, (4, 6), False)
    np.testing.assert_array_equal(batches.gather(images, contexts, indices)[..., 0, 0, 0], 50 * contexts + indices)


@pytest.fixture(scope="module")
def dataset():
    return tiny.dataset()


def feeds(dataset, seeds=(3, 8), **overrides) -> feed.Feed:
    return start.build_feed([tiny.config(seed=seed, **overrides) for seed in seeds], dataset, parallel.data_mesh())


def expected(dataset, seeds, start, one_context=True):
    """(images, targets) [N, S, R, B, ...], one example after the other."""
    sizes, contexts = [len(images) for images in dataset.train.values()], list(dataset.train)
    steps = [[batches.draw(seed, step, sizes, (2, 16), one_context) for step in (start, start + 1)] for seed in seeds]
    image = np.vectorize(lambda c, i: dataset.train[contexts[c]][i], signature="(),()->(h,w,c)")
    target = np.vectorize(lambda c: dataset.targets(contexts[c]), signature="()->(k)")
    drawn = [np.array([[step[part] for step in member] for member in steps]) for part in (0, 1)]
    return image(*drawn), target(drawn[0])


@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("kind, seeds, contexts", [("vmap", (3, 8), "one"), ("map", (3,), "mixed"), ("shard", tuple(range(8)), "one")])
def test_host_and_device_give_the_examples_that_were_drawn(dataset, placement, kind, seeds, contexts, monkeypatch):
    monkeypatch.setattr(feed, "BYTES_AT_ONCE", 10 * 16 * 16 * 3)  # so that the images travel in several pieces, the last one short
    source = feeds(dataset, seeds, data__placement=placement, train__contexts_per_micro_batch=contexts)
    assert (source.rows is None) == (placement == "host")
    for first in (0, 6):
        batch = source.batch(first, kind)
        images, targets = expected(dataset, seeds, first, contexts == "one")
        np.testing.assert_array_equal(batch.images, images)
        np.testing.assert_array_equal(batch.targets, targets)
        assert batch.images.dtype == np.uint8 and batch.targets.dtype == np.float32
        layout = parallel.split(source.mesh, ensemble.batch_axis(kind))
        assert all(part.sharding.is_equivalent_to(layout, part.ndim) for part in batch)


@pytest.mark.parametrize("placement", ["host", "device"])
def test_reading_ahead_keeps_the_order(dataset, placement):
    source = feeds(dataset, data__placement=placement)
    for starts in (range(2, 12, 2), range(2, 4, 2), range(2, 2, 2)):
        ahead = list(source.batches(starts, "vmap"))
        assert len(ahead) == len(starts)
        for first, batch in zip(starts, ahead):
            np.testing.assert_array_equal(batch.images, source.batch(first, "vmap").images)


def test_a_reader_that_fails_or_waits_says_so(dataset, monkeypatch, caplog):
    source, gather = feeds(dataset, data__placement="host"), batches.gather
    monkeypatch.setattr(batches, "gather", lambda *given: time.sleep(0.02) or gather(*given))
    with caplog.at_level(logging.INFO, "causal_ctx.feed"):
        list(source.batches(range(0, 12, 2), "vmap"))
    assert "of its time for its batches" in caplog.text
    monkeypatch.setattr(batches, "gather", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(source.batches(range(0, 12, 2), "vmap"))


@pytest.mark.parametrize("placement", ["host", "device"])
@pytest.mark.parametrize("kind", ["vmap", "shard"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_take_disjoint_slices_of_the_same_global_batches(dataset, monkeypatch, placement, kind, count):
    seeds = tuple(range(8)) if kind == "shard" else (3, 8)
    source = feeds(dataset, seeds, data__placement=placement)
    monkeypatch.setattr(parallel, "place", lambda mesh, array, axis: array)
    whole = source.read(4, kind)
    shares = []
    for index in range(count):
        monkeypatch.setattr(parallel, "local_slice", lambda size, index=index: parallel.share(size, index, count))
        shares.append(source.read(4, kind))
    for part, of_all in zip(zip(*shares), whole):
        assert {share.shape[ensemble.batch_axis(kind)] for share in part} == {of_all.shape[ensemble.batch_axis(kind)] // count}
        np.testing.assert_array_equal(np.concatenate(part, ensemble.batch_axis(kind)), of_all)


def test_shares_are_disjoint_and_cover():
    for count in (1, 2, 4):
        taken = [np.arange(16)[parallel.share(16, index, count)] for index in range(count)]
        np.testing.assert_array_equal(np.concatenate(taken), np.arange(16))
    assert parallel.local_slice(16) == slice(0, 16)


def test_a_data_set_larger_than_memory_is_read(tmp_path):
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows, names = memory // (16 * 16 * 3), ("obs", "light")
    try:
        arrays = {name: np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", np.uint8, (rows, 16, 16, 3)) for name in names}  # holes: no disk is used
    except OSError as error:
        pytest.skip(f"no sparse files of {memory:,} bytes here: {error}")
    large = ContextData("large", ("light",), arrays, arrays, arrays)
    source = feeds(large, train__steps_per_call=1)
    contexts, indices = source.draw(0)
    for number, (context, index) in enumerate(zip(contexts.ravel(), indices.ravel())):
        arrays[names[context]][index] = number
    np.testing.assert_array_equal(np.unique(source.batch(0, "vmap").images), np.arange(contexts.size))


def test_images_go_to_devices_that_tell_of_room(monkeypatch):
    devices = [types.SimpleNamespace(memory_stats=lambda free=free: {"bytes_limit": 200, "bytes_in_use": 200 - free}) for free in (120, 100)]
    mesh, silent = types.SimpleNamespace(local_devices=devices), types.SimpleNamespace(local_devices=[types.SimpleNamespace(memory_stats=lambda: None)])
    assert [feed.placement("auto", size, mesh) for size in (50, 51)] == ["device", "host"]
    assert [feed.placement(wanted, 70, mesh) for wanted in ("device", "host")] == ["device", "host"]
    assert [feed.placement(wanted, 70, silent) for wanted in ("auto", "device")] == ["host", "device"]
    with pytest.raises(configs.ConfigError, match="the images need 101 bytes and a device has less free; use auto or host"):
        feed.placement("device", 101, mesh)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(feed.multihost_utils, "process_allgather", lambda own: np.array([own, False]))
    assert feed.placement("auto", 50, mesh) == "host"  # another process has no room


def test_a_run_goes_on_under_another_placement_and_one_from_before_there_were_any(tmp_path):
    workdir.prepare(tiny.config(data__placement="host", seed=3), tmp_path)
    workdir.prepare(tiny.config(data__placement="host"), tmp_path)  # another config is refused only where something was trained
    (tmp_path / "results.json").write_text("{}")  # checkpoints may have been removed to save space
    workdir.prepare(tiny.config(data__placement="device", data__cache_dir="elsewhere"), tmp_path)
    assert '"elsewhere"' in (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"placement": "device"', '"seed": 0'))
    workdir.prepare(tiny.config(), tmp_path)
    with pytest.raises(workdir.WorkdirError, match="differing in seed"):
        workdir.prepare(tiny.config(seed=1, data__placement="device"), tmp_path)
