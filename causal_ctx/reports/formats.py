"""Tables as text for a terminal, Markdown, LaTeX and HTML: pure functions, Table -> str. Each marks the best cells of every group."""

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from html import escape

from causal_ctx.reports.published import Estimate
from causal_ctx.reports.tables import Row, Table

LONGEST_LABEL = 25  # that shares a line of text with its numbers


def best(table: Table, rows: Iterable[Row]) -> dict[int, Row]:
    """{place of a column: the row that is best in it}, for the columns of `table.best` in which at least two of `rows` have a number."""
    found = {}
    for name, kind in table.best.items():
        place = table.columns.index(name)
        scored = [row for row in rows if isinstance(row.cells[place], Estimate) and math.isfinite(row.cells[place].mean)]
        if len(scored) > 1 and (table.marks_ties or len({row.cells[place].mean for row in scored}) > 1):
            found[place] = (min if kind == "lowest" else max)(scored, key=lambda row: row.cells[place].mean)
    return found


def show(cell, digits: int = 3) -> str:
    """A cell for reading: estimates as mean ± standard error, differences with their sign."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Estimate):
        return f"{cell.mean:.{digits}f}".replace("-", "−") + ("" if cell.standard_error is None else f" ± {_error(cell.standard_error, digits)}")
    return f"{cell:+.{digits}f}".replace("-", "−")


def _error(error: float, digits: int) -> str:
    rounded = f"{error:.{digits}f}"
    return f"{error:.1g}" if error and not float(rounded) else rounded


def text(table: Table, elsewhere: str = "") -> str:
    """Aligned columns for a terminal, at most 120 characters wide: a label of more than LONGEST_LABEL has a line of its own. * marks the best of a group.

    `elsewhere` is the end of the note that is told in another place, and left out here.
    """
    header = (table.first, *table.columns)
    body = [line for heading, rows in table.groups for line in ((heading,), *_lines(table, rows))]
    widths = [max(map(len, column)) for column in zip(header, *(line for line in body if len(line) > 1))]

    def aligned(line: tuple[str, ...]) -> str:
        cells = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        return line[0] if len(line) == 1 else "  ".join(cells).rstrip()

    rule = "─" * (sum(widths) + 2 * len(table.columns))
    marked = sorted({table.best[table.columns[place]] for _, rows in table.groups for place in best(table, rows)})
    star = f"* {' or '.join(marked)} of its group. " if marked else ""
    return "\n".join([table.title, rule, aligned(header), rule, *map(aligned, body), rule, *paragraph(star + table.note.removesuffix(elsewhere))]) + "\n"


def paragraph(sentences: str) -> list[str]:
    """Lines of at most 110 characters."""
    return textwrap.wrap(sentences, 110)


def _lines(table: Table, rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """Every row as its cells; a label too long for them comes first, alone."""
    winners = best(table, rows)
    for row in rows:
        label = "  " + row.label
        if len(row.label) > LONGEST_LABEL:
            yield (label,)
            label = ""
        cells = _marked(table, row, winners, "{}*")
        for place, winner in winners.items():
            cells[place] += " " if row is not winner else ""
        yield (label, *cells)


def markdown(table: Table) -> str:
    """A pipe table; the best cells of each group are bold."""
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    number = len(table.columns)
    out = [f"**{table.title}**", "", line((table.first, *table.columns)), line(["---"] + ["---:"] * number)]
    for heading, rows in table.groups:
        winners = best(table, rows)
        out.append(line([f"*{heading}*"] + [""] * number))
        out += [line((row.label, *_marked(table, row, winners, "**{}**"))) for row in rows]
    return "\n".join([*out, "", table.note]) + "\n"


def latex(table: Table) -> str:
    """A booktabs table environment; the best cells of each group are bold."""
    number = len(table.columns)
    out = [r"\begin{table}", r"\centering", r"\caption{" + _tex(f"{table.title}. {table.note}") + "}",
           r"\begin{tabular}{l" + "r" * number + "}", r"\toprule", " & ".join(map(_tex, (table.first, *table.columns))) + r" \\"]
    for heading, rows in table.groups:
        winners = best(table, rows)
        out += [r"\midrule", rf"\multicolumn{{{number + 1}}}{{l}}{{\emph{{{_tex(heading)}}}}} \\"]
        out += [" & ".join((_tex(row.label), *_marked(table, row, winners, r"\textbf{{{}}}", _tex))) + r" \\" for row in rows]
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def html(table: Table) -> str:
    """A table element in a box that scrolls, with its groups as row groups; the best cells of each group have class "best"."""
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in (table.first, *table.columns))
    body = "".join(f"<tbody>{_group_html(table, heading, rows)}</tbody>" for heading, rows in table.groups)
    return f'<div class="scroll"><table class="wide"><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>{body}</table></div>'


def _group_html(table: Table, heading: str, rows: Iterable[Row]) -> str:
    winners = best(table, rows)
    lines = [f'<tr><th colspan="{len(table.columns) + 1}" scope="rowgroup">{escape(heading)}</th></tr>']
    for row in rows:
        cells = _marked(table, row, winners, '<strong class="best">{}</strong>', escape)
        lines.append(f'<tr data-label="{escape(row.label)}"><th scope="row">{escape(row.label)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join(lines)


FORMATS = {"txt": text, "md": markdown, "tex": latex}  # by the ending of their files


def _marked(table: Table, row: Row, winners: dict[int, Row], mark: str, escaped: Callable[[str], str] = str) -> list[str]:
    cells = [escaped(show(cell, table.digits.get(column, 3))) for column, cell in zip(table.columns, row.cells)]
    return [mark.format(cell) if winners.get(place) is row else cell for place, cell in enumerate(cells)]


def _tex(string: str) -> str:
    table = {c: "\\" + c for c in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "–": "--"}
    table |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(table.get(c, c) for c in string)
