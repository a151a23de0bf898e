"""The study of `identifiability` as tables for a terminal and as a figure: which concepts are recovered, and how far the learned law is from the true one.

`study` is what identifiability.json holds; `conditions` {name: what says `without` which interventions}.
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
    "Mean ± standard error over truths. R2 between the true and the learned concept up to an affine map of it, 1 where it is recovered. MCC: mean of their canonical "
    "correlations."
)
LAW_NOTE = (
    "Sliced Wasserstein distance between the law that the fit gives all its concepts and that of what it reads off true observations, which no invertible affine map of "
    "concepts changes, in standard deviations; lower is better, in the contexts seen and under all sets of two or more interventions that have no latent in common. "
    "Excess: by how many nats observations of the contexts seen that were held out are less likely than under the truth."
)
MARKS = "Hollow: never intervened on. Dotted: two samples of true observations, in the colour of the law that they are of."


def text(study: dict, conditions: Mapping) -> str:
    """Both tables for a terminal."""
    return "\n".join(map(formats.text, tables(study, conditions)))


def tables(study: dict, conditions: Mapping) -> list[Table]:
    """A row per condition: which concepts are recovered, and how far the learned law is from the true one, with the floor of that."""
    count = len(study["cases"][0]["recovery"])
    mean = lambda name, number: estimate([number(case) for case in study["cases"] if name in (None, case["condition"])])
    concepts = lambda name: tuple(mean(name, lambda case, k=k: case["recovery"][k]) for k in range(count))
    recovered = tuple(Row(name, (*concepts(name), mean(name, lambda case: float(np.mean(case["correlation"]))))) for name in conditions)
    distances = lambda name, what: tuple(mean(name, lambda case, kind=kind: case[what][kind]) for kind in DISTANCES)
    laws = tuple(Row(name, (*distances(name, "distance"), mean(name, lambda case: case["excess_nats"]))) for name in conditions)
    laws += (Row("two true samples", (*distances(None, "floor"), None)),)
    return [
        Table("Which concepts are recovered", "condition", (("", recovered),), NOTE, (*(f"concept {k + 1}" for k in range(count)), "MCC"), {}),
        Table("How far the learned law is from the true one", "condition", (("", laws),), LAW_NOTE, (*DISTANCES.values(), "excess, nats"), {}),
    ]


def picture(study: dict, conditions: Mapping) -> Picture:
    """Left a mark per concept and truth, hollow where it was never intervened on; right the distances of the laws beside their floor."""
    names, count = list(conditions)[::-1], len(study["cases"][0]["recovery"])
    shades = charts.colours(count + len(DISTANCES))
    keys = {f"concept {k + 1}": {"color": shades[k], "marker": "o", "linestyle": "", "markersize": 5} for k in range(count)}
    keys["never intervened on"] = {"color": INK, "marker": "o", "linestyle": "", "markersize": 5, "markerfacecolor": "none"}
    keys |= {DISTANCES[kind]: {"color": shades[count + i], "marker": "D", "linestyle": "", "markersize": 4} for i, kind in enumerate(DISTANCES)}
    keys["floor"] = charts.FLOOR
    figure, (recovered, laws) = charts.figure_of(2, 2, 0.33 * len(names) + 0.6, list(keys))
    for line, name in enumerate(names):
        condition = conditions[name]
        for case in [case for case in study["cases"] if case["condition"] == name]:
            for k, value in enumerate(case["recovery"]):
                recovered.plot([value], [line + 0.18 * (k - (count - 1) / 2)], **keys[f"concept {k + 1}"] | ({"markerfacecolor": "none"} if k in condition.without else {}))
            for i, kind in enumerate(DISTANCES):
                laws.plot([case["distance"][kind]], [line + 0.2 * (i - 0.5)], **keys[DISTANCES[kind]])
    for kind, heading in DISTANCES.items():
        laws.axvline(float(np.mean([case["floor"][kind] for case in study["cases"]])), **charts.FLOOR | {"color": keys[heading]["color"]})
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
    return Picture("identifiability", "Which concepts are recovered", charts.image(figure), f"{NOTE} {LAW_NOTE} {MARKS}", described)
