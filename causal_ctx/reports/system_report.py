"""What the page asks of a system of methods: its tables, sentences, measures and pictures. The page itself is the same for all of them."""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from causal_ctx.reports.composer import Composer
from causal_ctx.reports.figures import Picture
from causal_ctx.reports.reading import Folder
from causal_ctx.reports.tables import Table

MOST_LABELS = 8  # that get figures of their own
MOST_BYTES_OF_NAME = 120  # of a folder: file systems take 255


class Section(NamedTuple):
    """Pictures of one heading of the page, and the name of the folder for their files."""

    heading: str
    pictures: list[Picture]
    folder: str = ""


class SystemReport(NamedTuple):
    """One published system. `results` are labelled (see `system_reports.labelled_results`), `named` are (label, run), in the same order.

    summary_tables, detail_tables: results -> tables, the latter beside `note` in the former. comma_separated: (results, of the summary?) -> lines of CSV.
    details: the files of the detail tables, the heading above them and that of the fold that holds them. measures: {name: what it means}.
    verdict: results -> sentences. lead: (named, results) -> one sentence. sections: (named, results, folder) -> pictures. data: named -> (HTML, pictures) of
    the data sets. compose: (named, results, order) -> what the page's composer shows of the runs, those that come first in `order`, places in both, first.
    """

    name: str
    note: str
    measures: Mapping[str, str]
    details: tuple[str, str, str]
    summary_tables: Callable[[Sequence[dict]], list[Table]]
    detail_tables: Callable[[Sequence[dict]], list[Table]]
    comma_separated: Callable[[Sequence[dict], bool | None], str]
    verdict: Callable[[Sequence[dict]], list[str]]
    lead: Callable[[list, list[dict]], str]
    sections: Callable[[list, list[dict], Folder], list[Section]]
    data: Callable[[list], list[tuple[str, Section]]]
    compose: Callable[[list, list[dict], list[int]], Composer | None]
    score: Callable[[dict], float | None]  # of a result, that the best seed of a label has least of


def best_seeds(named: Iterable, results: Iterable[dict], score: Callable[[dict], float | None]) -> dict[str, tuple[object, int]]:
    """{label: (run, seed)} of the run with the lowest score; the first where none was measured."""
    best: dict = {}
    for (label, run), result in zip(named, results):
        found = score(result)
        found = math.inf if found is None or math.isnan(found) else found
        if label not in best or found < best[label][0]:
            best[label] = (found, run, result["seed"])
    return {label: (run, seed) for label, (_, run, seed) in best.items()}


def best_first(named: list, results: list[dict], score: Callable[[dict], float | None]) -> list[int]:
    """Places of the runs: first those that `best_seeds` finds, then the others."""
    best = [run for run, _ in best_seeds(named, results, score).values()]
    return sorted(range(len(named)), key=lambda place: not any(named[place][1] is run for run in best))


def sections_of_best(named: list, results: list[dict], score: Callable[[dict], float | None], pictures: Callable) -> list[Section]:
    """The `pictures` of the best seed of every label, of the first MOST_LABELS; headed by label and seed where there are several runs."""
    best = best_seeds(named, results, score)
    folder = lambda label: _folder(label) if len(best) > 1 else ""
    heading = lambda label, seed: f"{label}, seed {seed}" if len(named) > 1 else ""
    return [Section(heading(label, seed), pictures(run), folder(label)) for label, (run, seed) in list(best.items())[:MOST_LABELS]]


def _folder(label: str) -> str:
    """A label as the name of a folder: long ones, of runs that differ in many fields, are cut and told apart by a checksum."""
    name = re.sub(r"[^\w=.-]+", "_", label)
    return name if len(name.encode()) <= MOST_BYTES_OF_NAME else f"{name[:40]}-{zlib.crc32(name.encode()):08x}"


def by_label(named: Iterable) -> dict[str, list]:
    """{label: its runs}."""
    seeds: dict = {}
    for label, run in named:
        seeds.setdefault(label, []).append(run)
    return seeds


def number_of_runs(results: Sequence[dict]) -> str:
    """"One run" or "3 runs"."""
    return "One run" if len(results) == 1 else f"{len(results)} runs"
