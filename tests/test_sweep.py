"""Sweeps: the product of axes, which runs train together, and that together is the same as one by one."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from causal_ctx import config as configs
from causal_ctx import data, ensemble, parallel, reproduce, sweep, workdir
from causal_ctx.config import ConfigError
from causal_ctx.evaluation.wasserstein import NonFiniteImagesError
from causal_ctx.methods import of_system
from causal_ctx.plan import plan_of
from causal_ctx.start import build_trainer, hyper, initial_state
from causal_ctx.objectives.objective import ImageBatch
from causal_ctx.train import Member, train, train_together
from causal_ctx.workdir import WorkdirError
from tests import tiny

SWEEPS = sorted((reproduce.CONFIGS / "sweeps").glob("*.py"))


@pytest.fixture(scope="module")
def dataset():
    return tiny.dataset()


def test_members_are_the_product_of_the_axes_under_short_names(tmp_path):
    runs = sweep.members(sweep.sweep(tiny.config(), {"objective.beta": (1, 4.0), "seed": range(2)}), tmp_path)
    assert list(runs) == ["beta=1.0,seed=0", "beta=1.0,seed=1", "beta=4.0,seed=0", "beta=4.0,seed=1"]
    assert [(run.objective.beta, run.seed) for run in runs.values()] == [(1.0, 0), (1.0, 1), (4.0, 0), (4.0, 1)]
    assert list(sweep.members(sweep.sweep(tiny.config(), {"seed": (1,), "data.seed": (2,)}), tmp_path)) == ["data.seed=2,seed=1"]


def test_names_of_an_axis_may_come_as_one_string(tmp_path):
    runs = sweep.members(sweep.sweep(tiny.config(), {"method": ("base,base_pooled",), "seed": (0,)}), tmp_path)
    assert [run.method for run in runs.values()] == ["base", "base_pooled"]


def test_runs_of_one_shape_train_together_after_those_they_start_from(tmp_path):
    runs = sweep.members(sweep.sweep(tiny.config(), {"method": of_system("context"), "seed": range(2)}), tmp_path)
    groups = [sorted({runs[name].method for name in names}) for names in sweep.groups(runs)]
    assert groups == [["base"], ["base_pooled"], ["cm_pooled"], ["cm_shared_noise"], ["cm_end_to_end", "cm_fine_tune", "cm_frozen"]]
    assert runs["method=cm_frozen,seed=1"].init_from == str(tmp_path / "method=base_pooled,seed=1")
    shapes = sweep.members(sweep.sweep(tiny.config(), {"model.noise_width": (4, 8), "objective.l2_penalty": (0.0, 1.0)}), tmp_path)
    assert [len(names) for names in sweep.groups(shapes)] == [2, 2]
    # Batch normalisation sees generated images with the reconstructions, so a run that has none is not one of a program that has.
    weights = {"objective.energy_penalty": (0.0, 2.0, -1.0), "objective.moment_penalty": (0.0, 4.0)}
    together = lambda weights: [len(names) for names in sweep.groups(sweep.members(sweep.sweep(tiny.config(method="cm_shared_noise"), weights), tmp_path))]
    assert together(weights) == [2, 4]
    assert {run.method for run in sweep.members(reproduce.sweep_of("shared_noise", "quad_dependent", "tiny"), tmp_path).values()} == {"cm_shared_noise"}


@pytest.mark.parametrize("axes, sentence", [
    ({"train.epochz": (1, 2)}, "axis train.epochz is no field of a run"),
    ({"seed": (1, 2, 1)}, "axis seed lists 1 twice"),
    ({}, "has no axis"),
    ({"train.epochs": ("many",)}, "axis train.epochs lists 'many', which is no float"),
    ({"objective.beta": (1.0, -1.0)}, "Run beta=-1.0 of the sweep: objective.beta is -1.0; it must be finite"),
    ({"method": ("cm_frozen",)}, "cm_frozen starts from base_pooled, which the sweep does not train"),
    ({"method": ("cm_magic",)}, "method is 'cm_magic'; choose one of"),
])
def test_impossible_sweeps_are_refused_with_a_sentence(axes, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")) as error:
        sweep.validate(sweep.sweep(tiny.config(), axes), 1)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_seeds_as_a_flag():
    assert sweep.axes(sweep.over_seeds(tiny.config(seed=3), 2)) == {"seed": (3, 4)}
    assert sweep.axes(sweep.over_seeds(sweep.sweep(tiny.config(), {"objective.beta": (1.0,), "seed": range(5)}), 2)) == {"objective.beta": (1.0,), "seed": (0, 1)}
    with pytest.raises(ConfigError, match="ensemble is 'pmap'; choose one of vmap, map, shard, auto"):
        config = sweep.over_seeds(tiny.config(), 2)
        config.ensemble = "pmap"
        sweep.validate(config, 1)


def members_of(kind, dataset, tmp_path, runs):
    folders = [tmp_path / kind / str(i) for i in range(len(runs))]
    for folder in folders:
        folder.mkdir(parents=True)
    return train_together(runs, dataset, folders, kind)


def history(folder, name="train/loss_nats"):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([record[name] for record in records if name in record])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vmap", "map", "shard"])
def test_members_are_the_runs_they_would_be_alone(kind, dataset, tmp_path):
    """Another seed and beta, a penalty, and one that diverges: losses agree to 1e-3, since sums are taken in another order and Adam's first steps
    turn the rounding of a gradient near zero into whole steps."""
    numbers = [{"seed": 5, "objective__beta": 2.0}, {"train__learning_rate": 1e30}, {"objective__group_penalty": 1.0}]
    runs = [tiny.config(train__epochs=1, **numbers[i % 3]) for i in range(8 if kind == "shard" else 3)]
    together = members_of(kind, dataset, tmp_path, runs)
    failures = [member.failure for member, _ in together]
    assert [failure is not None for failure in failures] == [i % 3 == 1 for i in range(len(runs))] and "what was saved before is kept" in str(failures[1])
    assert json.loads((together[1][0].workdir / "failure.json").read_text())["message"] == str(failures[1])
    for i in (0, 2):
        folder = tmp_path / "alone" / str(i)
        folder.mkdir(parents=True)
        _, _, record = train(runs[i], dataset, folder)
        member, last = together[i]
        np.testing.assert_allclose(history(member.workdir), history(folder), rtol=1e-3)
        np.testing.assert_allclose(member.record.best_loss, record.best_loss, rtol=1e-2)
        assert int(last.step) == plan_of(runs[i], dataset).total_steps
    assert not np.allclose(history(together[0][0].workdir), history(together[2][0].workdir))


def test_auto_takes_the_fastest_and_says_so(dataset, caplog, monkeypatch):
    runs = [tiny.config(seed=seed) for seed in range(2)]
    states = ensemble.stack([initial_state(run, dataset, jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))) for run in runs])
    seconds = {"vmap": 3.0, "map": 1.0}
    monkeypatch.setattr(ensemble, "call_seconds", lambda call, states, batch: seconds[batch])
    monkeypatch.setattr(ensemble, "ready", lambda call, states, batch: call)
    with caplog.at_level("INFO", "causal_ctx"):
        kind, _ = ensemble.choose("auto", build_trainer(runs[0], dataset), jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)), states, lambda kind: kind)
        assert ensemble.choose("auto", build_trainer(runs[0], dataset), states=states, mesh=parallel.data_mesh(), place=lambda kind: kind, before="vmap")[0] == "vmap"
    assert kind == "map" and "2 runs in one program: vmap 3.00 s a call, map 1.00 s a call; going on with map." in caplog.text


def test_devices_must_share_members_evenly(dataset):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    with pytest.raises(ConfigError, match="3 runs cannot be shared by 8 devices; choose --config.ensemble=vmap, or a multiple of 8 runs."):
        ensemble.compiled("shard", build_trainer(tiny.config(), dataset), mesh, 3)


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_and_resumed_is_uninterrupted(dataset, tmp_path, monkeypatch):
    """Interrupted between two members' checkpoints as well: the one that was saved ahead waits for the other."""
    runs = [tiny.config(train__epochs=2, seed=seed) for seed in range(2)]
    whole = members_of("map", dataset, tmp_path / "whole", runs)
    folders = [tmp_path / "resumed" / str(i) for i in range(2)]
    for folder in folders:
        folder.mkdir(parents=True)
    save, calls = Member.save, []

    def failing(self, state):
        calls.append(self.workdir.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(self, state)

    monkeypatch.setattr(Member, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        train_together(runs, dataset, folders, "map")
    assert calls == ["0", "1"]
    resumed = train_together(runs, dataset, folders, "map")
    for (one, state), (other, again) in zip(whole, resumed):
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(again.params), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(history(one.workdir), history(other.workdir))
        assert one.record.best_loss == other.record.best_loss


@pytest.mark.slow
def test_early_stopping_is_per_member(dataset, tmp_path, monkeypatch):
    losses = {0: iter([5.0, 6.0, 7.0]), 1: iter([5.0, 4.0, 3.0, 2.0])}
    monkeypatch.setattr("causal_ctx.train.validate", lambda config, *_: (next(losses[config.seed]), {}))
    runs = [tiny.config(train__epochs=4, train__patience_epochs=2, seed=seed) for seed in range(2)]
    (first, early), (second, late) = members_of("map", dataset, tmp_path, runs)
    steps = plan_of(runs[0], dataset).steps_per_epoch
    assert (first.step, int(early.step), first.record.best_epoch) == (3 * steps, 3 * steps, 1)
    assert (second.step, int(late.step), second.record.best_epoch) == (4 * steps, 4 * steps, 4)


@pytest.mark.slow
def test_a_sweep_from_nothing_to_a_table_and_again(tmp_path, monkeypatch, capsys, caplog):
    """Two methods, of which one starts from the other; a member diverges; the second time nothing is trained."""
    monkeypatch.setattr(data, "load", lambda _: tiny.dataset())
    config = sweep.sweep(tiny.config(train__epochs=1), {"method": ("base_pooled", "cm_frozen"), "train.learning_rate": (1e-3, 1e30)})
    config.ensemble = "map"
    document = sweep.run(config, tmp_path)
    assert [result["workdir"] for result in document["results"]] == [str(tmp_path / f"method={m},learning_rate=0.001") for m in ("base_pooled", "cm_frozen")]
    said = capsys.readouterr().out
    assert said.index("cm_frozen ") < said.index("cm_frozen composes at") < said.index("diverged: ") and (tmp_path / "report.html").exists()
    failed = sorted(path.parent.name for path in tmp_path.glob("*/failure.json"))
    assert failed == ["method=base_pooled,learning_rate=1e+30"]
    assert "method=cm_frozen,learning_rate=1e+30 is left out: The run in" in caplog.text and "diverged" in caplog.text
    monkeypatch.setattr(sweep, "train_together", lambda *_: pytest.fail("trained again"))
    monkeypatch.chdir(tmp_path.parent)
    sweep.run(config, Path(tmp_path.name))
    assert "1 run(s) are not finished." in capsys.readouterr().out
    other, planned = sweep.sweep(tiny.config(train__epochs=2), {"method": ("base_pooled",), "train.learning_rate": (1e-3,)}), (tmp_path / "sweep.json").read_text()
    with pytest.raises(WorkdirError, match="holds a run of another config, differing in train.epochs"):
        sweep.run(other, tmp_path)
    assert (tmp_path / "sweep.json").read_text() == planned
    with pytest.raises(WorkdirError, match="holds a single run; give the sweep a folder of its own"):
        sweep.run(config, tmp_path / "method=base_pooled,learning_rate=0.001")


def test_a_run_whose_images_are_not_finite_counts_as_diverged(tmp_path, monkeypatch, dataset):
    def diverged(*_):
        raise NonFiniteImagesError("The images hold values that are not finite.")

    monkeypatch.setattr(data, "load", lambda _: dataset)
    monkeypatch.setattr(workdir, "evaluate", diverged)
    monkeypatch.setattr(sweep, "train_together", lambda configs, dataset, folders, kind: [(Member(configs[0], folders[0], dataset), None)])
    with pytest.raises(WorkdirError, match="holds nothing to report: seed=0 diverged: .* cannot be scored: The images hold values"):
        sweep.run(sweep.sweep(tiny.config(), {"seed": (0,)}), tmp_path)


def test_the_source_of_a_moved_or_copied_sweep_is_the_sibling_that_went_along(tmp_path):
    asked, there = tmp_path / "new" / "base", tmp_path / "old" / "base"
    assert workdir.same_source(there, asked, tmp_path / "new" / "frozen")
    assert not workdir.same_source(there, asked, tmp_path / "elsewhere" / "frozen") and not workdir.same_source(there, there.parent / "other", there)
    for folder, config in ((there, "{}"), (asked, '{"seed": 1}')):
        folder.mkdir(parents=True)
        assert not workdir.same_source(there, asked, tmp_path / "new" / "frozen")
        (folder / "config.json").write_text(config)
    assert not workdir.same_source(there, asked, tmp_path / "new" / "frozen")
    (asked / "config.json").write_text("{}")  # a copy
    assert workdir.same_source(there, asked, tmp_path / "new" / "frozen")


def test_published_cells_are_told_before_anything_is_trained(tmp_path):
    runs = sweep.members(reproduce.sweep_of("main", "quad_dependent", "cpu"), tmp_path)
    cells = reproduce.published_cells(runs.values())
    assert [*cells, "cm_shared_noise"] == of_system("context") and cells["cm_end_to_end"]["composition"].seeds == 5


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_config_is_valid(path):
    for dataset in ("quad_dependent", "quad_independent"):
        for size in configs.SIZES:
            config = reproduce.sweep_of(path.stem, dataset, size)
            sweep.validate(config, 1)
            assert config.run.data.name == dataset and len(sweep.axes(config)["seed"]) == 5


def test_reproduce_reads_the_data_set_where_it_is_told(tmp_path):
    runs = sweep.members(reproduce.sweep_of("main", "mnist", "tiny", "/digits"), tmp_path)
    assert {run.data.path for run in runs.values()} == {"/digits"} and {run.data.name for run in runs.values()} == {"mnist"}
    named = lambda path: reproduce.sweep_of("main", "3dident", "tiny", path).run.data.name
    assert (named(""), named("/images")) == ("3dident/procedural", "3dident")


def test_reproduce_of_unknown_names_is_refused():
    with pytest.raises(ConfigError, match="--table=maine names no config; choose one of beta, expressivity"):
        reproduce.sweep_of("maine", "quad_dependent", "tiny")
    with pytest.raises(ConfigError, match="--dataset=cubes names no config; choose one of 3dident, folder, mnist, quad_dependent"):
        reproduce.sweep_of("main", "cubes", "tiny")


def first_runs(path, tmp_path):
    """One run of every program of the sweep config at `path`, size tiny."""
    runs = sweep.members(reproduce.sweep_of(path.stem, "quad_dependent", "tiny"), tmp_path)
    return [runs[names[0]] for names in sweep.groups(runs)]


def take_a_step(run, dataset, apply):
    """`apply(function, *arguments)` on making a first state and taking one step from it."""
    trainer, numbers, t = build_trainer(run, dataset), hyper(run, dataset), run.train
    rows = (1, t.batch_size // t.micro_batch, t.micro_batch)
    batch = ImageBatch(np.zeros((*rows, *dataset.image_shape), np.uint8), np.zeros((*rows, len(dataset.concepts)), np.float32))
    state = apply(lambda: trainer.init(run.seed, numbers))
    return apply(trainer.steps, state, batch)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_config_builds_and_traces_a_tiny_step(path, dataset, tmp_path):
    for run in first_runs(path, tmp_path):
        state, metrics = take_a_step(run, dataset, jax.eval_shape)
        assert metrics["loss_nats"].shape == (1,) and state.step.shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_config_takes_a_tiny_step(path, dataset, tmp_path):
    for run in first_runs(path, tmp_path):
        state, metrics = take_a_step(run, dataset, lambda function, *arguments: jax.jit(function)(*arguments))
        assert int(state.step) == 1 and np.isfinite(metrics["loss_nats"]).all()
