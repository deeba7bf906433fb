"""Where the boxes of a diagram stand: a spine from top to bottom, branches beside it, arcs for shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from convworks.anatomy.graph import Box

HEIGHT, JOIN_HEIGHT, GAP = 34.0, 20.0, 16.0
BESIDE, LANE = 14.0, 22.0  # between branches; for an arc without a box
CHARACTER, SMALL, LEAST, MOST = 6.5, 5.5, 104.0, 214.0  # widths of letters and boxes


@dataclass(frozen=True, slots=True)
class Split:
    """Branches from the box `fork` to the box `meet`; an empty one is a shortcut."""

    fork: int
    meet: int
    branches: tuple[Chain, ...]
    centred: bool  # all branches around the spine; else the longest on it and the others to its right


Chain: TypeAlias = tuple["int | Split", ...]


@dataclass(slots=True)
class Layout:
    """Places of boxes: centre x and top y; and for edges that pass boxes by, the x that they run along."""

    width: float  # of a box
    x: dict[int, float] = field(default_factory=dict)
    y: dict[int, float] = field(default_factory=dict)
    lanes: dict[tuple[int, int], float] = field(default_factory=dict)  # (from, to) -> x


def height(box: Box) -> float:
    return JOIN_HEIGHT if box.kind == "join" else HEIGHT


def box_width(boxes: Sequence[Box]) -> float:
    """The width that holds all labels, within reason."""
    longest = [max(CHARACTER * len(b.label), SMALL * len(b.details)) + 14 for b in boxes]
    return min(MOST, max([LEAST, *longest]))


def spine(boxes: Sequence[Box]) -> Chain:
    """The boxes as nested branches where they are such; else one below the other, and arcs do the rest."""
    children: list[list[int]] = [[] for _ in boxes]
    for number, box in enumerate(boxes):
        for parent in box.parents:
            children[parent].append(number)
    meets = _meeting_points(children)
    seen: list[int] = []
    chain = _chain(0, len(boxes), boxes, children, meets, seen)
    return chain if sorted(seen) == list(range(len(boxes))) else tuple(range(len(boxes)))


def _meeting_points(children: list[list[int]]) -> list[int]:
    """For each box, the first box that every path from it to the end passes; n is the end."""
    end = len(children)
    meets = [end] * (end + 1)
    for node in reversed(range(end)):
        common = children[node][0] if children[node] else end
        for other in children[node][1:]:
            a, b = common, other
            while a != b:
                if a < b:
                    a = meets[a]
                else:
                    b = meets[b]
            common = a
        meets[node] = common
    return meets


def _chain(
    node: int, stop: int, boxes: Sequence[Box], children: list[list[int]], meets: list[int], seen: list[int]
) -> Chain:
    """From a box to the one before `stop`."""
    found: list[int | Split] = []
    while node < stop:
        found.append(node)
        seen.append(node)
        if len(seen) > len(boxes):  # a box on two branches: no nested branches
            return tuple(found)
        following = children[node]
        if len(following) > 1:
            meet = min(meets[node], stop)
            parts = tuple(_chain(each, meet, boxes, children, meets, seen) for each in following)
            adds = meet < len(boxes) and boxes[meet].label == "+"
            found.append(Split(node, meet, parts, centred=not adds and all(parts)))
            node = meet
        else:
            node = following[0] if following else stop
    return tuple(found)


def chain_height(chain: Chain, boxes: Sequence[Box]) -> float:
    """With the gap below its last item."""
    total = 0.0
    for item in chain:
        if isinstance(item, Split):
            total += GAP / 2 + max(chain_height(branch, boxes) for branch in item.branches)
        else:
            total += height(boxes[item]) + GAP
    return total


def chain_sides(chain: Chain, width: float) -> tuple[float, float]:
    """How far it reaches to the left and to the right of its own centre."""
    left = right = width / 2
    for item in chain:
        if isinstance(item, Split):
            places = _places(item, width)
            sides = [_sides(branch, width) for branch in item.branches]
            left = max(left, *(s[0] - x for x, s in zip(places, sides, strict=True)))
            right = max(right, *(s[1] + x for x, s in zip(places, sides, strict=True)))
    return left, right


def _sides(branch: Chain, width: float) -> tuple[float, float]:
    return chain_sides(branch, width) if branch else (LANE / 2, LANE / 2)


def _places(split: Split, width: float) -> list[float]:
    """The centre of each branch, beside the spine at 0."""
    sides = [_sides(branch, width) for branch in split.branches]
    if split.centred:
        total = sum(left + right for left, right in sides) + BESIDE * (len(sides) - 1)
        at, found = -total / 2, []
        for left, right in sides:
            found.append(at + left)
            at += left + right + BESIDE
        return found
    main = max(range(len(sides)), key=lambda i: (_length(split.branches[i]), -i))
    at, found = sides[main][1] + BESIDE, [0.0] * len(sides)
    for i, (left, right) in enumerate(sides):
        if i != main:
            found[i] = at + left
            at += left + right + BESIDE
    return found


def _length(chain: Chain) -> int:
    return sum(max(map(_length, item.branches)) if isinstance(item, Split) else 1 for item in chain)


def place(chain: Chain, boxes: Sequence[Box], layout: Layout, *, x: float, y: float) -> float:
    """Give every box of a chain its place; the y below it."""
    for item in chain:
        if isinstance(item, Split):
            deep = y
            for offset, branch in zip(_places(item, layout.width), item.branches, strict=True):
                if branch:
                    deep = max(deep, place(branch, boxes, layout, x=x + offset, y=y + GAP / 2))
                else:
                    layout.lanes[item.fork, item.meet] = x + offset
            y = deep
        else:
            layout.x[item], layout.y[item] = x, y
            y += height(boxes[item]) + GAP
    return y


def place_arcs(boxes: Sequence[Box], layout: Layout) -> None:
    """Lanes on the right for edges that pass boxes by, where all boxes stand in one column."""
    ends: list[int] = []  # of each lane, the box at which its last arc ended
    edge = max(layout.x.values()) + layout.width / 2
    for number, box in enumerate(boxes):
        for parent in box.parents:
            if parent == number - 1 or (parent, number) in layout.lanes:
                continue
            lane = next((i for i, end in enumerate(ends) if end <= parent), len(ends))
            ends[lane : lane + 1] = [number]
            layout.lanes[parent, number] = edge + LANE * (lane + 0.5)
