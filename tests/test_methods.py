"""What each method sees, trains and starts from."""

import chex
import jax
import numpy as np
import pytest

from causal_ctx import optim, parallel, workdir
from causal_ctx.config import flat, validate
from causal_ctx.evaluation.predict import build_predictor
from causal_ctx.methods import BACKBONE, METHODS, NEW, USUAL, choice, of_system
from causal_ctx.plan import plan_of
from causal_ctx.reports.labels import labels
from causal_ctx.reports.reading import read_fields
from causal_ctx.run import config_of
from causal_ctx.start import StartError, build_trainer, first_state, initial_state, source_of, sourced
from causal_ctx.supplied import command, unlike_published
from causal_ctx.train import train
from causal_ctx.workdir import WorkdirError, prepare
from tests import tiny
from tests.test_train import numbers, some_batch


@pytest.fixture(scope="module")
def dataset():
    return tiny.dataset()


@pytest.fixture(scope="module")
def pooled(dataset, tmp_path_factory):
    """The workdir of a trained base_pooled."""
    return trained_source(dataset, tmp_path_factory.mktemp("pooled"))


def trained_source(dataset, folder, **overrides):
    from causal_ctx.workdir import prepare

    config = tiny.config(method="base_pooled", train__epochs=1, **overrides)
    prepare(config, folder)
    train(config, dataset, folder)
    return folder


def parts(state):
    """({path: array} of the backbone, of the rest), parameters only."""
    rules = (NEW, BACKBONE)
    groups = jax.tree.leaves(optim.groups(rules, state.params))
    named = [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)]
    return tuple({name: leaf for (name, leaf), group in zip(named, groups) if group == wanted} for wanted in (1, 0))


def starting(method, pooled, **overrides):
    return tiny.config(method=method, init_from=str(pooled), **overrides)


def steps(config, dataset, state, number):
    update, batch = jax.jit(build_trainer(config, dataset).update), some_batch(config, dataset, steps=1)
    for _ in range(number):
        state, _ = update(state, jax.tree.map(lambda a: a[0], batch))
    return state


@pytest.mark.parametrize("method", ["cm_frozen", "cm_fine_tune"])
def test_the_backbone_is_copied_and_frozen_bit_for_bit_while_the_rest_trains(method, dataset, pooled):
    config = starting(method, pooled, train__epochs=10)
    first = first_state(config, dataset, parallel.data_mesh())
    fresh = initial_state(config, dataset, parallel.data_mesh())
    thaw = plan_of(config, dataset).trains_from(config)[1]
    assert thaw == (np.iinfo(np.int32).max if method == "cm_frozen" else 2 * plan_of(config, dataset).steps_per_epoch)
    backbone, rest = parts(first)
    assert all((leaf == parts(fresh)[1][name]).all() for name, leaf in rest.items())
    assert any((leaf != parts(fresh)[0][name]).any() for name, leaf in backbone.items())

    later = steps(config, dataset, first.replace(step=first.step + 3), 3)
    assert all((leaf == backbone[name]).all() for name, leaf in parts(later)[0].items())
    moved = {name for name, leaf in parts(later)[1].items() if (leaf != rest[name]).any()}
    assert {name for name in rest if "noise" not in name} <= moved  # the noise weights of absent contexts have no gradient


def test_the_phase_switch_changes_nothing_else(dataset, pooled):
    """In the last frozen step only the new part moves; in the next one everything, the backbone by Adam's first step, and moments and counts of the new part go on."""
    config = starting("cm_fine_tune", pooled, train__epochs=10)
    state = first_state(config, dataset, parallel.data_mesh())
    thaw = int(state.hyper.trains_from[1])
    before = steps(config, dataset, state.replace(step=state.step + thaw - 1), 1)
    after = steps(config, dataset, before, 1)
    assert int(before.step) == thaw and all((leaf == parts(state)[0][name]).all() for name, leaf in parts(before)[0].items())
    assert all((leaf != parts(before)[0][name]).any() for name, leaf in parts(after)[0].items())
    counts = lambda s: [int(s.opt_state.inner_states[group].inner_state.count) for group in (0, 1)]
    assert (counts(before), counts(after)) == ([1, 0], [2, 1])
    untouched = jax.tree.leaves(before.opt_state.inner_states[1].inner_state.mu)
    assert all((np.asarray(leaf) == 0).all() for leaf in untouched)
    everything = steps(tiny.config(train__epochs=10), dataset, before.replace(hyper=before.hyper._replace(trains_from=before.hyper.trains_from * 0)), 1)
    chex.assert_trees_all_equal(parts(after), parts(everything))


@pytest.mark.slow
def test_frozen_statistics_move_or_stay_as_asked(dataset, pooled):
    stats = {}
    for kept in ("moving", "fixed"):
        config = starting("cm_frozen", pooled, train__frozen_statistics=kept)
        first = first_state(config, dataset, parallel.data_mesh())
        stats[kept] = first.collections["batch_stats"], steps(config, dataset, first, 1).collections["batch_stats"]
    for kept, (before, after) in stats.items():
        same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), before, after)
        assert all(jax.tree.leaves(same["decoder"])) == (kept == "fixed")
        assert not any(jax.tree.leaves(same["context_module"]))


def test_cm_pooled_ignores_targets_exactly(dataset):
    config = tiny.config(method="cm_pooled", objective__group_penalty=1.0)
    trainer, state = build_trainer(config, dataset), initial_state(config, dataset, parallel.data_mesh())
    batch = jax.tree.map(lambda a: a[0], some_batch(config, dataset, steps=1))
    batch, key = jax.tree.map(lambda a: a[0], batch), jax.random.key(0)

    def loss(trainer):
        return jax.jit(lambda batch: trainer.objective.loss(state.variables, state.hyper.objective, batch, key))

    found = loss(trainer)
    told, untold = (jax.tree.map(numbers, found(batch._replace(targets=targets))) for targets in (batch.targets, batch.targets * 0))
    assert batch.targets.any()
    chex.assert_trees_all_equal(told, untold)
    hearing = build_trainer(tiny.config(objective__group_penalty=1.0), dataset)
    assert float(loss(hearing)(batch)[0]) != float(told[0])


def test_a_parameter_that_no_rule_names_is_an_error():
    with pytest.raises(ValueError, match="No rule says whether flow/kernel trains"):
        optim.groups((NEW, BACKBONE), {"flow": {"kernel": np.zeros(1)}, "decoder": {"kernel": np.zeros(1)}})


def test_patience_counts_from_the_thaw():
    from causal_ctx.plan import Plan, Record

    record = Record(best_epoch=1, best_loss=1.0)
    frozen, thawed = Plan(1, 1, 100, 5), Plan(1, 1, 100, 5, thawed=20)
    assert frozen.finished(6, record) and not thawed.finished(24, record) and thawed.finished(25, record)


def test_best_weights_are_counted_anew_from_the_thaw(dataset, tmp_path, monkeypatch):
    """A frozen epoch with a lower loss than any later one does not become the scored fine-tuned model."""
    from causal_ctx import train

    config = tiny.config(method="cm_fine_tune", init_from="anywhere", train__epochs=4)
    losses = iter([3.0, 5.0, 4.0, 4.5])
    monkeypatch.setattr(train, "validate", lambda *_: (next(losses), {}))
    member = train.Member(config, tmp_path, dataset)
    monkeypatch.setattr(member.checkpoints, "save", lambda *_: None)
    for epoch in range(1, 5):
        member.step = epoch * member.plan.steps_per_epoch
        member.end_epoch(None)
    assert member.plan.thawed == 1 and (member.record.best_epoch, member.record.best_loss) == (3, 4.0)


@pytest.mark.parametrize("epochs, thawed", [(1, 1), (2, 1), (5, 1), (8, 2), (100, 20)])
def test_fine_tuning_is_frozen_for_a_fifth_of_the_epochs_and_one_at_least(dataset, epochs, thawed):
    assert plan_of(tiny.config(method="cm_fine_tune", train__epochs=epochs), dataset).thawed == thawed


def test_a_run_of_two_phases_knows_its_config_from_the_start_and_goes_along(tmp_path, monkeypatch):
    class FirstPhase(Exception):
        pass

    def first_phase(config):
        raise FirstPhase(config.init_from)

    monkeypatch.setattr(workdir, "_fill_first_phase", first_phase)
    folder = tmp_path / "w"
    with pytest.raises(FirstPhase, match=f"^{folder}/base_pooled$"):
        workdir.fill(tiny.config(method="cm_frozen"), folder)
    with pytest.raises(FirstPhase, match=f"^{folder}/base_pooled$"):  # which is not ready yet
        workdir.fill(config_of(folder), folder)
    (folder / "base_pooled").mkdir()
    moved = folder.rename(tmp_path / "moved")
    assert sourced(config_of(moved), moved).init_from == str(moved / "base_pooled")
    (moved / "base_pooled" / "failure.json").write_text("{}")
    with pytest.raises(StartError, match="moved/base_pooled holds no run to start from"):  # complete, and diverged: no first phase
        workdir.fill(config_of(moved), moved)
    with pytest.raises(StartError, match="nowhere holds no run to start from"):
        workdir.fill(tiny.config(method="cm_frozen", init_from="nowhere"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_started_from_is_refused(dataset, pooled, tmp_path):
    mesh = parallel.data_mesh()
    with pytest.raises(StartError, match="nowhere holds no run to start from; give the --workdir of a trained base_pooled"):
        first_state(starting("cm_frozen", tmp_path / "nowhere"), dataset, mesh)
    with pytest.raises(StartError, match=r"is another one: .*decoder/dense_1/linear/kernel \(\[16, 256\] there, \[32, 256\] here\)"):
        first_state(starting("cm_frozen", pooled, model__features=32), dataset, mesh)
    with pytest.raises(StartError, match=r"decoder/activation_0/norm/group/bias \(missing there, \[128\] here\)"):
        first_state(starting("cm_frozen", pooled, model__backbone_normalisation="group"), dataset, mesh)
    diverged = trained_source(dataset, tmp_path / "diverged")
    (diverged / "failure.json").write_text("{}")
    with pytest.raises(StartError, match="diverged, so nothing can start from it"):
        first_state(starting("cm_frozen", diverged), dataset, mesh)
    other = tmp_path / "other"
    other.mkdir()
    from causal_ctx import config as configs

    (other / "config.json").write_text(configs.to_json(tiny.config()))
    with pytest.raises(StartError, match="holds a run of cm_end_to_end, but cm_frozen starts from base_pooled"):
        first_state(starting("cm_frozen", other), dataset, mesh)
    (other / "config.json").write_text(configs.to_json(tiny.config(method="base_pooled")))
    with pytest.raises(StartError, match="has no trained weights yet"):
        first_state(starting("cm_frozen", other), dataset, mesh)


def test_methods_are_the_papers_six_and_ours():
    assert [(m.module, m.contexts, m.targets, m.starts_from) for m in map(METHODS.get, of_system("context"))] == [
        (False, "obs", True, ""), (False, "all", True, ""), (True, "all", True, ""), (True, "all", False, ""),
        (True, "all", True, "base_pooled"), (True, "all", True, "base_pooled"), (True, "all", True, "")]


def test_a_choice_left_to_the_method_is_the_methods():
    """Fields that name a value keep it, whatever the method; those of no method are as they are."""
    config = tiny.config(method="cm_shared_noise", model__composition="reference", objective__moment_penalty=0.0)
    assert [choice(config, field) for field in USUAL] == ["told", "reference", "batch", "group", "mixed", 2.0, 0.0]
    assert [choice(tiny.config(), field) for field in USUAL] == list(USUAL.values())
    assert choice(config, "objective.beta") == 1.0 and choice(config, "model.noise_mixing") == "block"
    assert all(config.get(block)[name] in ("auto", -1.0) for block, _, name in (field.partition(".") for field in USUAL) for config in [tiny.config()])


def test_a_run_writes_down_what_its_method_chose(tmp_path, monkeypatch):
    """So it stays what it was when the method changes, and the same config goes on in its folder."""
    config = tiny.config(method="cm_shared_noise")
    prepare(config, tmp_path / "run")
    monkeypatch.setitem(METHODS, "cm_shared_noise", METHODS["cm_shared_noise"]._replace(choices=USUAL))
    kept = config_of(tmp_path / "run")
    assert (kept.model.backbone_normalisation, kept.objective.energy_penalty) == ("group", 2.0)
    assert choice(config, "model.backbone_normalisation") == "generated"
    (tmp_path / "run" / "results.json").write_text("{}")
    prepare(kept, tmp_path / "run")
    with pytest.raises(WorkdirError, match="differing in model.backbone_normalisation"):
        prepare(config, tmp_path / "run")


def test_ours_with_every_part_switched_off_is_the_published_method(tmp_path):
    """The same parameters after training, bit for bit; and with its parts it is another."""
    dataset, found = tiny.dataset(), {}
    for name, config in {
        "published": tiny.config(),
        "off": tiny.config(method="cm_shared_noise", **{field.replace(".", "__"): value for field, value in USUAL.items()}),
        "ours": tiny.config(method="cm_shared_noise"),
    }.items():
        _, last, record = train(config, dataset, tmp_path / name)
        found[name], found["loss", name] = jax.tree.leaves(last.params), record.last_loss
    assert all((a == b).all() for a, b in zip(found["published"], found["off"], strict=True))
    chex.assert_trees_all_equal_shapes(found["published"], found["off"])
    assert found["loss", "published"] == found["loss", "off"] != found["loss", "ours"]


def test_interventions_reach_a_module_that_hears_its_targets(dataset):
    reached, told = {}, {}
    for method in ("cm_end_to_end", "cm_pooled", "base_pooled"):
        config = tiny.config(method=method)
        predictor = build_predictor(config, dataset, initial_state(config, dataset, parallel.data_mesh()))
        reached[method], told[method] = predictor.intervenes, bool(predictor.model.heard(np.ones((1, 3))).any())
    assert reached == told == {"cm_end_to_end": True, "cm_pooled": False, "base_pooled": False}


def test_the_posterior_knows_the_targets_where_it_is_told(dataset):
    """Of every image its own, and an encoder that is told has parameters for them."""
    images = dataset.train["obs"][:3]
    for told in ("told", "untold"):
        config = tiny.config(model__posterior=told)
        predictor = build_predictor(config, dataset, initial_state(config, dataset, parallel.data_mesh()))
        under = {name: predictor.encode(dataset.targets(name), images)["mean"] for name in ("obs", "red", "light+red")}
        differ = [not np.allclose(under["obs"], under[name], atol=1e-3) for name in ("red", "light+red")]
        assert differ == [told == "told"] * 2 and ("targets" in predictor.variables["params"]["encoder"]) == (told == "told")


def test_an_image_becomes_what_it_would_have_been(dataset):
    """Encoded under the targets that it was made under, decoded under others."""
    config = tiny.config(method="cm_shared_noise")
    state = initial_state(config, dataset, parallel.data_mesh())
    state.params["encoder"]["targets"]["linear"]["kernel"] *= 100  # so that targets show in pixels
    predictor = build_predictor(config, dataset, state)
    images, obs, red = dataset.train["obs"][:3], dataset.targets("obs"), dataset.targets("red")
    z, rows = predictor.encode(obs, images)["mean"], np.tile(red, (3, 1))
    expected = jax.nn.sigmoid(predictor.model.apply(predictor.variables, z, rows, method="decode"))
    np.testing.assert_allclose(predictor.reconstruct(red, images, obs), expected, atol=1e-5)
    assert not np.allclose(predictor.reconstruct(red, images), expected, atol=1e-4)


def test_a_choice_spelled_out_is_the_same_run(tmp_path):
    """The folder of one is that of the other, and both have one label; another choice is refused."""
    spelled = tiny.config(**{field.replace(".", "__"): value for field, value in USUAL.items()})
    folders = {name: tmp_path / name for name in ("left", "spelled")}
    for name, config in zip(folders, (tiny.config(seed=1), spelled)):
        prepare(config, folders[name])
        (folders[name] / "results.json").write_text("{}")  # something is there
    prepare(spelled, folders["spelled"]), prepare(tiny.config(), folders["spelled"])
    assert labels([read_fields(folder) for folder in folders.values()]) == ["cm_end_to_end"] * 2
    with pytest.raises(WorkdirError, match="differing in model.composition"):
        prepare(tiny.config(model__composition="cut"), folders["spelled"])
    other = flat(tiny.config(method="cm_shared_noise").to_dict())
    assert "--config.method=cm_shared_noise " in command(other, "w") and not any(field in command(other, "w") for field in USUAL)
    assert unlike_published(other)["model.posterior"] == ("told", "untold")


def test_what_is_trained_first_can_be_trained_by_itself():
    """Whatever the encoder is told in the second phase."""
    config = tiny.config(method="cm_frozen", model__posterior="told")
    validate(config, 1)
    validate(source_of(config), 1)
