"""A trace as text for a terminal of 80 columns, as Markdown, as CSV, and as plain data."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convworks.anatomy.trace import Row, Shape, totals

_LEFT = 4  # the first four columns are text; the others are numbers, to the right
_WIDTH = 80
_GAP = 2
# (column, the least that cutting leaves of it): names are cut at their beginning, kinds at their end
_CUTS = ((1, 10), (0, 24), (1, 6), (0, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns show."""

    image: Shape = ()  # (C, H, W): a field of a layer without positions that covers it is "whole"
    kilo: int | None = None  # 1000 or 1024: parameters in K, as some papers print them
    weights: bool = False  # parameters without biases

    @property
    def heads(self) -> tuple[str, ...]:
        counted = "weights" if self.weights else "parameters"
        return ("layer", "kind", "kernel", "output", counted, "field", "MACs")

    def count(self, number: int) -> str:
        """'114,688', or '112.0K' where K is 1024."""
        return f"{number:,}" if self.kilo is None else f"{number / self.kilo:,.1f}K"

    def held(self, row: Row) -> int:
        return row.parameters - (row.biases if self.weights else 0)

    def cells(self, row: Row) -> tuple[str, ...]:
        held = [self.count(self.held(row))] if self.held(row) else []
        if row.fixed:
            held.append(f"{self.count(row.fixed)} fixed")
        output = " x ".join(map(str, row.output)) or "not called"
        macs = f"{row.macs:,}" if row.macs else ""
        return row.name, row.kind, kernel_text(row), output, " + ".join(held), self.field(row), macs

    def field(self, row: Row) -> str:
        if not row.field:
            return ""
        return "whole" if sees_all(row, self.image) else by(row.field)


PLAIN = Columns()


def sees_all(row: Row, image: Shape) -> bool:
    """Whether a layer has one unit for each map, which sees the whole image."""
    one = all(n == 1 for n in row.output[1:])
    return one and bool(image) and all(f >= n for f, n in zip(row.field, image[1:], strict=False))


def format_table(rows: Sequence[Row], *, width: int = _WIDTH, columns: Columns = PLAIN) -> str:
    """Aligned plain text, no line longer than `width` where that can be had by cutting the names."""
    cells = [columns.heads, *map(columns.cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for column, least in _CUTS:
        excess = sum(widths) + _GAP * (len(widths) - 1) - width
        widths[column] -= min(max(excess, 0), max(widths[column] - least, 0))
    return "\n".join([*(_line(line, widths) for line in cells), *_sums(rows, columns)])


def format_markdown(rows: Sequence[Row], *, columns: Columns = PLAIN) -> str:
    """A Markdown table, with the totals as its last row."""
    held, macs = sum(map(columns.held, rows)), totals(rows).macs
    last = ("**total**", "", "", "", columns.count(held), "", f"{macs:,}")
    rule = ("---",) * _LEFT + ("---:",) * (len(last) - _LEFT)
    lines = [columns.heads, rule, *map(columns.cells, rows), last]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_records(rows: Sequence[Row], *, itemsize: int = 4) -> list[dict[str, Any]]:
    """One dict for each row, of strings, numbers and lists: ready for JSON.

    Beside the fields of `Row`: weights (parameters without biases), the share of all parameters, neurons,
    FLOPs (twice the MACs) and the bytes of the output of one image at `itemsize` bytes a number.
    """
    every = max(1, totals(rows).parameters)
    return [
        {
            **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()},
            "weights": row.parameters - row.biases,
            "share": row.parameters / every,
            "neurons": row.neurons,
            "flops": row.flops,
            "activation_bytes": row.neurons * itemsize,
        }
        for row in rows
    ]


def format_csv(rows: Sequence[Row]) -> str:
    """Every column of `to_records` as comma-separated values with a head; lists are written 3x3."""
    lines = io.StringIO()
    records = to_records(rows)
    writer = csv.DictWriter(lines, fieldnames=list(records[0]) if records else ["name"], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: "x".join(map(str, v)) if isinstance(v, list) else v for k, v in record.items()})
    return lines.getvalue()


def summary(rows: Sequence[Row]) -> str:
    """The totals in one line: "60,000 trainable parameters, 840 fixed; 332,824 MACs (665,648 FLOPs) ..."."""
    return "; ".join(_sums(rows, PLAIN))


def _sums(rows: Sequence[Row], columns: Columns) -> tuple[str, str]:
    total = totals(rows)
    counted = "weights, without biases" if columns.weights else "trainable parameters"
    words = [f"{columns.count(sum(map(columns.held, rows)))} {counted}"]
    words += [f"{columns.count(total.fixed)} fixed"] if total.fixed else []
    words += [f"{columns.count(total.idle)} of them for training only"] if total.idle else []
    return ", ".join(words), f"{total.macs:,} MACs ({2 * total.macs:,} FLOPs) per image"


def kernel_text(row: Row) -> str:
    """ "5x5", "3x3/2" with a stride, "3x3/2 p1" with padding, "3x3 d2" with dilation, as papers write it."""
    if not row.kernel:
        return ""
    stride = "" if set(row.stride) <= {1} else f"/{by(row.stride)}"
    padding = "" if set(row.padding) <= {0} else f" p{by(row.padding)}"
    dilation = "" if set(row.dilation) <= {1} else f" d{by(row.dilation)}"
    return "x".join(map(str, row.kernel)) + stride + padding + dilation


def by(values: Shape) -> str:
    """(3, 3) as "3", (3, 5) as "3x5"."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = cell
        if len(cell) > width:
            text = "…" + cell[-width + 1 :] if column == 0 else cell[: width - 1] + "…"
        parts.append(text.ljust(width) if column < _LEFT else text.rjust(width))
    return (" " * _GAP).join(parts).rstrip()
