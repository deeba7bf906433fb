"""An audit as text for a terminal, as Markdown and as CSV.

In the tables of a terminal a cell shows the computed value with a mark: none where it is printed exactly so
or is not printed at all, ~ rounded, < truncated, ! erratum, ? unexplained.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence

from convworks.ledger.cell import ERRATUM, EXACT, NOT_PRINTED, ROUNDED, TRUNCATED, UNEXPLAINED, Cell
from convworks.ledger.errata import notes
from convworks.ledger.findings import Audit, Finding, records
from convworks.ledger.sheet import Sheet

MARKS = {EXACT: "", NOT_PRINTED: "", ROUNDED: "~", TRUNCATED: "<", ERRATUM: "!", UNEXPLAINED: "?"}
LEGEND = "marks: ~ rounded, < truncated, ! erratum, ? unexplained"
LISTED = ("what", "printed", "computed", "verdict")
BREAK = "; "  # between the lines of a cell


def text(result: Audit, *, width: int = 80) -> list[str]:
    """Every sheet as a table, what is to be said about its cells, and the sums; then the notes on words."""
    lines: list[str] = []
    for group in result.groups:
        for owner, sheet in result.sheets:
            if owner == group:
                lines += ["", *textwrap.wrap(sheet.title, width), *_indented(sheet.source, width)]
                lines += _columns(_rows(result, sheet), width)
                lines += _remarks(result, sheet, width)
        lines += ["", *textwrap.wrap(f"{group}: {summary(result, group)}", width)]
        for name, row in notes(group).items():
            said = f"note {name}  {row.says}: {row.remark} ({row.basis})"
            lines += textwrap.wrap(said, width, subsequent_indent="    ")
    total = textwrap.wrap(f"all: {summary(result)}", width) if len(result.groups) > 1 else []
    return [*lines[1:], "", *total, LEGEND]


def summary(result: Audit, group: str = "") -> str:
    """'176 cells, 117 exact, 13 rounded, 3 truncated, 17 errata, 26 not printed'."""
    counts = result.counts(group)
    words = {ERRATUM: "errata"}
    parts = [f"{n} {words.get(name, name) if n > 1 else name}" for name, n in counts.items()]
    return f"{sum(counts.values())} cells, {', '.join(parts)}"


def _rows(result: Audit, sheet: Sheet) -> list[list[str]]:
    """The table of a sheet, its head first."""
    if not sheet.heads:
        found = [result.findings[cell.id] for cell in sheet.cells()]
        return [list(LISTED), *([f.cell.what, f.cell.printed or "-", f.shown, _word(f)] for f in found)]
    rows = [list(sheet.heads)]
    for name, line in sheet.lines:
        rows.append(
            [name, *("" if c is None else c if isinstance(c, str) else _marked(result, c) for c in line)]
        )
    return rows


def _marked(result: Audit, cell: Cell) -> str:
    found = result.findings[cell.id]
    return (cell.printed if found.verdict == EXACT else found.shown) + MARKS[found.verdict]


def _word(found: Finding) -> str:
    """'erratum D6', 'truncated', 'not printed'."""
    with_number = found.cell.erratum if found.verdict in (ERRATUM, TRUNCATED) else ""
    return f"{found.verdict} {with_number}".strip()


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned columns, two spaces apart, or one where that is needed to fit."""
    stacked = [[cell.split(BREAK) for cell in row] for row in rows]
    widths = [max(len(part) for row in stacked for part in row[i]) for i in range(len(rows[0]))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    lines = []
    for row in stacked:
        for place in range(max(len(cell) for cell in row)):
            parts = [cell[place] if place < len(cell) else "" for cell in row]
            lines.append(gap.join(part.ljust(w) for part, w in zip(parts, widths, strict=True)).rstrip())
    return lines


def _remarks(result: Audit, sheet: Sheet, width: int) -> list[str]:
    """What is to be explained, each explanation once with the cells that it is about."""
    grouped: dict[tuple[str, str, str], list[Finding]] = {}
    for cell in sheet.cells():
        found = result.findings[cell.id]
        if cell.why or found.verdict in (TRUNCATED, UNEXPLAINED):
            grouped.setdefault((found.verdict, cell.erratum, cell.why), []).append(found)
    lines: list[str] = []
    for (verdict, erratum, why), cells in grouped.items():
        about = [f.cell.what if verdict in (EXACT, NOT_PRINTED) else _pair(f) for f in cells]
        head = " ".join(filter(None, ("note" if verdict in (EXACT, NOT_PRINTED) else verdict, erratum)))
        said = f"{head}  {'; '.join(about)}{': ' if why else ''}{why}"
        lines += textwrap.wrap(said, width, initial_indent="  ", subsequent_indent="      ")
    return lines


def _pair(found: Finding) -> str:
    return f"{found.cell.what} {found.cell.printed}, computed {found.shown}"


def _indented(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, initial_indent="  ", subsequent_indent="  ")


def markdown(result: Audit) -> str:
    """The whole audit: a table for each sheet, the explanations below it, and the notes of each group."""
    lines = ["# Published numbers and computed ones", "", f"{summary(result)}.", ""]
    lines += ["`printed -> computed` where the two are not the same; numbers in italics are not printed.", ""]
    for group in result.groups:
        lines += [f"## {group}", "", f"{summary(result, group)}.", ""]
        for owner, sheet in result.sheets:
            if owner == group:
                lines += [
                    f"### {sheet.title}",
                    "",
                    f"Source: {sheet.source}.",
                    "",
                    *_markdown(result, sheet),
                    "",
                ]
                lines += _markdown_remarks(result, sheet)
        found = notes(group)
        if found:
            lines += ["Notes on words:", ""]
            lines += [
                f"- {name}: {_safe(r.says)}: {_safe(r.remark)} ({r.basis})." for name, r in found.items()
            ]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _markdown(result: Audit, sheet: Sheet) -> list[str]:
    if not sheet.heads:
        rows = _rows(result, sheet)
    else:
        rows = [list(sheet.heads)]
        for name, line in sheet.lines:
            cells = ["" if c is None else c if isinstance(c, str) else _both(result, c) for c in line]
            rows.append([name, *cells])
    lines = [f"| {' | '.join(_safe(cell) for cell in row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _both(result: Audit, cell: Cell) -> str:
    """A cell of a grid: printed, computed where that differs, and the verdict where it is no rounding."""
    found = result.findings[cell.id]
    if found.verdict == NOT_PRINTED:
        return f"*{found.shown}*"
    if found.verdict == EXACT:
        return cell.printed
    word = f" ({_word(found)})" if found.verdict != ROUNDED else ""
    return f"{cell.printed} -> {found.shown}{word}"


def _markdown_remarks(result: Audit, sheet: Sheet) -> list[str]:
    found: dict[str, None] = {}
    for cell in sheet.cells():
        if cell.why:
            number = f"{cell.erratum}: " if cell.erratum else f"{_safe(cell.what)}: "
            found[f"- {number}{_safe(cell.why)}."] = None
    return [*found, ""] if found else []


def _safe(said: str) -> str:
    """Text that Markdown leaves as it is."""
    return said.replace("|", "\\|").replace("~", "\\~")


def table_csv(result: Audit) -> str:
    """One line for each cell, under the keys of `records`; lists as 55x55x96."""
    lines = io.StringIO()
    rows = records(result)
    writer = csv.DictWriter(lines, fieldnames=list(rows[0]) if rows else ["id"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "x".join(map(str, v)) if isinstance(v, list) else v for key, v in row.items()})
    return lines.getvalue()
