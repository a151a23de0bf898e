"""Published numbers, tables, verdict, figures and the page, on a made-up run of coloured quadrants."""

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from importlib import resources
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from causal_ctx.reports import charts, composer, figures, formats, labels, page, tables
from causal_ctx.reports.published import Estimate, published, setting_of
from causal_ctx.reports.reading import Folder, read_metrics, read_results
from causal_ctx.reports.verdict import verdict

ALWAYS = {"compositions", "samples", "reconstructions", "training_curves"}
CONCEPTS = ("quad1", "quad2", "size")


def painted(levels: np.ndarray, resolution: int = 32) -> np.ndarray:
    """Four flat quadrants and a disc: levels [n, 6] in [0, 1] (four quadrants, size, disc) -> float32 [n, H, W, 3]."""
    half, n = resolution // 2, len(levels)
    images = np.zeros((n, resolution, resolution, 3), np.float32)
    places = [(half, 0), (half, half), (0, 0), (0, half)]
    for q, (row, column) in enumerate(places):
        images[:, row : row + half, column : column + half] = hue(levels[:, q])[:, None, None]
    y, x = np.mgrid[:resolution, :resolution] - (resolution - 1) / 2
    inside = np.hypot(x, y)[None] < (0.2 + 0.8 * levels[:, 4])[:, None, None] * 0.375 * resolution
    return np.where(inside[..., None], hue(levels[:, 5])[:, None, None], images)


def hue(level: np.ndarray) -> np.ndarray:
    return np.stack([0.5 + 0.45 * np.cos(2 * np.pi * (0.8 * level + shift)) for shift in (0, -1 / 3, 1 / 3)], -1).astype(np.float32)


class FakeRun:
    """A run whose generator is the renderer itself; `concepts` name the first levels, an intervention squeezes its level upwards."""

    def __init__(self, workdir, method="cm_end_to_end", concepts=CONCEPTS, seed=0, channels=3, blur=0.0, fields=None, shift=0.0):
        self.workdir, self.config, self.concepts = workdir, {"method": method, "seed": seed} | (fields or {}), tuple(concepts)
        self.channels, self.blur, self.module = channels, blur, method.startswith("cm")
        singles = ["obs", *concepts]
        pairs = ["+".join(pair) for pair in combinations(concepts, 2) if set(pair) & set(concepts[:2])]
        held_out = {c: np.round(255 * self.draw(figures.interventions(c), 12, 7 + i)).astype(np.uint8) for i, c in enumerate(singles + pairs)}
        self.data = SimpleNamespace(name="quad_dependent", concepts=self.concepts, held_out=held_out, compositions=tuple(pairs),
                                    training_contexts=tuple(singles), image_shape=held_out["obs"].shape[1:], counterfactuals=None,
                                    total_effects=None)
        self.calls, self.predictor = [], SimpleNamespace(rules=("reference", "cut"))
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text(json.dumps(self.config | {"train": {"epochs": 12, "learning_rate": 1e-3}}))
        (workdir / "results.json").write_text(json.dumps(results(method, seed, singles, pairs, shift)))
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in log(seed)))

    def draw(self, names, num, seed):
        levels = np.random.default_rng(seed).random((num, 6))
        for name in names:
            level = self.concepts.index(name) % 6
            levels[:, level] = 0.85 + 0.15 * levels[:, level]
        images = painted(levels)
        return images if self.channels == 3 else images.mean(-1, keepdims=True)

    def generate(self, interventions, num, seed):
        self.calls.append((frozenset(interventions), num, seed))
        images = self.draw(interventions if self.module else (), num, seed)
        noise = np.random.default_rng(seed).normal(size=images.shape)
        return np.clip(images + self.blur * noise, 0, 1).astype(np.float32)

    def generate_all(self, num, seed=0, subsets=()):
        return {name: self.generate(figures.interventions(name), num, seed) for name in subsets}

    def reconstruct(self, images, interventions, made_under=None):
        return np.clip(np.asarray(images, np.float32) / 255 * 0.9 + 0.05, 0, 1)

    def causal_blocks(self, interventions):
        if not self.module:
            return None
        K = len(self.concepts)
        norms = np.random.default_rng(3).random((K, K)).astype(np.float32)
        for name in interventions:
            norms[self.concepts.index(name)] = 0
        blocks = norms[:, None, :, None] * np.full((K, 4, K, 4), 0.25, np.float32)
        blocks[np.arange(K), :, np.arange(K)] = np.eye(4)
        return blocks


def results(method="cm_end_to_end", seed=0, contexts=("obs", *CONCEPTS), pairs=("quad1+quad2", "quad1+size", "quad2+size"), shift=0.0) -> dict:
    rng = np.random.default_rng(seed + sum(map(ord, method)))
    offset = shift + (0.10 if method.startswith("cm") else 0.18)

    def scores(names, centre, spread=0.01):
        values = dict(zip(names, (centre + spread * rng.normal(size=len(names))).round(4).tolist()))
        return values | {"mean": sum(values.values()) / len(values)} if values else {}

    def both(centre, spread=0.01):
        return {"concept": scores(contexts, centre, spread), "composition": scores(pairs, centre + 0.01, spread)}

    strict = both(offset) | {"floor": both(0.008, 0.0005), "untrained": both(0.37)}
    strict["reconstruction"] = {"in_distribution_bpp": 0.9 + offset / 10 + 0.001 * seed, "out_of_distribution_bpp": 0.95 + offset / 10,
                                "entropy_floor_bpp": 0.7213, "out_of_distribution_entropy_floor_bpp": 0.72}
    paper = both(offset + 0.01) | {"reconstruction": {"in_distribution_bpp": 0.92, "in_distribution_best_bpp": 0.91, "out_of_distribution_bpp": 0.97}}
    train = {"images": 367_000, "steps": 957, "seconds": 283.0, "images_per_second": 1297.0, "devices": 1}
    return {"dataset": "quad_dependent", "method": method, "backbone": "conv64", "seed": seed, "train": train,
            "protocols": {"strict": strict, "paper": paper}}


def log(seed=0) -> list[dict]:
    rng = np.random.default_rng(seed)
    records = []
    for step in range(10, 960, 10):
        reconstruction = 2900 + 6000 * math.exp(-step / 90) + 20 * rng.normal()
        kl = 40 * (1 - math.exp(-step / 120)) + rng.normal()
        records.append({"step": step, "epoch": step // 64, "images": step * 384, "seconds": step / 3, "train/loss_nats": reconstruction + kl,
                        "train/reconstruction_nats": reconstruction, "train/kl_nats": kl, "train/grad_norm": 1.0})
        if step % 60 == 0:
            records.append({"step": step, "epoch": step // 64, "images": step * 384, "validation/elbo_bpp": (reconstruction + kl + 30) / 2839 - 0.15})
    return records


@pytest.fixture
def run(tmp_path):
    return FakeRun(tmp_path / "run")


def test_published_numbers_are_found_under_our_names():
    found = published("quad_dependent", "cm_end_to_end", "composition", "mean", "conv64")
    assert found == Estimate(0.12719, 0.00225, 5)
    assert published("quad_dependent", "cm_end_to_end", "composition", "mean") == found
    assert published("quad_dependent", "base", "reconstruction", "out_of_distribution").mean == 0.81488
    assert published("quad_dependent", "ada_gvae", "concept", "obs", "disent_conv") is not None


def test_published_pairs_are_found_in_either_order():
    assert published("quad_dependent", "base", "composition", "quad1+size") == published("quad_dependent", "base", "composition", "size+quad1") is not None


def test_every_ablation_is_found_under_its_setting_whatever_the_form_of_its_numbers():
    def composition(**setting):
        return published("quad_independent", "cm_end_to_end", "composition", "mean", setting=setting)

    assert composition(beta=0.5).mean == 0.07107 and composition(group_penalty=100.0).mean == 0.11085 and composition(l2_penalty=1).mean == 0.07553
    assert composition(depth=4, noise_width=16.0, concept_width=32).mean == 0.08047
    assert composition(beta=1) == composition(beta=1.0) == composition() == Estimate(0.08106, 0.00428, 5)
    assert composition(beta=0.5, l2_penalty=1) is None and composition(beta=3) is None
    main = published("mnist", "cm_end_to_end", "concept", "mean")
    assert published("mnist", "cm_end_to_end", "concept", "mean", setting={"noise_width": 15}) == main and main
    assert published("quad_dependent", "cm_end_to_end", "concept", "mean", setting={"beta": 2.0}) is None  # no ablation of that data set


def test_studies_that_share_a_setting_publish_the_same_number():
    text = (resources.files("causal_ctx.reports") / "published_context_module.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        setting = {name: float(number) for name, number in (part.split("=") for part in row["setting"].split(",") if part)}
        task = row["task"].split("_")[0]
        if row["task"] in ("concept_swd", "composition_swd", "reconstruction_bpp"):
            assert published(row["dataset"], row["method"], task, row["context"], row["backbone"], setting).mean == float(row["mean"]), row


def test_a_run_stands_beside_the_published_value_of_its_own_config():
    config = {"method": "cm_end_to_end", "objective.beta": 0.5, "train.epochs": 7}
    assert setting_of(config) == {"beta": 0.5}
    assert setting_of(config | {"method": "base", "model.depth": 4}) == {"beta": 0.5}  # no module: no depth
    one = results() | {"dataset": "quad_independent", "config": config}
    assert cells([one], group=1)["published"].mean == 0.07107
    assert cells([one | {"config": config | {"objective.beta": 3.0}}], group=1)["published"] is None
    assert cells([one | {"config": config | {"train.learning_rate": 1e-3}}], group=1)["published"].mean == 0.07107
    assert cells([one | {"config": config | {"train.learning_rate": 3e-3}}], group=1)["published"] is None


def test_what_was_not_published_is_none_and_a_single_seed_has_no_error():
    assert published("quad_dependent", "cm_end_to_end", "concept", "nothing") is None
    assert published("own_data", "cm_end_to_end", "concept", "mean") is None
    assert published("mnist", "cm_pooled", "concept", "mean", "nvae") == Estimate(0.099, None, 1)


def test_published_refuses_an_unknown_task():
    with pytest.raises(ValueError, match="'taste' has no published numbers; choose one of concept"):
        published("mnist", "base", "taste", "mean")


def test_estimate_is_mean_and_standard_error():
    found = tables.estimate([1.0, None, 2.0, 6.0])
    assert found.mean == 3 and found.seeds == 3
    assert found.standard_error == pytest.approx(math.sqrt(7 / 3))  # sample variance 7
    assert tables.estimate([2.0]) == Estimate(2.0, None, 1)
    assert tables.estimate([None]) is None
    assert math.isnan(tables.estimate([1.0, math.nan]).mean)


def cells(results_, protocol="strict", group=0):
    """{column: cell} of the first row of a group of the summary."""
    table = {t.title.split()[-1]: t for t in tables.summary_tables(results_)}[protocol]
    return dict(zip(tables.COLUMNS, table.groups[group][1][0].cells))


def test_summary_puts_published_floor_and_untrained_beside_ours():
    one = results()
    row, strict = cells([one]), one["protocols"]["strict"]
    assert row["ours"] == Estimate(strict["concept"]["mean"])
    assert row["published"].mean == 0.11632
    assert row["difference"] == pytest.approx(row["ours"].mean - 0.11632)
    assert row["floor"].mean == strict["floor"]["concept"]["mean"]
    assert row["above floor"] == pytest.approx(row["ours"].mean - row["floor"].mean)
    assert row["untrained"].mean == strict["untrained"]["concept"]["mean"]
    assert cells([one], group=1)["ours"].mean == strict["composition"]["mean"]


def test_differences_are_told_in_their_standard_errors_where_both_sides_have_one():
    assert cells([results()])["in s.e."] is None
    several = [results(seed=0), results(seed=1)]
    means = [r["protocols"]["strict"]["concept"]["mean"] for r in several]
    expected = (sum(means) / 2 - 0.11632) / math.hypot(abs(means[0] - means[1]) / 2, 0.00351)
    assert cells(several)["in s.e."] == pytest.approx(expected)
    table = tables.summary_tables(several)[0]
    for rendered in map(lambda f: f(table), (formats.text, formats.markdown, formats.html)):
        assert re.search(re.escape(f"{expected:+.1f}".replace("-", "−")) + r"(?!\d)", rendered)
    assert tables.combined_error(Estimate(1.0, 3.0, 2), Estimate(1.0, 4.0, 2)) == 5
    assert tables.combined_error(Estimate(1.0, 3.0, 2), Estimate(1.0)) is None and tables.combined_error(None, Estimate(1.0, 1.0, 2)) is None


def test_reconstruction_stands_above_the_entropy_floor_and_beside_the_same_epoch():
    strict, paper = cells([results()], "strict", 2), cells([results()], "paper", 2)
    assert strict["above floor"] == pytest.approx(0.91 - 0.7213) and paper["above floor"] == pytest.approx(0.92 - 0.7213)
    assert strict["published"].mean == 0.81494  # best epoch
    assert paper["published"].mean == 0.82792  # last epoch
    assert cells([results()], "strict", 3)["floor"].mean == 0.72


def test_seeds_share_a_row_and_methods_do_not():
    several = [results(seed=0), results(seed=1), results("base_pooled")]
    rows = tables.summary_tables(several)[0].groups[0][1]
    assert [(row.label, row.cells[0]) for row in rows] == [("cm_end_to_end", "2"), ("base_pooled", "1")]
    means = [r["protocols"]["strict"]["concept"]["mean"] for r in several[:2]]
    assert rows[0].cells[1].mean == pytest.approx(sum(means) / 2)
    assert rows[0].cells[1].standard_error == pytest.approx(abs(means[0] - means[1]) / 2)
    assert tables.summary_tables([*several, several[1]])[0].groups[0][1] == rows  # a seed that is given twice counts once


def test_data_sets_get_tables_of_their_own_and_gaps_are_dashes():
    bare = results() | {"dataset": "own_data", "protocols": {"strict": {"concept": {"obs": 0.1, "mean": 0.1}}}}
    first, _, own = tables.summary_tables([results(), bare])
    assert own.title == "own_data, conv64, protocol strict" and len(first.groups) == 4 and len(own.groups) == 1
    assert formats.text(own).count("–") == 6


def test_details_hold_every_context_with_a_row_per_method():
    concept, composition, *_ = tables.detail_tables([results(), results("base_pooled")])
    assert [heading for heading, _ in concept.groups] == ["obs", *CONCEPTS]
    assert [heading for heading, _ in composition.groups] == ["quad1+quad2", "quad1+size", "quad2+size"]
    assert [[row.label for row in rows] for _, rows in composition.groups] == [["cm_end_to_end", "base_pooled"]] * 3
    assert composition.groups[1][1][0].cells[tables.COLUMNS.index("published")].mean == 0.10765


def test_text_is_aligned_and_fits_a_terminal():
    methods = ["base", "base_pooled", "cm_end_to_end", "cm_pooled", "cm_fine_tune"]
    many = [results(m, seed) for m in methods for seed in range(3)]
    many += [results() | {"label": label} for label in ("cm_end_to_end beta=0.5_24", "cm_end_to_end concept_width=8 depth=2 noise_width=16")]
    for table in tables.summary_tables(many) + tables.detail_tables(many):
        rendered = formats.text(table)
        lines = rendered.splitlines()
        assert max(map(len, lines)) <= 120
        body = [line for line in lines if line.startswith("  ") and not line.startswith("  cm_end_to_end concept")]
        assert len({len(line) for line in body}) == 1
        assert "  cm_end_to_end concept_width=8 depth=2 noise_width=16" in lines  # too long for its numbers, which come below
        assert "Lower is better" in rendered


def test_small_errors_are_not_shown_as_zero():
    assert formats.show(Estimate(0.74524, 0.00038, 5)) == "0.745 ± 0.0004"
    assert formats.show(Estimate(0.11632, 0.00351, 5)) == "0.116 ± 0.004"
    assert formats.show(-0.0131) == "−0.013" and formats.show(0.5) == "+0.500" and formats.show(None) == "–"


def test_markdown_and_latex_mark_the_lowest_and_escape():
    table = tables.summary_tables([results(), results("base_pooled") | {"label": "base|pooled_50%"}])[0]
    md, tex = formats.markdown(table), formats.latex(table)
    rows = [line for line in md.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(tables.COLUMNS) + 2}
    assert re.search(r"cm_end_to_end \| 1 \| \*\*0\.\d+\*\*", md) and "**" not in md[md.index("base\\|pooled"):].splitlines()[0]
    assert r"base|pooled\_50\% & 1 & 0." in tex and r"cm\_end\_to\_end & 1 & \textbf{0." in tex
    assert "$-$0." in tex and "−" not in tex
    assert tex.count("{") - tex.count("\\{") == tex.count("}") - tex.count("\\}")
    assert all(line.count(" & ") == len(tables.COLUMNS) for line in tex.splitlines() if " & " in line)


def test_text_and_html_mark_the_lowest_of_several_rows():
    one, two = results(), results("base_pooled")
    text = formats.text(tables.summary_tables([one, two])[0])
    starred = [line.split()[0] for line in text.splitlines() if re.search(r"\d\*", line)]
    assert len({re.search(r"\d\.\d{3}", line).start() for line in text.splitlines() if line.startswith("  ")}) == 1  # digits below digits
    assert starred == ["cm_end_to_end"] * 4 and "* lowest of its group" in text
    assert "*" not in formats.text(tables.summary_tables([one])[0])
    html = formats.html(tables.summary_tables([one, two])[0])
    assert html.count('class="best"') == html.count("<tbody>") == 4
    assert re.search(r'cm_end_to_end</th><td>1</td><td><strong class="best">0\.\d+</strong>', html)


def test_comma_separated_holds_every_number_at_full_precision():
    several = [results(seed=0), results(seed=1)]
    lines = list(csv.DictReader(io.StringIO(tables.comma_separated(several))))
    at = {(r["protocol"], r["measure"], r["context"], r["source"]): r for r in lines}
    assert len(at) == len(lines)
    expected = tables.estimate(r["protocols"]["strict"]["composition"]["quad1+size"] for r in several)
    found = at["strict", "composition", "quad1+size", "ours"]
    assert (float(found["mean"]), found["seeds"]) == (pytest.approx(expected.mean, rel=1e-5), "2")
    assert at["strict", "composition", "quad1+size", "published"]["mean"] == "0.10765"
    assert at["strict", "in_distribution", "mean", "floor"]["mean"] == "0.7213"


def test_verdict_compares_the_module_with_the_baseline():
    better = verdict([results(), results("base_pooled")])
    assert re.match(r"On held-out compositions, images generated by cm_end_to_end are \d+% closer .* base_pooled", better[0])
    assert "one seed" in better[0] and len(better) == 3
    seeds = verdict([results(m, s) for m in ("cm_end_to_end", "base_pooled") for s in range(3)])
    assert re.search(r"the difference is \d+\.\d times its standard error over 3 seeds each", seeds[0])


def composing(**scores) -> list[dict]:
    """Results of methods whose strict composition is as given, a number or one per seed."""
    made = []
    for method, numbers in scores.items():
        for seed, number in enumerate(numbers if isinstance(numbers, list) else [numbers]):
            made.append(results(method, seed))
            made[-1]["protocols"]["strict"]["composition"]["mean"] = number
    return made


def test_verdict_says_whether_the_published_order_holds():
    blind = dict(base=0.22, base_pooled=0.21, cm_pooled=[0.20, 0.202])
    order = verdict(composing(cm_end_to_end=0.12, cm_frozen=[0.13, 0.132], **blind))[1]
    assert order.startswith("The published order on composition, the modules told the interventions (cm_end_to_end, cm_frozen) ahead of the methods blind "
                            "to them (base, base_pooled, cm_pooled), holds; its narrowest step is from cm_frozen to cm_pooled, 0.070: the difference is 49.5 times")
    order = verdict(composing(cm_end_to_end=0.12, cm_frozen=0.25, **blind))[1]
    assert "does not hold: cm_frozen (0.250) is not ahead of base (0.220); cm_frozen (0.250) is not ahead of base_pooled (0.210); cm_frozen" in order
    assert len(verdict(composing(cm_end_to_end=0.12, base_pooled=0.2))) == 3  # the comparison says it already
    assert "3 more" in verdict(composing(cm_end_to_end=0.3, cm_frozen=0.25, **blind))[1]


def test_verdict_calls_an_order_published_only_where_it_is():
    unknown = [r | {"dataset": "own_data"} for r in composing(cm_end_to_end=0.12, base=0.2, base_pooled=0.2)]
    assert verdict(unknown)[1].startswith("The order on composition")
    ahead = [r | {"dataset": "3dident", "backbone": "nvae"} for r in composing(cm_end_to_end=0.12, cm_fine_tune=0.12, base_pooled=0.2)]
    assert verdict(ahead)[1].startswith("The order on composition")  # base_pooled is ahead of cm_fine_tune in the publication


def test_verdict_does_not_take_a_blind_module_for_the_best():
    assert verdict(composing(cm_end_to_end=0.15, cm_pooled=0.10, base_pooled=0.2))[0].startswith("On held-out compositions, images generated by cm_end_to_end")


def test_verdict_tells_when_the_module_loses():
    worse = results()
    worse["protocols"]["strict"]["composition"]["mean"] = 0.3
    assert "% farther from the real ones than those of base_pooled" in verdict([worse, results("base_pooled")])[0]


def test_verdict_numbers_are_those_of_the_results():
    one = results()
    one["protocols"]["strict"]["composition"]["mean"] = 0.10
    one["protocols"]["strict"]["floor"]["composition"]["mean"] = 0.02
    one["protocols"]["strict"]["untrained"]["composition"]["mean"] = 0.42
    position, reconstruction = verdict([one])
    assert position.startswith("cm_end_to_end composes at 0.100, 80% of the way from the untrained model (0.420) to the floor of the data (0.020)")
    assert "0.910 bits per pixel, 0.189 above the entropy floor" in reconstruction
    assert verdict([one | {"protocols": {}}]) == []
    one["protocols"]["strict"]["composition"]["mean"] = 0.5
    assert "0.500, no nearer than the untrained model (0.420) to the floor of the data (0.020)" in verdict([one])[0]


def test_columns_of_samples_share_their_noise(run):
    picture = figures.samples(run, num=3)
    assert len(run.calls) == len(run.data.held_out) and {call[1:] for call in run.calls} == {(3, 0)}
    assert [set(call[0]) for call in run.calls[:2]] == [set(), {"quad1"}] and {"quad1", "quad2"} in [set(call[0]) for call in run.calls]
    assert picture.image.mode == "RGBA" and "quad1+size" in picture.alt


def test_composition_grid_mirrors_real_pairs_and_frames_them(tmp_path):
    run = FakeRun(tmp_path, concepts=("a", "b", "c", "d"))  # c+d is not held out
    image = np.asarray(figures.composition_grid(run, num=1).image)
    assert {call[1:] for call in run.calls} == {(1, 0)} and len(run.calls) == 10  # on and below the diagonal
    rgb, opaque = image[..., :3], image[..., 3] == 255

    def cells_showing(images):
        tile = np.asarray(figures.tiles(images)[0])[..., :3]
        return [(r, c) for r in range(4) for c in range(4) if (at := corner(r, c)) and (rgb[at[0]:at[0] + 128, at[1]:at[1] + 128] == tile).all()]

    def corner(row, column):
        step, margin = 128 + 20 + 12, 10
        return image.shape[0] - (4 - row) * step + 12 + margin, image.shape[1] - (4 - column) * step + 12 + margin

    assert cells_showing(run.data.held_out["a+b"]) == [(0, 1)]
    assert cells_showing(run.generate({"a", "b"}, 1, 0)) == [(1, 0)]
    assert cells_showing(run.generate({"c"}, 1, 0)) == [(2, 2)]
    y, x = corner(2, 3)
    assert not opaque[y - 10 : y + 138, x - 10 : x + 138].any()  # no real images of c+d
    for colour, places in {(0xE0, 0x7B, 0x28): [(1, 0), (3, 1)], (0x3A, 0x86, 0xC8): [(0, 1), (1, 3)]}.items():
        for place in places:
            y, x = corner(*place)
            assert tuple(rgb[y + 60, x - 8]) == colour
    y, x = corner(3, 2)
    assert not opaque[y + 60, x - 8]  # c+d was not held out: no frame


def test_reconstructions_are_asked_for_under_the_context(run):
    asked = []
    run.reconstruct = lambda images, names: asked.append(set(names)) or np.asarray(images, np.float32) / 255
    figures.reconstructions(run, num=2)
    assert asked == [set(figures.interventions(context)) for context in run.data.held_out]


def test_tiles_are_enlarged_without_smoothing():
    image = np.random.default_rng(0).random((1, 28, 28, 1), np.float32)
    tile = np.asarray(figures.tiles(image)[0])
    assert tile.shape == (140, 140, 4)
    np.testing.assert_array_equal(tile[::5, ::5, 0], np.round(255 * image[0, ..., 0]).astype(np.uint8))
    np.testing.assert_array_equal(tile[4::5, 4::5], tile[::5, ::5])


def test_causal_blocks_are_drawn_only_for_modules(run, tmp_path):
    assert figures.causal_blocks(run).name == "causal_blocks"
    assert figures.causal_blocks(FakeRun(tmp_path / "base", method="base_pooled")) is None


def test_the_causal_layer_is_described_as_it_is(run, monkeypatch):
    assert "lets its own noise speak through separate weights" in figures.causal_blocks(run).caption
    monkeypatch.setattr(run, "predictor", SimpleNamespace(rules=("structural",)))
    assert "silences everything its concept hears, and so what came through it" in figures.causal_blocks(run).caption


def test_norms_on_the_map_are_frobenius_norms_of_blocks(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(figures, "heat_maps", lambda norms, names, true: seen.update(norms) or Image.new("RGBA", (2, 2)))
    figures.causal_blocks(run)
    blocks = run.causal_blocks({"quad2"})
    assert list(seen) == ["obs", "do(quad1)", "do(quad2)", "do(size)"]
    assert seen["do(quad2)"][0, 2] == pytest.approx(np.linalg.norm(blocks[0, :, 2]))
    assert seen["do(quad2)"][1, 0] == 0 and seen["obs"][1, 0] > 0


@pytest.mark.parametrize(("concepts", "channels"), [(("a",), 1), (("light", "pose"), 3), (tuple(f"long concept name {i}" for i in range(9)), 1)])
def test_every_figure_is_written_for_any_number_of_concepts(tmp_path, concepts, channels):
    paths = figures.write_all(FakeRun(tmp_path / "run", concepts=concepts, channels=channels), tmp_path / "figures")
    assert {p.name for p in paths} == {f"{n}.png" for n in ALWAYS | ({"causal_blocks"} if len(concepts) > 1 else set())}
    for path in paths:
        with Image.open(path) as image:
            assert image.mode == "RGB" and min(image.size) > 100


def test_metrics_of_an_interrupted_run_are_read_to_the_last_whole_line(run):
    path = run.workdir / "metrics.jsonl"
    whole = len(read_metrics(run.workdir))
    path.write_text(path.read_text() + '{"step": 97')
    assert len(read_metrics(run.workdir)) == whole
    path.unlink()
    assert read_metrics(run.workdir) == [] and figures.training_curves({"": [run]}) is None


def test_results_that_are_missing_or_broken_are_told(tmp_path, run):
    with pytest.raises(ValueError, match="results.json does not exist; evaluate the run first"):
        read_results(tmp_path)
    (run.workdir / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_results(run.workdir)


def test_curves_get_a_panel_per_term_and_survive_values_that_are_not_finite():
    records = log() + [{"images": 400_000, "train/kl_nats": math.nan, "train/group_penalty_nats": 1.0, "validation/elbo_bpp": math.nan}]
    assert charts.terms({"": [records[::-1]]}) == [
        "train/loss_nats", "train/kl_nats", "train/group_penalty_nats", "train/reconstruction_nats", "validation/elbo_bpp"]
    one, two = charts.curves({"": [records]}, 0.72), charts.curves({"a": [records, log(2)], "b": [log(1)]}, 0.72)
    assert one.mode == "RGBA" and one.width == two.width and one.height < two.height and one.getpixel((0, 0))[3] == 0


class Outline(HTMLParser):
    """Tags, and every attribute that makes a browser ask for something."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.sources, self.images = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.sources += [v for k, v in attributes.items() if k in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images.append(attributes)
        if tag not in ("meta", "img", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_of_one_run_stands_alone(run):
    html = page.write_report([run], run.workdir / "report.html").read_text("utf-8")
    outline = Outline(html)
    assert not outline.open and len(html) < 10e6
    assert "iframe" not in outline.tags and re.findall("<link[^>]*>", html) == ['<link rel="icon" href="data:,">'] and "url(" not in html and "@import" not in html
    assert outline.tags.count("script") == 2 and "default-src 'none'" in html  # one of them is data
    script = html[html.index("<script>"):]
    assert not re.findall(r"XMLHttp|WebSocket|import|innerHTML|eval", script) and re.findall(r"\w+://[^\"]*", script) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"fetch(?:ed)?\([\"`](\w*)", script)) == {"api"}  # asked for where the page came from a server
    assert len(outline.sources) > 1 and all(source.startswith("data:image/webp;base64,") or source == "data:," for source in outline.sources)
    assert len(outline.images) == 7 and all(image["alt"] for image in outline.images)
    assert "prefers-color-scheme: dark" in html and "learning_rate" in html and "4 min 43 s" in html
    assert not [name for name in run.workdir.iterdir() if name.name.endswith(".partial")]


def test_the_page_of_several_runs_compares_methods_and_draws_the_best_seed(tmp_path):
    runs = [FakeRun(tmp_path / f"{m}{s}", method=m, seed=s, shift=-0.03 * s) for m in ("cm_end_to_end", "base_pooled") for s in range(2)]
    html = page.write_report(runs, tmp_path / "report.html", tmp_path / "figures").read_text("utf-8")
    assert "closer to the real ones than those of base_pooled" in html
    assert html.count("<figure>") == 4 + 3 + 1  # the best seeds, the blocks of the module alone, one figure of curves
    assert {num for run in (runs[0], runs[2]) for _, num, _ in run.calls} == {composer.NOISES} and "<h3>base_pooled, seed 1</h3>" in html
    assert {p.relative_to(tmp_path / "figures").as_posix() for p in (tmp_path / "figures").rglob("*.png")} == {
        *(f"cm_end_to_end/{n}.png" for n in ("compositions", "samples", "reconstructions", "causal_blocks")),
        *(f"base_pooled/{n}.png" for n in ("compositions", "samples", "reconstructions")), "training_curves.png"}


def test_runs_of_one_method_are_told_apart_by_the_fields_that_differ(tmp_path):
    runs = [FakeRun(tmp_path / str(i), seed=i) for i in range(3)]
    (runs[2].workdir / "config.json").write_text(json.dumps({"method": "cm_end_to_end", "seed": 2, "train": {"epochs": 5, "learning_rate": 1e-3}}))
    assert [name for name, _ in labels.labelled(runs)] == ["cm_end_to_end epochs=12"] * 2 + ["cm_end_to_end epochs=5"]
    assert [name for name, _ in labels.labelled(runs[:2])] == ["cm_end_to_end"] * 2
    for i, method in enumerate(("cm_end_to_end", "base_pooled")):
        (runs[i].workdir / "config.json").write_text(json.dumps({"method": method, "data": {"resolution": 32 * i, "cache_dir": str(i)}}))
    assert [name.split()[-1] for name, _ in labels.labelled(runs[:2])] == ["resolution=0", "resolution=32"]


def test_markup_in_names_stays_text(tmp_path):
    evil = '<img src=x onerror="a">&'
    folder = Folder((tmp_path,), diverged={evil: evil}, axes={evil: ["1"]}, table=evil)
    run = FakeRun(tmp_path, concepts=(evil, "b"))
    found = read_results(tmp_path)
    found |= {"dataset": evil, "backbone": evil, "method": "cm_" + evil}
    (tmp_path / "results.json").write_text(json.dumps(found))
    (tmp_path / "config.json").write_text(json.dumps({"method": "cm_" + evil, "seed": 0, "note": "</pre>" + evil}))
    outline = Outline(page.write_report([run], tmp_path / "report.html", folder=folder).read_text("utf-8"))
    assert not outline.open and all("onerror" not in image for image in outline.images) and len(outline.images) == 7


def test_numbers_that_are_not_finite_do_not_stop_the_page(run):
    found = read_results(run.workdir)
    found["protocols"]["strict"]["concept"]["obs"] = math.nan
    (run.workdir / "results.json").write_text(json.dumps(found))
    html = page.write_report([run], run.workdir / "report.html").read_text("utf-8")
    data = html.partition('id="page-data">')[2].partition("</script>")[0]
    known = json.loads(data, parse_constant=lambda name: pytest.fail(name))["composers"][0]["entries"][0]["contexts"]
    assert known[""]["distance"] is None and known["0"]["distance"] > 0


def test_many_pictures_are_compressed_harder(run, monkeypatch):
    normal = page.write_report([run], run.workdir / "report.html").stat().st_size
    monkeypatch.setattr(page, "MOST_BYTES", normal - 1)
    assert page.write_report([run], run.workdir / "report.html").stat().st_size < normal


def test_a_report_needs_runs():
    with pytest.raises(ValueError, match="got no runs"):
        page.write_report([], "report.html")


def test_workdirs_are_loaded(run, monkeypatch):
    from causal_ctx import run as runs

    monkeypatch.setattr(runs, "load_run", lambda workdir: run if workdir == str(run.workdir) else None)
    assert "learning_rate" in page.write_report([str(run.workdir)], run.workdir / "report.html").read_text("utf-8")
