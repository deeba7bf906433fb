"""The boxes of a diagram: layers that compute, with norms and activations folded into them, and joins."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from convworks.anatomy.table import by
from convworks.anatomy.trace import Graph, Row, Shape, totals
from convworks.anatomy.tracer import IMAGE

MOST_BOXES = 130  # above, the layers of a block are one box
SILENT = frozenset({"Add", "Concatenate", "Identity", "Flatten", "Fit", "ZeroPad", "Residual"})
SHORT = {"LocalResponseNorm": "LRN", "Dropout2d": "dropout", "Dropout": "dropout", "ScaledTanh": "tanh"}
JOINS = {"add": "+", "mul": "×", "cat": "concatenate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One thing to draw. `parents` are places in the list of boxes, all before this one."""

    kind: str  # "image", "conv", "pool", "dense", "block", "other", "join"
    label: str
    shape: Shape
    parents: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()  # what was folded in behind
    before: tuple[str, ...] = ()  # and in front
    stage: str = ""
    names: tuple[str, ...] = ()  # paths of the modules
    parameters: int = 0
    macs: int = 0

    @property
    def details(self) -> str:
        """The second line: the shape of the output, and what was folded in."""
        shape = " x ".join(map(str, self.shape))
        before = (f"after {', '.join(self.before)}",) if self.before else ()
        return " · ".join((shape, *before, *((", ".join(self.notes),) if self.notes else ())))


def boxes(graph: Graph, image: Shape, *, most: int = MOST_BOXES) -> list[Box]:
    """The image, the layers and the joins, in an order in which all parents come before.

    A layer is what has a kernel, multiplies or pools; norms, activations and dropout belong to the layer that
    they follow, or where a shortcut passes them by to the one that they precede. Where there are more than
    `most` boxes, the layers of a block are one, and if those are still more, the layers of a stage.
    """
    found = _Builder(graph, image).boxes()
    depth = max((row.name.count(".") for row in graph.rows), default=0)
    while len(found) > most and depth >= 1:
        found = _merged(graph, image, depth)
        depth -= 1
    return found


class _Builder:
    """Folds rows and joins into boxes."""

    def __init__(self, graph: Graph, image: Shape) -> None:
        self.graph, self.image = graph, image
        self.readers = Counter(node for reads in graph.reads for node in reads)
        self.readers.update(part for join in graph.joins for part in join.parts)
        self.place: dict[int, int] = {IMAGE: 0}  # node -> box
        self.carried: dict[int, tuple[str, ...]] = {}  # folded, and waiting for the layer behind
        self.found = [Box(kind="image", label="image", shape=image)]

    def boxes(self) -> list[Box]:
        for number, row in enumerate(self.graph.rows):
            if row.output and self.graph.reads[number]:
                self._add_row(number, row)
        for node in self.graph.outputs:
            self._at(node)
        return self.found

    def _at(self, node: int) -> int:
        """The box of a node; that of a join is made when it is first read."""
        if node not in self.place:
            join = self.graph.joins[-2 - node]
            parents = tuple(dict.fromkeys(self._at(part) for part in join.parts))
            if len(parents) == 1:
                self.place[node] = parents[0]
            else:
                label = JOINS.get(join.operator, join.operator)
                stage = self.found[max(parents)].stage
                self.found.append(
                    Box(kind="join", label=label, shape=join.shape, parents=parents, stage=stage)
                )
                self.place[node] = len(self.found) - 1
        return self.place[node]

    def _add_row(self, number: int, row: Row) -> None:
        (source,) = self.graph.reads[number]
        parent = self._at(source)
        waiting = self.carried.get(source, ())
        if drawn(row, self.found[parent].shape):
            self.found.append(_box(row, self.found[parent].shape, (parent,), waiting))
            self.place[number] = len(self.found) - 1
            return
        self.place[number] = parent
        text = () if row.kind in SILENT else (short(row.kind),)
        box = self.found[parent]
        if (self.readers[source] > 1 or waiting) and text:
            self.carried[number] = (*waiting, *text)
        elif waiting:
            self.carried[number] = waiting
        else:
            self.found[parent] = replace(box, notes=(*box.notes, *text), names=(*box.names, row.name))


def drawn(row: Row, before: Shape) -> bool:
    """Whether a layer is a box of its own: it multiplies, has a window, or makes another shape."""
    if row.kind in SILENT:
        return False
    return bool(row.macs or row.kernel) or (
        row.output != before and math.prod(row.output) != math.prod(before)
    )


def short(kind: str) -> str:
    """As diagrams call a layer: BN for BatchNorm2d."""
    if "BatchNorm" in kind:
        return "BN"
    return SHORT.get(kind, kind)


def _box(row: Row, before: Shape, parents: tuple[int, ...], waiting: tuple[str, ...]) -> Box:
    kind, label = _label(row, before)
    return Box(
        kind=kind,
        label=label,
        shape=row.output,
        parents=parents,
        before=waiting,
        stage=row.name.split(".")[0],
        names=(row.name,),
        parameters=row.parameters,
        macs=row.macs,
    )


def _label(row: Row, before: Shape) -> tuple[str, str]:
    """The kind of box, and "3x3 conv, 64, /2"."""
    maps = row.output[0]
    if not row.kernel:
        if row.dense:
            return "dense", f"{'fc' if row.kind == 'Linear' else row.kind}, {maps}"
        pooled = "Pool" in row.kind or "Mean" in row.kind
        return ("pool", "global pool") if pooled else ("other", row.kind)
    size = "x".join(map(str, row.kernel)) if len(row.kernel) > 1 else f"{row.kernel[0]}-tap"
    stride = "" if set(row.stride) <= {1} else f", /{by(row.stride)}"
    if not row.macs:
        for part, word in (("Max", "max pool"), ("Avg", "average pool")):
            if part in row.kind:
                return "pool", f"{size} {word}{stride}"
        return ("pool" if "Pool" in row.kind else "other"), f"{size} {row.kind}{stride}"
    inputs = row.macs // row.neurons / math.prod(row.kernel)  # that one output sees
    word = "conv" if "Conv" in row.kind else row.kind
    if "Transpose" in row.kind:
        word = "transposed conv"
    elif "Conv" in row.kind and before and 0 < inputs < before[0]:
        word = "depthwise" if inputs == 1 else f"conv in {before[0] / inputs:.0f} groups"
        word = word if before[0] % inputs == 0 else "conv by table"
    dilation = "" if set(row.dilation) <= {1} else f", dilated {by(row.dilation)}"
    return "conv", f"{size} {word}, {maps}{stride}{dilation}"


def _merged(graph: Graph, image: Shape, depth: int) -> list[Box]:
    """One box for all rows whose names begin with the same `depth` parts."""
    names = [".".join(row.name.split(".")[:depth]) for row in graph.rows]
    members: dict[str, list[Row]] = {"": []}
    parents: dict[str, set[str]] = {"": set()}
    met: dict[int, set[str]] = {}  # join -> the groups that it has on its own

    def groups(node: int) -> set[str]:
        """A shortcut inside a block is no reading of what came before the block."""
        if node >= IMAGE:
            return {names[node] if node != IMAGE else ""}
        if node not in met:
            each = set[str]().union(*(groups(part) for part in graph.joins[-2 - node].parts))
            latest = max(each, key=list(members).index)
            met[node] = each - parents[latest]
        return met[node]

    for number, row in enumerate(graph.rows):
        if row.output:
            name = names[number]
            members.setdefault(name, []).append(row)
            read = set[str]().union(*(groups(node) for node in graph.reads[number]))
            parents.setdefault(name, set()).update(read - {name})
    found = [Box(kind="image", label="image", shape=image)]
    place = {"": 0}
    for name, rows in list(members.items())[1:]:
        before = tuple(sorted({place[each] for each in parents[name] if each in place}))
        shape = found[before[0]].shape if before else ()
        layers = []
        for row in rows:
            layers += [row] if drawn(row, shape) else []
            shape = row.output
        notes = tuple(dict.fromkeys(short(row.kind) for row in rows if not _said(row, layers)))
        if not layers and len(before) == 1:
            host = found[before[0]]
            found[before[0]] = replace(host, notes=(*host.notes, *notes), names=(*host.names, name))
            place[name] = before[0]
            continue
        place[name] = len(found)
        found.append(_block(name, rows, layers, notes, before, found))
    return found


def _said(row: Row, layers: list[Row]) -> bool:
    return row in layers or row.kind in SILENT


def _block(
    name: str,
    rows: list[Row],
    layers: list[Row],
    notes: tuple[str, ...],
    parents: tuple[int, ...],
    found: list[Box],
) -> Box:
    """The box of a block, of the one layer that it has, or of the branches that it joins."""
    shape, stage = rows[-1].output, name.split(".", maxsplit=1)[0]
    if not layers:
        label = "+" if any("Add" in row.kind for row in rows) else "concatenate"
        return Box(kind="join", label=label, shape=shape, parents=parents, stage=stage, names=(name,))
    if len(layers) == 1:
        box = _box(layers[0], found[parents[0]].shape if parents else (), parents, ())
        return replace(box, notes=notes, names=(name,))
    total = totals(rows)
    return Box(
        kind="block",
        label=f"{name.rsplit('.', maxsplit=1)[-1]}: {len(layers)} layers",
        shape=shape,
        parents=parents,
        stage=stage,
        names=(name,),
        parameters=total.parameters,
        macs=total.macs,
    )
