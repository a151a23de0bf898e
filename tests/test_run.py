"""From a trained workdir to results, a report and a Run object."""

import dataclasses
import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest
from absl import flags

import causal_ctx
from causal_ctx import main, workdir
from causal_ctx.evaluation import protocols
from causal_ctx.files import DamagedError
from causal_ctx.progress import Progress
from causal_ctx.reports import tables
from tests import tiny
from tests.test_truth_tables import truth


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir with everything a run writes, and its config; the data set stands in for quad."""
    said.clear()
    handler, logger = logging.Handler(), logging.getLogger("causal_ctx")
    handler.emit = lambda record: said.append(record.getMessage())

    def fill(config, folder):
        level, _ = logger.level, logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        workdir.train_evaluate_report(config, folder)
        logger.removeHandler(handler)
        logger.setLevel(level)

    with tiny.run(tmp_path_factory.mktemp("run") / "w", fill) as written:
        yield written


said: list[str] = []  # in the log, while the run was trained, scored and reported


def test_the_workdir_holds_what_the_design_names(trained, capsys):
    folder, config = trained
    results = json.loads((folder / "results.json").read_text())
    assert results["method"] == "cm_end_to_end" and results["train"]["images"] == results["train"]["steps"] * config.train.batch_size
    for protocol in ("strict", "paper"):
        scores = results["protocols"][protocol]
        assert set(scores["concept"]) == {"obs", "light", "red", "dark", "mean"} and set(scores["composition"]) == {"light+red", "mean"}
        for task in ("concept", "composition"):
            values = [v for k, v in scores[task].items() if k != "mean"]
            assert scores[task]["mean"] == pytest.approx(np.mean(values)) and min(values) > 0
    strict = results["protocols"]["strict"]
    for part in ("floor", "untrained"):
        assert strict[part]["composition"].keys() == strict["composition"].keys()
    assert strict["floor"]["concept"]["mean"] < strict["untrained"]["concept"]["mean"]
    assert strict["reconstruction"]["in_distribution_bpp"] > strict["reconstruction"]["entropy_floor_bpp"] > 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert "train/kl_nats" in records[0] and "validation/elbo_bpp" in records[-1]
    assert (folder / "report.html").stat().st_size > 10_000
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png"}


def test_a_complete_run_is_said_to_be_complete_and_not_trained_again(trained, caplog, capsys, monkeypatch):
    folder, config = trained
    monkeypatch.setattr(workdir, "train", lambda *_: pytest.fail("trained again"))
    with caplog.at_level("INFO", "causal_ctx"):
        workdir.train_evaluate_report(config, folder)
    assert "is complete" in caplog.text and "Composition" in capsys.readouterr().out


@pytest.fixture
def program(monkeypatch):
    """A function of flags that runs the program here, for its exit status; the page is not drawn again."""
    logger = logging.getLogger("causal_ctx")
    level = logger.level
    monkeypatch.setattr(Progress, "bars", True)
    monkeypatch.setattr(main, "silence_what_is_said_twice", lambda: None)
    monkeypatch.setattr(workdir.page, "write_report", lambda *_: None)

    def run(*arguments):
        flags.FLAGS.unparse_flags()
        for name in ("output", "mode", "workdir"):
            flags.FLAGS[name].unparse()
        main.parse(["causal_ctx", "--nocompilation_cache", *arguments])
        return main.main(["causal_ctx"])

    yield run
    logger.setLevel(level)
    flags.FLAGS.unparse_flags()


def test_a_person_reads_tables_then_their_note_once_the_cost_the_verdict_and_where_the_page_is(trained, program, capsys):
    folder, _ = trained
    assert program("--mode=report", f"--workdir={folder}") == 0
    said = " ".join(capsys.readouterr().out.split())
    parts = ("protocol strict", "protocol paper", tables.NOTE, "w: ", "cm_end_to_end composes at", "cm_end_to_end reconstructs", "Report: ")
    places = [said.index(part) for part in parts]
    assert places == sorted(places) and said.count(tables.NOTE) == 1 and said.endswith(f"Report: {folder / 'report.html'}")
    assert tables.NOTE in " ".join((folder / "tables" / "summary.txt").read_text().split())


def test_a_program_reads_one_document_and_no_one_reads_nothing(trained, program, capsys, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr(main.sys.stderr, "isatty", lambda: True)
    assert program("--mode=report", f"--workdir={folder}", "--output=json") == 0
    out, errors = capsys.readouterr()
    document = json.loads(out)
    assert set(document) == {"workdir", "report", "results", "verdict"} and document["report"] == str(folder / "report.html")
    (result,) = document["results"]
    assert result == json.loads((folder / "results.json").read_text()) | {"label": "cm_end_to_end", "workdir": str(folder)}
    assert document["verdict"][0].startswith("cm_end_to_end composes at")
    assert program("--mode=report", f"--workdir={folder}", "--output=quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_the_report_holds_what_the_simulation_says_until_the_run_is_scored_anew(trained, tmp_path, capsys, monkeypatch):
    folder, config = trained
    shutil.copytree(folder, tmp_path / "a")
    kept = tmp_path / "a" / "interventions.json"
    kept.write_text(json.dumps(truth(setting="composition=reference,noise_mixing=block", other="other")))
    workdir.report(None, tmp_path)
    assert "under all sets of interventions" in capsys.readouterr().out and "under all sets of interventions" in (tmp_path / "report.html").read_text()
    assert ",subsets,many,ours,0.6," in (tmp_path / "tables" / "summary.csv").read_text()
    monkeypatch.setattr(workdir, "evaluate", lambda *_: {})
    workdir.score(config, None, tmp_path / "a")
    assert not kept.exists()


def test_scoring_says_how_far_it_is(trained):
    assert re.search(r"Scoring .*\n(.*\n)*distance (\d+)/\2, 0 s left, paper, light\+red\nScored", "\n".join(said))


def test_a_missing_report_is_written_and_an_unfinished_run_goes_on(trained, tmp_path, monkeypatch):
    folder, config = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    monkeypatch.setattr(workdir, "train", lambda *_: pytest.fail("went on"))
    (copy / "report.html").unlink()
    workdir.train_evaluate_report(config, copy)
    assert (copy / "report.html").exists()
    results = json.loads((copy / "results.json").read_text())
    assert results["train"]["finished"]
    results["train"]["finished"] = False
    (copy / "results.json").write_text(json.dumps(results))
    with pytest.raises(pytest.fail.Exception, match="went on"):
        workdir.train_evaluate_report(config, copy)


@pytest.mark.parametrize("name, content", [("config.json", '{"seed": '), ("config.json", "[]"), ("results.json", '{"dat'), ("checkpoints", "")])
def test_damaged_files_are_one_sentence(trained, tmp_path, name, content):
    folder, config = trained
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    if name == "checkpoints":
        (copy / "results.json").unlink()
        for path in (copy / "checkpoints" / "best").rglob("*"):
            if path.is_file() and path.stat().st_size > 1000:
                path.write_bytes(path.read_bytes()[:100])
    else:
        (copy / name).write_text(content)
    with pytest.raises(DamagedError) as error:
        workdir.train_evaluate_report(config, copy)
    assert "\n" not in str(error.value)


def test_both_composition_rules_are_scored_with_the_same_weights(trained):
    folder, _ = trained
    strict = json.loads((folder / "results.json").read_text())["protocols"]["strict"]
    assert set(strict["composition_cut"]) == {"light+red", "mean"} and strict["composition_cut"] != strict["composition"]
    predictor = causal_ctx.load_run(folder).predictor
    assert predictor.with_quirks(composition="cut").with_quirks(composition="reference").model == predictor.model


def test_the_graph_is_scored_where_its_truth_is_known(trained):
    """The concepts of these data are independent: whatever is found is too much."""
    folder, config = trained
    assert "graph" not in json.loads((folder / "results.json").read_text())
    run = causal_ctx.load_run(folder)
    known = dataclasses.replace(run.data, total_effects={name: np.eye(3) for name in run.data.training_contexts})
    scored = json.loads(json.dumps(workdir.evaluate(config, known, folder)))
    assert "protocols" in scored
    norms = np.linalg.norm(run.causal_blocks("obs"), axis=(1, 3))[~np.eye(3, dtype=bool)]
    assert scored["graph"]["obs"] == {"auroc": None, "shd": int((norms > 0.3 * norms.max()).sum()), "precision": 0.0, "recall": None, "true_edges": 0}
    assert set(scored["graph"]) == {"threshold", "obs", "interventions", "untrained"}


def test_elbo_against_its_definition(trained):
    """Encode, sample with the folded key, decode, and sum -BCE - KL by NumPy in float64."""
    run = causal_ctx.load_run(trained[0])
    predictor, images, targets = run.predictor, run.data.held_out["light"][:8], run.targets("light")
    scores = predictor.elbo(targets, images, seed=4)
    x = images.astype(np.float64) / 255
    posterior = {name: value.astype(np.float64) for name, value in run.encode(images).items()}
    noise = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(4), 0), posterior["mean"].shape))
    z = (posterior["mean"] + np.exp(0.5 * posterior["log_variance"]) * noise).astype(np.float32)
    rows = np.broadcast_to(targets.astype(np.float32), (8, 3))
    logits = np.asarray(predictor.model.apply(predictor.variables, z, rows, method="decode"), np.float64)
    p = 1 / (1 + np.exp(-logits))
    reconstruction = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2, 3))
    kl = 0.5 * (np.exp(posterior["log_variance"]) + posterior["mean"] ** 2 - 1 - posterior["log_variance"]).sum(1)
    np.testing.assert_allclose(scores["reconstruction_nats"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(scores["kl_nats"], kl, rtol=1e-3)
    np.testing.assert_allclose(scores["elbo_nats"], -reconstruction - kl, rtol=1e-4)
    bits = protocols.nats_to_bits_per_pixel(16 * 16 * np.log(2), (16, 16, 3))
    assert bits == pytest.approx(1.0)


def test_no_images_cannot_be_generated(trained):
    with pytest.raises(ValueError, match="num is 0; generate at least 1 image"):
        causal_ctx.load_run(trained[0]).generate("light", num=0)


def test_images_that_are_no_images_are_refused(trained):
    run = causal_ctx.load_run(trained[0])
    with pytest.raises(ValueError, match="must be uint8 or floating point"):
        run.encode(np.full((2, 16, 16, 3), 100))
    with pytest.raises(ValueError, match="must lie in"):
        run.reconstruct(np.full((2, 16, 16, 3), 100.0), "light")


def test_another_config_is_refused_naming_the_fields(trained):
    folder, _ = trained
    with pytest.raises(workdir.WorkdirError, match=r"another config, differing in seed \(0 there, 5 here\), train.epochs \(1.0 there, 2.0 here\)"):
        workdir.train_evaluate_report(tiny.config(train__epochs=2, seed=5), folder)


def test_load_run_generates_reconstructs_and_encodes(trained):
    folder, _ = trained
    run = causal_ctx.load_run(folder)
    assert run.concepts == ("light", "red", "dark")
    images = run.generate({"light", "red"}, num=5, seed=3)
    assert images.shape == (5, 16, 16, 3) and images.dtype == np.float32 and 0 <= images.min() and images.max() <= 1
    np.testing.assert_array_equal(images, run.generate({"red", "light"}, num=5, seed=3))
    np.testing.assert_array_equal(images, run.generate("light+red", num=5, seed=3))
    assert not np.array_equal(images, run.generate((), num=5, seed=3)) and not np.array_equal(images, run.generate("light+red", num=5, seed=4))
    real = run.data.held_out["light+red"][:3]
    assert run.reconstruct(real, {"light", "red"}).shape == real.shape
    np.testing.assert_array_equal(run.encode(real)["mean"], run.encode(real.astype(np.float32) / 255)["mean"])
    assert run.encode(real)["mean"].shape == run.encode(real)["log_variance"].shape == (3, 3 * 4)
    blocks = run.causal_blocks({"light"})
    assert blocks.shape == (3, 3, 3, 3) and (blocks[0, :, 1:] == 0).all() and (blocks[1, :, 0] != 0).any()


def test_unknown_interventions_and_missing_runs_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="unknown concept 'blue'"):
        causal_ctx.load_run(trained[0]).generate({"blue"}, num=1)
    with pytest.raises(FileNotFoundError, match="holds no run.*give the --workdir of a finished run"):
        causal_ctx.load_run(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"holds no run.*give that of a run below it: .*{trained[0].name}"):
        causal_ctx.load_run(trained[0].parent)
    with pytest.raises(workdir.WorkdirError, match="holds no evaluated run"):
        workdir.report(None, tmp_path)
    with pytest.raises(workdir.WorkdirError, match="holds no run"):
        workdir.evaluate_and_report(tiny.config(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_unwritable_workdir_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(workdir.WorkdirError, match="cannot be written"):
        workdir.prepare(tiny.config(), tmp_path / "file" / "w")


def test_protocols_score_a_perfect_generator_at_the_floor():
    """A stand-in predictor that draws real images of the asked context scores no worse than two real halves; the wrong context scores worse."""
    dataset, config = tiny.dataset(n=400), tiny.config()

    class Copies:
        latents, rules, calibrates = 2, (), True

        def __init__(self, shift):
            self.shift = shift

        def generate(self, targets, noise):
            names = list(dataset.held_out)
            index = next(i for i, name in enumerate(names) if (dataset.targets(name) == targets).all())
            images = dataset.held_out[names[(index + self.shift) % len(names)]]
            return images[np.random.default_rng(0).integers(len(images), size=len(noise))].astype(np.float32) / 255

        def calibrated(self, targets):
            return {}

        def _replace(self, variables):
            return self

        def elbo(self, targets, images):
            return {"elbo_nats": np.full(len(images), -16 * 16 * np.log(2)), "kl_nats": np.full(len(images), 16 * 16 * np.log(2) / 2)}

    scores = protocols.strict(config, dataset, Copies(0), Copies(1), tuple(dataset.validation))
    for task in ("concept", "composition"):
        assert scores[task]["mean"] < 1.2 * scores["floor"][task]["mean"]
        assert scores["untrained"][task]["mean"] > 3 * scores["floor"][task]["mean"]
    assert scores["reconstruction"]["in_distribution_bpp"] == scores["reconstruction"]["sampling_statistics_bpp"] == pytest.approx(1.0)
    assert protocols.reconstruction_bpp(Copies(0), dataset, dataset.validation, beta=2.0) == pytest.approx(1.5)


def test_predictions_do_not_depend_on_the_batch_they_come_in(trained):
    """Padding of the last batch and the number of images leave every prediction as it is."""
    run = causal_ctx.load_run(trained[0])
    predictor, targets, images = run.predictor, run.targets("light"), run.data.held_out["light"]
    whole = predictor._replace(batch_size=16).reconstruct(targets, images[:13])
    np.testing.assert_allclose(whole, predictor._replace(batch_size=8).reconstruct(targets, images[:13]), atol=1e-5)
    noise = np.asarray(jax.random.normal(jax.random.key(0), (13, predictor.latents)))
    np.testing.assert_allclose(predictor.generate(targets, noise)[:5], predictor.generate(targets, noise[:5]), atol=1e-5)
