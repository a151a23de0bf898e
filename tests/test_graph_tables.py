"""The report of learned graphs: results with and without "graph", the table, the CSV, the page and the true maps of the figure."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from causal_ctx.files import DamagedError
from causal_ctx.reports import charts, context_report, figures, formats, graph_tables, page, system_reports, tables
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.verdict import verdict
from tests.test_reports import CONCEPTS, FakeRun, results


def scores(auroc, shd, precision=0.5, recall=1.0) -> dict:
    return {"auroc": auroc, "shd": shd, "precision": precision, "recall": recall, "true_edges": 3}


def scored(seed=0, method="cm_end_to_end", **obs) -> dict:
    """A made-up result with a graph, its numbers apart for every seed; `obs` replaces those of the observational blocks."""
    untrained = {"obs": scores(0.5, 3 + seed), "interventions": scores(0.4, 3)}
    found = {"threshold": 0.3, "obs": scores(0.9 - 0.1 * seed, 1 + seed) | obs, "interventions": scores(0.75, 2), "untrained": untrained}
    return results(method, seed) | {"graph": found}


def test_the_table_holds_means_over_seeds_beside_chance_and_the_empty_graph():
    (table,) = graph_tables.graph_tables([scored(0), scored(1), scored(1)])  # a seed that is given twice counts once
    assert table.title == "quad_dependent, conv64, learned graph against the true one (higher is better but for SHD)"
    assert [heading for heading, _ in table.groups] == ["Observational blocks", "Blocks of the intervened concepts"]
    (row,) = table.groups[0][1]
    cells = dict(zip(table.columns, row.cells))
    assert row.label == "cm_end_to_end" and cells["seeds"] == "2"
    assert cells["AUROC"] == Estimate(pytest.approx(0.85), pytest.approx(0.05), 2) and cells["SHD"] == Estimate(1.5, 0.5, 2)
    assert cells["untrained"] == Estimate(0.5) and cells["no edges"] == Estimate(3.0) and cells["recall"].mean == 1
    text = formats.text(table)
    assert re.search(r"cm_end_to_end +2 +0\.850 ± 0\.050 +0\.500 +1\.5 ± 0\.5 +3 +0\.500", text) and max(map(len, text.splitlines())) <= 120
    assert all(render(table) for render in (formats.markdown, formats.latex, formats.html))


def test_the_verdict_says_how_far_the_graph_was_learned():
    (sentence,) = [s for s in verdict([scored(0), scored(1)]) if "AUROC" in s]
    assert sentence.endswith("do not with an AUROC of 0.850 ± 0.050 (chance is 0.5, untrained 0.500 ± 0.000); the difference is 7.0 times its standard error over 2 seeds each.")
    (sentence,) = [s for s in verdict([scored(0)]) if "AUROC" in s]
    assert sentence.endswith("untrained 0.500); with one seed of either, the spread between seeds is not known.")
    worse = scored(0)
    worse["graph"]["untrained"]["obs"]["auroc"] = 0.95
    (sentence,) = [s for s in verdict([worse]) if "AUROC" in s]
    assert "did not learn which concepts truly move one another" in sentence and sentence.endswith("(chance is 0.5, untrained 0.950).")
    assert not [s for s in verdict([results()]) if "AUROC" in s]


def test_the_highest_auroc_and_the_lowest_distance_are_marked():
    rows = [scored(0) | {"label": "a"}, scored(1) | {"label": "b"}]
    marked = re.findall(r"^  (\w) .*", formats.text(graph_tables.graph_tables(rows)[0]), re.M)
    first, second = formats.text(graph_tables.graph_tables(rows)[0]).splitlines()[5:7]
    assert marked[:2] == ["a", "b"] and first.count("*") == 2 and "*" not in second


def test_results_without_a_graph_are_reported_as_before():
    old = [results(), results("base_pooled")]
    assert graph_tables.graph_tables(old) == [] and context_report.summary_tables(old) == tables.summary_tables(old)
    assert context_report.comma_separated(old) == tables.comma_separated(old)
    mixed = [results("base_pooled"), results(seed=1), scored(0)]  # one seed from before graphs were scored
    *others, table = context_report.summary_tables(mixed)
    assert others == tables.summary_tables(mixed) and [(row.label, row.cells[0]) for row in table.groups[0][1]] == [("cm_end_to_end", "1")]


def test_what_could_not_be_told_is_a_dash():
    (table,) = graph_tables.graph_tables([scored(auroc=None, recall=None)])
    assert table.groups[0][1][0].cells[1] is None and formats.text(table).splitlines()[5].count("–") == 2


def test_a_module_told_no_targets_has_no_row_for_interventions():
    blind = scored(method="cm_pooled")
    del blind["graph"]["interventions"]
    observational, interventions = graph_tables.graph_tables([scored(), blind])[0].groups
    assert [row.label for row in observational[1]] == ["cm_end_to_end", "cm_pooled"] and [row.label for row in interventions[1]] == ["cm_end_to_end"]


def test_comma_separated_holds_the_graph_in_the_summary_and_in_the_whole():
    runs = [scored(0), scored(1)]
    lines = {summary: list(csv.DictReader(io.StringIO(context_report.comma_separated(runs, summary)))) for summary in (True, False, None)}
    graph = {summary: [line for line in found if line["measure"].startswith("graph_")] for summary, found in lines.items()}
    assert graph[True] == graph[None] and not graph[False] and len(graph[True]) == 2 * 4 * 2
    assert len(lines[True]) + len(lines[False]) == len(lines[None])
    found = {(line["measure"], line["context"], line["source"]): line for line in graph[True]}
    assert float(found["graph_auroc", "obs", "ours"]["mean"]) == pytest.approx(0.85) and found["graph_auroc", "obs", "ours"]["seeds"] == "2"
    assert float(found["graph_shd", "obs", "untrained"]["standard_error"]) == pytest.approx(math.sqrt(0.5) / math.sqrt(2))
    assert [line for line in lines[None] if line not in graph[None]] == list(csv.DictReader(io.StringIO(tables.comma_separated(runs))))


@pytest.mark.parametrize("damage", [[], "x", 3, {"obs": 1}, {"obs": {"shd": "many"}}, {"obs": {"shd": 1, "auroc": []}}])
def test_a_damaged_graph_is_refused_in_a_sentence(tmp_path, damage):
    with pytest.raises(DamagedError, match=r"results.json is not as a run writes it \(.*evaluate the run again"):
        system_reports.legible(results() | {"graph": damage}, tmp_path)


def true_effects() -> dict[str, np.ndarray]:
    """Signed effects of three concepts, of other size in every context."""
    return {context: np.array([[1.0, -0.5, 0.0], [0.0, 1.0, 0.25], [0.0, 0.0, 1.0]]) / (1 + i) for i, context in enumerate(("obs", *CONCEPTS))}


def test_the_page_shows_the_table_and_says_how_to_read_it(tmp_path):
    run = FakeRun(tmp_path / "run")
    run.data.total_effects = true_effects()
    path = run.workdir / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"graph": scored()["graph"]}))
    html = page.write_report([run], tmp_path / "report.html").read_text("utf-8")
    assert "learned graph against the true one" in html and "<dt>Graph</dt>" in html and "Orange, on a scale of its own" in html
    assert "learned graph" in (tmp_path / "tables" / "summary.txt").read_text() and "graph_shd" in (tmp_path / "tables" / "summary.csv").read_text()


def test_true_effects_are_drawn_by_their_size_below_the_learned_blocks(tmp_path, monkeypatch):
    run, seen = FakeRun(tmp_path), {}
    run.data.total_effects = true_effects()
    monkeypatch.setattr(figures, "heat_maps", lambda norms, names, true: seen.update(norms=norms, true=true) or Image.new("RGBA", (2, 2)))
    with_truth = figures.causal_blocks(run)
    assert list(seen["true"]) == list(seen["norms"]) == ["obs", "do(quad1)", "do(quad2)", "do(size)"]
    np.testing.assert_array_equal(seen["true"]["do(quad1)"], np.abs(true_effects()["quad1"]))
    run.data.total_effects = None
    without = figures.causal_blocks(run)
    assert seen["true"] is None and with_truth.caption.startswith(without.caption) and "truly moves" in with_truth.caption


def test_both_layers_of_maps_have_their_own_colours_and_scale():
    norms = {"obs": np.array([[9, 0.5], [0.2, 9]]), "do(a)": np.array([[9, 0], [0.4, 9]])}
    one, two = (charts.heat_maps(norms, ("a", "b"), true) for true in (None, {title: 100 * m for title, m in norms.items()}))
    assert two.width == one.width and two.height > 1.5 * one.height
    shades = lambda image: {colour[:3] for _, colour in image.getcolors(image.width * image.height) if colour[3] == 255}
    rgb = lambda colours, level: tuple(int(c) for c in np.array(colours(level, bytes=True))[:3])
    darkest = {name: rgb(colours, 1.0) for name, colours in (("learned", charts.SHADES), ("true", charts.TRUE_SHADES))}
    assert darkest["learned"] in shades(one) and darkest["true"] not in shades(one)
    assert set(darkest.values()) <= shades(two) and rgb(charts.TRUE_SHADES, 0.8) in shades(two)  # 0.4 of 0.5, a hundredfold
