"""Tables as text for a terminal, Markdown and LaTeX: pure functions, Table -> str."""

import math
import textwrap
from collections.abc import Callable, Iterable

from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import COLUMNS, Row, Table


def best(rows: Iterable[Row]) -> Row | None:
    """The row with the lowest "ours" where at least two rows have one."""
    scored = [row for row in rows if isinstance(row.cells[1], Estimate) and math.isfinite(row.cells[1].mean)]
    return min(scored, key=lambda row: row.cells[1].mean) if len(scored) > 1 else None


def show(cell, digits: int = 3) -> str:
    """A cell for reading: estimates as mean ± standard error, differences with their sign."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Estimate):
        return f"{cell.mean:.{digits}f}" + ("" if cell.standard_error is None else f" ± {_error(cell.standard_error, digits)}")
    return f"{cell:+.{digits}f}".replace("-", "−")


def _error(error: float, digits: int) -> str:
    rounded = f"{error:.{digits}f}"
    return f"{error:.1g}" if error and not float(rounded) else rounded


def text(table: Table) -> str:
    """Aligned columns for a terminal; at most 120 characters wide for labels of up to 24."""
    header = (table.first, *COLUMNS)
    lines = {heading: [("  " + row.label, *map(show, row.cells)) for row in rows] for heading, rows in table.groups}
    widths = [max(map(len, column)) for column in zip(header, *(line for body in lines.values() for line in body))]

    def aligned(line: Iterable[str]) -> str:
        first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        return "  ".join([first, *rest]).rstrip()

    body = [out for heading, rows in lines.items() for out in (heading, *map(aligned, rows))]
    rule = "─" * (sum(widths) + 2 * len(COLUMNS))
    return "\n".join([table.title, rule, aligned(header), rule, *body, rule, *textwrap.wrap(table.note, 110)]) + "\n"


def markdown(table: Table) -> str:
    """A pipe table; the lowest value of each group is bold."""
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    out = [f"**{table.title}**", "", line((table.first, *COLUMNS)), line(["---"] + ["---:"] * len(COLUMNS))]
    for heading, rows in table.groups:
        out.append(line([f"*{heading}*"] + [""] * len(COLUMNS)))
        out += [line((row.label, *_marked(row, best(rows), "**{}**"))) for row in rows]
    return "\n".join([*out, "", table.note]) + "\n"


def latex(table: Table) -> str:
    """A booktabs table environment; the lowest value of each group is bold."""
    out = [r"\begin{table}", r"\centering", r"\caption{" + _tex(f"{table.title}. {table.note}") + "}",
           r"\begin{tabular}{l" + "r" * len(COLUMNS) + "}", r"\toprule", " & ".join((table.first, *COLUMNS)) + r" \\"]
    for heading, rows in table.groups:
        out += [r"\midrule", rf"\multicolumn{{{len(COLUMNS) + 1}}}{{l}}{{\emph{{{_tex(heading)}}}}} \\"]
        for row in rows:
            cells = _marked(row, best(rows), r"\textbf{{{}}}", _tex)
            out.append(" & ".join((_tex(row.label), *cells)) + r" \\")
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _marked(row: Row, winner: Row | None, mark: str, escape: Callable[[str], str] = str) -> list[str]:
    cells = [escape(show(cell)) for cell in row.cells]
    if row is winner:
        cells[1] = mark.format(cells[1])
    return cells


def _tex(string: str) -> str:
    table = {c: "\\" + c for c in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "–": "--"}
    table |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(table.get(c, c) for c in string)
