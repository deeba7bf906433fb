"""Networks as a picture: boxes with shapes from top to bottom, shortcuts as arcs, several side by side.

The SVG has no script, no font and no reference to anything outside, so that it works as a file of its own, as
an image in a page and in a README; its colours follow the reader's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from convworks.anatomy.graph import Box, boxes
from convworks.anatomy.layout import (
    GAP,
    Chain,
    Layout,
    Split,
    box_width,
    chain_height,
    chain_sides,
    height,
    place,
    place_arcs,
    spine,
)
from convworks.anatomy.trace import Graph, Shape

MARGIN, HEAD, BETWEEN, SIZES, ROUND = 20.0, 64.0, 44.0, 96.0, 7.0
STYLE = """
svg { font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #8c959f; --band: #f3f5f7;
  --image: #eaeef2; --conv: #d8e8fb; --pool: #d5f0dc; --dense: #fbe3c8; --block: #e6defa; --other: #eceff1;
  --join: #ffffff; }
@media (prefers-color-scheme: dark) { svg {
  --paper: #0f1318; --ink: #e6edf3; --soft: #a3adb8; --line: #6e7883; --band: #181e25;
  --image: #2b323a; --conv: #1c3a5e; --pool: #1d4429; --dense: #5a3a12; --block: #3c2f66; --other: #30363d;
  --join: #0f1318; } }
.paper { fill: var(--paper); } .band { fill: var(--band); }
text { fill: var(--ink); font-size: 12px; text-anchor: middle; }
.title { font-size: 16px; font-weight: 600; } .caption, .stage, .size { fill: var(--soft); font-size: 11px; }
.stage, .size { text-anchor: start; } .details { fill: var(--soft); font-size: 10px; }
.edge { fill: none; stroke: var(--line); stroke-width: 1.4; } .fitted { stroke-dasharray: 4 3; }
.arrow { fill: var(--line); }
rect, circle { stroke: none; } .box { stroke: var(--line); stroke-width: 0.8; }
.image { fill: var(--image); } .conv { fill: var(--conv); } .pool { fill: var(--pool); }
.dense { fill: var(--dense); } .block { fill: var(--block); } .other { fill: var(--other); }
.join { fill: var(--join); }
"""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One network of a diagram: what stands above it, its graph, and the shape (C, H, W) of its image."""

    title: str
    caption: str
    graph: Graph
    image: Shape


@dataclass(frozen=True, slots=True)
class _Column:
    """A network with all that is known of its places before it is placed."""

    drawing: Drawing
    boxes: list[Box]
    chain: Chain
    layout: Layout
    sections: list[tuple[Shape, Chain]]  # parts of the spine whose maps have one size

    @property
    def sides(self) -> tuple[float, float]:
        left, right = chain_sides(self.chain, self.layout.width)
        heading = 4.2 * max(2 * len(self.drawing.title), 1.35 * len(self.drawing.caption)) / 2
        return max(left, heading), max(right, heading)

    @property
    def gutter(self) -> float:
        """Room for the names of the stages, left of the boxes."""
        return 6.0 * max(len(box.stage) for box in self.boxes) + 14


def diagram(drawings: Sequence[Drawing]) -> str:
    """An SVG document of one network, or of several side by side with equal map sizes at equal heights."""
    columns = [_column(each) for each in drawings]
    aligned = _aligned(columns)
    x = MARGIN + (SIZES if aligned else 0.0)
    parts: list[str] = []
    bottom = 0.0
    for column in columns:
        left, right = column.sides
        middle = x + column.gutter + left
        bottom = max(bottom, _place(column, middle, aligned))
        if column.chain == tuple(range(len(column.boxes))):
            place_arcs(column.boxes, column.layout)
        right = max([right, *(lane - middle + 8 for lane in column.layout.lanes.values())])
        parts += _drawn(column, x, middle, middle + right)
        x = middle + right + BETWEEN
    width, tall = x - BETWEEN + MARGIN, bottom + MARGIN
    names = " beside ".join(each.title for each in drawings)
    sizes = [_text(MARGIN, y + 14, "size", _size(size)) for size, y in aligned.items()]
    return "\n".join(
        [
            f'<svg id="convworks" xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{tall:.0f}" '
            f'viewBox="0 0 {width:.0f} {tall:.0f}" role="img">',
            f"<title>{_safe(names)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{width:.0f}" height="{tall:.0f}"/>',
            *parts,
            *sizes,
            "</svg>\n",
        ]
    )


def _column(drawing: Drawing) -> _Column:
    found = boxes(drawing.graph, drawing.image)
    chain = spine(found)
    sections: list[tuple[Shape, Chain]] = []
    for item in chain:
        last = found[min(item.meet, len(found) - 1)] if isinstance(item, Split) else found[item]
        size = last.shape[1:]
        if sections and sections[-1][0] == size:
            sections[-1] = (size, (*sections[-1][1], item))
        else:
            sections.append((size, (item,)))
    return _Column(drawing, found, chain, Layout(box_width(found)), sections)


def _aligned(columns: Sequence[_Column]) -> dict[Shape, float]:
    """The y of each map size, where there are several networks whose maps only become smaller."""
    if len(columns) < 2:
        return {}
    orders = [[size for size, _ in column.sections] for column in columns]
    every = sorted({size for order in orders for size in order}, key=lambda s: (*s, 0, 0), reverse=True)
    if any(order != [size for size in every if size in order] for order in orders):
        return {}
    found, y = {}, HEAD
    for size in every:
        found[size] = y
        tall = [chain_height(part, c.boxes) for c in columns for s, part in c.sections if s == size]
        y += max(tall)
    return found


def _place(column: _Column, x: float, aligned: dict[Shape, float]) -> float:
    y = HEAD
    for size, part in column.sections:
        y = place(part, column.boxes, column.layout, x=x, y=aligned.get(size, y))
    return y


def _drawn(column: _Column, left: float, middle: float, right: float) -> list[str]:
    """Heading, bands of the stages, edges, and the boxes above them."""
    found, layout = column.boxes, column.layout
    parts = [
        _text(middle, MARGIN + 4, "title", column.drawing.title),
        _text(middle, MARGIN + 22, "caption", column.drawing.caption),
        *_bands(column, left, right),
    ]
    for number, box in enumerate(found):
        parts += [_edge(found, layout, parent, number) for parent in box.parents]
    parts += [_box(box, layout.x[number], layout.y[number], layout.width) for number, box in enumerate(found)]
    return parts


def _bands(column: _Column, left: float, right: float) -> list[str]:
    """A tinted band behind every other stage, and the names; only the names where stages overlap."""
    spans: dict[str, list[float]] = {}
    for number, box in enumerate(column.boxes):
        if box.stage:
            top = column.layout.y[number]
            span = spans.setdefault(box.stage, [top, top])
            span[0], span[1] = min(span[0], top), max(span[1], top + height(box))
    order = sorted(spans.items(), key=lambda each: each[1])
    apart = all(a[1] <= b[0] for (_, a), (_, b) in pairwise(order))
    parts = []
    for number, (name, (top, bottom)) in enumerate(order):
        if apart and number % 2 == 0:
            wide, tall = right - left + 16, bottom - top + GAP
            parts.append(
                f'<rect class="band" x="{left - 8:.1f}" y="{top - GAP / 2:.1f}" width="{wide:.1f}" '
                f'height="{tall:.1f}" rx="6"/>'
            )
        parts.append(_text(left, top + 13, "stage", name))
    return parts


def _edge(found: Sequence[Box], layout: Layout, parent: int, child: int) -> str:
    """A line down; to another column with rounded corners; along its lane where it passes boxes by."""
    x1, y1 = layout.x[parent], layout.y[parent] + height(found[parent])
    x2, y2 = layout.x[child], layout.y[child]
    lane = layout.lanes.get((parent, child))
    if lane is not None:
        end = y2 + height(found[child]) / 2
        reach = x2 + (height(found[child]) / 2 if found[child].label in "+×" else layout.width / 2)
        path = f"M{x1:.1f} {y1:.1f}v4" + _turn(x1, lane, end) + f"H{reach + 5:.1f}"
        fitted = found[parent].shape != found[child].shape and found[child].label == "+"
        kind = "edge fitted" if fitted else "edge"  # dotted in the paper: the shortcut changes the shape
        return f'<path class="{kind}" d="{path}"/>' + _arrow(reach, end, "left")
    if abs(x1 - x2) < 0.5:
        path = f"M{x1:.1f} {y1:.1f}V{y2 - 5:.1f}"
    else:
        bend = y2 - GAP / 2 - 1 if found[child].kind == "join" else y1 + GAP / 2
        down, side = (ROUND if x2 > x1 else -ROUND), min(ROUND, bend - y1)
        path = (
            f"M{x1:.1f} {y1:.1f}V{bend - side:.1f}q0 {side:.1f} {down:.1f} {side:.1f}H{x2 - down:.1f}"
            f"q{down:.1f} 0 {down:.1f} {ROUND:.1f}V{y2 - 5:.1f}"
        )
    return f'<path class="edge" d="{path}"/>' + _arrow(x2, y2, "down")


def _turn(x: float, lane: float, end: float) -> str:
    """From x sideways to a lane, down it, and round the corner at `end`."""
    r = ROUND
    return f"q0 4 {r:.1f} 4H{lane - r:.1f}q{r:.1f} 0 {r:.1f} {r:.1f}V{end - r:.1f}q0 {r:.1f} {-r:.1f} {r:.1f}"


def _arrow(x: float, y: float, towards: str) -> str:
    points = f"{x} {y} {x - 3.5} {y - 6} {x + 3.5} {y - 6}"
    if towards == "left":
        points = f"{x} {y} {x + 6} {y - 3.5} {x + 6} {y + 3.5}"
    return f'<polygon class="arrow" points="{points}"/>'


def _box(box: Box, x: float, y: float, width: float) -> str:
    """A box with its two lines, and what a browser shows under the pointer."""
    tall = height(box)
    about = f"<title>{_safe(_about(box))}</title>"
    if box.kind == "join":
        notes = ", ".join(box.notes)
        if len(box.label) == 1:
            shape = f'<circle class="box join" cx="{x:.1f}" cy="{y + tall / 2:.1f}" r="{tall / 2:.1f}"/>'
            words = _text(x, y + tall / 2 + 4.5, "", box.label)
            words += _text(x - tall / 2 - 4, y + tall / 2 + 3.5, "details", notes, "end") if notes else ""
        else:
            shape = _rect("join", x, y, width, tall, tall / 2)
            words = _text(x, y + tall / 2 + 4, "details", f"{box.label} {box.details}")
        return f"<g>{about}{shape}{words}</g>"
    lines = _text(x, y + 14, "", box.label) + _text(x, y + 27, "details", box.details)
    return f"<g>{about}{_rect(box.kind, x, y, width, tall, 5)}{lines}</g>"


def _rect(kind: str, x: float, y: float, width: float, tall: float, rounded: float) -> str:
    return (
        f'<rect class="box {kind}" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{tall:.1f}" rx="{rounded:.0f}"/>'
    )


def _about(box: Box) -> str:
    lines = [", ".join(box.names) or box.label, " x ".join(map(str, box.shape))]
    if box.parameters or box.macs:
        lines.append(f"{box.parameters:,} parameters, {box.macs:,} multiply-adds")
    return "\n".join(lines)


def _size(size: Shape) -> str:
    return "maps " + "x".join(map(str, size)) if size else "vectors"


def _text(x: float, y: float, kind: str, words: str, anchor: str = "") -> str:
    style = f' style="text-anchor: {anchor}"' if anchor else ""
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}"{style}>{_safe(words)}</text>'


def _safe(text: str) -> str:
    """Escaped, and without the characters that XML cannot hold."""
    return escape("".join(c if c.isprintable() or c == "\n" else "?" for c in text))
