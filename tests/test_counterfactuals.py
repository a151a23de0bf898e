"""Counterfactuals and effects against simulated truth: oracles that know the truth score as perfect, those that do not as such."""

import dataclasses

import numpy as np
import pytest

from causal_ctx import data
from causal_ctx.data import contexts, quad
from causal_ctx.evaluation import counterfactuals, graph
from causal_ctx.evaluation.probe import explained, fit_probe
from causal_ctx.reports import counterfactuals as reports
from tests import tiny
from tests.test_data_quad import config as quad_config


@pytest.fixture(scope="module", params=list(quad.LAWS))
def dataset(request):
    found = quad.load(quad_config(name=request.param, train_per_context=300, held_out_per_context=100, resolution=16))
    effects = {context: data.total_effects(request.param, contexts.interventions(context)) for context in found.training_contexts}
    return dataclasses.replace(found, total_effects=effects)


class Knowing:
    """Reads the latents themselves: an image stands for its latents, which are its only "pixels"."""

    def read(self, images):
        return np.asarray(images)[:, 0, 0]


def standing_for_latents(dataset):
    """The data set with images [n, 1, 1, K] that are the latents of their concepts."""
    as_image = lambda latents: latents[:, None, None]
    return dataclasses.replace(
        dataset,
        counterfactuals=lambda *asked: as_image(dataset.counterfactual_latents(*asked)),
        held_out={name: as_image(dataset.concept_latents(rows)) for name, rows in dataset.held_out_latents.items()},
    )


class Oracle:
    """What a predictor of a perfect model does with images that are latents; `wrong` changes the context that it makes for a set of interventions.

    redrawn: what images would have been has other own noise of the concepts intervened on.
    """

    latents, intervenes = 4, False

    def __init__(self, dataset, wrong=lambda name: name, redrawn=False):
        self.dataset, self.wrong, self.redrawn = dataset, wrong, redrawn

    def name(self, targets):
        return "+".join(np.array(self.dataset.concepts)[np.asarray(targets) == 1]) or "obs"

    def statistics(self, sets):
        return {"of": np.asarray(sets)}

    def generate_all(self, sets, noise, statistics):
        np.testing.assert_array_equal(statistics["of"], sets)
        return np.stack([self.dataset.counterfactuals(self.wrong(self.name(targets)), len(noise)) for targets in sets])

    def reconstruct(self, targets, images, made_under=None):
        """Images of "obs" become those of the context; those of the context itself stay what they are."""
        before = self.name(targets if made_under is None else made_under)
        assert np.array_equal(images, self.dataset.counterfactuals(before, len(images)))
        return images / 255 if made_under is None else self.dataset.counterfactuals(self.wrong(self.name(targets)), len(images), self.redrawn) / 255


class OfPixels(Knowing):
    """As `Knowing` of images that were divided by 255, as generated ones are; `sees` less than all of every latent."""

    def __init__(self, scaled, sees):
        self.scaled, self.sees = scaled, sees

    def read(self, images):
        return super().read(images) * (255 if self.scaled(images) else 1) * self.sees


def errors_of(dataset, wrong=lambda name: name, redrawn=False, sees=1.0):
    truth, names = standing_for_latents(dataset), ["obs", *dataset.training_contexts[1:], *dataset.compositions]
    given = [dataset.counterfactual_latents(name, 64, other) for name in names for other in (False, True)]
    scaled = lambda images: not any(np.array_equal(np.asarray(images)[:, 0, 0], latents) for latents in given)
    return counterfactuals.counterfactual_errors(truth, Oracle(truth, wrong, redrawn), OfPixels(scaled, sees), num=64)


def test_a_perfect_model_has_no_error_and_one_that_changes_nothing_the_error_of_the_image_as_it_was(dataset):
    perfect, idle = errors_of(dataset), errors_of(dataset, lambda name: "obs")
    assert perfect["contexts"].keys() == {*dataset.concepts, *dataset.compositions}
    for name in perfect["contexts"]:
        assert perfect["contexts"][name]["latent"]["unchanged"] > 0.05
        for what in ("pixel", "latent", "others"):
            right, wrong = perfect["contexts"][name][what], idle["contexts"][name][what]
            assert right["model"] == pytest.approx(0, abs=1e-9) and right["floor"] == pytest.approx(0, abs=1e-9)
            assert wrong["floor"] == pytest.approx(0, abs=1e-9)
            assert wrong["model"] == pytest.approx(wrong["unchanged"], abs=1e-9) and wrong["unchanged"] == pytest.approx(right["unchanged"], abs=1e-9)
    means = perfect["mean"]["composition"]["latent"]
    assert means["unchanged"] == pytest.approx(np.mean([perfect["contexts"][name]["latent"]["unchanged"] for name in dataset.compositions]))


def test_an_answer_that_is_the_redrawn_image_has_its_error_whatever_the_probe_sees(dataset):
    for name, kinds in errors_of(dataset, redrawn=True, sees=0.5)["contexts"].items():
        for what, errors in kinds.items():
            assert errors["model"] == pytest.approx(errors["redrawn"], abs=1e-9) and (what == "others" or errors["redrawn"] > 1e-5), name
            assert what == "pixel" or errors["floor"] > 0.05


def test_latents_left_alone_move_where_they_are_effects_and_only_there(dataset):
    """quad2 and orientation cause quad1, which causes nothing; of independent concepts none moves another."""
    others = {name: kinds["others"]["unchanged"] for name, kinds in errors_of(dataset)["contexts"].items()}
    redrawn = {name: kinds["others"]["redrawn"] for name, kinds in errors_of(dataset)["contexts"].items()}
    assert {name for name, value in redrawn.items() if value > 1e-9} == {name for name, value in others.items() if value > 1e-9}
    if dataset.name == "quad_independent":
        assert max(others.values()) == pytest.approx(0, abs=1e-9)
    else:
        assert min(others["quad2"], others["orientation"]) > 0.1 and others["quad1"] == pytest.approx(0, abs=1e-9)


def test_redrawn_latents_keep_every_noise_but_that_of_the_concepts_intervened_on(dataset):
    k, name = dataset.concepts.index("size"), "quad1+size"
    kept, redrawn = dataset.counterfactual_latents(name, 4_000), dataset.counterfactual_latents(name, 4_000, True)
    changed = np.abs(kept - redrawn).max(axis=0) > 0.1
    assert changed.tolist() == [concept in ("quad1", "size") for concept in dataset.concepts]  # neither causes another
    np.testing.assert_allclose(redrawn.mean(axis=0), kept.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(redrawn.std(axis=0), kept.std(axis=0), rtol=0.1)
    assert abs(np.corrcoef(kept[:, k], redrawn[:, k])[0, 1]) < 0.1
    np.testing.assert_array_equal(dataset.counterfactuals("obs", 3, True), dataset.counterfactuals("obs", 3))


def test_the_best_answer_without_the_own_noise_has_redrawn_over_the_root_of_two(dataset):
    """quad1 is caused by nothing under its intervention: the best answer for it is its mean."""
    quad1 = lambda redrawn: dataset.counterfactual_latents("quad1", 20_000, redrawn)[:, 0]
    best, redrawn = quad1(False).std(), np.sqrt(((quad1(True) - quad1(False)) ** 2).mean())
    assert best == pytest.approx(redrawn / np.sqrt(2), rel=0.03)


def test_errors_are_in_standard_deviations(dataset):
    """Whatever the unit of the latents: here all are ten times as large."""
    tenfold = lambda rows: {name: 10 * latents for name, latents in rows.items()}
    stretched = dataclasses.replace(
        dataset, counterfactual_latents=lambda *asked: 10 * dataset.counterfactual_latents(*asked), train_latents=tenfold(dataset.train_latents)
    )
    pairs = zip(errors_of(dataset)["contexts"].values(), errors_of(stretched)["contexts"].values())
    assert all(one["latent"]["unchanged"] == pytest.approx(other["latent"]["unchanged"]) for one, other in pairs)


def effects_of(dataset, wrong=lambda name: name):
    truth = standing_for_latents(dataset)
    return counterfactuals.effects(truth, Oracle(truth, wrong), Knowing(), num=64)


def test_effects_of_a_perfect_model_are_the_true_ones(dataset):
    found = effects_of(dataset)
    np.testing.assert_allclose(found["learned"], found["true"])
    assert {name: found[name] for name in found["true_images"] if name != "own_noise"}.items() <= found["true_images"].items()
    assert found["moved_in_vain"] == (0 if dataset.name == "quad_dependent" else None) and set(found["probe_r2"].values()) == {1.0}
    if dataset.name == "quad_dependent":
        causes = graph.learned_once(np.stack(list(dataset.total_effects.values())) != 0)["interventions"]
        apart = ~np.eye(6, dtype=bool)
        np.testing.assert_array_equal((np.array(found["true"]) > 1e-9)[apart], causes[apart])  # the simulation and the analytic effects agree
        assert found["scores"]["auroc"] == 1 and found["rank_correlation"] == pytest.approx(1)


def test_effects_of_permuted_concepts_are_not_taken_for_the_true_ones(dataset):
    if dataset.name == "quad_independent":
        pytest.skip("no concept has an effect on another")
    turned = dict(zip(dataset.concepts, [*dataset.concepts[1:], dataset.concepts[0]]))
    found = effects_of(dataset, lambda name: turned.get(name, name))
    assert found["true_images"] == effects_of(dataset)["true_images"]  # whatever the model makes
    assert found["scores"]["auroc"] < 0.8 and found["moved_in_vain"] > 0.3 and found["rank_correlation"] < 0.6
    idle = effects_of(dataset, lambda name: "obs")
    assert idle["scores"]["auroc"] == 0.5 and idle["rank_correlation"] is None and idle["moved_in_vain"] == 0


class Linear(Oracle):
    """Makes latents of its noise by the true total effects; the block of every concept holds it turned, beside a number that nothing hears. `mixed` [K, K] goes before."""

    intervenes = True

    def __init__(self, dataset, mixed=np.eye(6), together=False):
        super().__init__(dataset)
        self.latents, self.mixed, self.together = 2 * len(dataset.concepts), mixed, together

    def generate(self, targets, noise):
        own = noise.reshape(len(noise), -1, 2) @ np.array([0.6, 0.8])
        if self.together:
            own = own * np.sign(np.roll(own, 1, axis=1))
        return (own @ self.mixed.T @ self.dataset.total_effects[self.name(targets)].T)[:, None, None]

    def generate_all(self, sets, noise, statistics):
        np.testing.assert_array_equal(statistics["of"], sets)
        return np.stack([self.generate(targets, noise) for targets in sets])


def noise_of(dataset, advance=lambda *_: None, **mixed):
    truth = standing_for_latents(dataset)
    return counterfactuals.effects(truth, Linear(truth, **mixed), Knowing(), num=4_000, advance=advance)


def test_a_concept_follows_the_noises_that_it_truly_follows(dataset):
    told = []
    found = noise_of(dataset, lambda number, name: told.append(name))
    assert told == list(dataset.concepts) and counterfactuals.number_of_steps(dataset) == 2 * len(told) + len(dataset.compositions)
    true = np.array(found["noise"]["true"])
    causes = dataset.total_effects["obs"] != 0
    assert ((true > 0) == causes).all() and (true.sum(axis=1) < 1.001).all()
    made_of_concepts = true / true.sum(axis=1, keepdims=True)  # this model has no hidden causes
    np.testing.assert_allclose(found["noise"]["learned"], made_of_concepts, atol=0.04)
    assert found["own_noise"] == pytest.approx(1, abs=0.02) and found["true_images"]["own_noise"] == pytest.approx(1, abs=0.03)


def test_noises_that_belong_to_other_concepts_or_to_all_are_found_out(dataset):
    turned, spread = np.roll(np.eye(6), 1, axis=0), np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    permuted = noise_of(dataset, mixed=turned)
    np.testing.assert_allclose(permuted["noise"]["learned"], np.roll(noise_of(dataset)["noise"]["learned"], -1, axis=1), atol=0.06)
    assert permuted["own_noise"] == pytest.approx(0, abs=0.03)
    assert noise_of(dataset, mixed=spread)["own_noise"] == pytest.approx((np.diag(spread) ** 2).mean(), abs=0.02)
    together = noise_of(dataset, together=True)  # the sign of each is that of its neighbour: its own noise alone says nothing
    assert together["own_noise"] == pytest.approx(0, abs=0.03) and np.sum(together["noise"]["learned"], axis=1).min() > 1.5
    bare = effects_of(dataset)  # blocks of a model without a context module are no concept's
    assert bare["own_noise"] is None and bare["noise"]["learned"] is None


def test_a_probe_reads_colours_of_images_it_was_not_fitted_to(dataset):
    probe = counterfactuals.concept_probe(dataset)
    real, behind = (np.concatenate(list(rows.values())) for rows in (dataset.held_out, dataset.held_out_latents))
    true = dataset.concept_latents(behind)
    r2 = explained(probe.read(real), true)
    assert (r2[:4] > 0.85).all(), r2
    np.testing.assert_allclose(probe.read(real / 255), probe.read(real), atol=1e-4)
    shuffled = np.random.default_rng(0).permutation(len(true))
    assert (explained(probe.read(real)[shuffled], true) < 0.3).all() and explained(true, true).tolist() == [1.0] * 6
    with pytest.raises(ValueError, match="100 images and 99 rows of latents; give one row for each image"):
        fit_probe(real[:100], true[:99])


def test_tables_say_what_was_measured(dataset):
    scores = {"counterfactuals": errors_of(dataset), "effects": effects_of(dataset)}
    text = reports.text(scores)
    assert "concept, mean" in text and "composition, mean" in text and "quad1 1.00" in " ".join(text.split())
    unchanged = scores["counterfactuals"]["mean"]["composition"]["latent"]["unchanged"]
    assert f"{unchanged:.3f}" in text
    assert reports.tables({"subsets": {}}) == [] and reports.pictures(None, {}) == []


def test_own_images_have_no_counterfactual_truth(dataset):
    assert not counterfactuals.can_be_scored(dataclasses.replace(dataset, total_effects=None)) and counterfactuals.can_be_scored(dataset)
    assert counterfactuals.against_truth(tiny.dataset(), None) == {} and counterfactuals.number_of_steps(tiny.dataset()) == 0
