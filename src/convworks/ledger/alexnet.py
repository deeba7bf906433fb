"""AlexNet: the list of its layers, its size, what the ablation takes away, and the neurons of the paper."""

from __future__ import annotations

from functools import partial

from convworks.anatomy import Row
from convworks.exercises.registry import ARCHITECTURES, LEARNING, VISION
from convworks.ledger.cell import Cell, Value
from convworks.ledger.networks import Networks, hwc
from convworks.ledger.sheet import Sheet, listed
from convworks.ops.cost import convolution_cost, dense_cost
from convworks.ops.shape import output_size

ONE, TWO = "alexnet_single_tower", "alexnet"
PAPER = "Krizhevsky, Sutskever, Hinton 2012"
FIELDS = "google-research/receptive_field, README; Araujo, Norris, Sim 2019"

# "Full (simplified) AlexNet architecture": volume, name, layer of the network, what the line says of it.
# fmt: off
LIST = (
    ("[227x227x3]", "INPUT",     "",            ""),
    ("[55x55x96]",  "CONV1",     "conv1.conv",  "96 11x11, stride 4, pad 0"),
    ("[27x27x96]",  "MAX POOL1", "conv1.pool",  "3x3, stride 2"),
    ("[27x27x96]",  "NORM1",     "conv1.norm",  ""),
    ("[27x27x256]", "CONV2",     "conv2.conv",  "256 5x5, stride 1, pad 2"),
    ("[13x13x256]", "MAX POOL2", "conv2.pool",  "3x3, stride 2"),
    ("[13x13x256]", "NORM2",     "conv2.norm",  ""),
    ("[13x13x384]", "CONV3",     "conv3.conv",  "384 3x3, stride 1, pad 1"),
    ("[13x13x384]", "CONV4",     "conv4.conv",  "384 3x3, stride 1, pad 1"),
    ("[13x13x256]", "CONV5",     "conv5.conv",  "256 3x3, stride 1, pad 1"),
    ("[6x6x256]",   "MAX POOL3", "conv5.pool",  "3x3, stride 2"),
    ("[4096]",      "FC6",       "fc6.linear",  "4096 neurons"),
    ("[4096]",      "FC7",       "fc7.linear",  "4096 neurons"),
    ("[1000]",      "FC8",       "fc8",         "1000 neurons"),
)
# The same list in the other lecture, where it differs.
TYPING_ERRORS = {"CONV2": "[27x27x26]"}
# Its figure: name, layer, what is written in the box, what should be.
FIGURE = (
    ("CONV, first",            "conv1.conv", "11x11, 96fm",  ""),
    ("MAX POOL, first",        "conv1.pool", "2x2sub",       "3x3sub"),
    ("CONV, second",           "conv2.conv", "11x11, 256fm", "5x5, 256fm"),
    ("MAX POOLING, second",    "conv2.pool", "2x2sub",       "3x3sub"),
    ("CONV, third",            "conv3.conv", "3x3, 384fm",   ""),
    ("CONV, fourth",           "conv4.conv", "3x3, 384fm",   ""),
    ("CONV, fifth",            "conv5.conv", "3x3, 256fm",   ""),
)
PATCHES = "with padding of 2; without it (224 - 11) / 4 + 1 is 54.25; 227 pixels without padding make 55"
# Section 3.5: "253,440-186,624-64,896-64,896-43,264-4096-4096-1000".
NEURONS = {
    "conv1": "253,440", "conv2": "186,624", "conv3": "64,896", "conv4": "64,896",
    "conv5": "43,264", "fc6": "4096", "fc7": "4096", "fc8": "1000",
}
# fmt: on


# The list pools before it normalises, as CaffeNet does; the paper (section 3.5) and our networks after it.
LECTURE_ORDER = "227x227x3: 96@11x11 s4, max 3x3/2, lrn, 256@5x5 p2, max 3x3/2, lrn"
NORM = {"conv1.norm": 2, "conv2.norm": 5}
NORM_WHY = "the list pools first, as CaffeNet does; the paper normalises first, and has {} there"


def volume(net: Networks, path: str) -> Value:
    """(H, W, C) after a layer; of the image where no layer is named. NORM is where the list has it."""
    if path in NORM:
        return hwc(net.stack(LECTURE_ORDER)[NORM[path]].output)
    return hwc(net.layer(ONE, path).output) if path else net.input(ONE)


def order(path: str) -> str:
    """What is to be said about the place of a normalisation; nothing of other layers."""
    before = {"conv1.norm": "55x55x96", "conv2.norm": "27x27x256"}
    return NORM_WHY.format(before[path]) if path in NORM else ""


def said(net: Networks, path: str) -> str:
    """A layer in the words of the list: filters, kernel, stride, padding."""
    row = net.layer(ONE, path)
    if not row.kernel:
        return f"{row.output[0]} neurons"
    kernel = f"{'x'.join(map(str, row.kernel))}, stride {row.stride[0]}"
    return f"{row.output[0]} {kernel}, pad {row.padding[0]}" if row.parameters else kernel


def box(net: Networks, path: str) -> str:
    """A layer in the words of the figure."""
    row = net.layer(ONE, path)
    kernel = "x".join(map(str, row.kernel))
    return f"{kernel}, {row.output[0]}fm" if row.parameters else f"{kernel}sub"


def _list() -> Sheet:
    lines = []
    for printed, name, path, words in LIST:
        key = f"alexnet/list/{name.lower().replace(' ', '-')}"
        line: tuple[Cell | str | None, ...] = (
            Cell(
                id=f"{key}/volume",
                what=f"{name}: volume",
                printed=printed,
                explanation=order(path),
                compute=partial(volume, path=path),
            ),
            Cell(
                id=f"{key}/layer",
                what=f"{name}: layer",
                printed=words,
                compute=partial(said, path=path),
            )
            if words
            else None,
            *(_column(key, name, path, column) for column in ("parameters", "macs", "field")),
        )
        lines.append((name, line))
    return Sheet(
        id="alexnet/list",
        title="Full (simplified) AlexNet architecture, 14 lines",
        source=f"{VISION}, AlexNet",
        heads=("layer", "volume", "filters", "parameters", "multiply-adds", "field"),
        lines=tuple(lines),
    )


def _column(key: str, name: str, path: str, column: str) -> Cell | None:
    """A number that the list does not print: parameters with biases, multiply-adds, receptive field."""
    if not path or path in NORM or (column == "field" and path.startswith("fc")):
        return None

    def compute(net: Networks) -> Value:
        row = net.layer(ONE, path)
        return row.field[0] if column == "field" else int(getattr(row, column))

    return Cell(id=f"{key}/{column}", what=f"{name}: {column}", compute=compute, unit=column)


def _other_list() -> Sheet:
    cells = []
    for printed, name, path, _ in LIST:
        wrong = TYPING_ERRORS.get(name, "")
        cells.append(
            Cell(
                id=f"alexnet/second-list/{name.lower().replace(' ', '-')}",
                what=f"{name}: volume",
                printed=wrong or printed,
                corrected=printed if wrong else "",
                erratum="D11" if wrong or name == "CONV5" else "",
                explanation="the line stands there twice, the network has it once"
                if name == "CONV5"
                else order(path),
                compute=partial(volume, path=path),
                unit="cells",
            )
        )
    cells += [
        Cell(
            id=f"alexnet/figure/{path}",
            what=f"{name}, in the figure",
            printed=printed,
            corrected=right,
            erratum="D11" if right else "",
            compute=partial(box, path=path),
        )
        for name, path, printed, right in FIGURE
    ]
    return listed(
        "alexnet/second-list", "AlexNet architecture, and its figure", f"{LEARNING}, AlexNet", tuple(cells)
    )


def without(net: Networks, name: str, *gone: str) -> int:
    """How many parameters fewer a network has without some layers; the layer above sees the one below.

    `gone` is fc7, or fc6 and fc7, or conv3 and conv4. Above conv2 are 256 maps, and 9216 inputs above pool5.
    """
    dropped = sum(net.stage(name, layer).parameters for layer in gone)
    if "fc6" in gone:
        inputs = net.layer(name, "conv5.pool").neurons
        return dropped + net.stage(name, "fc8").parameters - dense_cost(inputs, 1000).parameters
    if "conv3" in gone:
        above, below = net.layer(name, "conv5.conv"), net.layer(name, "conv2.conv")
        size, groups = above.output[1:], 2 if name == TWO else 1
        left = convolution_cost(
            size, below.output[0], above.output[0], above.kernel, padding=1, groups=groups
        )
        return dropped + above.parameters - left.parameters
    return dropped


def _size() -> Sheet:
    million = "parameters"
    cells = (
        Cell(id="alexnet/parameters", what="parameters, in two towers", printed="60M", unit=million,
             compute=lambda net: net.parameters(TWO),
             explanation="60,965,224, cut to whole millions; one tower has 62,378,344"),
        Cell(id="alexnet/parameters/second", what="parameters, in two towers", printed="60,000,000",
             digits=2, unit=million, source=f"{LEARNING}, AlexNet", compute=lambda net: net.parameters(TWO)),
        Cell(id="alexnet/parameters/one", what="parameters, in one tower", unit=million,
             compute=lambda net: net.parameters(ONE)),
        Cell(id="alexnet/neurons", what="neurons", printed="650K", digits=2, unit="neurons",
             compute=_neurons, explanation="659,272, cut to two digits"),
        Cell(id="alexnet/neurons/second", what="neurons", printed="650,000", digits=2, unit="neurons",
             source=f"{LEARNING}, AlexNet", compute=_neurons),
        Cell(id="alexnet/layers", what="learnable layers", printed="8", unit="layers",
             compute=lambda net: len(net.weighted(TWO))),
        Cell(id="alexnet/convolutions", what="convolutional layers", printed="5", unit="layers",
             compute=lambda net: sum(bool(row.kernel) for row in net.weighted(TWO))),
        Cell(id="alexnet/dense", what="fully connected layers", printed="3", unit="layers",
             compute=lambda net: sum(not row.kernel for row in net.weighted(TWO))),
        Cell(id="alexnet/hidden", what="hidden layers", printed="7", unit="layers",
             source=f"{LEARNING}, AlexNet", compute=lambda net: len(net.weighted(TWO)) - 1),
        Cell(id="alexnet/classes", what="softmax ways", printed="1000", unit="classes",
             compute=lambda net: net.stage(TWO, "fc8").output[0]),
        Cell(id="alexnet/conv1", what="(11*11*3)*96 weights of CONV1", printed="35K", unit="weights",
             source=f"{VISION}, AlexNet", compute=lambda net: _weights(net.layer(ONE, "conv1.conv"))),
        Cell(id="alexnet/pool1", what="parameters of POOL1", printed="0", unit=million,
             source=f"{VISION}, AlexNet", compute=lambda net: net.layer(ONE, "conv1.pool").parameters),
        Cell(id="alexnet/patches", what="rows of CONV1 from patches of 224x224", printed="55", unit="cells",
             source=f"{ARCHITECTURES}, AlexNet, training",
             compute=lambda net: output_size(224, 11, stride=4, padding=2),
             explanation=PATCHES),
        Cell(id="alexnet/macs", what="multiply-adds, in two towers", unit="multiply-adds",
             compute=lambda net: net.macs(TWO)),
        Cell(id="alexnet/macs/one", what="multiply-adds, in one tower", unit="multiply-adds",
             compute=lambda net: net.macs(ONE)),
        Cell(id="alexnet/field", what="receptive field after POOL3", printed="195", unit="cells",
             source=FIELDS, compute=lambda net: net.field(TWO, "conv5")),
        Cell(id="alexnet/stride", what="effective stride after POOL3", printed="32", unit="cells",
             source=FIELDS, compute=lambda net: int(net.stage(TWO, "conv5").jump[0])),
    )  # fmt: skip
    return listed("alexnet/size", "AlexNet in numbers", f"{ARCHITECTURES}, AlexNet", cells)


def _weights(row: Row) -> int:
    return row.parameters - row.biases


def _neurons(net: Networks) -> int:
    return sum(row.neurons for row in net.weighted(TWO))


def _neurons_of(net: Networks, stage: str) -> int:
    return next(row.neurons for row in net.within(TWO, stage) if row.macs)


def _ablation() -> Sheet:
    cells = (
        Cell(id="alexnet/without/7", what="without layer 7", printed="16 million",
             compute=lambda net: without(net, ONE, "fc7")),
        Cell(id="alexnet/without/67", what="without layers 6 and 7", printed="~50 million", digits=1,
             compute=lambda net: without(net, ONE, "fc6", "fc7"),
             explanation="net: 54,534,144 go, and FC8 grows by 5,120,000 because it sees 9216 inputs"),
        Cell(id="alexnet/without/34", what="without layers 3 and 4, one tower", printed="~1 million",
             corrected="2.51 million", erratum="D13",
             compute=lambda net: without(net, ONE, "conv3", "conv4")),
        Cell(id="alexnet/without/34/two", what="without layers 3 and 4, two towers", printed="~1 million",
             erratum="D13", compute=lambda net: without(net, TWO, "conv3", "conv4")),
        Cell(id="alexnet/without/3467", what="layers left without 3, 4, 6 and 7", printed="4",
             unit="layers", compute=lambda net: len(net.weighted(ONE)) - 4),
    )  # fmt: skip
    return listed(
        "alexnet/without", "How important is depth: parameters that go", f"{LEARNING}, ablation study", cells
    )


def _paper_neurons() -> Sheet:
    cells = tuple(
        Cell(
            id=f"alexnet/neurons/{stage}",
            what=f"neurons of {stage}",
            printed=printed,
            unit="neurons",
            corrected="290,400" if stage == "conv1" else "",
            erratum="D36" if stage == "conv1" else "",
            compute=partial(_neurons_of, stage=stage),
        )
        for stage, printed in NEURONS.items()
    )
    return listed("alexnet/neurons", "Neurons of each layer", f"{PAPER}, section 3.5", cells)


SHEETS = (_list(), _other_list(), _size(), _ablation(), _paper_neurons())
