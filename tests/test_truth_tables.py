"""The report of what simulated ground truth says: results with and without "truth", the tables, the CSV."""

import csv
import io

import pytest

from causal_ctx.files import DamagedError
from causal_ctx.reports import context_report, formats, reading, system_reports, truth_tables
from causal_ctx.reports.published import Estimate
from tests.test_reports import results

REFERENCE, CUT = "composition=reference,noise_mixing=block", "composition=cut,noise_mixing=block"


def truth(plus=0.0, setting=CUT, other=REFERENCE) -> dict:
    """A made-up interventions.json of two concepts more than two interventions can be made of: 1, 2 and 1 subsets of 1, 2 and 3 interventions."""
    sizes = {"1": (1, 0.1), "2": (2, 0.2), "3": (1, 0.6)}
    by_size = {size: {"subsets": n, "floor": 0.01 * int(size), "distance": {other: 9.0, setting: distance + plus}} for size, (n, distance) in sizes.items()}
    errors = lambda model: {"pixel": {"model": model + plus, "unchanged": 0.5, "redrawn": 0.2, "floor": 0.0}, "latent": {}, "others": {"model": 2.0, "unchanged": 3.0, "redrawn": 1.0, "floor": 0.1}}
    compared = lambda auroc: {"scores": {"auroc": auroc, "shd": 2, "precision": 0.5, "recall": None, "true_edges": 3}, "rank_correlation": 0.3, "moved_in_vain": 0.6, "own_noise": 0.4}
    effects = compared(0.7 + plus) | {"true_images": compared(0.96)}
    return {"by_size": by_size, "counterfactuals": {"mean": {"concept": errors(0.3), "composition": errors(0.4)}}, "effects": effects}


def scored(seed=0, label="ours", rule="cut", **of_truth) -> dict:
    fields = {"model.composition": rule, "model.noise_mixing": "block"}
    return results(seed=seed) | {"label": label, "config": fields, "truth": truth(**of_truth)}


def test_the_tables_hold_means_over_seeds_of_the_run_s_own_rule_beside_what_can_be_reached():
    blind = scored(label="blind", setting="no context module", other="x")
    errors, moved = truth_tables.truth_tables([scored(0), scored(1, plus=0.2), scored(1, plus=0.2), blind, results()])
    assert errors.title == "quad_dependent, conv64, under all sets of interventions" and errors.columns == ("seeds", "ours", "floor", "redrawn", "unchanged")
    rows = {heading: {row.label: row.cells for row in body} for heading, body in errors.groups}
    assert list(rows) == [
        "The 4 sets that were scored: distance", "The 1 sets of 3 or more that were scored: distance",
        "What images would have been, single interventions: pixels", "What images would have been, held-out compositions: pixels",
        "What images would have been, single interventions: latents left alone", "What images would have been, held-out compositions: latents left alone",
    ]
    every, many, pixels = (rows[heading]["ours"] for heading in list(rows)[:3])
    mean = (0.1 + 2 * 0.2 + 0.6) / 4
    assert every[0] == "2" and every[1].mean == pytest.approx(mean + 0.1) and every[1].standard_error == pytest.approx(0.1)
    assert every[2].mean == pytest.approx((0.01 + 2 * 0.02 + 0.03) / 4) and every[3] is None
    assert many[1].mean == pytest.approx(0.7) and many[2].mean == pytest.approx(0.03)
    assert pixels[1].mean == pytest.approx(0.4) and pixels[2:] == (Estimate(0.0), Estimate(0.2), Estimate(0.5))
    assert rows["The 4 sets that were scored: distance"]["blind"][1].mean == pytest.approx(mean)
    (_, body), = moved.groups
    assert [row.label for row in body] == ["ours", "blind", "true images"] and moved.columns[0] == "AUROC"
    assert [row.cells[0].mean for row in body] == pytest.approx([0.8, 0.7, 0.96]) and body[0].cells[3] is None
    other = scored(label="other pixels")
    other["truth"]["effects"]["true_images"]["scores"]["auroc"] = 0.5
    (_, body), = truth_tables.truth_tables([scored(), other])[1].groups
    assert [(row.label, row.cells[0].mean) for row in body[2:]] == [("true images, ours", 0.96), ("true images, other pixels", 0.5)]
    assert all(render(table) for table in (errors, moved) for render in (formats.text, formats.markdown, formats.latex, formats.html))
    assert max(map(len, "\n".join(map(formats.text, (errors, moved))).splitlines())) <= 120


def test_runs_that_were_scored_in_part_stand_beside_the_others():
    partly = scored(label="partly")
    partly["truth"] = {"by_size": partly["truth"]["by_size"]}
    errors, moved = truth_tables.truth_tables([partly, scored()])
    rows = {heading: {row.label: row.cells for row in body} for heading, body in errors.groups}
    assert rows["What images would have been, single interventions: pixels"]["partly"][:2] == (None, None)
    assert [row.label for row in moved.groups[0][1]] == ["ours", "true images"]
    assert truth_tables.truth_tables([results(), results() | {"truth": {}}]) == []


def test_the_csv_has_every_number_and_none_of_runs_without_truth():
    again = scored(1) | {"truth": {}}  # the second seed once more, and not scored: it is one of two that have the truth
    lines = list(csv.DictReader(io.StringIO(context_report.comma_separated([scored(0), scored(1, plus=0.2), again], True))))
    found = {(line["measure"], line["context"], line["source"]): float(line["mean"]) for line in lines if line["protocol"] == ""}
    assert len(found) == sum(line["protocol"] == "" for line in lines)  # each of them once, whatever the number of seeds
    assert found["effects_auroc", "mean", "true images"] == 0.96 and found["effects_shd", "mean", "ours"] == 2 and found["effects_moved_in_vain", "mean", "ours"] == 0.6
    assert found["effects_own_noise", "mean", "ours"] == 0.4
    assert found["subsets", "many", "ours"] == pytest.approx(0.7) and found["effects_auroc", "mean", "ours"] == pytest.approx(0.8)
    assert found["counterfactual_pixel", "concept", "unchanged"] == 0.5 and ("subsets", "many", "unchanged") not in found
    assert "subsets" not in context_report.comma_separated([results() | {"label": "a"}])


def test_a_file_that_tells_something_else_is_named(tmp_path):
    broken = scored()
    del broken["truth"]["effects"]["scores"]
    with pytest.raises(DamagedError, match=r"interventions.json is not as a run writes it \(KeyError.*score the run again \(--mode=ablate_interventions --workdir="):
        system_reports.legible(broken, tmp_path)
    assert reading.read_truth(tmp_path) == {}
    (tmp_path / "interventions.json").write_text("{")
    with pytest.raises(DamagedError, match="interventions.json is not valid JSON .*; score the run again"):
        reading.read_truth(tmp_path)
