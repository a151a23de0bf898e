"""The report of every system, by the name that its methods carry (`Method.system`)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from causal_ctx.files import DamagedError
from causal_ctx.methods import METHODS
from causal_ctx.reports import context_report, transition_report
from causal_ctx.reports.reading import again, read_fields, read_results, read_truth
from causal_ctx.reports.system_report import SystemReport
from causal_ctx.reports.tables import Table

REPORTS: dict[str, SystemReport] = {"context": context_report.REPORT, "transition": transition_report.REPORT}


def system_of(result: dict) -> str:
    """The key in REPORTS of a result, by its method; methods that are only published are of the first."""
    return METHODS[result["method"]].system if result["method"] in METHODS else "context"


def by_system(results: Iterable[dict]) -> dict[str, list[int]]:
    """{key in REPORTS: places of its results}, in the order of REPORTS, without those that have none."""
    keys = [system_of(result) for result in results]
    return {key: [i for i, own in enumerate(keys) if own == key] for key in REPORTS if key in keys}


def summary_tables(results: Sequence[dict]) -> list[Table]:
    """The tables of labelled results of any systems: first those of context modules, then those of causal transitions."""
    return [table for key, places in by_system(results).items() for table in REPORTS[key].summary_tables([results[i] for i in places])]


def labelled_results(named: Iterable[tuple[str, object]]) -> list[dict]:
    """results.json of every (label, run), with its "label", "config" {dotted field: value} and, where there is one, "truth", interventions.json, as tables take it.

    Raises DamagedError for a file that is missing, or that the tables make no sense of.
    """
    def result(label: str, workdir: Path) -> dict:
        truth = read_truth(workdir)
        return legible(read_results(workdir) | {"label": label, "config": read_fields(workdir)} | ({"truth": truth} if truth else {}), workdir)

    return [result(label, run.workdir) for label, run in named]


def legible(result: dict, workdir) -> dict:
    """The labelled result of the run in `workdir`. Raises DamagedError where there are no tables of it."""
    report = REPORTS[system_of(result)]
    remedy = {"results.json": "evaluate the run again (--mode=evaluate)", "interventions.json": again(workdir)}
    parts = {"results.json": {**result, "truth": {}}} | ({"interventions.json": result} if result.get("truth") else {})
    for file, part in parts.items():
        try:
            report.summary_tables([part]), report.detail_tables([part]), report.comma_separated([part], None)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise DamagedError(f"{Path(workdir) / file} is not as a run writes it ({type(error).__name__}: {error}); {remedy[file]}.") from error
    return result
