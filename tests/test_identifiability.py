"""The study of the paper's theorem: its truth, its likelihood, what it recovers, and how it is stopped and refused."""

import json
import time

import jax
import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der
from scipy.stats import multivariate_normal

from causal_ctx import identifiability
from causal_ctx.config import ConfigError, default
from causal_ctx.data import linear_concepts as truth
from causal_ctx.data.linear_concepts import K, WIDTH
from causal_ctx.files import DamagedError
from causal_ctx.models import linear_concepts as model
from causal_ctx.reports import identifiability as reports
from causal_ctx.workdir import WorkdirError

SETS = np.concatenate([identifiability.TRAINED, identifiability.COMPOSED])
SMALL = identifiability.Size(seeds=1, restarts=1, samples=50, held_out=50, iterations=3)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def drawn(world, targets, n=20_000, stream=0):
    return truth.sample(world, np.array(targets), n, np.random.default_rng(stream))


def test_the_bend_is_undone_and_its_slope_is_the_derivative():
    u = np.linspace(-50, 50, 2_001)
    np.testing.assert_allclose(truth.unbent(truth.bent(u)), u, atol=1e-10)
    h, step = np.linspace(-20, 20, 401), 1e-5
    np.testing.assert_allclose(truth.slope_of_unbent(h), (truth.unbent(h + step) - truth.unbent(h - step)) / (2 * step), atol=1e-8)


def test_an_intervention_cuts_causes_and_sets_the_noise():
    world = truth.draw(0)
    c, _ = drawn(world, [0, 1, 0])
    correlation = np.corrcoef(c.reshape(len(c), -1).T).reshape(K, WIDTH, K, WIDTH)
    assert np.abs(correlation[1, :, 0]).max() < 0.03 < 0.1 < np.abs(correlation[2, :, 1]).max()
    np.testing.assert_allclose(c[:, 1].mean(axis=0), world.mean[1], atol=0.02)
    np.testing.assert_allclose(c[:, 1].std(axis=0), world.scale[1], atol=0.02)
    observed, _ = drawn(world, [0, 0, 0])
    assert np.abs(np.corrcoef(observed.reshape(len(c), -1).T).reshape(K, WIDTH, K, WIDTH)[1, :, 0]).max() > 0.2
    np.testing.assert_array_equal(observed[:, 0], drawn(world, [0, 0, 1])[0][:, 0])  # causes keep their noise


def test_violations_are_what_they_say():
    shared, _ = drawn(truth.draw(0, "dependent rows"), [0, 0, 1])
    np.testing.assert_array_equal(shared[:, 2, 0], shared[:, 1, 1])
    folded, e = truth.draw(0, "map not injective"), np.random.default_rng(0).standard_normal((9, K * WIDTH))
    flip = np.where(np.arange(K * WIDTH) == 0, -1, 1)
    np.testing.assert_array_equal(truth.observe(folded, e), truth.observe(folded, e * flip))
    assert np.abs(truth.observe(truth.draw(0), e) - truth.observe(truth.draw(0), e * flip)).max() > 0.1
    single, double = np.eye(K), 1 - np.eye(K)
    for targets, known in ((single[1], True), (single[2], True), (double[2], True), (double[0], False), (np.ones(K), False)):
        assert truth.compatible(truth.draw(0, "dependent rows"), targets) == known and truth.compatible(truth.draw(0), targets)
    with pytest.raises(ValueError, match="violated is 'all'; choose from"):
        truth.draw(0, "all")


@pytest.mark.parametrize("form", model.FORMS)
@pytest.mark.parametrize("targets", SETS.tolist())
def test_the_likelihood_is_that_of_the_gaussian_behind_the_map(form, targets, float64):
    rng = np.random.default_rng(3)
    params = {name: leaf + 0.1 * rng.standard_normal(np.shape(leaf)) for name, leaf in model.init(1, form).items()}
    x, targets = rng.standard_normal((5, K * WIDTH)), np.array(targets)
    z = rng.standard_normal((K * WIDTH + 1, K, WIDTH))
    z[-1], z[:-1] = 0, np.eye(K * WIDTH).reshape(-1, K, WIDTH)
    images = model.draw(params, targets, z).reshape(len(z), -1)  # of the basis and of zero: the law's affine map
    mixing, mean = (images[:-1] - images[-1:]).T, images[-1]
    of_one = lambda row: model.concepts(params, row[None])[0].reshape(-1)
    expected = [
        multivariate_normal(mean, mixing @ mixing.T).logpdf(of_one(row)) + np.linalg.slogdet(jax.jacfwd(of_one)(row))[1] for row in x
    ]
    assert float(model.nll_nats(params, x, targets)) == pytest.approx(-np.mean(expected), abs=1e-8)


def test_true_parameters_give_back_truth_and_noise(float64):
    world = truth.draw(2)
    params = model.of_world(world)
    for targets in SETS:
        c, x = drawn(world, targets)
        learned = np.asarray(model.concepts(params, x)[0])
        np.testing.assert_allclose(learned, c, atol=1e-9)
        again = model.draw(params, targets, np.random.default_rng(9).standard_normal(c.shape))
        np.testing.assert_allclose(again.mean(axis=0), c.mean(axis=0), atol=0.1)
        np.testing.assert_allclose(np.cov(again.reshape(len(c), -1).T), np.cov(c.reshape(len(c), -1).T), atol=0.25)


@pytest.mark.parametrize(
    ("name", "promised"), [("all contexts", {0, 1, 2}), ("without do(3)", {0, 1}), ("module's causal layer", set())], ids=lambda value: str(value).split(",")[0]
)
def test_concepts_are_recovered_where_the_theorem_says_so(name, promised):
    found = identifiability.score(identifiability.CONDITIONS[name], 0, identifiability.Size(restarts=1, samples=500, held_out=500, iterations=3_000))
    high = {k for k, value in enumerate(found["recovery"]) if value > 0.97}
    assert high >= promised and (len(promised) == K or len(high) < K)
    assert abs(found["excess_nats"]) < 0.1  # as likely as the truth, whether its concepts are the true ones or not
    times = {kind: found["distance"][kind] / found["floor"][kind] for kind in ("seen", "composed")}
    assert times["seen"] < 2  # the law too is right where it was seen, in whatever concepts
    assert times["composed"] < 3 if len(promised) == K else times["composed"] > 5


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    whole = identifiability.run(None, tmp_path / "whole", SMALL)
    assert len(whole["cases"]) == len(identifiability.CONDITIONS) and (tmp_path / "whole/figures/identifiability.png").exists()
    assert "without do(2), do(3)" in capsys.readouterr().out
    score, calls = identifiability.score, []

    def stops(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return score(*args)

    monkeypatch.setattr(identifiability, "score", stops)
    with pytest.raises(KeyboardInterrupt):
        identifiability.run(None, tmp_path / "stopped", SMALL)
    monkeypatch.setattr(identifiability, "score", score)
    assert identifiability.run(None, tmp_path / "stopped", SMALL) == whole
    monkeypatch.setattr(identifiability, "score", None)  # nothing is left to do
    assert identifiability.run(None, tmp_path / "stopped", SMALL) == whole == json.loads((tmp_path / "stopped/identifiability.json").read_text())


def test_an_interrupted_fit_ends_at_once(monkeypatch):
    """The first start is done at once, and then comes the interruption; the others would take hundreds of steps."""
    calls = []

    def loss(flat, *_):
        calls.append(1)
        time.sleep(0.02)
        return (0.0, np.zeros_like(flat)) if len(calls) == 1 else (rosen(flat), rosen_der(flat))

    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(identifiability, "_loss", lambda form: loss)
    monkeypatch.setattr(identifiability, "usable_cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        identifiability.fit("structural", None, None, [0, 1, 2], 10_000, stop)
    assert len(calls) < 50


def test_what_cannot_be_done_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "identifiability.json"
    with pytest.raises(ConfigError, match="leave --config out"):
        identifiability.run(default(), tmp_path, SMALL)
    file.write_text('{"size": {"seeds": 1')
    with pytest.raises(DamagedError, match="cannot be read"):
        identifiability.run(None, tmp_path, SMALL)
    for damaged in ({"size": SMALL._asdict()}, {"size": SMALL._asdict(), "cases": [1]}, [], {"cases": []}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(DamagedError, match="cannot be read"):
            identifiability.run(None, tmp_path, SMALL)
    file.write_bytes(b"\xff")
    with pytest.raises(DamagedError, match="cannot be read"):
        identifiability.run(None, tmp_path, SMALL)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="needs one process and was started in 2"):
        identifiability.run(None, tmp_path, SMALL)
    monkeypatch.undo()
    file.write_text(json.dumps({"size": SMALL._replace(seeds=2)._asdict(), "cases": []}))
    with pytest.raises(WorkdirError, match="another study"):
        identifiability.run(None, tmp_path, SMALL)
    for name in ("config.json", "sweep.json"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / name).write_text("{}")
        with pytest.raises(WorkdirError, match="holds a run or a sweep; give the study a folder of its own"):
            identifiability.run(None, tmp_path / name, SMALL)


def test_the_table_has_a_row_per_condition():
    case = {"recovery": [0.5, 0.75, 1], "correlation": [0.5, 0.5, 0.8], "distance": {"seen": 0.125, "composed": 2}, "floor": {"seen": 0.0625, "composed": 0.25}, "excess_nats": None}
    study = {"cases": [case | {"condition": name, "seed": 0} for name in identifiability.CONDITIONS]}
    lines = reports.text(study, identifiability.CONDITIONS).splitlines()
    row = next(line for line in lines if line.strip().startswith("obs alone"))
    assert row.split()[-4:] == ["0.500", "0.750", "1.000", "0.600"]
    row = [line for line in lines if line.strip().startswith("obs alone")][1]
    assert row.split()[-3:] == ["0.125", "2.000", "–"] and max(map(len, lines)) <= 120
