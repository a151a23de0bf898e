"""Tables as text for a terminal, Markdown, LaTeX and HTML: pure functions, Table -> str. Each marks the lowest value of every group."""

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from html import escape

from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import COLUMNS, Row, Table

OURS = COLUMNS.index("ours")
DIGITS = {"in s.e.": 1}  # after the point, where they are not 3
LONGEST_LABEL = 25  # that shares a line of text with its numbers


def best(rows: Iterable[Row]) -> Row | None:
    """The row with the lowest "ours" where at least two rows have one."""
    scored = [row for row in rows if isinstance(row.cells[OURS], Estimate) and math.isfinite(row.cells[OURS].mean)]
    return min(scored, key=lambda row: row.cells[OURS].mean) if len(scored) > 1 else None


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
    """Aligned columns for a terminal, at most 120 characters wide: a label of more than LONGEST_LABEL has a line of its own. * marks the lowest of a group."""
    header = (table.first, *COLUMNS)
    body = [line for heading, rows in table.groups for line in ((heading,), *_lines(rows))]
    widths = [max(map(len, column)) for column in zip(header, *(line for line in body if len(line) > 1))]

    def aligned(line: tuple[str, ...]) -> str:
        cells = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        return line[0] if len(line) == 1 else "  ".join(cells).rstrip()

    rule = "─" * (sum(widths) + 2 * len(COLUMNS))
    star = "* lowest of its group. " if any(best(rows) for _, rows in table.groups) else ""
    return "\n".join([table.title, rule, aligned(header), rule, *map(aligned, body), rule, *textwrap.wrap(star + table.note, 110)]) + "\n"


def _lines(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """Every row as its cells; a label too long for them comes first, alone."""
    winner = best(rows)
    for row in rows:
        label = "  " + row.label
        if len(row.label) > LONGEST_LABEL:
            yield (label,)
            label = ""
        cells = _marked(row, winner, "{}*")
        cells[OURS] += " " if winner and row is not winner else ""
        yield (label, *cells)


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


def html(table: Table) -> str:
    """A table element in a box that scrolls, with its groups as row groups; the lowest value of each group has class "best"."""
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in (table.first, *COLUMNS))
    body = "".join(f"<tbody>{_group_html(heading, rows)}</tbody>" for heading, rows in table.groups)
    return f'<div class="scroll"><table class="wide"><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>{body}</table></div>'


def _group_html(heading: str, rows: Iterable[Row]) -> str:
    lines = [f'<tr><th colspan="{len(COLUMNS) + 1}" scope="rowgroup">{escape(heading)}</th></tr>']
    for row in rows:
        cells = _marked(row, best(rows), '<strong class="best">{}</strong>', escape)
        lines.append(f'<tr><th scope="row">{escape(row.label)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join(lines)


FORMATS = {"txt": text, "md": markdown, "tex": latex}  # by the ending of their files


def _marked(row: Row, winner: Row | None, mark: str, escaped: Callable[[str], str] = str) -> list[str]:
    cells = [escaped(show(cell, DIGITS.get(column, 3))) for column, cell in zip(COLUMNS, row.cells)]
    if row is winner:
        cells[OURS] = mark.format(cells[OURS])
    return cells


def _tex(string: str) -> str:
    table = {c: "\\" + c for c in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "–": "--"}
    table |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(table.get(c, c) for c in string)
