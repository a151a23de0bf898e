"""The study of `identifiability` as a table for a terminal and as a figure: which concepts are recovered, and how far the learned law is from the true one.

`study` is what identifiability.json holds; `conditions` {name: what has its `without`, `violated` and `form`}.
"""

from collections.abc import Mapping

import numpy as np

from causal_ctx.reports import charts, formats
from causal_ctx.reports.canvas import INK
from causal_ctx.reports.figures import Picture
from causal_ctx.reports.tables import Row, Table, estimate

TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2)
DISTANCES = {"seen": "law, contexts seen", "composed": "law, compositions"}
NOTE = (
    "Mean ± standard error over truths. Concept: R2 between the true and the learned concept up to an affine map of it, 1 where it is recovered. MCC: mean of their "
    "canonical correlations. Law: sliced Wasserstein distance between the true and the learned law of all concepts in true standard deviations, after the best affine "
    "map of each concept, lower is better, in the contexts seen and under all sets of two or more interventions. Excess: by how many nats held-out observations are less likely than under the truth."
)


def text(study: dict, conditions: Mapping) -> str:
    """The table for a terminal."""
    return formats.text(table(study, conditions))


def table(study: dict, conditions: Mapping) -> Table:
    """A row per condition, and one for the floor of the distances."""
    count = len(study["cases"][0]["recovery"])
    columns = (*(f"concept {k + 1}" for k in range(count)), "MCC", *DISTANCES.values(), "excess, nats")
    rows = tuple(Row(name, _cells(_of(study, name), count)) for name in conditions)
    floors = (None,) * (count + 1) + tuple(estimate([case["floor"][kind] for case in study["cases"]]) for kind in DISTANCES) + (None,)
    return Table("Which concepts are recovered", "condition", (("", (*rows, Row("two samples of the truth", floors))),), NOTE, columns, {})


def _of(study: dict, name: str) -> list[dict]:
    return [case for case in study["cases"] if case["condition"] == name]


def _cells(cases: list[dict], count: int) -> tuple:
    recovered = (estimate([case["recovery"][k] for case in cases]) for k in range(count))
    distances = (estimate([case["distance"][kind] for case in cases]) for kind in DISTANCES)
    return (*recovered, estimate([float(np.mean(case["correlation"])) for case in cases]), *distances, estimate([case["excess_nats"] for case in cases]))


def picture(study: dict, conditions: Mapping) -> Picture:
    """Left a mark per concept and truth, hollow where the theorem promises nothing; right the distances of the laws beside their floor."""
    names, count = list(conditions)[::-1], len(study["cases"][0]["recovery"])
    shades = charts.colours(count + len(DISTANCES))
    keys = {f"concept {k + 1}": {"color": shades[k], "marker": "o", "linestyle": "", "markersize": 5} for k in range(count)}
    keys["no promise"] = {"color": INK, "marker": "o", "linestyle": "", "markersize": 5, "markerfacecolor": "none"}
    keys |= {DISTANCES[kind]: {"color": shades[count + i], "marker": "D", "linestyle": "", "markersize": 4} for i, kind in enumerate(DISTANCES)}
    keys["floor"] = charts.FLOOR
    figure, (recovered, laws) = charts.figure_of(2, 2, 0.33 * len(names) + 0.6, list(keys))
    for line, name in enumerate(names):
        condition = conditions[name]
        for case in _of(study, name):
            for k, value in enumerate(case["recovery"]):
                promised = not condition.violated and k not in condition.without and condition.form == "structural"
                recovered.plot([value], [line + 0.18 * (k - (count - 1) / 2)], **keys[f"concept {k + 1}"] | ({} if promised else {"markerfacecolor": "none"}))
            for i, kind in enumerate(DISTANCES):
                laws.plot([case["distance"][kind]], [line + 0.2 * (i - 0.5)], **keys[DISTANCES[kind]])
    laws.axvline(float(np.mean([case["floor"]["seen"] for case in study["cases"]])), **charts.FLOOR)
    for axis, title, labels in ((recovered, "recovery of concepts, R2", names), (laws, "distance of the laws, standard deviations", [""] * len(names))):
        charts.finish(axis, title)
        axis.set_yticks(range(len(names)), labels)
        axis.set_ylim(-0.6, len(names) - 0.4)
    recovered.set_xlim(-0.03, 1.03)
    laws.set_xscale("log")
    laws.set_xticks(TICKS, [f"{value:g}" for value in TICKS])
    laws.set_xticks([], minor=True)
    charts.legend(figure, keys)
    described = "Recovery of every concept and distance of the learned law from the true one under each condition of the identifiability study."
    return Picture("identifiability", "Which concepts are recovered", charts.image(figure), NOTE, described)
