"""Reports of folders of many runs: sweeps with and without sweep.json, members that diverged, tables as files, plots along the axes."""

import csv
import json
import re
from itertools import product

import pytest
from PIL import Image

from causal_ctx import workdir
from causal_ctx.files import DamagedError
from causal_ctx.reports import ablations, charts, figures, labels, page, system_report, system_reports
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.reading import Folder, read_folder
from tests.test_reports import FakeRun, Outline

SENTENCE = "kl_nats is inf at step 120; what was saved before is kept, <try> a lower learning rate."


def sweep(folder, axes: dict[str, list], table: str = "", diverged: tuple = (), missing: tuple = ()) -> dict:
    """A sweep of quad_independent: {workdir: run} of the evaluated members; `diverged` and `missing` are names."""
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"axes": axes, "table": table}))
    runs = {}
    for values in product(*axes.values()):
        fields = dict(zip(axes, values))
        name = ",".join(f"{field}={value}" for field, value in fields.items())
        if name in missing:
            continue
        nested: dict = {}
        for field, value in fields.items():
            *section, leaf = field.split(".")
            (nested.setdefault(section[0], {}) if section else nested)[leaf] = value
        run = FakeRun(folder / name, fields.get("method", "cm_end_to_end"), seed=fields["seed"], fields=nested, shift=0.01 * fields["seed"])
        path = run.workdir / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": "quad_independent"}))
        if name in diverged:
            path.unlink()
            (run.workdir / "failure.json").write_text(json.dumps({"step": 120, "term": "kl_nats", "message": SENTENCE}))
        else:
            runs[run.workdir] = run
    return runs


def written(folder, runs: dict):
    """The page of a sweep, and what was read of its folder."""
    found = read_folder(folder)
    return page.write_report([runs[path] for path in found.evaluated], folder / "report.html", folder / "figures", found).read_text("utf-8"), found


@pytest.fixture
def shown(monkeypatch) -> list:
    """The runs that figure grids are asked of, in place of drawing them."""
    runs = []
    monkeypatch.setattr(figures, "pictures", lambda run: runs.append(run) or [])
    return runs


def labelled(runs) -> list[dict]:
    return system_reports.labelled_results(labels.labelled(list(runs)))


def test_members_are_read_in_the_order_of_the_axes_and_the_rest_is_counted(tmp_path):
    axes = {"seed": [0, 1], "objective.beta": [4.0, 10.0, 0.5]}
    sweep(tmp_path, axes, "beta", diverged=("seed=0,objective.beta=10.0",), missing=("seed=1,objective.beta=0.5",))
    found = read_folder(tmp_path)
    assert [re.findall(r"=([\d.]+)", path.name)[::-1] for path in found.evaluated] == [["4.0", "0"], ["4.0", "1"], ["10.0", "1"], ["0.5", "0"]]
    assert found.diverged == {"seed=0,objective.beta=10.0": SENTENCE} and found.unfinished == 1
    assert (found.axes, found.table) == (axes, "beta")


def test_a_plain_folder_and_a_single_run_need_no_plan(tmp_path):
    runs = [FakeRun(tmp_path / name) for name in "ba"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{}")
    (tmp_path / "figures").mkdir()
    assert read_folder(tmp_path) == Folder((tmp_path / "a", tmp_path / "b"), {}, 1)
    assert read_folder(runs[0].workdir) == Folder((tmp_path / "b",))


def test_a_plan_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(DamagedError, match="sweep.json is not valid JSON"):
        read_folder(tmp_path)


def test_diverged_members_are_listed_with_their_sentence_and_unfinished_ones_counted(shown, tmp_path):
    runs = sweep(tmp_path, {"seed": [0, 1, 2]}, diverged=("seed=1",), missing=("seed=2",))
    html, _ = written(tmp_path, runs)
    assert "Of 3 runs 1 diverged and 1 did not finish" in html
    assert "<dt>seed=1</dt><dd>kl_nats is inf at step 120; what was saved before is kept, &lt;try&gt; a lower" in html
    assert not Outline(html).open
    assert "did not finish" not in page.write_report(list(runs.values()), tmp_path / "plain.html").read_text("utf-8")


def test_tables_are_written_beside_the_page_with_each_setting_beside_its_published_value(shown, tmp_path):
    html, _ = written(tmp_path, sweep(tmp_path, {"seed": [0, 1], "objective.beta": [0.5, 1.0, 3.0]}, "beta"))
    folder = tmp_path / "tables"
    assert {path.name for path in folder.iterdir()} == {f"{stem}.{ending}" for stem in ("summary", "contexts") for ending in ("txt", "md", "csv", "tex")}
    text = (folder / "summary.txt").read_text("utf-8")
    rows = {line.split()[1]: line for line in text[text.index("Composition"):].splitlines()[1:4]}
    assert "0.071 ± 0.002" in rows["beta=0.5"] and "0.081 ± 0.004" in rows["beta=1.0"] and rows["beta=3.0"].count("–") == 3
    assert max(map(len, text.splitlines())) <= 120
    for stem, wanted in (("summary", {"mean"}), ("contexts", {"obs", "quad1", "quad2", "size", "quad1+quad2", "quad1+size", "quad2+size"})):
        with (folder / f"{stem}.csv").open() as file:
            assert {row["context"] for row in csv.DictReader(file)} == wanted
    assert r"\textbf{0." in (folder / "contexts.tex").read_text("utf-8") and "**0." in (folder / "contexts.md").read_text("utf-8")
    assert "Table beta: cm_end_to_end along objective.beta on quad_independent" in html


def test_lines_run_along_one_field_and_part_by_the_others(tmp_path):
    runs = sweep(tmp_path, {"seed": [0, 1], "model.depth": [2, 4], "model.noise_width": [32, 16], "model.concept_width": [8]})
    lines = ablations.lines(labelled(runs.values()), "model.noise_width", "strict", "composition")
    assert list(lines) == ["cm_end_to_end depth=2", "cm_end_to_end depth=4"]
    assert [p.x for p in lines["cm_end_to_end depth=4"]] == [16, 32]
    point = lines["cm_end_to_end depth=4"][0]
    assert point.published == Estimate(0.07316, 0.00672, 5) and point.ours.seeds == 2 and point.floor.mean < point.ours.mean


def test_only_numbers_in_which_members_differ_are_axes(tmp_path):
    assert ablations.numeric_axes({"seed": [0, 1], "method": ["a", "b"], "x": [1, 2.0], "flag": [True, False], "one": [3], "same": [3, 3]}) == ["x"]
    runs = sweep(tmp_path, {"seed": [0], "objective.beta": [0.5, 1.0]}, diverged=("seed=0,objective.beta=0.5",))
    assert ablations.pictures(labelled(runs.values()), {"objective.beta": [0.5, 1.0]}) == []  # one value is left
    assert ablations.pictures(labelled(runs.values()), {"no.field": [1, 2]}) == []


def test_a_sweep_gets_a_figure_per_numeric_axis_and_protocol(shown, tmp_path):
    runs = sweep(tmp_path, {"method": ["base_pooled", "cm_end_to_end"], "seed": [0, 1], "objective.beta": [0.5, 2.0]})
    html, found = written(tmp_path, runs)
    assert {path.name for path in (tmp_path / "figures").glob("ablation_*")} == {f"ablation_objective.beta_{p}.png" for p in ("strict", "paper")}
    assert html.count("Along objective.beta, protocol") == 2 and "Line charts of concept, composition" in html
    assert len(html) < 10e6 and html.count("<h3>cm_end_to_end beta=") == 2


def test_a_plot_shows_ours_published_and_floor_and_keeps_every_bar_within_its_limits(monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "image", lambda figure: drawn.append(figure) or Image.new("RGBA", (1, 1)))
    points = [ablations.Point(x, Estimate(0.1), Estimate(0.5, 0.2, 5), Estimate(0.01)) for x in (0, 1, 10, 100)]
    charts.ablation({"Composition": {"cm": points}}, "objective.group_penalty")
    axis = drawn[0].axes[0]
    bottom, top = axis.get_ylim()
    assert bottom < 0.01 and top > 0.7
    assert axis.get_xscale() == "symlog" and [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "1", "10", "100"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["cm", "published", "floor"]
    for values, scale in (([1, 2, 8], "linear"), ([0, 1], "linear"), ([1e-4, 1e-3], "log")):
        charts.ablation({"Composition": {"cm": [points[0]._replace(x=x, published=None, floor=None) for x in values]}}, "x")
        assert drawn[-1].axes[0].get_xscale() == scale
    assert [text.get_text() for text in drawn[-1].legends[0].get_texts()] == ["cm"]


def test_published_points_have_a_colour_of_their_own_beside_one_line_and_that_of_their_line_beside_several(monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "image", drawn.append)
    points = [ablations.Point(x, Estimate(0.1, 0.01, 3), Estimate(0.2, 0.01, 5), None) for x in (1, 2)]
    for names, expected in (("a", charts.COLOURS[:2]), ("ab", [charts.COLOURS[i] for i in (0, 0, 1, 1)])):
        charts.ablation({"Concept": dict.fromkeys(names, points)}, "x")
        bars = drawn[-1].axes[0].containers  # ours and published of every line
        assert [bar.lines[0].get_color() for bar in bars] == list(expected)
        assert [bar.lines[0].get_markerfacecolor() == "none" for bar in bars] == [False, True] * len(names)


def test_the_training_of_every_member_is_drawn(shown, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "curves", lambda records, floor: drawn.append(records) or Image.new("RGBA", (2, 2)))
    runs = sweep(tmp_path, {"seed": [0, 1, 2], "objective.beta": [0.5, 1.0]})
    written(tmp_path, runs)
    assert {name: len(logs) for name, logs in drawn[0].items()} == {"cm_end_to_end beta=0.5": 3, "cm_end_to_end beta=1.0": 3}


def test_seeds_share_a_colour_and_many_labels_have_distinct_ones(monkeypatch):
    drawn = []
    monkeypatch.setattr(charts, "image", drawn.append)
    log = [{"images": i, "train/loss_nats": float(i)} for i in range(50)]
    charts.curves({"a": [log, log], "b": [log]})
    lines = drawn[0].axes[0].get_lines()
    assert [line.get_color() for line in lines] == [charts.COLOURS[0]] * 2 + [charts.COLOURS[1]]
    assert lines[0].get_linewidth() < lines[2].get_linewidth()
    assert len({tuple(colour) for colour in charts.colours(12)}) == 12


def test_lines_of_a_page_have_numbers_that_go_on_after_the_colours():
    log = [{"images": i, "train/loss_nats": float(i)} for i in range(3)]
    names = [f"run {i}" for i in range(9)]
    (panel,) = charts.panels({name: [log] for name in names}, {name: [0] for name in names}, ["train/loss_nats"])
    assert [line["colour"] for line in panel["lines"]] == list(range(9))


def test_folders_of_figures_have_names_that_file_systems_take():
    runs = [(f"ct_vae {'field=1 ' * 80}last={i}", object()) for i in range(2)] + [("ct_vae beta=1", object())]
    results = [{"seed": 0}] * 3
    folders = [section.folder for section in system_report.sections_of_best(runs, results, lambda _: 1.0, lambda _: [])]
    assert len(set(folders)) == 3 and all(len(folder) < 200 for folder in folders) and folders[2] == "ct_vae_beta=1"


def test_what_does_not_change_results_sets_no_runs_apart():
    config = {"method": "base", "seed": 0, "checkpoint.minutes": 10.0, "train.steps_per_call": 8, "objective.beta": 1.0}
    assert labels.labels([config, config | {"seed": 1, "checkpoint.minutes": 2.0, "train.steps_per_call": 4}]) == ["base", "base"]
    assert labels.labels([config, config | {"objective.beta": 2.0}]) == ["base beta=1.0", "base beta=2.0"]


def test_figures_are_drawn_for_the_best_of_at_most_eight_labels(shown, tmp_path):
    runs = sweep(tmp_path, {"seed": [0, 1], "objective.beta": [float(i) for i in range(1, 11)]})
    html, _ = written(tmp_path, runs)
    assert {run.config["seed"] for run in shown} == {0} and len(shown) == 8  # seed 1 composes worse
    assert "Cost of 20 runs" in html and "Configurations of 20 runs" in html and not Outline(html).open


def test_report_of_a_sweep_prints_labels_and_what_is_missing(shown, tmp_path, monkeypatch, capsys):
    axes = {"seed": [0, 1], "objective.beta": [0.5, 1.0]}
    runs = sweep(tmp_path, axes, "beta", diverged=("seed=1,objective.beta=0.5",), missing=("seed=1,objective.beta=1.0",))
    monkeypatch.setattr(workdir, "load_run", runs.__getitem__)
    monkeypatch.setattr(workdir, "load_runs", lambda paths: [runs[path] for path in paths])
    workdir.report(None, tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "cm_end_to_end beta=0.5" in printed and "cm_end_to_end beta=1.0" in printed
    assert f"seed=1,objective.beta=0.5 diverged: {SENTENCE}" in printed and "1 run(s) are not finished" in printed
    assert (tmp_path / "tables" / "summary.md").exists() and (tmp_path / "report.html").exists()


def test_the_head_of_a_sortable_table_stays_readable_without_script(shown, tmp_path):
    html = page.write_report([FakeRun(tmp_path)], tmp_path / "report.html").read_text("utf-8")
    tables, _, script = html.partition("<script>")
    assert "<button" not in tables and '<th scope="col">difference</th>' in tables  # the script makes the buttons
    assert "aria-sort" in script and tables.count("<tbody>") > 8
