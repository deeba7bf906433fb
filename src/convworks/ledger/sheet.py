"""Cells in the order of the page that they stand on: as a table, or one below the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convworks.ledger.cell import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table of a lecture or a paper.

    With `heads` it is a grid: each line has the row's name and a cell, a plain text or None for each further
    head. Without them it is a list, and each line has one cell.
    """

    id: str  # "googlenet/table"
    title: str
    source: str
    heads: tuple[str, ...] = ()
    lines: tuple[tuple[str, tuple[Cell | str | None, ...]], ...] = ()

    def cells(self) -> Iterator[Cell]:
        """All cells, line by line."""
        for _, line in self.lines:
            yield from (cell for cell in line if isinstance(cell, Cell))


def listed(sheet_id: str, title: str, source: str, cells: tuple[Cell, ...]) -> Sheet:
    """A sheet with one cell on each line."""
    return Sheet(id=sheet_id, title=title, source=source, lines=tuple((c.what, (c,)) for c in cells))
