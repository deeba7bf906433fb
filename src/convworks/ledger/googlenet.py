"""GoogLeNet: Table 1 in 22 lines, its size, and the ladder of models and crops.

The lines are the 19 of the table, the separable convolution that its first line means, and the totals with
either stem. Counts of the params column are weights, K is 1024.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

from convworks.anatomy import Row
from convworks.exercises.registry import ARCHITECTURES, KERAS
from convworks.ledger.cell import Cell, Value
from convworks.ledger.networks import Networks, hwc, window
from convworks.ledger.sheet import Sheet, listed

NET, SEPARABLE, ALEXNET = "googlenet", "googlenet_separable_stem", "alexnet"
BRANCHES = (
    *("branch_1x1", "branch_3x3.reduce", "branch_3x3.conv"),
    *("branch_5x5.reduce", "branch_5x5.conv", "branch_pool.project"),
)


class Line(NamedTuple):
    """A line of the table: as printed, and the stage of the network."""

    type: str
    stage: str
    patch: str
    output: str
    depth: str
    maps: str  # #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj
    params: str
    ops: str
    name: str = NET

    @property
    def label(self) -> str:
        """ "inception 4a"; the type alone of other lines."""
        return f"{self.type} {self.stage}" if self.type == "inception" else self.type

    @property
    def path(self) -> str:
        """The child of the network."""
        return f"inception_{self.stage}" if self.type == "inception" else self.stage


# fmt: off
TABLE_1 = (
    Line("convolution", "conv1",    "7x7/2", "112x112x64", "1", "",                       "2.7K",  "34M"),
    Line("sep. conv.",  "conv1",    "7x7/2", "112x112x64", "",  "",                       "2.7K",  "34M",
         name=SEPARABLE),
    Line("max pool",    "pool1",    "3x3/2", "56x56x64",   "0", "",                       "",      ""),
    Line("convolution", "conv2",    "3x3/1", "56x56x192",  "2", "- 64 192",               "112K",  "360M"),
    Line("max pool",    "pool2",    "3x3/2", "28x28x192",  "0", "",                       "",      ""),
    Line("inception",   "3a",       "",      "28x28x256",  "2", "64 96 128 16 32 32",     "159K",  "128M"),
    Line("inception",   "3b",       "",      "28x28x480",  "2", "128 128 192 32 96 64",   "380K",  "304M"),
    Line("max pool",    "pool3",    "3x3/2", "14x14x480",  "0", "",                       "",      ""),
    Line("inception",   "4a",       "",      "14x14x512",  "2", "192 96 208 16 48 64",    "364K",  "73M"),
    Line("inception",   "4b",       "",      "14x14x512",  "2", "160 112 224 24 64 64",   "437K",  "88M"),
    Line("inception",   "4c",       "",      "14x14x512",  "2", "128 128 256 24 64 64",   "463K",  "100M"),
    Line("inception",   "4d",       "",      "14x14x528",  "2", "112 144 288 32 64 64",   "580K",  "119M"),
    Line("inception",   "4e",       "",      "14x14x832",  "2", "256 160 320 32 128 128", "840K",  "170M"),
    Line("max pool",    "pool4",    "3x3/2", "7x7x832",    "0", "",                       "",      ""),
    Line("inception",   "5a",       "",      "7x7x832",    "2", "256 160 320 32 128 128", "1072K", "54M"),
    Line("inception",   "5b",       "",      "7x7x1024",   "2", "384 192 384 48 128 128", "1388K", "71M"),
    Line("avg pool",    "avg_pool", "7x7/1", "1x1x1024",   "0", "",                       "",      ""),
    Line("dropout",     "dropout",  "",      "1x1x1024",   "0", "",                       "",      ""),
    Line("linear",      "linear",   "",      "1x1x1000",   "1", "",                       "1000K", "1M"),
    Line("softmax",     "linear",   "",      "1x1x1000",   "0", "",                       "",      ""),
)
# What the two last columns should say, where they are wrong.
CORRECTED = {
    "conv1": ("9.19K", "118M"),
    "4a": ("366.8K", ""),
    "4b": ("438K", ""),
    "4c": ("497.5K", ""),
    "4d": ("590.5K", ""),
    "4e": ("847K", ""),
    "5a": ("1018K", "51.1M"),
    "5b": ("1409K", ""),
}
# Sums of the printed columns; where they should be, with the 7x7 convolution and with the separable one.
TOTALS = (
    ("total",      NET,       "6797.7K", "6826K", "1502M", "1583M", "D1"),
    ("total, sep.", SEPARABLE, "6797.7K", "6820K", "1502M", "1499M", "D3"),
)
# Lines that agree when the biases are counted.
BIASES = {
    "inception 3b": "388,736 with its biases; the weights alone are 379.0K",
    "sep. conv.": "2,776 with the biases of its 1x1 part; the 2,712 weights alone are 2.6K, or 2.7K of 1000",
}
# Models, crops, cost, top-5 error and the difference to the base, in per cent.
LADDER = (
    (1,   1,    "1", "10.07%",       ""),
    (1,  10,   "10",  "9.15%", "-0.92%"),
    (1, 144,  "144",  "7.89%", "-2.18%"),
    (7,   1,    "7",  "8.09%", "-1.98%"),
    (7,  10,   "70",  "7.62%", "-2.45%"),
    (7, 144, "1008",  "6.67%", "-3.45%"),
)
# fmt: on


def _layers(net: Networks, line: Line) -> list[Row]:
    """The layers of a line; softmax has none, because it is in the loss."""
    return [] if line.type == "softmax" else net.within(line.name, line.path)


def patch(net: Networks, line: Line) -> Value:
    """Window and stride of the layer with the largest; the mean of 7x7 maps is a 7x7 window."""
    rows = [row for row in _layers(net, line) if row.kernel]
    if rows:
        return window(max(rows, key=lambda row: row.kernel))
    height, width = net.stage(line.name, "inception_5b").output[1:]
    return f"{height}x{width}/1"


def output(net: Networks, line: Line) -> Value:
    """H x W x C; a vector is 1 x 1 x C."""
    shape = hwc(net.stage(line.name, line.path).output)
    return shape if len(shape) == 3 else (1, 1, *shape)


def depth(net: Networks, line: Line) -> Value:
    """Layers with weights on the longest path: a branch has one or two."""
    rows = [row for row in _layers(net, line) if row.macs]
    if line.type != "inception":
        return len(rows)
    branches = [row.name.split(".")[1] for row in rows]
    return max(branches.count(branch) for branch in branches)


def maps(net: Networks, line: Line, branch: str) -> Value:
    """Output maps of a branch of an inception module; of the second convolution 1x1 is #3x3 reduce."""
    if line.stage == "conv2":
        part = {"branch_3x3.reduce": "reduce", "branch_3x3.conv": "conv"}[branch]
        return net.layer(line.name, f"conv2.{part}.conv").output[0]
    return net.layer(line.name, f"{line.path}.{branch}.conv").output[0]


def weights(net: Networks, line: Line, *, biases: bool = False) -> Value:
    """Weights of a line; with `biases` the parameters."""
    rows = _layers(net, line)
    return sum(row.parameters - (0 if biases else row.biases) for row in rows)


def macs(net: Networks, line: Line) -> Value:
    """Multiply-adds of a line."""
    return sum(row.macs for row in _layers(net, line))


def _line(number: int, line: Line) -> tuple[str, tuple[Cell | str | None, ...]]:
    key = f"googlenet/table/{number}-{line.label.replace(' ', '-')}"

    def cell(column: str, printed: str, **more: Any) -> Cell | None:
        return (
            Cell(id=f"{key}/{column}", what=f"{line.label}: {column}", printed=printed, **more)
            if printed
            else None
        )

    numbers = (line.maps.split() + ["-"] * 6)[:6]
    channels = [
        cell(branch, count, compute=partial(maps, line=line, branch=branch), unit="maps")
        if count != "-"
        else None
        for branch, count in zip(BRANCHES, numbers, strict=True)
    ]
    right = CORRECTED.get(line.stage, ("", "")) if line.name == NET else ("", "")
    wrong = {"conv1": ("D1", "D1"), "5a": ("D2", "D3")}.get(line.stage, ("D2", ""))
    biases = line.label in BIASES
    params = cell(
        "params",
        line.params,
        compute=partial(weights, line=line, biases=biases),
        kilo=1024,
        unit="parameters" if biases else "weights",
        erratum=wrong[0] if right[0] else "D4" if line.stage == "conv2" else "",
        corrected=right[0],
        explanation=BIASES.get(line.label, ""),
    )
    ops = cell(
        "ops",
        line.ops,
        compute=partial(macs, line=line),
        unit="multiply-adds",
        erratum=wrong[1] if right[1] else "",
        corrected=right[1],
    )
    return line.label, (
        cell("patch", line.patch, compute=partial(patch, line=line)),
        cell("output", line.output, compute=partial(output, line=line), unit="cells"),
        cell("depth", line.depth, compute=partial(depth, line=line), unit="layers"),
        *channels,
        params,
        ops,
    )


def _totals() -> list[tuple[str, tuple[Cell | str | None, ...]]]:
    lines: list[tuple[str, tuple[Cell | str | None, ...]]] = []
    for label, name, params, params_right, ops, ops_right, erratum in TOTALS:
        key = f"googlenet/table/{'total' if name == NET else 'total-separable'}"
        why = "the sum of the printed column; its lines from 4a to 5b are off (D2)"
        why_ops = "the sum of the printed column; 5a has 2.9M too many (D3)" if name == SEPARABLE else ""
        first = Cell(id=f"{key}/params", what=f"{label}: params", printed=params, kilo=1024, unit="weights",
                     compute=partial(_total_weights, name=name), corrected=params_right, erratum="D2",
                     explanation=why)  # fmt: skip
        second = Cell(id=f"{key}/ops", what=f"{label}: ops", printed=ops, unit="multiply-adds",
                      compute=partial(Networks.macs, name=name), corrected=ops_right, erratum=erratum,
                      explanation=why_ops)  # fmt: skip
        lines.append((label, (*[None] * 9, first, second)))
    return lines


def _total_weights(net: Networks, name: str) -> Value:
    return sum(row.parameters - row.biases for row in net.rows(name) if row.output)


def _table() -> Sheet:
    lines = [_line(number, line) for number, line in enumerate(TABLE_1, start=1)]
    return Sheet(
        id="googlenet/table",
        title="GoogLeNet layer properties",
        source=f"{ARCHITECTURES}, GoogLeNet layer properties; Szegedy et al. 2015, Table 1",
        heads=(
            "type",
            "patch",
            "output",
            "depth",
            "1x1",
            "3x3r",
            "3x3",
            "5x5r",
            "5x5",
            "proj",
            "params",
            "ops",
        ),
        lines=(*lines, *_totals()),
    )


def _size() -> Sheet:
    slide = f"{KERAS}, GoogleNet (Inception)"
    parameters = "parameters"
    cells = (
        Cell(id="googlenet/layers", what="layers deep", printed="22", unit="layers",
             compute=lambda net: sum(int(str(depth(net, line))) for line in TABLE_1 if line.depth)),
        Cell(id="googlenet/all-layers", what="neural network layers", printed="64", unit="layers",
             source=slide, compute=lambda net: len(net.weighted(NET, idle=True)),
             explanation="58 and, in the auxiliary heads, 6"),
        Cell(id="googlenet/inference-layers", what="layers without the auxiliary heads", unit="layers",
             compute=lambda net: len(net.weighted(NET))),
        Cell(id="googlenet/parameters", what="learned parameters", printed="16,063,912", unit=parameters,
             source=slide, erratum="D6", corrected="13,378,280",
             compute=lambda net: net.parameters(NET, idle=True)),
        Cell(id="googlenet/dense", what="share in the dense layers", printed="45%", unit="%", source=slide,
             erratum="D6", corrected="54.35%", compute=lambda net: net.dense_share(NET, idle=True)),
        Cell(id="googlenet/inference-parameters", what="parameters without the auxiliary heads",
             unit=parameters, compute=lambda net: net.parameters(NET)),
        Cell(id="googlenet/inference-dense", what="dense share without the auxiliary heads", unit="%",
             compute=lambda net: net.dense_share(NET)),
        Cell(id="googlenet/fewer", what="fewer parameters than AlexNet", printed="12x", erratum="D7",
             corrected="8.7x", compute=lambda net: Fraction(net.parameters(ALEXNET), net.parameters(NET))),
        Cell(id="googlenet/budget", what="multiply-adds, separable stem", printed="1.5B",
             unit="multiply-adds", compute=lambda net: net.macs(SEPARABLE)),
        Cell(id="googlenet/budget/standard", what="multiply-adds, 7x7 convolution", printed="1.5B",
             unit="multiply-adds", erratum="D1", compute=lambda net: net.macs(NET)),
        Cell(id="googlenet/dropout", what="dropout", printed="40%", unit="%", compute=_dropout),
        Cell(id="googlenet/field", what="receptive field at 5b, along the 5x5 branches", unit="cells",
             compute=lambda net: net.field(NET, "inception_5b")),
    )  # fmt: skip
    return listed("googlenet/size", "GoogLeNet in numbers", f"{ARCHITECTURES}, Inception (GoogLeNet)", cells)


def _dropout(net: Networks) -> Value:
    """Per cent of the units that the layer before the linear one drops."""
    layer = net.module(NET).get_submodule("dropout")
    return Fraction(str(getattr(layer, "p", 0))) * 100


def _ladder() -> Sheet:
    base = _percent(LADDER[0][3])
    lines: list[tuple[str, tuple[Cell | str | None, ...]]] = []
    for models, crops, cost, error, delta in LADDER:
        key = f"googlenet/ladder/{models}x{crops}"
        wrong = delta == "-3.45%"
        change = Cell(id=f"{key}/compared", what=f"{models} models, {crops} crops: compared to base",
                      printed=delta, unit="%", compute=partial(_difference, error=error, base=base),
                      erratum="D5" if wrong else "", corrected="-3.40%" if wrong else "")  # fmt: skip
        product = Cell(id=f"{key}/cost", what=f"{models} models, {crops} crops: cost", printed=cost,
                       unit="passes", compute=partial(_product, a=models, b=crops))  # fmt: skip
        lines.append((str(models), (str(crops), product, error, change if delta else "base")))
    return Sheet(
        id="googlenet/ladder",
        title="Models and crops",
        source=f"{ARCHITECTURES}, classification accuracy results",
        heads=("models", "crops", "cost", "top-5 error", "compared to base"),
        lines=tuple(lines),
    )


def _percent(text: str) -> Fraction:
    return Fraction(text.rstrip("%"))


def _difference(net: Networks, error: str, base: Fraction) -> Value:
    return _percent(error) - base


def _product(net: Networks, a: int, b: int) -> Value:
    return a * b


SHEETS = (_table(), _size(), _ladder())
