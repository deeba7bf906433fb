"""VGG: the configurations of Table 1, the VGG-19 slide, and what small kernels save."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

from convworks.exercises.registry import ARCHITECTURES, KERAS
from convworks.ledger.alexnet import FIELDS
from convworks.ledger.cell import Cell, Value
from convworks.ledger.networks import Networks, window
from convworks.ledger.sheet import Sheet, listed

PAPER = "Simonyan, Zisserman 2015"
# Table 1: the convolutions of each block, from the top; Table 2: parameters.
# fmt: off
COLUMNS = ("vgg_a", "vgg_a_lrn", "vgg_b", "vgg_c", "vgg_d", "vgg_e")
TABLE_1 = (
    ("conv1", ("conv3-64 -",                  "conv3-64 LRN",                "conv3-64 conv3-64",
               "conv3-64 conv3-64",           "conv3-64 conv3-64",           "conv3-64 conv3-64")),
    ("conv2", ("conv3-128 -",                 "conv3-128 -",                 "conv3-128 conv3-128",
               "conv3-128 conv3-128",         "conv3-128 conv3-128",         "conv3-128 conv3-128")),
    ("conv3", ("conv3-256 conv3-256 - -",     "conv3-256 conv3-256 - -",     "conv3-256 conv3-256 - -",
               "conv3-256 conv3-256 conv1-256 -",
               "conv3-256 conv3-256 conv3-256 -",
               "conv3-256 conv3-256 conv3-256 conv3-256")),
    ("conv4", ("conv3-512 conv3-512 - -",     "conv3-512 conv3-512 - -",     "conv3-512 conv3-512 - -",
               "conv3-512 conv3-512 conv1-512 -",
               "conv3-512 conv3-512 conv3-512 -",
               "conv3-512 conv3-512 conv3-512 conv3-512")),
    ("conv5", ("conv3-512 conv3-512 - -",     "conv3-512 conv3-512 - -",     "conv3-512 conv3-512 - -",
               "conv3-512 conv3-512 conv1-512 -",
               "conv3-512 conv3-512 conv3-512 -",
               "conv3-512 conv3-512 conv3-512 conv3-512")),
    ("fc6",   ("FC-4096",) * 6),
    ("fc7",   ("FC-4096",) * 6),
    ("fc8",   ("FC-1000",) * 6),
)
WEIGHT_LAYERS = ("11", "11", "13", "16", "16", "19")
MILLIONS = ("133M", "133M", "133M", "134M", "138M", "144M")
# fmt: on


def words(net: Networks, name: str, stage: str) -> list[str]:
    """The layers of a block as Table 1 writes them: conv3-64, LRN, FC-4096."""
    found = []
    for row in net.within(name, stage):
        if row.macs:
            found.append(f"conv{row.kernel[0]}-{row.output[0]}" if row.kernel else f"FC-{row.output[0]}")
        elif "ResponseNorm" in row.kind:
            found.append("LRN")
    return found


def _word(net: Networks, name: str, stage: str, place: int, last: bool) -> str:
    """The layer at a place of a block, "-" behind its end; the last place has all that is left."""
    found = words(net, name, stage)[place:]
    return (" ".join(found) if last else found[0]) if found else "-"


def _configurations() -> Sheet:
    lines: list[tuple[str, tuple[Cell | str | None, ...]]] = [_numbers("weight layers", WEIGHT_LAYERS)]
    for stage, columns in TABLE_1:
        printed = [column.split() for column in columns]
        depth = len(printed[0])
        for place in range(depth):
            cells = tuple(
                Cell(
                    id=f"vgg/table/{stage}.{place + 1}/{name}",
                    what=f"{stage}, layer {place + 1} of {name}",
                    printed=column[place],
                    compute=partial(_word, name=name, stage=stage, place=place, last=place == depth - 1),
                )
                for name, column in zip(COLUMNS, printed, strict=True)
            )
            lines.append((stage if place == 0 else "", cells))
        if stage.startswith("conv"):
            lines.append(("", tuple(_pool(name, stage) for name in COLUMNS)))
    lines += [_numbers("parameters", MILLIONS), _numbers("multiply-adds"), _numbers("field")]
    return Sheet(
        id="vgg/table",
        title="VGG configurations",
        source=f"{ARCHITECTURES}, VGG architectures; {PAPER}, Tables 1 and 2",
        heads=("", "A", "A-LRN", "B", "C", "D", "E"),
        lines=tuple(lines),
    )


def _pool(name: str, stage: str) -> Cell:
    def compute(net: Networks) -> Value:
        *_, last = net.within(name, stage)
        fits = "MaxPool" in last.kind and window(last) == "2x2/2"
        return "maxpool" if fits else f"{last.kind} {window(last)}"

    return Cell(
        id=f"vgg/table/{stage}.pool/{name}",
        what=f"{stage}, the end of {name}",
        printed="maxpool",
        compute=compute,
    )


def _count(net: Networks, name: str, what: str) -> int:
    match what:
        case "weight layers":
            return len(net.weighted(name))
        case "parameters":
            return net.parameters(name)
        case "multiply-adds":
            return net.macs(name)
    return net.field(name, "conv5")


def _numbers(what: str, printed: tuple[str, ...] = ("",) * 6) -> tuple[str, tuple[Cell, ...]]:
    """A row of counts; without `printed` the paper has none."""
    return what, tuple(
        Cell(
            id=f"vgg/table/{what.replace(' ', '-')}/{name}",
            what=f"{what} of {name}",
            printed=text,
            unit=what,
            compute=partial(_count, name=name, what=what),
        )
        for name, text in zip(COLUMNS, printed, strict=True)
    )


def _convolutions(net: Networks) -> list[int]:
    """Channels of the convolutions of D."""
    return [row.output[0] for row in net.weighted("vgg_d") if row.kernel]


def _slides() -> Sheet:
    slide = f"{KERAS}, VGG19"
    cells = (
        Cell(id="vgg/19/layers", what="VGG19: layers", printed="19", unit="layers", source=slide,
             compute=lambda net: len(net.weighted("vgg_e"))),
        Cell(id="vgg/19/parameters", what="VGG19: parameters", printed="143,667,240", unit="parameters",
             source=slide, compute=lambda net: net.parameters("vgg_e")),
        Cell(id="vgg/19/dense", what="VGG19: share in the dense layers", printed="86%", unit="%",
             source=slide, compute=lambda net: net.dense_share("vgg_e"),
             explanation="123,642,856 of 143,667,240"),
        Cell(id="vgg/least", what="weight layers, from", printed="16", unit="layers",
             compute=lambda net: len(net.weighted("vgg_d"))),
        Cell(id="vgg/most", what="weight layers, to", printed="19", unit="layers",
             compute=lambda net: len(net.weighted("vgg_e"))),
        Cell(id="vgg/input", what="input", printed="224 x 224", unit="cells",
             compute=lambda net: net.input("vgg_d")[:2]),
        Cell(id="vgg/kernel", what="receptive field of a convolution", printed="3 x 3", unit="cells",
             compute=lambda net: net.layer("vgg_d", "conv1.conv1_1").kernel),
        Cell(id="vgg/padding", what="padding of a convolution", printed="1", unit="cells",
             compute=lambda net: net.layer("vgg_d", "conv1.conv1_1").padding[0]),
        Cell(id="vgg/pools", what="max-pooling layers", printed="5", unit="layers",
             compute=lambda net: sum("MaxPool" in row.kind for row in net.rows("vgg_d"))),
        Cell(id="vgg/pool", what="window and stride of pooling", printed="2x2/2",
             compute=lambda net: window(net.layer("vgg_d", "conv1.pool1"))),
        Cell(id="vgg/dense", what="fully connected layers", printed="3", unit="layers",
             compute=lambda net: sum(not row.kernel for row in net.weighted("vgg_d"))),
        Cell(id="vgg/channels/1", what="channels of convolutions 1 and 2", printed="4096",
             unit="channels", corrected="64", erratum="D21",
             compute=lambda net: max(_convolutions(net)[:2])),
        Cell(id="vgg/channels/3", what="channels of convolution 3", printed="1000",
             unit="channels", corrected="128", erratum="D21", compute=lambda net: _convolutions(net)[2]),
        Cell(id="vgg/field", what="receptive field of VGG-16, at the end", printed="212",
             unit="cells", source=FIELDS, compute=lambda net: net.field("vgg_d", "conv5")),
        Cell(id="vgg/stride", what="effective stride of VGG-16", printed="32", unit="cells", source=FIELDS,
             compute=lambda net: int(net.stage("vgg_d", "conv5").jump[0])),
    )  # fmt: skip
    return listed("vgg/slides", "VGG in numbers", f"{ARCHITECTURES}, VGG", cells)


def weights(net: Networks, text: str) -> int:
    """Weights of a stack without biases; with one map in and out they are the factor of C^2."""
    return sum(row.weights for row in net.stack(text))


def _small_kernels() -> Sheet:
    three, one, two = "7x7x1: 3*1@3x3 nobias", "7x7x1: 1@7x7 nobias", "7x7x1: 2*1@3x3 nobias"
    cells = (
        Cell(id="vgg/stack/3x3", what="weights of three 3x3 convolutions", printed="27C^2", unit="weights",
             compute=lambda net: weights(net, three)),
        Cell(id="vgg/stack/7x7", what="weights of one 7x7 convolution", printed="49C^2", unit="weights",
             compute=lambda net: weights(net, one)),
        Cell(id="vgg/stack/more", what="more in the single layer", printed="81%", unit="%",
             compute=lambda net: Fraction(100 * weights(net, one), weights(net, three)) - 100),
        Cell(id="vgg/stack/field", what="receptive field of three 3x3 convolutions", printed="7x7",
             unit="cells", compute=lambda net: net.stack(three)[-1].field),
        Cell(id="vgg/stack/inception", what="receptive field of two 3x3 convolutions", printed="5x5",
             unit="cells", source=f"{ARCHITECTURES}, Inception-v3, factorized convolutions",
             compute=lambda net: net.stack(two)[-1].field),
    )  # fmt: skip
    return listed("vgg/stack", "Small kernels", f"{ARCHITECTURES}, VGG discussion", cells)


SHEETS = (_configurations(), _slides(), _small_kernels())
