"""What a demonstration gives: a table, what the lecture says, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A table of measured numbers; `found` is computed from them, `lecture` is what they are held against."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    lecture: str
    found: str

    def column(self, name: str) -> dict[Cell, Cell]:
        """One column, by the first cell of each row. Raises ValueError for a column that is not there."""
        at = self.columns.index(name)
        return {row[0]: row[at] for row in self.rows}


def number(value: Cell) -> str:
    """A cell as text: four digits of a float, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else value
