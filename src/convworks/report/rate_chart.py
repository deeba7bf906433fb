"""One curve as text for a terminal, and as a file: SVG, PNG or CSV. For learning rates and the range test."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.report.charts import lay_out

SUFFIXES = (".svg", ".png", ".csv")
SIZE = (7.0, 3.6)  # inches
POINTS = 4000  # of a curve in a picture

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """y over x, with the names of both; `marks` are places on the x axis with a name.

    `columns` are those of the table, where it has others than x and y.
    """

    x: Values
    y: Values
    x_name: str
    y_name: str
    log_x: bool = False
    from_zero: bool = True
    marks: Mapping[str, float] | None = None
    columns: Mapping[str, Values] | None = None


def text_curve(curve: Curve, *, width: int = 64, height: int = 12) -> list[str]:
    """The curve on a grid of characters, its y axis up to the highest value.

    Each column shows from the lowest to the highest value of the points that fall into it.
    """
    keep = np.isfinite(curve.y)
    x, y = (np.log10(curve.x[keep]) if curve.log_x else curve.x[keep]), curve.y[keep]
    if not len(y):
        return [f"no numbers of {curve.y_name}"]
    if 1 < len(x) < 2 * width:  # a column between two points lies on the line between them
        places = np.linspace(x[0], x[-1], 4 * width)
        x, y = places, np.interp(places, x, y)
    low, high = 0.0 if curve.from_zero else float(y.min()), float(y.max())
    high = high if high > low else low + 1
    left, right = float(x.min()), float(x.max())
    columns = np.round((x - left) / max(right - left, 1e-300) * (width - 1)).astype(int)
    rows = np.round((high - y) / (high - low) * (height - 1)).astype(int)
    grid = [[" "] * width for _ in range(height)]
    for column in range(width):
        inside = rows[columns == column]
        for row in range(int(inside.min()), int(inside.max()) + 1) if len(inside) else ():
            grid[row][column] = "*"
    names = {0: _short(high), height // 2: _short(high - (height // 2) * (high - low) / (height - 1))}
    names[height - 1] = _short(low)
    margin = max(len(name) for name in names.values())
    lines = [f"{names.get(n, ''):>{margin}} |{''.join(row).rstrip()}" for n, row in enumerate(grid)]
    lines.append(" " * (margin + 1) + "+" + "-" * width)
    first, last = (10**left, 10**right) if curve.log_x else (left, right)
    ends = f"{_short(first)}{_short(last):>{width - len(_short(first))}}"
    lines.append(" " * (margin + 2) + ends)
    scale = ", logarithmic" if curve.log_x else ""
    return [f"{curve.y_name} over {curve.x_name}{scale}", *lines]


def _short(value: float) -> str:
    return f"{value:.3g}"


def check_suffix(name: str) -> str:
    """'.svg', '.png' or '.csv' of a file's name. Raises U181 for another."""
    suffix = next((each for each in SUFFIXES if name.lower().endswith(each)), "")
    if not suffix:
        raise ConvworksError(
            "U181",
            f"cannot tell from '{name}' what to write",
            where=f"the end of the name decides: {', '.join(SUFFIXES)}",
            try_=f"--out {name.rpartition('.')[0] or name}.svg",
        )
    return suffix


def drawn(curve: Curve, *, suffix: str, title: str) -> bytes:
    """The content of a file of that kind; the same numbers give the same bytes."""
    if suffix == ".csv":
        columns = curve.columns or {curve.x_name: curve.x, curve.y_name: curve.y}
        rows = [",".join(map(_number, row)) for row in zip(*columns.values(), strict=True)]
        return "\n".join([",".join(columns), *rows, ""]).encode()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=120, layout="constrained")
    (FigureCanvasSVG if suffix == ".svg" else FigureCanvasAgg)(figure)
    axes = figure.add_subplot()
    x, y = _thin(curve.x, curve.y)
    axes.plot(x, y, color="#1f5fa8", linewidth=1.4)
    if curve.log_x:
        axes.set_xscale("log")
    for number, (name, place) in enumerate((curve.marks or {}).items()):
        axes.axvline(place, color="#777777", linewidth=1, linestyle=(0, (3, 2)))
        at = (place, 1 - 0.07 * number)  # each name on a line of its own
        axes.annotate(f"{name} ", at, xycoords=("data", "axes fraction"), va="top", ha="right", fontsize=8)
    axes.set_xlabel(curve.x_name)
    axes.set_ylabel(curve.y_name)
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    lay_out(figure)
    buffer = io.BytesIO()
    dates = ("Date", "Creator", "Format", "Type") if suffix == ".svg" else ("Software",)
    with matplotlib.rc_context({"svg.hashsalt": "convworks", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=suffix[1:], metadata=dict.fromkeys(dates))
    return buffer.getvalue()


def _number(value: float) -> str:
    return f"{value:.10g}" if math.isfinite(value) else ""


def _thin(x: Values, y: Values) -> tuple[Values, Values]:
    """At most POINTS points, evenly taken; the last one stays."""
    at = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return x[at], y[at]


def as_values(numbers: Sequence[float]) -> Values:
    return np.array(numbers, dtype=np.float64)
