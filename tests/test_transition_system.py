"""CT-VAE through the machinery that all runs share: phases, modes, batches, resuming, ensembles, runs as objects."""

import contextlib
import io
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import causal_ctx
from causal_ctx import config as configs
from causal_ctx import ensemble, parallel, reproduce, run, start, sweep, systems, workdir
from causal_ctx.data import transition_sets
from causal_ctx.feed import CodeFeed
from causal_ctx.models.mcq_vae import encode_to_codes
from causal_ctx.objectives import transition as objective
from causal_ctx.objectives.objective import ImageBatch, means
from causal_ctx.plan import Record
from causal_ctx.train import Interrupted, train, train_together
from tests import tiny_codes


@pytest.fixture(scope="module")
def dataset():
    return tiny_codes.dataset()


@pytest.fixture(scope="module")
def source(dataset, tmp_path_factory):
    """The folder of a trained mcq_vae."""
    folder = tmp_path_factory.mktemp("source") / "mcq"
    config = tiny_codes.config("mcq_vae")
    workdir.prepare(config, folder)
    train(config, dataset, folder)
    return folder


def starting(source, **overrides):
    return tiny_codes.config(init_from=str(source), **overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, config, log and what was printed) of both phases, trained, scored and reported by the default mode."""
    folder, config, said, printed = tmp_path_factory.mktemp("finished") / "w", tiny_codes.config(train__epochs=1), [], io.StringIO()
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transition_sets, "load", lambda _: tiny_codes.dataset())
        logging.getLogger("causal_ctx").addHandler(handler)
        level, _ = logging.getLogger("causal_ctx").level, logging.getLogger("causal_ctx").setLevel(logging.INFO)
        with contextlib.redirect_stdout(printed):
            workdir.train_evaluate_report(config, folder)
        logging.getLogger("causal_ctx").setLevel(level)
        logging.getLogger("causal_ctx").removeHandler(handler)
        yield folder, config, "\n".join([*said, printed.getvalue()])


@pytest.mark.slow
def test_phase_two_starts_from_the_autoencoder_of_phase_one_and_leaves_it_as_it_is(finished, dataset):
    folder, config, said = finished
    words = ["Phase 1 of 2: ct_vae starts from mcq_vae, which is trained first", "squared error, reconstruction mse", "part 3/3", "Phase 1 of 2 is done",
             "Phase 2 of 2: ct_vae, from the mcq_vae in", "nats, base loss", "retrieval loss", "part 10/10", "autoencoder: images", "No numbers of CT-VAE",
             "ct_vae tells", "Report: "]  # fmt: skip
    assert [part for part in words if part not in said] == [] and sorted(words, key=said.find) == words
    assert said.count("autoencoder: images") == said.count("No numbers of CT-VAE") == said.count("Report: ") == 1
    assert "No numbers of CT-VAE" in (folder / "tables" / "summary.txt").read_text() and "Lower error is better" in said
    last, theirs = (run.best_state(causal_ctx.load_run(path)) for path in (folder, folder / "mcq_vae"))
    for ours, other in zip(jax.tree.leaves(last.collections["autoencoder"]), jax.tree.leaves(theirs.variables), strict=True):
        np.testing.assert_array_equal(ours, other)
    fresh = start.initial_state(config, dataset, parallel.data_mesh())
    kernel = lambda state: np.asarray(state.collections["autoencoder"]["params"]["encoder"]["conv_0"]["kernel"])
    assert not np.array_equal(kernel(last), kernel(fresh))
    assert not np.array_equal(last.params["mask_position"], fresh.params["mask_position"])


def test_batches_are_codes_of_the_encoder_in_one_mode_to_a_micro_batch(dataset, source):
    config, mesh = starting(source), parallel.data_mesh()
    state = start.first_state(config, dataset, mesh)
    feed = start.build_feed([config], dataset, mesh, ensemble.stack([state]))
    model = systems.of(config).build_autoencoder(config, 3)
    pairs, seen = dataset.pairs("train"), set()
    ends = np.stack([pairs.inputs, pairs.outputs])
    of = lambda images: encode_to_codes(model, state.collections["autoencoder"], dataset.factors.images(images)).reshape(len(images), -1)
    known = {(b.tobytes(), a.tobytes(), action) for b, a, action in zip(of(ends[0]), of(ends[1]), pairs.actions)}
    alone = {code.tobytes() for code in of(dataset.images["train"].rows)}
    for step in (0, 2, 4):
        batch = jax.tree.map(np.asarray, feed.batch(step, "vmap"))
        again = jax.tree.map(np.asarray, feed.batch(step, "vmap"))
        assert all(np.array_equal(a, b) for a, b in zip(batch, again))
        for before, after, actions, modes in zip(*(part.reshape(-1, *part.shape[3:]) for part in batch)):
            assert len(set(modes)) == 1
            seen.add(int(modes[0]))
            for b, a, action in zip(before, after, actions):
                assert (b.tobytes() in alone and np.array_equal(a, b)) if modes[0] == 0 else (b.tobytes(), a.tobytes(), int(action)) in known
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(("kind", "members"), [("vmap", 2), ("map", 2), ("shard", 8)])
def test_every_member_draws_from_its_own_codes(kind, members):
    """As it would alone, wherever the members live."""
    rng, mesh = np.random.default_rng(0), parallel.data_mesh()
    codes, alone = rng.integers(200, size=(members, 30, 5)).astype(np.uint8), np.arange(10, dtype=np.int32)
    pairs = rng.integers(6, size=(3, 40)).astype(np.int32)
    feed = lambda chosen: CodeFeed(tuple(3 + i for i in chosen), codes[chosen], alone, pairs, (2, 3, 8), (1.0, 1.0, 1.0), mesh)
    together = jax.tree.map(np.asarray, feed(list(range(members))).batch(4, kind))
    for member in range(members):
        for part, own in zip(together, feed([member]).batch(4, "vmap"), strict=True):
            np.testing.assert_array_equal(part[member], own[0])


def test_the_loss_of_a_mode_is_that_modes_and_its_terms_are_not_mixed_with_the_others(dataset, monkeypatch):
    """The three modes stand in as functions of their arguments; what they compute is tested with the layer."""
    config, ct = tiny_codes.config(), objective.causal_transition
    ours = systems.of(config).objective(config, dataset)
    log_probs = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (6, 16, 8)))
    graph = jnp.full((6, 16, 16), 0.25)
    out = ct.Transition(log_probs, jnp.zeros((6, 16)), graph, 1 - graph, graph)
    monkeypatch.setattr(ct, "base", lambda weights, settings, codes, key: (out, log_probs))
    monkeypatch.setattr(ct, "action", lambda weights, settings, codes, actions, key: out._replace(log_probs=jnp.roll(log_probs, actions[1], axis=0)))
    monkeypatch.setattr(ct, "retrieve", lambda weights, settings, before, after, key: jax.nn.log_softmax(log_probs[:, 0, :6] + after[:, :6]))
    numbers = {name: jnp.float32(number) for name, number in config.objective.items()}
    weigh = objective.Coefficients(*(numbers[name] for name in objective.Coefficients._fields))
    (before, after), actions, key = np.random.default_rng(0).integers(8, size=(2, 6, 16)), jnp.arange(6), jax.random.key(3)
    expected = [
        objective.base_loss(out, log_probs, before, weigh),
        objective.action_loss(out._replace(log_probs=jnp.roll(log_probs, 1, axis=0)), after, weigh, key),
        objective.retrieval_loss(jax.nn.log_softmax(log_probs[:, 0, :6] + after[:, :6]), actions),
    ]
    variables = {"params": jax.jit(ours.layer.init)(key)["params"], "autoencoder": {"kept": jnp.ones(2)}}
    for mode, (wanted, terms_wanted) in enumerate(expected):
        batch = objective.CodeBatch(jnp.asarray(before, jnp.uint8), jnp.asarray(after, jnp.uint8), actions, jnp.full(6, mode))
        value, (collections, terms) = ours.loss(variables, numbers, batch, key)
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
        assert set(collections) == {"autoencoder"} and collections["autoencoder"] is variables["autoencoder"]
        present = means({name: np.asarray(term)[None] for name, term in terms.items()})
        mine = {name.partition("/")[2]: number for name, number in present.items() if name.startswith(objective.MODES[mode])}
        assert {name.split("/")[0] for name in present if "/" in name} == {objective.MODES[mode]}
        assert mine == pytest.approx({name: float(term) for name, term in terms_wanted.items()}, rel=1e-5)
        np.testing.assert_allclose(present["loss_nats"], value, rtol=1e-6)


def test_means_are_over_the_steps_of_a_mode():
    """Accuracies are not averaged with the zeros of batches of other modes (quirk Q13)."""
    metrics = {"retrieval/accuracy": np.array([0.0, 0.5, 0.25]), "weight/retrieval": np.array([0.0, 1.0, 0.5]), "base/x": np.zeros(3), "weight/base": np.zeros(3)}
    assert means(metrics | {"loss": np.array([1.0, 2, 3])}) == {"retrieval/accuracy": 0.5, "loss": 2.0}


@pytest.mark.parametrize("method", ["mcq_vae", pytest.param("ct_vae", marks=pytest.mark.slow)])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(method, dataset, source, tmp_path, monkeypatch):
    overrides = {} if method == "ct_vae" else {"model__codebook_update": "ema", "model__revival": 0.5}
    config = tiny_codes.config(method, init_from=str(source) if method == "ct_vae" else "", **overrides)
    _, whole, record = train(config, dataset, tmp_path / "whole")
    calls = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr("causal_ctx.train.stop_signal", lambda: contextlib.nullcontext(lambda: next(calls, False)))
        with pytest.raises(Interrupted):
            train(config, dataset, tmp_path / "parts")
    _, parts, resumed = train(config, dataset, tmp_path / "parts")
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(jax.random.key_data(one) if jnp.issubdtype(one.dtype, jax.dtypes.prng_key) else one,
                                      jax.random.key_data(other) if jnp.issubdtype(other.dtype, jax.dtypes.prng_key) else other)  # fmt: skip
    assert (record.best_loss, record.best_epoch) == (resumed.best_loss, resumed.best_epoch)


@pytest.mark.slow
def test_seeds_as_one_program_are_the_runs_alone(dataset, source, tmp_path):
    runs = [starting(source, seed=seed) for seed in (3, 4)]
    assert len(sweep.groups(dict(enumerate(runs)))) == 1
    together = train_together(runs, dataset, [tmp_path / str(seed) for seed in (3, 4)], "map")
    for config, (member, last) in zip(runs, together):
        _, alone, record = train(config, dataset, tmp_path / f"alone{config.seed}")
        for ours, theirs in zip(jax.tree.leaves(last.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-4)  # Adam turns rounding of small gradients into steps
        np.testing.assert_allclose(member.record.best_loss, record.best_loss, rtol=1e-3)


def test_a_sweep_over_seeds_trains_both_phases(tmp_path):
    config = sweep.over_seeds(tiny_codes.config(), 2)
    runs = sweep.members(config, tmp_path)
    assert [run.method for run in runs.values()] == ["mcq_vae"] * 2 + ["ct_vae"] * 2
    assert [run.init_from for run in runs.values()][2:] == [str(tmp_path / f"method=mcq_vae,seed={seed}") for seed in (0, 1)]
    assert [{runs[name].method for name in names} for names in sweep.groups(runs)] == [{"mcq_vae"}, {"ct_vae"}]
    assert list(sweep.axes(sweep.over_seeds(tiny_codes.config(init_from="there"), 2))) == ["seed"]


def test_what_cannot_be_started_from_is_refused(dataset, source, tmp_path):
    mesh = parallel.data_mesh()
    with pytest.raises(start.StartError, match=r"is another one, differing in model.num_codes \(8 there, 16 here\); start from one of this config"):
        start.first_state(starting(source, model__num_codes=16), dataset, mesh)
    with pytest.raises(start.StartError, match=r"differing in model.revival > 0 \(True there, False here\)"):
        start.source_config(starting(source, model__revival=0.0))
    with pytest.raises(start.StartError, match="nowhere holds no run to start from; give the --workdir of a trained mcq_vae"):
        start.first_state(starting(tmp_path / "nowhere"), dataset, mesh)
    other = tmp_path / "other"
    workdir.prepare(starting(source), other)
    with pytest.raises(start.StartError, match="holds a run of ct_vae, but ct_vae starts from mcq_vae"):
        start.first_state(starting(other), dataset, mesh)


@pytest.mark.parametrize(("field", "value", "sentence"), [
    ("data.resolution", 10, "cannot be halved 2 times; give multiples of 4"),
    ("model.num_codebooks", 3, "cannot be split evenly among 3 codebooks"),
    ("model.num_codes", 15, "model.num_codes is 15; the positions of nodes are encoded in pairs"),
    ("model.edge_convention", "both", "model.edge_convention is 'both'; choose one of row_target, row_source"),
    ("model.dropout", 1.0, "model.dropout is 1.0; it must lie below 1"),
    ("train.mix", (0.0, 0.0, 0.0), "train.mix is (0.0, 0.0, 0.0); give three weights"),
    ("train.micro_batch", 7, "train.batch_size is 48, no multiple of train.micro_batch 7"),
    ("autoencoder.decay", "linear", "autoencoder.decay is 'linear'; choose one of cosine, exponential"),
    ("autoencoder.final_learning_rate", 0.0, "which an exponential decay never reaches"),
    ("method", "cm_frozen", "method is cm_frozen, which is none of this config's system; choose one of mcq_vae, ct_vae"),
    ("method", "mcq", "method is 'mcq'; choose one of"),
])  # fmt: skip
def test_impossible_values_are_refused_with_a_sentence(field, value, sentence):
    config = configs.transition("quad,tiny", "ct_vae")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(configs.ConfigError) as error:
        configs.validate(config)
    assert sentence in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("size", configs.SIZES)
def test_every_size_of_every_data_set_is_valid_and_survives_json(size):
    for name in transition_sets.factor_sets.TABLE:
        config = configs.transition(f"{name},{size}", "ct_vae")
        configs.validate(config)
        assert config.data.name == name and configs.from_json(configs.to_json(config)).to_dict() == config.to_dict()
    with pytest.raises(configs.ConfigError, match="'sprite' is no data set and no size; write one of sprites, quad"):
        configs.transition("sprite,cpu", "ct_vae")


def test_a_workdir_is_resumed_by_the_same_config_and_refuses_another(source, tmp_path):
    config = starting(source)
    workdir.prepare(config, tmp_path)
    workdir.prepare(starting(source, objective__gamma=3.0), tmp_path)  # nothing was trained there yet
    (tmp_path / "checkpoints" / "newest" / "4").mkdir(parents=True)
    workdir.prepare(starting(source, objective__gamma=3.0), tmp_path)
    with pytest.raises(workdir.WorkdirError, match=r"differing in objective.gamma \(3.0 there, 2.0 here\)"):
        workdir.prepare(starting(source, objective__gamma=2.0), tmp_path)


def test_dead_codes_are_revived_by_the_step(dataset):
    """Moved codes are latents, so that codes that start far from all of them come into use at once."""
    config = tiny_codes.config("mcq_vae", model__codebook_update="ema", model__revival=0.5)
    trainer, state = start.build_trainer(config, dataset), start.initial_state(config, dataset, parallel.data_mesh())
    quantiser = state.collections["batch_stats"]["quantiser"]
    far = state.replace(collections={"batch_stats": {"quantiser": quantiser | {"codebooks": quantiser["codebooks"] + 100.0}}})
    images = dataset.images["train"][:16][None]
    moved, _ = jax.jit(trainer.update)(far, ImageBatch(images, np.zeros((1, 16, 0), np.float32)))
    codebooks = np.asarray(moved.collections["batch_stats"]["quantiser"]["codebooks"])
    assert (np.abs(codebooks).max(axis=-1) < 50).sum() >= 7  # all but the one that was nearest to everything


@pytest.mark.slow
def test_the_run_opens_as_an_object_and_is_complete(finished, dataset, monkeypatch, capsys, caplog, tmp_path):
    folder, config, _ = finished
    for path in (folder, folder / "mcq_vae"):
        assert (path / "report.html").exists() and json.loads((path / "results.json").read_text())["scores"]
    with caplog.at_level("INFO", "causal_ctx"):
        workdir.train_evaluate_report(config, folder)
    assert "is complete" in caplog.text and "etrieval" in capsys.readouterr().out
    with pytest.raises(workdir.WorkdirError, match=r"mcq_vae holds a run of another config, differing in objective.beta"):
        shutil.copytree(folder / "mcq_vae", tmp_path / "w" / "mcq_vae")
        workdir.train_evaluate_report(tiny_codes.config(train__epochs=1, objective__beta=0.5), tmp_path / "w")
    opened, images = causal_ctx.load_run(shutil.move(folder, tmp_path / "moved")), dataset.factors.images(np.arange(5))
    shutil.rmtree(opened.workdir / "mcq_vae" / "checkpoints")  # a run is whole without the one that it started from
    assert isinstance(opened, run.TransitionRun) and opened.actions == dataset.actions
    assert opened.reconstruct(images).shape == opened.apply(images, "hue up", "place down").shape == (5, 8, 8, 3)
    first = opened.predictor.predict(opened.encode(images), np.full(5, dataset.actions.index("hue up")), seed=4)
    np.testing.assert_array_equal(opened.apply(images, "hue up", seed=4), first.images)
    np.testing.assert_array_equal(opened.apply(images, "hue up", seed=4, likeliest=True), opened.decode(first.codes))
    names, probabilities = opened.retrieve(images, images[::-1])
    assert set(names) <= set(opened.actions) and probabilities.shape == (5, 6)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="There is no action 'hue left'; choose one of brightness up"):
        opened.apply(images, "hue left")
    opened.predictor = opened.predictor._replace(transition=None)
    with pytest.raises(ValueError, match="which knows no actions; load one of ct_vae"):
        opened.apply(images, "hue up")


@pytest.mark.parametrize("path", sorted((reproduce.CONFIGS / "sweeps" / "ct_vae").glob("*.py")), ids=lambda path: path.stem)
def test_every_sweep_config_is_valid(path, tmp_path):
    for size in configs.SIZES:
        config = reproduce._module(path.parent, path.stem, "--config").get_config(size)
        sweep.validate(config, 1)
        groups = sweep.groups(sweep.members(config, tmp_path))
        assert len(groups) == 4 and all(len(names) == 3 for names in groups)


def test_validation_images_are_of_all_values(dataset, source, monkeypatch):
    """Images lie in the order of their factors, so that the first ones are all alike."""
    seen, system = [], systems.of(tiny_codes.config())
    monkeypatch.setattr(system, "VALIDATED", 12)
    monkeypatch.setattr(system, "in_batches", lambda function, images: seen.append(images) or {"loss_squared_error": np.ones(3)})
    config = tiny_codes.config("mcq_vae")
    system.validate(config, dataset, start.initial_state(config, dataset, parallel.data_mesh()))
    assert seen[0].shape == (12, 8, 8, 3) and len({image.max() for image in seen[0]}) > 1


def test_data_are_told_before_training(dataset):
    config = tiny_codes.config()
    described = systems.of(config).describe(config, dataset)
    assert described["problems"] == [] and sum(described["transitions"]["train"]) == len(dataset.pairs("train").inputs)
    assert "place down" in systems.of(config).describe_text(described)
    few = transition_sets.TransitionData(dataset.factors, dataset.images, transition_sets.transitions.take(dataset.transitions, dataset.transitions.actions != 2),
                                         dataset.balanced_transitions)  # fmt: skip
    assert "no test transitions of hue up" in systems.of(config).describe(config, few)["problems"][-1]["sentence"]


def test_the_record_of_a_run_survives_its_checkpoint():
    record = Record(1.5, 3, 2.5, 7.0)
    assert Record.of(record.arrays()) == record
