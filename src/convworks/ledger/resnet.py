"""ResNet: Table 1 with its FLOPs row, the figure beside VGG-19, receptive fields, and the later "v1.5"."""

from __future__ import annotations

from functools import partial

from convworks.exercises.registry import ARCHITECTURES, COURSE
from convworks.ledger.alexnet import FIELDS
from convworks.ledger.cell import Cell, Value
from convworks.ledger.networks import Networks, hwc, window
from convworks.ledger.sheet import Sheet, listed

PAPER = "He, Zhang, Ren, Sun 2015"
DEPTHS = (18, 34, 50, 101, 152)
BOTTLENECKS = (50, 101, 152)

# Output size, and for each depth the block and how many there are.
# fmt: off
TABLE_1 = (
    ("conv2_x", "56x56", ("3x3,64; 3x3,64 x2",   "3x3,64; 3x3,64 x3",   "1x1,64; 3x3,64; 1x1,256 x3",
                          "1x1,64; 3x3,64; 1x1,256 x3",    "1x1,64; 3x3,64; 1x1,256 x3")),
    ("conv3_x", "28x28", ("3x3,128; 3x3,128 x2", "3x3,128; 3x3,128 x4", "1x1,128; 3x3,128; 1x1,512 x4",
                          "1x1,128; 3x3,128; 1x1,512 x4",  "1x1,128; 3x3,128; 1x1,512 x8")),
    ("conv4_x", "14x14", ("3x3,256; 3x3,256 x2", "3x3,256; 3x3,256 x6", "1x1,256; 3x3,256; 1x1,1024 x6",
                          "1x1,256; 3x3,256; 1x1,1024 x23", "1x1,256; 3x3,256; 1x1,1024 x36")),
    ("conv5_x", "7x7",   ("3x3,512; 3x3,512 x2", "3x3,512; 3x3,512 x3", "1x1,512; 3x3,512; 1x1,2048 x3",
                          "1x1,512; 3x3,512; 1x1,2048 x3", "1x1,512; 3x3,512; 1x1,2048 x3")),
)
FLOPS = ("1.8x10^9", "3.6x10^9", "3.8x10^9", "7.6x10^9", "11.3x10^9")
FIELD = {"resnet50": "483", "resnet101": "1027", "resnet152": "1507"}  # stride in the first 1x1
LATER = {"resnet50_v1_5": "427", "resnet101_v1_5": "971", "resnet152_v1_5": "1451"}  # stride in the 3x3
# fmt: on
HEADS = ("layer", "output", "18-layer", "34-layer", "50-layer", "101-layer", "152-layer")


def blocks(net: Networks, name: str, stage: str) -> str:
    """The block of a stage and how often it stands there, "3x3,64; 3x3,64 x2"; all where they differ."""
    found: dict[str, str] = {}
    for row in net.within(name, stage):
        parts = row.name.split(".")
        if row.macs and "branch" in parts:
            kernel = "x".join(map(str, row.kernel))
            block = found.get(parts[1], "")
            found[parts[1]] = f"{block}; {kernel},{row.output[0]}" if block else f"{kernel},{row.output[0]}"
    kinds = dict.fromkeys(found.values())
    return " | ".join(f"{kind} x{list(found.values()).count(kind)}" for kind in kinds)


def _same(net: Networks, compute: str, stage: str) -> Value:
    """What all five networks have in common; all of it where they differ."""
    found = []
    for depth in DEPTHS:
        name = f"resnet{depth}"
        if compute == "output":
            shape = net.stage(name, stage).output
            found.append("x".join(map(str, hwc(shape)[:2])) if len(shape) == 3 else "1x1")
        else:
            row = net.layer(name, "conv1.conv")
            found.append(f"{'x'.join(map(str, row.kernel))},{row.output[0]}; stride {row.stride[0]}")
    return ", ".join(dict.fromkeys(found))


def _table() -> Sheet:
    def size(stage: str, printed: str) -> Cell:
        return Cell(
            id=f"resnet/table/{stage}/output",
            what=f"{stage}: output size",
            printed=printed,
            unit="cells",
            compute=partial(_same, compute="output", stage=stage),
        )

    stem = Cell(id="resnet/table/conv1/layer", what="conv1", printed="7x7,64; stride 2",
                compute=partial(_same, compute="stem", stage="conv1"))  # fmt: skip
    pool = Cell(id="resnet/table/conv2_x/pool", what="conv2_x: pooling", printed="3x3/2",
                compute=lambda net: window(net.layer("resnet50", "conv2_x.pool")))  # fmt: skip
    lines: list[tuple[str, tuple[Cell | str | None, ...]]] = [
        ("conv1", (size("conv1", "112x112"), stem, *[None] * 4)),
        ("max pool", (None, pool, *[None] * 4)),
    ]
    for stage, output, columns in TABLE_1:
        cells = [
            Cell(
                id=f"resnet/table/{stage}/{depth}",
                what=f"{stage} of ResNet-{depth}",
                printed=printed,
                compute=partial(blocks, name=f"resnet{depth}", stage=stage),
            )
            for depth, printed in zip(DEPTHS, columns, strict=True)
        ]
        lines.append((stage, (size(stage, output), *cells)))
    classes = Cell(id="resnet/table/fc", what="outputs of fc", printed="1000", unit="classes",
                   compute=lambda net: net.stage("resnet50", "fc").output[0])  # fmt: skip
    lines.append(("pool, fc", (size("pool", "1x1"), classes, *[None] * 4)))
    return Sheet(
        id="resnet/table",
        title="Architectures for ImageNet",
        source=f"{ARCHITECTURES}, and {COURSE}, residual nets; {PAPER}, Table 1",
        heads=HEADS,
        lines=tuple(lines),
    )


def _costs() -> Sheet:
    """The FLOPs row, and beside it what is not printed."""
    flops = tuple(
        Cell(
            id=f"resnet/flops/{depth}",
            what=f"FLOPs of ResNet-{depth}",
            printed=printed,
            unit="multiply-adds",
            compute=partial(Networks.macs, name=f"resnet{depth}"),
            erratum="D9" if depth in (34, 50) else "",
            explanation=SHORTCUTS if depth == 34 else "",
        )
        for depth, printed in zip(DEPTHS, FLOPS, strict=True)
    )
    layers = tuple(
        Cell(
            id=f"resnet/layers/{depth}",
            what=f"layers of ResNet-{depth}",
            printed=str(depth),
            unit="layers",
            compute=partial(_layers, name=f"resnet{depth}"),
        )
        for depth in DEPTHS
    )
    return Sheet(
        id="resnet/flops",
        title="The FLOPs row, which counts multiply-adds",
        source=f"{ARCHITECTURES}, and {COURSE}, residual nets; {PAPER}, Table 1",
        heads=("", "18-layer", "34-layer", "50-layer", "101-layer", "152-layer"),
        lines=(
            ("layers", layers),
            ("FLOPs", flops),
            ("multiply-adds", _row("macs", "resnet{}", DEPTHS)),
            ("with shortcut A", (*_row("macs", "resnet{}_a", (18, 34)), None, None, None)),
            ("2 x multiply-adds", _row("operations", "resnet{}", DEPTHS)),
            ("parameters", _row("parameters", "resnet{}", DEPTHS)),
            ("v1.5 multiply-adds", (None, None, *_row("macs", "resnet{}_v1_5", BOTTLENECKS))),
        ),
    )


def _row(what: str, pattern: str, depths: tuple[int, ...]) -> tuple[Cell, ...]:
    """A row that no table prints."""
    return tuple(
        Cell(
            id=f"resnet/{what}/{pattern.format(depth)}",
            what=f"{what} of {pattern.format(depth)}",
            unit=what,
            compute=partial(_count, name=pattern.format(depth), what=what),
        )
        for depth in depths
    )


def _count(net: Networks, name: str, what: str) -> Value:
    if what == "parameters":
        return net.parameters(name)
    return net.macs(name) * (2 if what == "operations" else 1)


def _layers(net: Networks, name: str) -> Value:
    return len(net.weighted(name))


def _figure() -> Sheet:
    cells = tuple(
        Cell(
            id=f"resnet/figure/{name}",
            what=f"{title}: FLOPs",
            printed=printed,
            unit="multiply-adds",
            compute=partial(Networks.macs, name=name),
            erratum=erratum,
            explanation=SHORTCUTS if erratum else "",
        )
        for name, title, printed, erratum in (
            ("vgg_e", "VGG-19", "19.6 billion", ""),
            ("plain34", "34-layer plain", "3.6 billion", ""),
            ("resnet34_a", "34-layer residual, shortcut A", "3.6 billion", ""),
            ("resnet34", "34-layer residual, shortcut B", "3.6 billion", "D9"),
        )
    )
    return listed(
        "resnet/figure", "Example network architectures", f"{ARCHITECTURES}; {PAPER}, Figure 3", cells
    )


def _fields() -> Sheet:
    """Fields of the last maps, and the form with the stride in the 3x3 by the recurrence r += (k - 1) j."""
    cells = []
    for name, printed in {**FIELD, **LATER}.items():
        paper = name in FIELD
        cells.append(
            Cell(
                id=f"resnet/field/{name}",
                what=f"receptive field of {name}",
                printed=printed,
                unit="cells",
                source=FIELDS if paper else RECURRENCE,
                compute=partial(Networks.field, name=name, stage="conv5_x"),
            )
        )
    cells.append(
        Cell(id="resnet/stride", what="effective stride of resnet50", printed="32", unit="cells",
             compute=lambda net: int(net.stage("resnet50", "conv5_x").jump[0]))
    )  # fmt: skip
    return listed("resnet/fields", "Receptive fields", FIELDS, tuple(cells))


SHORTCUTS = (
    "multiply-adds, 3.664 with the 1x1 projections of shortcut B; without them (shortcut A, and the plain "
    "network) they are 3.644, of which 3.6 is the rounding"
)
RECURRENCE = "the recurrence r += (k - 1) j with pencil and paper; torchvision's form"

SHEETS = (_table(), _costs(), _figure(), _fields())
