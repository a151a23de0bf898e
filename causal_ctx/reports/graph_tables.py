"""The table of learned graphs against the true one: "graph" of results.json (`evaluation.protocols.graph`), where a result has it. Pure functions."""

from collections.abc import Iterable, Iterator

from causal_ctx.evaluation.graph import THRESHOLD
from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import Row, Table, by_method, estimate

KINDS = {"obs": "Observational blocks", "interventions": "Blocks of the intervened concepts"}
MEASURES = ("auroc", "shd", "precision", "recall")
COLUMNS = ("seeds", "AUROC", "untrained", "SHD", "no edges", "precision", "recall")
NOTE = (
    "Every block that a module learned, once, against whether the concept of its column truly moves that of its row, through others too. AUROC: the "
    "probability that the block of a true edge has the larger norm, ties half, over all ordered pairs of concepts; 0.5 is chance. The others take norms above "
    f"{THRESHOLD} of the largest for edges. SHD: edges to add, remove or reverse, each 1; no edges: that of an empty graph. Untrained: AUROC before training."
)


def graph_tables(results: Iterable[dict]) -> list[Table]:
    """A table per data set and backbone, a row per label whose results have a graph: mean ± standard error over seeds."""
    made = ((dataset, backbone, _groups(methods)) for (dataset, backbone), methods in by_method(results).items())
    return [
        Table(f"{dataset}, {backbone}, learned graph against the true one (higher is better but for SHD)", "method", groups, NOTE, COLUMNS,
              {"AUROC": "highest", "SHD": "lowest"}, {"SHD": 1, "no edges": 0})
        for dataset, backbone, groups in made
        if groups
    ]


def numbers(results: list[dict]) -> Iterator[tuple[str, str, str, str, Estimate]]:
    """As `tables.numbers`, of no protocol: measures "graph_auroc" and so on, in which the kind of blocks takes the context's place."""
    for kind in KINDS:
        for measure in MEASURES:
            sources = {source: measured(results, kind, measure, part) for source, part in {"ours": "", "untrained": "untrained"}.items()}
            yield from (("", f"graph_{measure}", kind, source, e) for source, e in sources.items() if e)


def measured(results: list[dict], kind: str, measure: str, part: str = "") -> Estimate | None:
    """A number of "graph" over seeds, of which one that was run twice counts once; `part` is "" (trained) or "untrained". None where no result has it."""
    graphs = [r.get("graph", {}) for r in {r["seed"]: r for r in results}.values()]
    return estimate((graph.get(part, {}) if part else graph).get(kind, {}).get(measure) for graph in graphs)


def _groups(methods: dict[str, list[dict]]) -> tuple:
    rows = {heading: tuple(_row(label, rs, kind) for label, rs in methods.items() if measured(rs, kind, "shd")) for kind, heading in KINDS.items()}
    return tuple((heading, body) for heading, body in rows.items() if body)


def _row(label: str, results: list[dict], kind: str) -> Row:
    auroc, shd, precision, recall = (measured(results, kind, measure) for measure in MEASURES)
    before, edges = measured(results, kind, "auroc", "untrained"), measured(results, kind, "true_edges")
    means = [Estimate(e.mean) if e else None for e in (before, edges)]
    return Row(label, (str(shd.seeds), auroc, means[0], shd, means[1], precision, recall))
