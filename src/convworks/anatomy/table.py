"""A trace as text for a terminal of 80 columns, as Markdown, as CSV, and as plain data."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from convworks.anatomy.trace import Row, Shape, totals

HEADS = ("layer", "kind", "kernel", "output", "field", "parameters", "MACs")
_LEFT = 4  # the first four columns are text; the others are numbers, to the right
_WIDTH = 80
_GAP = 2


def format_table(rows: Sequence[Row], *, width: int = _WIDTH) -> str:
    """Aligned plain text, no line longer than `width` where that can be had by cutting the names."""
    cells = [_cells(row) for row in rows]
    widths = [max(len(line[c]) for line in [HEADS, *cells]) for c in range(len(HEADS))]
    for column, least in (
        (1, 10),
        (0, 24),
        (0, 8),
        (1, 6),
    ):  # names are cut at their beginning, kinds at their end
        excess = sum(widths) + _GAP * (len(widths) - 1) - width
        widths[column] -= min(max(excess, 0), max(widths[column] - least, 0))
    lines = [_line(HEADS, widths)]
    lines += [_line(line, widths) for line in cells]
    return "\n".join([*lines, *_sums(rows)])


def format_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table, with the totals as its last row."""
    total = totals(list(rows))
    last = ("**total**", "", "", "", "", f"{total.parameters:,}", f"{total.macs:,}")
    lines = [HEADS, ("---",) * _LEFT + ("---:",) * (len(HEADS) - _LEFT), *map(_cells, rows), last]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_records(rows: Sequence[Row], *, itemsize: int = 4) -> list[dict[str, Any]]:
    """One dict for each row, of strings, numbers and lists: ready for JSON.

    Beside the fields of `Row`: weights (parameters without biases), the share of all parameters, neurons,
    FLOPs (twice the MACs) and the bytes of the output of one image at `itemsize` bytes a number.
    """
    every = max(1, totals(list(rows)).parameters)
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
    return "; ".join(_sums(rows))


def _sums(rows: Sequence[Row]) -> tuple[str, str]:
    total = totals(list(rows))
    fixed = f", {total.fixed:,} fixed" if total.fixed else ""
    return (
        f"{total.parameters:,} trainable parameters{fixed}",
        f"{total.macs:,} MACs ({2 * total.macs:,} FLOPs) per image",
    )


def _cells(row: Row) -> tuple[str, ...]:
    held = [f"{row.parameters:,}"] if row.parameters else []
    parameters = " + ".join([*held, f"{row.fixed:,} fixed"] if row.fixed else held)
    output = " x ".join(map(str, row.output)) or "not called"
    macs = f"{row.macs:,}" if row.macs else ""
    return row.name, row.kind, _kernel(row), output, _short(row.field) if row.field else "", parameters, macs


def _kernel(row: Row) -> str:
    """ "5x5", "3x3/2" with a stride, "3x3/2 p1" with padding, "3x3 d2" with dilation, as papers write it."""
    if not row.kernel:
        return ""
    stride = "" if set(row.stride) <= {1} else f"/{_short(row.stride)}"
    padding = "" if set(row.padding) <= {0} else f" p{_short(row.padding)}"
    dilation = "" if set(row.dilation) <= {1} else f" d{_short(row.dilation)}"
    return "x".join(map(str, row.kernel)) + stride + padding + dilation


def _short(values: Shape) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = cell
        if len(cell) > width:
            text = "…" + cell[-width + 1 :] if column == 0 else cell[: width - 1] + "…"
        parts.append(text.ljust(width) if column < _LEFT else text.rjust(width))
    return (" " * _GAP).join(parts).rstrip()
