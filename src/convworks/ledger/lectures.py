"""The small worked examples of the lectures: shapes, costs, receptive fields, exercises without answers."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import torch

from convworks.anatomy.design import design_receptive_field
from convworks.exercises.registry import ARCHITECTURES, COURSE, KERAS, VISION
from convworks.ledger.cell import Cell, Value
from convworks.ledger.networks import Networks, hwc
from convworks.ledger.sheet import Sheet, listed
from convworks.ops.cost import connectivity, convolution_cost, dense_cost
from convworks.ops.pool_window import pool_window
from convworks.ops.pooling import max_pool
from convworks.ops.shape import resolve_padding, solve_padding

MATRIX = ((3, 9, 2, 4), (1, 4, 5, 7), (8, 9, 1, 7), (1, 0, 8, 1))

# Receptive fields: what stands there, the stack, and how many inputs there are.
PLAIN = "28x1: 5*1@3 same"
STRIDED = "28x1: 1@3 same, 1@3 s2 p1, 1@3 same, 1@3 s2 p1, 1@3 same"
DILATED = "64x1: " + ", ".join(f"1@3 d{2**i}" for i in range(5))

# A grid of exercises that the lecture asks and does not answer: input, kernels.
EXERCISES = (
    ("3@32x32", ("64@3x3",)),
    ("32@64x64", ("64@5x5",)),
    ("32@64x64", ("64@3x3",)),
    ("32@64x64", ("64@3x3", "64@3x3")),
)


def output(net: Networks, text: str) -> Value:
    """The volume at the end of a stack, in the lectures' order."""
    return hwc(net.stack(text)[-1].output)


def spatial(net: Networks, text: str) -> Value:
    """Height and width at the end of a stack."""
    return net.stack(text)[-1].output[1:]


def field(net: Networks, text: str) -> Value:
    """The receptive field at the end of a stack, along its first dimension."""
    return net.stack(text)[-1].field[0]


def seen(net: Networks, text: str) -> Value:
    """(field, inputs), as the lecture writes 11/28."""
    return (net.stack(text)[-1].field[0], int(text.split("x", 1)[0]))


def keeping(net: Networks, kernel: int) -> Value:
    """The padding that keeps the size."""
    return resolve_padding("same", size=32, kernel=kernel)[0][0]


def pooled(net: Networks) -> Value:
    """The lecture's matrix through our max pooling, row by row."""
    x = torch.tensor([[MATRIX]], dtype=torch.float64)
    y, _ = max_pool(x, pool_window((4, 4), 2))
    return tuple(int(value) for value in y.flatten())


def _layers() -> Sheet:
    sizes, numbers = f"{VISION}, a closer look at spatial dimensions", f"{VISION}, zero-padding"
    cells = (
        Cell(id="lectures/sparse/edges", what="edges, kernel of width 3, 5 units", printed="13",
             unit="edges", compute=lambda net: connectivity((5,), 3).edges),
        Cell(id="lectures/sparse/weights", what="weights when they are shared", printed="3", unit="weights",
             compute=lambda net: connectivity((5,), 3).shared_weights),
        Cell(id="lectures/sparse/dense", what="edges of the complete graph", unit="edges",
             compute=lambda net: connectivity((5,), 3).dense_edges),
        Cell(id="lectures/max-pool", what="2x2 max pooling of the matrix", printed="9 7 9 8",
             compute=pooled, source=f"{ARCHITECTURES}, strides"),
        Cell(id="lectures/padding/valid", what="32x32 with 5x5 filters", printed="28x28", unit="cells",
             source=f"{ARCHITECTURES}, padding", compute=partial(spatial, text="32x32x1: 1@5x5")),
        Cell(id="lectures/padding/same", what="32x32 with 5x5 filters, padded by 2", printed="32x32",
             unit="cells", source=f"{ARCHITECTURES}, padding",
             compute=partial(spatial, text="32x32x1: 1@5x5 p2")),
        Cell(id="lectures/7x7/1", what="7x7 with a 3x3 filter", printed="5x5", unit="cells", source=sizes,
             compute=partial(spatial, text="7x7x1: 1@3x3")),
        Cell(id="lectures/7x7/2", what="7x7 with a 3x3 filter, stride 2", printed="3x3", unit="cells",
             source=sizes, compute=partial(spatial, text="7x7x1: 1@3x3 s2")),
        Cell(id="lectures/7x7/pad", what="7x7 with a 3x3 filter, padded by 1", printed="7x7", unit="cells",
             source=numbers, compute=partial(spatial, text="7x7x1: 1@3x3 p1")),
        *(Cell(id=f"lectures/keeping/{kernel}", what=f"padding that keeps the size, F = {kernel}",
               printed=printed, unit="cells", source=numbers, compute=partial(keeping, kernel=kernel))
          for kernel, printed in ((1, "0"), (3, "1"), (5, "2"), (7, "3"))),
        Cell(id="lectures/maps", what="six 5x5 filters on 32x32x3", printed="28x28x6", unit="cells",
             source=f"{VISION}, convolution layer", compute=partial(output, text="32x32x3: 6@5x5")),
        Cell(id="lectures/frame", what="frame for a 5x5 kernel, k/2", printed="2.5", corrected="2",
             unit="cells", erratum="D31", source=f"{COURSE}, convolution operator",
             compute=partial(keeping, kernel=5)),
        Cell(id="lectures/free", what="parameters of 100 3x3 filters on RGB", printed="2,700",
             unit="weights", source=f"{KERAS}, efficiency",
             compute=lambda net: convolution_cost((100, 100), 3, 100, 3).weights,
             explanation="2,800 with the biases"),
        Cell(id="lectures/free/dense", what="weights of 100 dense units there", unit="weights",
             source=f"{KERAS}, efficiency", compute=lambda net: dense_cost(100 * 100 * 3, 100).weights),
        Cell(id="lectures/keras", what="10 of 24x24x3 through 8 filters", printed="(10, 24, 24, 8)",
             unit="cells", source=f"{KERAS}, implementation", compute=_batch),
        Cell(id="lectures/keras/parameters", what="its parameters", unit="parameters",
             compute=lambda net: net.stack("24x24x3: 8@3x3 same")[0].parameters),
        Cell(id="lectures/mlp/hidden", what="units of the hidden layer", printed="128", unit="units",
             source=f"{COURSE}, examples MNIST", compute=lambda net: net.weighted("mlp128")[0].output[0]),
        Cell(id="lectures/mlp/parameters", what="parameters of the MLP with 128 units", unit="parameters",
             source=f"{COURSE}, examples MNIST", compute=partial(_parameters, name="mlp128")),
    )  # fmt: skip
    return listed("lectures/layers", "Layers by hand", f"{ARCHITECTURES}, parameter sharing", cells)


def _batch(net: Networks) -> Value:
    """(N, H, W, C) after the layer of the listing."""
    return (10, *hwc(net.stack("24x24x3: 8@3x3 same relu")[-1].output))


def _parameters(net: Networks, name: str) -> Value:
    return net.parameters(name)


def _fields() -> Sheet:
    expansion = f"{KERAS}, receptive field expansion"
    cells = (
        Cell(id="lectures/field/plain", what="five convolutions of 3 taps", printed="11/28", unit="inputs",
             compute=partial(seen, text=PLAIN)),
        Cell(id="lectures/field/strided", what="with strides 1, 2, 1, 2", printed="21/28", unit="inputs",
             compute=partial(seen, text=STRIDED)),
        Cell(id="lectures/field/pooled", what="outputs of the second pooling layer", printed="15/28",
             corrected="16/28", unit="inputs", erratum="D16", compute=_second_pool),
        Cell(id="lectures/field/dilated", what="five layers with dilation 1, 2, 4, 8, 16", printed="63",
             unit="inputs", compute=partial(field, text=DILATED)),
        Cell(id="lectures/field/formula", what="2^(l+1) - 1 for five layers", printed="63", unit="inputs",
             compute=lambda net: 2 ** (len(net.stack(DILATED)) + 1) - 1),
        Cell(id="lectures/field/250", what="layers for 500x500 with 3x3 filters", printed="250",
             unit="layers", compute=partial(_layers_for, way="plain"),
             explanation="250 layers see 501, 249 see 499"),
        Cell(id="lectures/field/8", what="layers with dilation", printed="8", unit="layers",
             compute=partial(_layers_for, way="dilated"), explanation="8 layers see 511"),
        Cell(id="lectures/field/8-strides", what="layers with strides of 2", printed="8", unit="layers",
             compute=partial(_layers_for, way="strided"), explanation="8 layers see 511"),
        Cell(id="lectures/field/1920", what="layers with dilation for all 1920 columns", unit="layers",
             compute=partial(_layers_for, way="dilated", pixels=1920)),
    )  # fmt: skip
    return listed("lectures/fields", "Receptive fields", expansion, cells)


def _second_pool(net: Networks) -> Value:
    """Field of the second pooling layer of the MNIST network that the lecture draws, and the inputs."""
    return (net.layer("tutorial_cnn", "conv2.pool").field[0], net.input("tutorial_cnn")[0])


def _layers_for(net: Networks, way: str, pixels: int = 500) -> Value:
    return next(row.layers for row in design_receptive_field(pixels) if row.way == way)


def _exercises() -> Sheet:
    """What the lectures ask and leave to the reader, without padding and with padding that keeps the size."""
    lines: list[tuple[str, tuple[Cell | str | None, ...]]] = []
    for size, kernels in EXERCISES:
        label = f"{size} with {' and '.join(kernels)}"
        for mode in ("valid", "same"):
            text = f"{size}: {', '.join(f'{kernel} {mode}' for kernel in kernels)}"
            key = f"lectures/exercises/{label.replace(' ', '-')}/{mode}"
            made = tuple(
                Cell(id=f"{key}/{what}", what=f"{label}, {mode}: {what}", unit=what,
                     compute=partial(_total, text=text, what=what))
                for what in ("maps", "parameters", "multiply-adds")
            )  # fmt: skip
            lines.append((label if mode == "valid" else "", (mode, *made)))
    lines.append(("32x32x3, ten 5x5, stride 1, pad 2", ("pad 2", *_volume())))
    return Sheet(
        id="lectures/exercises",
        title="Exercises whose answers are not printed",
        source=f"{COURSE}, convolution operator, exercises; {VISION}, examples time",
        heads=("input and kernels", "padding", "maps", "parameters", "multiply-adds"),
        lines=tuple(lines),
    )


def _volume() -> tuple[Cell, ...]:
    text = "32x32x3: 10@5x5 s1 p2"
    return tuple(
        Cell(id=f"lectures/exercises/volume/{what}", what=f"{text}: {what}", unit=what,
             compute=partial(_total, text=text, what=what))
        for what in ("maps", "parameters", "multiply-adds")
    )  # fmt: skip


def _total(net: Networks, text: str, what: str) -> Value:
    rows = net.stack(text)
    if what == "maps":
        return hwc(rows[-1].output)
    return sum(row.parameters if what == "parameters" else row.macs for row in rows)


def _comparison() -> Sheet:
    """The trap in the exercise, and the padding that "whatever fits" asks for."""
    cells = (
        *(Cell(id=f"lectures/trap/{mode}", what=f"two 64@3x3 cost so many 64@5x5, {mode}",
               compute=partial(_times, mode=mode)) for mode in ("valid", "same")),
        Cell(id="lectures/fits", what="paddings that fit F = 5, S = 2 on 32 exactly", unit="paddings",
             source=f"{VISION}, common settings", compute=lambda net: len(solve_padding(32, 5, 2).exact)),
    )  # fmt: skip
    return listed("lectures/comparison", "What the exercises show", f"{COURSE}, convolution operator", cells)


def _times(net: Networks, mode: str) -> Value:
    twice, once = (
        sum(row.macs for row in net.stack(f"32@64x64: {layers}"))
        for layers in (f"64@3x3 {mode}, 64@3x3 {mode}", f"64@5x5 {mode}")
    )
    return Fraction(twice, once)


SHEETS = (_layers(), _fields(), _exercises(), _comparison())
