"""Reports of CT-VAE: every figure of an untrained model and of one that knows the answers on quad, pages of one system and of both."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from causal_ctx.data import quad_factors, transition_sets
from causal_ctx.data.transitions import moved
from causal_ctx.evaluation.codes import CodePredictor
from causal_ctx.models.causal_transition import CausalTransition, Settings
from causal_ctx.models.mcq_vae import MCQVAE, Decoder, Encoder
from causal_ctx.models.quantiser import Quantiser
from causal_ctx.reports import charts, page, system_reports, transition_ablations, transition_charts, transition_figures
from tests.test_reports import FakeRun, Outline
from tests.test_reports import results as context_results

NAMES = tuple(f"{name} {way}" for way in ("up", "down") for name in quad_factors.SIZES)
SCALAR = {"steps": 100, "seconds": 60.0, "images_per_second": 64.0, "devices": 1, "best_epoch": 1, "finished": True}


def settings(**fields):
    """What a run's config.data holds."""
    defaults = dict(name="quad", path="", resolution=16, preprocess="native", cache_dir="", samples=40, seed=0, partition="", variations="", keep="",
                    train_images=200, held_out_images=64)
    return SimpleNamespace(**defaults | fields)


def untrained(actions: int, channels=3, codebooks=2, convention="row_target") -> CodePredictor:
    """Random weights of a model that halves images twice, with codebooks of eight codes."""
    def drawn(model, *args, **kwargs):
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *args, **kwargs))
        return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(max(leaf.shape[-1], 1)), leaf.dtype), shapes)

    model = MCQVAE(Encoder((8, 12), 8, blocks=1), Quantiser(8, 8, codebooks), Decoder((8, 12), channels, blocks=1))
    layer = CausalTransition(8, actions, (12, 4), Settings(edge_convention=convention))
    return CodePredictor(model, drawn(model, jnp.zeros((1, 16, 16, channels))), layer, drawn(layer)["params"])


def scores(accuracy=0.5, mse=0.010, names=NAMES, codebooks=2) -> dict:
    """Of a ct_vae; the majority row is 0.2, copying costs 0.016, and intervals reach 0.05 and 0.001 either way."""
    count = len(names)
    level = lambda mean: {"mean": mean, "standard_error": 0.01, "interval": [mean - 0.05, mean + 0.05], "per_seed": [mean] * 5}
    both = lambda mean: {"action": level(mean), "factor": level(mean + 0.1)}
    floors = lambda x: {"action": x, "factor": 2 * x}
    rng = np.random.default_rng(0)
    rows = [
        {"action": i, "name": name, "factor": i % (count // 2), "frequency": (1 + i % (count // 2)) / count / 3, "train_pairs": 100 + i,
         "balanced_train_pairs": 200, "test_pairs": 20, "accuracy": accuracy + 0.02 * (i % 5), "standard_error": 0.03,
         "interval": [accuracy - 0.1, accuracy + 0.2], "factor_accuracy": 0.9}
        for i, name in enumerate(names)
    ]
    shares = rng.dirichlet(np.ones(7), codebooks)
    return {
        "reconstruction": {"train_mse": 0.004, "validation_mse": 0.005, "test_mse": 0.006, "test_psnr_db": 22.2, "mean_image_mse": 0.06},
        "codes": {"perplexity_codes": 5.5, "dead_codes": codebooks, "code_bits_per_image": 96.0, "shares": [[*own, 0.0] for own in shares]},
        "disentanglement": {"codes": {"dci_disentanglement": 0.31, "mig": 0.11, "parameters": {"num_train": 10}}, "features": {"mig": 0.05}},
        "pairs": {"train": 1000, "test": 300, "scored": 250},
        "retrieval": {"sampled": both(accuracy), "deterministic": both(accuracy + 0.02), "chance": floors(0.0625), "majority": floors(0.2),
                      "upper_bound": {"identical": 0.1, "chance": floors(0.9), "majority": floors(0.45), "same_codes": floors(0.99)}},
        "per_action": rows,
        "confusion": (np.eye(count, dtype=int) * 12 + rng.integers(3, size=(count, count))).tolist(),
        "action": {"expected_mse": mse, "likeliest_mse": mse + 0.001, "drawn_mse": mse + 0.002, "deterministic_mse": mse + 0.003, "hedged_copy_mse": 0.014,
                   "copy_mse": 0.016, "copy_reconstruction_mse": 0.018, "reconstruction_mse": 0.006,
                   "changed_pixels": {"expected_mse": 0.1, "likeliest_mse": 0.11, "drawn_mse": 0.12, "deterministic_mse": 0.13, "hedged_copy_mse": 0.19,
                                      "copy_mse": 0.2, "copy_reconstruction_mse": 0.21, "reconstruction_mse": 0.05, "share": 0.1},
                   "minus_copy": {f"{name}_mse": {"mean": mse + more - 0.016, "standard_error": 0.0005, "interval": [mse + more - 0.017, mse + more - 0.015]}
                                  for name, more in (("expected", 0), ("likeliest", 0.001), ("drawn", 0.002), ("deterministic", 0.003))},
                   "latent_nats": {"predicted": 0.38, "sampled": {"mean": 0.4, "standard_error": 0.01}, "deterministic": 0.35},
                   "copy_nats": {"clipped": 0.9, "calibrated": 0.5, "changed": 0.1}, "code_accuracy": 0.9, "changed_code_accuracy": 0.3, "mask_rate": 0.2},
        "base": {"latent_nats": {"sampled": {"mean": 0.05, "standard_error": 0.01}, "deterministic": 0.04}, "code_accuracy": 0.99, "images": 200},
        "chain": [{"step": s, "images": 90 // s, "action": level(0.7 / s), "factor": level(0.8 / s), "mse": mse * s, "copy_mse": 0.016 * s} for s in (1, 2)],
        "self_consistency": {"action": {"mean": 0.7, "interval": [0.6, 0.8]}, "factor": {"mean": 0.8, "interval": [0.7, 0.9]},
                             "per_action": [{"action": i, "accuracy": 0.7} for i in range(count)]},
    }


def results(method="ct_vae", seed=0, dataset="quad", **fields) -> dict:
    made = scores(**fields)
    kept = made if method == "ct_vae" else {name: made[name] for name in ("reconstruction", "codes", "disentanglement")}
    return {"dataset": dataset, "method": method, "backbone": "mcq", "seed": seed, "train": SCALAR | {"images": 6400}, "scores": kept}


def log(method="ct_vae") -> list[dict]:
    terms = {"base": ("loss", "latent_nats"), "action": ("loss", "latent_nats", "mask_rate"), "retrieval": ("nats", "action_accuracy")}
    keys = [f"train/{mode}/{term}" for mode, own in terms.items() for term in own] if method == "ct_vae" else ["train/loss", "train/reconstruction_mse"]
    records = [{"step": i, "images": 64 * i, **{key: 1 / i for key in keys}} for i in range(1, 40)]
    return [*records, {"step": 40, "images": 2560, "validation/mse": 0.01}]


def transition_run(folder, data, predictor, method="ct_vae", seed=0, **fields):
    """A stand-in for a run of CT-VAE: its files, data and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"method": method, "seed": seed, "train": {"learning_rate": 5e-4}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps(results(method, seed, names=data.actions, **fields)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log(method)))
    predictor = predictor if method == "ct_vae" else predictor._replace(transition=None, params=None)
    return SimpleNamespace(workdir=folder, config=config, data=data, predictor=predictor)


class Oracle:
    """A predictor that knows the images: a code is the index of one, and an action leads where it should."""

    transition = SimpleNamespace(settings=Settings())

    def __init__(self, data):
        self.data, pairs = data.factors, data.pairs("test")
        rows = np.unique(np.concatenate([pairs.inputs, pairs.outputs, data.images["test"].rows]))
        self.index = {image.tobytes(): row for row, image in zip(rows, self.data.images(rows))}

    def encode(self, images):
        return np.array([self.index[image.tobytes()] for image in images]).reshape(-1, 1, 1, 1)

    def decode(self, codes):
        return self.data.images(codes.ravel()).astype(np.float32) / 255

    def reconstruct(self, images):
        return self.decode(self.encode(images))

    def predict(self, codes, actions, seed=0):
        after = moved(self.data, codes.ravel(), actions)
        found = np.where(after < 0, codes.ravel(), after).reshape(codes.shape)
        return SimpleNamespace(codes=found, images=self.decode(found) / 2)  # darker, to be told from the likeliest


@pytest.fixture(scope="module")
def data():
    return transition_sets.load(settings(samples=150))


@pytest.fixture(scope="module")
def predictor():
    return untrained(len(NAMES))


@pytest.fixture(scope="module")
def drawn(data, predictor, tmp_path_factory) -> dict:
    """Every figure of an untrained model, by name."""
    with pytest.MonkeyPatch.context() as patch:
        actions = transition_figures.actions
        patch.setattr(transition_figures, "actions", lambda run: actions(run, num=1))  # as many as there are chains: compiled once
        return {p.name: p for p in transition_figures.pictures(transition_run(tmp_path_factory.mktemp("run"), data, predictor))}


@pytest.fixture
def run(tmp_path, data, predictor):
    return transition_run(tmp_path / "run", data, predictor)


@pytest.fixture
def oracle(tmp_path, data):
    return transition_run(tmp_path / "run", data, Oracle(data))


@pytest.fixture
def charted(monkeypatch) -> list:
    """The matplotlib figures that are made, in place of rendering them."""
    made = []
    for module in (charts, transition_charts):
        monkeypatch.setattr(module, "image", lambda figure: made.append(figure) or Image.new("RGBA", (4, 4)))
    return made


def at(image: np.ndarray, x: int, y: int) -> np.ndarray:
    return image[y : y + 128, x : x + 128, :3]


def test_strips_show_the_image_before_the_prediction_and_the_true_image(oracle):
    image = np.asarray(transition_figures.actions(oracle, num=1).image)
    V, width, pairs = oracle.data.num_factors, image.shape[1], oracle.data.pairs("test")
    assert image.shape[0] == 34 + V * (128 + 8)
    for factor in range(V):
        start, expected, likeliest, true = (at(image, width - 128 - 132 * place, 42 + 136 * factor) for place in (3, 2, 1, 0))
        np.testing.assert_array_equal(likeliest, true)
        np.testing.assert_allclose(expected, true / 2, atol=1)
        ends = [(rows[pairs.actions == V + factor]) for rows in (pairs.inputs, pairs.outputs)]
        shown = [(np.asarray(transition_figures.tiles(oracle.data.factors.images(np.array(two)))[k])[..., :3]) for two in zip(*ends) for k in (0, 1)]
        assert any((start == before).all() and (true == after).all() for before, after in zip(shown[::2], shown[1::2]))


def test_chains_act_on_their_own_codes_and_end_with_the_factor(oracle):
    image = np.asarray(transition_figures.chains(oracle).image)
    width, sizes = image.shape[1], oracle.data.factors.factor_sizes
    for factor, size in enumerate(sizes):
        y = 54 + 280 * factor
        steps = [(at(image, width - 524 + 132 * j, y), at(image, width - 524 + 132 * j, y + 132)) for j in range(4)]
        for ours, true in steps[1:size]:
            np.testing.assert_array_equal(ours, true)
        assert all((a != b).any() for (a, _), (b, _) in zip(steps, steps[1:size]))
        assert not image[y : y + 128, width - 524 + 132 * size :, 3].any()


def test_a_chain_starts_where_most_of_it_is_known(data):
    for action in (0, len(NAMES) // 2 + 3):
        way = transition_figures._way(SimpleNamespace(data=data), action, 0)
        values = data.factors.factors(np.array(way))[:, action % data.num_factors]
        assert values.tolist() == ([0, 1, 2, 3] if action == 0 else [3, 2, 1, 0]) and way[0] in data.images["test"].rows


def test_an_untrained_model_gets_every_figure_and_an_autoencoder_those_without_actions(drawn, data, predictor, tmp_path):
    assert set(drawn) == {"actions", "chains", "reconstructions", "masks", "graph", "confusion", "accuracy_by_frequency", "codebooks"}
    for picture in drawn.values():
        assert picture.image.mode == "RGBA" and min(picture.image.size) > 100 and picture.caption and picture.alt
    alone = transition_run(tmp_path / "alone", data, predictor, "mcq_vae")
    assert [p.name for p in transition_figures.pictures(alone)] == ["reconstructions", "codebooks"]


def test_mask_probabilities_are_those_that_the_layer_draws_from(data, predictor):
    codes = predictor.encode(data.factors.images(data.pairs("test").inputs[:16]))
    actions = np.arange(16)
    probabilities = transition_figures.mask_probabilities(predictor, codes, actions)
    np.testing.assert_array_equal(probabilities > 0.5, predictor.act(codes, actions).mask.astype(bool))
    assert 0.05 < (probabilities > 0.5).mean() < 0.95


def test_masks_leave_out_actions_without_test_pairs(oracle, monkeypatch):
    pairs = oracle.data.transitions
    oracle.data = replace(oracle.data, transitions=pairs._replace(**{k: v[pairs.actions != 3] for k, v in pairs._asdict().items()}))
    seen = []
    monkeypatch.setattr(transition_figures, "mask_probabilities", lambda predictor, codes, actions: np.ones((len(codes), 2, 4, 4)))
    monkeypatch.setattr(transition_figures, "_grid", lambda cells, width: seen.append(len(cells)) or cells[0])
    picture = transition_figures.masks(oracle)
    assert seen == [7, 8] and "quad4 up" not in picture.alt and "2 codebooks side by side" in picture.caption


def test_the_graph_is_that_of_the_action_that_changes_most(oracle, monkeypatch):
    class Known(Oracle):
        def encode(self, images):
            return np.zeros((len(images), 2, 2, 2), int)

        def graphs(self, codes, actions, seed):
            return SimpleNamespace(present=np.full((len(codes), 8, 8), 0.25 if actions is None else 0.75 if actions[0] == 5 else 0.5))

    seen = []
    monkeypatch.setattr(transition_figures, "graphs", lambda *maps: seen.append(maps) or Image.new("RGBA", (4, 4)))
    oracle.predictor = Known(oracle.data)
    transition_figures.graph(oracle)
    maps, (title, difference), axes = seen[0]
    assert list(maps) == ["no action", NAMES[5]] and title == f"{NAMES[5]} − no action" and axes == ("hearing node", "speaking node")
    assert maps["no action"].shape == (4, 4) and (difference == 0.5).all()
    oracle.predictor.transition = SimpleNamespace(settings=Settings(edge_convention="row_source"))
    transition_figures.graph(oracle)
    assert seen[1][2] == ("speaking node", "hearing node")


def test_charts_have_a_panel_each_and_name_every_action(charted, run):
    for maker in (transition_figures.codebooks, transition_figures.mistakes, transition_figures.frequencies):
        maker(run)
    books, confusion, scatter = charted
    assert len(books.axes) == 2 and [axis.get_title(loc="left") for axis in books.axes] == [f"codebook {k}: 1 of 8 dead" for k in (1, 2)]
    assert [patch.get_height() for patch in books.axes[0].patches] == sorted([patch.get_height() for patch in books.axes[0].patches], reverse=True)
    assert [tick.get_text() for tick in confusion.axes[0].get_yticklabels()] == list(NAMES)
    np.testing.assert_allclose(np.asarray(confusion.axes[0].images[0].get_array()).sum(1), 1)
    assert {text.get_text() for text in scatter.axes[0].texts} >= set(NAMES)
    transition_charts.graphs({"a": np.eye(4), "b": np.eye(4)}, ("b − a", np.zeros((4, 4))), ("row", "column"))
    assert [axis.get_title() for axis in charted[-1].axes] == ["a", "b", "b − a", "", ""]  # two scales of colour


def test_names_of_points_do_not_overlap():
    rng = np.random.default_rng(0)
    anchors, sizes = np.stack([np.repeat([200.0, 900.0], 9), rng.uniform(300, 500, 18)], 1), np.tile([[120.0, 20.0]], (18, 1))
    corners = transition_charts.places(anchors, sizes, np.zeros((0, 4)), np.array([0, 0, 1200, 800]), 10)
    boxes = np.concatenate([corners, corners + sizes], 1)
    for i in range(18):
        assert transition_charts._overlap(boxes[i : i + 1], np.delete(boxes, i, 0))[0] == 0
        assert np.hypot(*(corners[i] + sizes[i] / 2 - anchors[i])) < 250 and (corners[i] >= 0).all() and (corners[i] + sizes[i] <= [1200, 800]).all()


def test_curves_have_a_panel_per_logged_number_whatever_its_name(charted, data, predictor, tmp_path):
    runs = {"ct_vae": [transition_run(tmp_path / "a", data, predictor)], "mcq_vae": [transition_run(tmp_path / "b", data, predictor, "mcq_vae")]}
    picture = transition_figures.training_curves(runs)
    titles = [axis.get_title(loc="left") for axis in charted[0].axes if axis.axison]
    assert titles == ["base loss", "base latent, nats", "action loss", "action latent, nats", "action mask rate", "retrieval, nats",
                      "retrieval action accuracy", "loss", "reconstruction, squared error", "validation, squared error"]
    assert "10 logged numbers of ct_vae, mcq_vae" in picture.alt
    (runs["ct_vae"][0].workdir / "metrics.jsonl").unlink()
    assert transition_figures.training_curves({"ct_vae": runs["ct_vae"]}) is None


def test_the_page_stands_alone_and_escapes_names(drawn, data, predictor, tmp_path, monkeypatch):
    few = {name: drawn[name] for name in ("masks", "graph", "codebooks")}
    monkeypatch.setattr(transition_figures, "pictures", lambda run: list(few.values()))
    named = replace(data, factors=replace(data.factors, factor_names=("<b>q", "$1&", *data.factors.factor_names[2:])))
    html = page.write_report([transition_run(tmp_path / "run", named, predictor)], tmp_path / "report.html", tmp_path / "figures").read_text("utf-8")
    outline = Outline(html)
    assert not outline.open and len(html) < 10e6 and "<b>q" not in html and "&lt;b&gt;q up" in html and "$1&amp; up" in html
    assert len(outline.sources) > 1 and all(source.startswith("data:image/webp;base64,") or source == "data:," for source in outline.sources)
    assert all(image["alt"] for image in outline.images)
    assert len(outline.images) == len(few) + 1 + 2 and "<h2>Results</h2>" in html and "above the 20.0%" in html and "learning_rate" in html
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {f"{stem}.{e}" for stem in ("summary", "actions") for e in ("txt", "md", "csv", "tex")}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {*few, "training_curves"}


@pytest.mark.slow
def test_a_folder_of_both_systems_gets_a_part_for_each(drawn, data, predictor, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(transition_figures, "pictures", lambda run: shown.append(run) or [drawn["codebooks"]])
    runs = [transition_run(tmp_path / f"ct{s}", data, predictor, seed=s, accuracy=a) for s, a in enumerate((0.4, 0.6))] + [FakeRun(tmp_path / "cm")]
    html = page.write_report(runs, tmp_path / "report.html", tmp_path / "figures").read_text("utf-8")
    heads = re.findall("<h2>(.*?)</h2>", html)
    parts = [f"{system}: {part}" for system in ("Context modules", "Causal transitions") for part in ("composer", "results", "figures")]
    assert heads == [*parts, "Configuration"]
    assert html.count('class="verdict"') == 2 and "composes at" in html and "tells which action" in html and not Outline(html).open
    assert shown == [runs[1]]  # the seed that retrieves best
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"context", "transition"}
    files = {path.relative_to(tmp_path / "figures").as_posix() for path in (tmp_path / "figures").rglob("*.png")}
    assert {"transition/codebooks.png", "transition/training_curves.png", "context/training_curves.png", "context/samples.png"} <= files
    assert [table.title.split(",")[0] for table in system_reports.summary_tables([results(), context_results()])][:2] == ["quad_dependent"] * 2


def test_a_sweep_is_drawn_along_its_numeric_axes_beside_what_needs_no_learning(charted):
    config = lambda gamma, seed: {"method": "ct_vae", "seed": seed, "objective.gamma": gamma}
    swept = [results(seed=s, accuracy=g / 4) | {"config": config(g, s), "label": f"ct_vae gamma={g}"} for g in (1.0, 2.0) for s in (0, 1)]
    (picture,) = transition_ablations.pictures(swept, {"objective.gamma": [1.0, 2.0], "seed": [0, 1]})
    axes = [axis for axis in charted[0].axes if axis.axison]
    assert picture.name == "ablation_objective.gamma" and len(axes) == 6 and axes[0].get_title(loc="left") == "Retrieval of the action: accuracy"
    assert [text.get_text() for text in charted[0].legends[0].get_texts()] == ["ct_vae", "without learning"]
    assert [line.get_ydata().tolist() for line in axes[0].lines if len(line.get_xdata()) == 2][0] == [0.25, 0.5]
    assert transition_ablations.pictures(swept[:2], {"objective.gamma": [1.0, 2.0]}) == []
