"""Tables and sentences on CT-VAE from results with known numbers."""

import csv
import io
import re

import pytest

from causal_ctx.reports import formats, system_reports, transition_report, transition_tables
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.transition_verdict import verdict
from tests.test_reports_transitions import NAMES, results


def tables_of(results_) -> dict:
    return {table.title.split(", ", 2)[2]: table for table in system_reports.summary_tables(results_)}


def cells(table, group=0, row=0) -> dict:
    return dict(zip(table.columns, table.groups[group][1][row].cells))


def test_retrieval_stands_beside_what_needs_no_learning():
    table = tables_of([results(accuracy=0.5)])["retrieval: accuracy"]
    row = cells(table)
    assert (row["sampled"], row["deterministic"], row["interval"]) == (Estimate(0.5), Estimate(0.52), "0.450 to 0.550")
    assert (row["chance"].mean, row["majority"].mean, row["bound"].mean, row["above"]) == (0.0625, 0.2, 0.45, "yes")
    assert cells(table, 1)["sampled"].mean == 0.6 and cells(table, 1)["majority"].mean == 0.4
    assert cells(table, 2)["sampled"].mean == 0.7 and cells(table, 2)["interval"] == "0.600 to 0.800"
    assert cells(tables_of([results(accuracy=0.24)])["retrieval: accuracy"])["above"] == "no"  # 0.19 to 0.29 holds 0.2


def test_training_seeds_share_a_row_with_their_spread_and_one_that_was_run_twice_counts_once():
    several = [results(seed=s, accuracy=a) for s, a in enumerate((0.4, 0.5, 0.6))]
    row = cells(tables_of([*several, several[0]])["retrieval: accuracy"])
    assert row["seeds"] == "3" and row["sampled"].mean == pytest.approx(0.5) and row["sampled"].standard_error == pytest.approx(0.1 / 3**0.5)
    assert row["interval"] == "0.450 to 0.550"
    assert cells(tables_of(several)["autoencoder: images"])["test MSE"].standard_error == 0  # equal, so exactly


def test_the_error_after_an_action_stands_beside_copies_and_true_codes():
    table = tables_of([results(mse=0.010)])["action: images"]
    row = cells(table)
    assert [row[name].mean for name in ("MSE", "copy", "hedged", "copied codes", "true codes")] == [0.010, 0.016, 0.014, 0.018, 0.006]
    assert [cells(table, group)["MSE"].mean for group in (1, 2, 3)] == pytest.approx([0.011, 0.012, 0.013]) and cells(table, 1)["MSE − copy"] == "−0.00600 to −0.00400"
    assert (row["MSE − copy"], row["below"]) == ("−0.00700 to −0.00500", "yes")
    assert cells(tables_of([results(mse=0.0155)])["action: images"])["below"] == "no"
    codes = tables_of([results()])["action: codes"]
    assert (cells(codes)["sampled"].mean, cells(codes)["best copy"].mean, cells(codes, 1)["sampled"].mean) == (0.4, 0.5, 0.05)
    changed = cells(tables_of([results()])["action: images"], 4)
    assert (changed["MSE"].mean, changed["copy"].mean, changed["below"]) == (0.1, 0.2, None)


def test_chains_have_a_group_for_every_number_of_actions():
    table = tables_of([results(seed=0, mse=0.01), results(seed=1, mse=0.02), results("mcq_vae")])["chains of one action"]
    assert [(heading, len(rows)) for heading, rows in table.groups] == [("After one action", 1), ("After the same action 2 times", 1)]
    row = cells(table, 1)
    assert (row["seeds"], row["images"], row["action"].mean, row["MSE"].mean, row["copy"].mean) == ("2", "45", 0.35, pytest.approx(0.03), 0.032)


def test_an_autoencoder_alone_has_its_own_tables_and_what_is_absent_has_none():
    alone = results("mcq_vae")
    assert list(tables_of([alone])) == ["autoencoder: images", "autoencoder: codes", "disentanglement"]
    assert transition_tables.detail_tables([alone]) == []
    row = cells(tables_of([alone])["autoencoder: codes"])
    assert (row["codebooks"], row["dead"].mean, row["perplexity"].mean) == ("2 × 8", 2, 5.5)
    groups = tables_of([alone])["disentanglement"].groups
    assert [heading for heading, _ in groups] == ["DCI disentanglement", "MIG"] and groups[0][1][0].cells == ("1", Estimate(0.31), None)
    assert system_reports.summary_tables([alone | {"scores": {}}]) == [] and verdict([alone | {"scores": {}}]) == []


def test_every_action_has_a_row_with_its_frequency():
    several = [results(seed=s, accuracy=a) for s, a in enumerate((0.4, 0.6))]
    (table,) = transition_tables.detail_tables(several)
    assert [row.label for row in table.groups[0][1]] == list(NAMES)
    row = cells(table, row=1)
    assert (row["train"], row["of"], row["share"].mean, row["own"].mean) == ("101", "200", pytest.approx(2 / 48), 0.7)
    assert row["accuracy"] == Estimate(pytest.approx(0.52), pytest.approx(0.1), 2) and row["interval"] == "0.400 to 0.700"


def test_all_formats_render_and_mark_the_better_way_of_each_measure():
    settings = (("ct_vae gamma=1|5", 0.5, 0.02), ("ct_vae b_2", 0.7, 0.01))
    several = [results(seed=seed, accuracy=a, mse=m) | {"label": label} for label, a, m in settings for seed in (0, 1)]
    for table in [*system_reports.summary_tables(several), *transition_tables.detail_tables(several)]:
        assert max(map(len, formats.text(table).splitlines())) <= 120
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in formats.markdown(table).splitlines() if line.startswith("|")} == {len(table.columns) + 2}
        assert all(line.count(" & ") == len(table.columns) for line in formats.latex(table).splitlines() if " & " in line)
        assert "Gendron" in formats.text(table) and "No numbers" in table.note
    best = {title: re.findall(r'row">([^<]*)</th><td>\d+</td><td><strong', formats.html(table)) for title, table in tables_of(several).items()}
    assert best["retrieval: accuracy"][:2] == ["ct_vae b_2"] * 2 and best["action: images"] == ["ct_vae b_2"] * 4


def test_comma_separated_holds_every_number():
    lines = list(csv.DictReader(io.StringIO(transition_tables.comma_separated([results(seed=0), results(seed=1, accuracy=0.7)]))))
    at = {(line["measure"], line["action"]): line for line in lines}
    assert len(at) == len(lines) and {line["method"] for line in lines} == {"ct_vae"}
    assert (float(at["retrieval.sampled.action.mean", ""]["mean"]), at["retrieval.sampled.action.mean", ""]["seeds"]) == (pytest.approx(0.6), "2")
    assert float(at["retrieval.sampled.action.low", ""]["mean"]) == pytest.approx(0.55)
    assert float(at["per_action.accuracy", "quad2 up"]["mean"]) == pytest.approx(0.62)
    for summary in (True, False):
        part = list(csv.DictReader(io.StringIO(transition_tables.comma_separated([results()], summary))))
        assert {bool(line["action"]) for line in part} == {not summary}


@pytest.mark.parametrize(("accuracy", "said"), [(0.5, "above the 20.0% of always naming the most frequent action, which the interval excludes"),
                                                (0.22, "not distinguishable from the 20.0%"), (0.1, "below the 20.0%")])
def test_the_verdict_on_retrieval_is_that_of_the_interval(accuracy, said):
    sentence = verdict([results(accuracy=accuracy)])[0]
    assert said in sentence and f"for {accuracy:.1%} of 250 test pairs" in sentence and "guessing evenly gives 6.2%" in sentence


@pytest.mark.parametrize(("mse", "said", "position"), [(0.012, "25% below that of copying", "50% of the way"), (0.0155, "holds zero", "21% of the way"),
                                                       (0.020, "25% above that of copying", "no nearer than")])
def test_the_verdict_on_images_tells_when_copying_is_as_good(mse, said, position):
    sentence = verdict([results(mse=mse)])[1]
    assert said in sentence and position in sentence
    assert "That is beyond the way from unchanged codes" in verdict([results(mse=0.005)])[1]
    assert ("wholly below zero" in sentence) == (mse == 0.012) and ("wholly above zero, so copying is better" in sentence) == (mse == 0.020)


def test_the_verdict_tells_of_the_best_setting_and_the_sharpest_autoencoder():
    sentences = verdict([results(accuracy=a) | {"label": label} for label, a in (("poor", 0.3), ("good", 0.6))] + [results("mcq_vae")])
    assert sentences[0].startswith("good tells which action") and "choosing it there flatters it" in sentences[3]
    assert "at a mean squared error of 0.00600, 10.0% of the error of the mean image (22.2 dB)" in sentences[-1] and "2 are never used" in sentences[-1]
    worse = results()
    worse["scores"]["action"]["latent_nats"]["predicted"] = 0.6
    assert "0.600 nats per node, not below the 0.500" in verdict([worse])[2]


def test_the_best_seed_is_that_which_retrieves_best_else_that_of_the_lowest_error():
    assert transition_report.score(results(accuracy=0.6)) < transition_report.score(results(accuracy=0.4))
    assert transition_report.score(results("mcq_vae")) == 0.005 and transition_report.score(results() | {"scores": {}}) is None
