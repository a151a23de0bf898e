"""The systems that have a report, by the name that their methods carry (`Method.system`)."""

from collections.abc import Iterable, Sequence

from causal_ctx.methods import METHODS
from causal_ctx.reports import context_report, transition_report
from causal_ctx.reports.system import System
from causal_ctx.reports.tables import Table

SYSTEMS: dict[str, System] = {"context": context_report.SYSTEM, "transition": transition_report.SYSTEM}


def system_of(result: dict) -> str:
    """The key in SYSTEMS of a result, by its method; methods that are only published are of the first."""
    return METHODS[result["method"]].system if result["method"] in METHODS else "context"


def by_system(results: Iterable[dict]) -> dict[str, list[int]]:
    """{key in SYSTEMS: places of its results}, in the order of SYSTEMS, without those that have none."""
    keys = [system_of(result) for result in results]
    return {key: [i for i, own in enumerate(keys) if own == key] for key in SYSTEMS if key in keys}


def summary_tables(results: Sequence[dict]) -> list[Table]:
    """The tables of labelled results of any systems: first those of context modules, then those of causal transitions."""
    return [table for key, places in by_system(results).items() for table in SYSTEMS[key].summary_tables([results[i] for i in places])]
