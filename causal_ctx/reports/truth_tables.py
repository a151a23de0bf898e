"""What simulated ground truth says of runs that `--mode=ablate_interventions` has scored: "truth" of a labelled result, its interventions.json. Pure functions."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from causal_ctx.evaluation.interventions import NO_MODULE
from causal_ctx.reports.counterfactuals import EFFECTS, EFFECTS_NOTE, effects_numbers, effects_rows
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import Row, Table, by_method, estimate

COLUMNS = ("seeds", "ours", "floor", "redrawn", "unchanged")
LEAST = {"all": 0, "many": 3}  # interventions at once; more than two are in no held-out composition of the supplied data sets
GROUPS = {"concept": "single interventions", "composition": "held-out compositions"}
KINDS = {"pixel": "pixels", "others": "latents left alone"}
NOTE = (
    "Lower is better. Distances are sliced Wasserstein distances of generated to real or simulated images, strict, under the composition rule of the run; their "
    "floor is that of the data. Counterfactuals are root mean squared errors of observational images that were encoded and decoded under the interventions: "
    "pixels in [0, 1], and latents that were not intervened on, as a probe reads them, in observational standard deviations. Floor: the true image, encoded and "
    "decoded under its own interventions for pixels, and read by the probe for latents. Redrawn: the simulation with other own noise of the intervened concepts, "
    "of which no image tells how it hangs together with their new values, read by the same probe; in pixels, over the root of two, it is the least error of an answer that makes no use of that "
    "noise. Unchanged: the image as it was."
)


def truth_tables(results: Iterable[dict]) -> list[Table]:
    """Per data set and backbone: errors, a group per measure, then what interventions move; a row per label whose runs were scored, mean ± standard error."""
    return [table for (dataset, backbone), methods in by_method(result for result in results if result.get("truth")).items()
            for table in _tables(f"{dataset}, {backbone}", methods)]


def numbers(results: list[dict]) -> Iterator[tuple[str, str, str, str, Estimate]]:
    """As `tables.numbers`, of no protocol: measures "subsets", "counterfactual_pixel" and so on, and "effects_auroc" and so on, also of "true images"."""
    scored = _seeds(result for result in results if result.get("truth"))
    for measure in dict.fromkeys(_measures(scored)):
        sources = zip(COLUMNS[1:], _cells(scored, measure))
        yield from (("", measure.name, measure.context, source, found) for source, found in sources if found)
    for source, moved in {"ours": _effects(scored), "true images": [effects["true_images"] for effects in _effects(scored)[:1]]}.items():
        yield from (("", f"effects_{name.lower().replace(' ', '_')}", "mean", source, found) for name, found in effects_numbers(moved).items() if found)


class _Measure(NamedTuple):
    name: str
    context: str
    heading: str


def _tables(name: str, methods: dict[str, list[dict]]) -> Iterator[Table]:
    methods = {label: _seeds(results) for label, results in methods.items()}
    measures = dict.fromkeys(measure for results in methods.values() for measure in _measures(results))
    groups = tuple((measure.heading, tuple(_row(label, results, measure) for label, results in methods.items())) for measure in measures)
    yield Table(f"{name}, under all sets of interventions", "method", groups, NOTE, COLUMNS)
    moved = {label: effects for label, results in methods.items() if (effects := _effects(results))}
    if moved:
        rows = (("all single interventions", effects_rows(moved)),)
        yield Table(f"{name}, what interventions move against the truth", "method", rows, EFFECTS_NOTE, EFFECTS, {}, {"SHD": 1})


def _measures(results: list[dict]) -> Iterator[_Measure]:
    """What was scored, in the order of the table."""
    for truth in (result["truth"] for result in results):
        for context, least in LEAST.items():
            if count := sum(group["subsets"] for group in _groups(truth, least)):
                of_many = f" of {least} or more" if least else ""
                yield _Measure("subsets", context, f"The {count} sets{of_many} that were scored: distance")
        means = truth.get("counterfactuals", {}).get("mean", {})
        yield from (_Measure(f"counterfactual_{kind}", context, f"What images would have been, {GROUPS[context]}: {KINDS[kind]}")
                    for kind in KINDS for context in GROUPS if kind in means.get(context, {}))


def _row(label: str, results: list[dict], measure: _Measure) -> Row:
    ours, *known = _cells(results, measure)
    return Row(label, (str(ours.seeds) if ours else None, ours, *(Estimate(e.mean) if e else None for e in known)))


def _cells(results: list[dict], measure: _Measure) -> tuple[Estimate | None, ...]:
    """(ours, floor, redrawn, unchanged) over the results that have the measure."""
    return tuple(map(estimate, zip(*(_values(result, measure) for result in results if measure in _measures([result]))))) or (None,) * 4


def _values(result: dict, measure: _Measure) -> tuple[float | None, ...]:
    if measure.name == "subsets":
        groups = _groups(result["truth"], LEAST[measure.context])
        mean = lambda of: sum(group["subsets"] * of(group) for group in groups) / sum(group["subsets"] for group in groups)
        return mean(lambda group: group["distance"][_setting(result, group)]), mean(lambda group: group["floor"]), None, None
    errors = result["truth"]["counterfactuals"]["mean"][measure.context][measure.name.removeprefix("counterfactual_")]
    return errors["model"], errors["floor"], errors["redrawn"], errors["unchanged"]


def _setting(result: dict, group: dict) -> str:
    """Which of the readings of one run's weights is that of its config."""
    own = f"composition={result['config'].get('model.composition')},noise_mixing={result['config'].get('model.noise_mixing')}"
    return own if own in group["distance"] else NO_MODULE


def _effects(results: list[dict]) -> list[dict]:
    return [result["truth"]["effects"] for result in results if "effects" in result["truth"]]


def _groups(truth: dict, least: int) -> list[dict]:
    return [group for size, group in truth["by_size"].items() if int(size) >= least]


def _seeds(results: Iterable[dict]) -> list[dict]:
    """One result per seed: one that was run twice counts once."""
    return list({result["seed"]: result for result in results}.values())
