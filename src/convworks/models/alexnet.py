"""AlexNet, with the two towers of the paper, with one tower, and in the later form that libraries ship.

A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet classification with deep convolutional neural networks",
NIPS 2012: sections 3.1 to 3.5, Figure 2, 4.2 and 5.

Two towers on two GPUs are two groups: kernels of conv2, conv4 and conv5 see the maps of their own GPU, those
of conv1 see the image and those of conv3 all maps. 60,965,224 parameters, 659,272 neurons, 724,406,816
multiply-adds. The paper's neuron list begins with 253,440, and its 55 x 55 x 96 is 290,400.

Deviations of `alexnet`:
- the text says 224x224 pixels, of which 11x11 kernels at stride 4 make 54.25 rows and not Figure 2's 55. The
  size is therefore 227 here, without padding. A side that stride 4 does not fit, such as 224, gets padding of
  2 in conv1, which also makes 55. `padding=0` refuses such sides, `padding=2` always pads;
- dropout divides by the probability to keep while training, in place of halving the outputs at test.
The option `bias=0.1` is Caffe's: with the paper's biases of 1 its authors saw a flat loss at the start.

Deviation of `alexnet_single_tower`: every kernel sees all maps; 62,378,344 parameters, the simplified network
of lectures. They list pooling before the normalisation; here is the paper's order. The rest is as above.

Deviations of `alexnet_torchvision` (61,100,840 parameters): the one tower of A. Krizhevsky, "One weird trick
for parallelizing convolutional neural networks", arXiv 1404.5997, 2014, as torchvision builds it: narrower
convolutions, no response normalisation, padding of 2 in conv1, dropout before fc6 and fc7, a mean that makes
6x6 maps of any size, torch's own initial weights.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from convworks.layers import stage
from convworks.layers.normalization import LocalResponseNorm
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise, normal
from convworks.models.registry import bad_option, misfit, register

SOURCE = "Krizhevsky, Sutskever, Hinton 2012, ImageNet classification with deep convolutional neural networks"


class Row(NamedTuple):
    """A convolution with ReLU; `lrn` is response normalisation, `pool` overlapping 3x3 maxima at stride 2."""

    width: int
    kernel: int
    stride: int
    groups: int
    lrn: bool
    pool: bool


# Section 3.5 and Figure 2.
# fmt: off
TWO_TOWERS = {
    #            width kernel stride groups  lrn    pool
    "conv1": Row(   96,    11,     4,     1, True,  True),
    "conv2": Row(  256,     5,     1,     2, True,  True),
    "conv3": Row(  384,     3,     1,     1, False, False),
    "conv4": Row(  384,     3,     1,     2, False, False),
    "conv5": Row(  256,     3,     1,     2, False, True),
}
ONE_WEIRD_TRICK = {
    "conv1": Row(   64,    11,     4,     1, False, True),
    "conv2": Row(  192,     5,     1,     1, False, True),
    "conv3": Row(  384,     3,     1,     1, False, False),
    "conv4": Row(  256,     3,     1,     1, False, False),
    "conv5": Row(  256,     3,     1,     1, False, True),
}
# fmt: on
CONFIGS = {
    "alexnet": TWO_TOWERS,
    "alexnet_single_tower": {name: row._replace(groups=1) for name, row in TWO_TOWERS.items()},
}
HIDDEN = 4096  # neurons of fc6 and of fc7
BIAS_OF_ONE = ("conv2", "conv4", "conv5", "fc6", "fc7")  # section 5: early learning with positive inputs


def convolution(c_in: int, row: Row, padding: int | tuple[int, int]) -> nn.Sequential:
    """Convolution, ReLU, response normalisation, overlapping pooling (sections 3.3 and 3.4)."""
    parts: dict[str, nn.Module] = {
        "conv": nn.Conv2d(c_in, row.width, row.kernel, row.stride, padding, groups=row.groups),
        "relu": nn.ReLU(),
    }
    if row.lrn:
        parts["norm"] = LocalResponseNorm(
            5, alpha=1e-4, beta=0.75, k=2.0
        )  # alpha times the sum, not the mean
    if row.pool:
        parts["pool"] = nn.MaxPool2d(3, 2)
    return stage(**parts)


def windows(rows: dict[str, Row], first: Window) -> list[Window]:
    """The layers that make maps smaller, `first` and those above it."""
    found = []
    for name, row in rows.items():
        same = Window(name, row.kernel, row.stride, row.kernel // 2)
        found += [first if name == first.layer else same]
        found += [Window(f"{name}.pool", 3, 2)] if row.pool else []
    return found


def build(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    input_size: tuple[int, int] = (227, 227),
    padding: Literal["auto", 0, 2] = "auto",
    bias: float = 1.0,
) -> nn.Sequential:
    """A network of CONFIGS for images from 64x64 on.

    `padding` is that of conv1: "auto" is 0 along a side that stride 4 divides, else 2. `bias` is the initial
    bias of BIAS_OF_ONE. Raises U122 for a size that does not fit, U123 for another padding.
    """
    if padding not in ("auto", 0, 2):
        raise bad_option(name, "padding", padding, allowed=("auto", "0", "2"))
    rows = CONFIGS[name]
    kernel, stride = rows["conv1"].kernel, rows["conv1"].stride
    _check_conv1(name, input_size, kernel, stride, padding)
    fixed = 0 if padding == "auto" else padding
    first = Window("conv1", kernel, stride, fixed, ceil=padding == "auto")
    height, width = final_size(name, input_size, windows(rows, first), published=227)
    around = [0 if (side - kernel) % stride == 0 else 2 for side in input_size]
    pads: dict[str, int | tuple[int, int]] = {c: row.kernel // 2 for c, row in rows.items()}
    pads["conv1"] = (around[0], around[1]) if padding == "auto" else fixed

    parts: dict[str, nn.Module] = {}
    c_in = in_channels
    for layer, row in rows.items():  # at 227x227: (N, 96, 27, 27), (N, 256, 13, 13), ..., (N, 256, 6, 6)
        parts[layer] = convolution(c_in, row, pads[layer])
        c_in = row.width
    for layer, f_in in (("fc6", c_in * height * width), ("fc7", HIDDEN)):
        flat = {"flatten": nn.Flatten()} if layer == "fc6" else {}
        parts[layer] = stage(**flat, linear=nn.Linear(f_in, HIDDEN), relu=nn.ReLU(), drop=nn.Dropout(0.5))
    network = stage(**parts, fc8=nn.Linear(HIDDEN, num_classes))
    for layer, part in network.named_children():
        initialise(part, normal(0.01), bias=bias if layer in BIAS_OF_ONE else 0.0)
    return network


def _check_conv1(name: str, size: tuple[int, int], kernel: int, stride: int, padding: object) -> None:
    """Without padding the windows of conv1 must end with the image: 227 fits, 224 makes 54.25."""
    for side in size if padding == 0 else ():
        if side >= kernel and (side - kernel) % stride:
            below = side - (side - kernel) % stride
            steps = f"({side} - {kernel}) / {stride} + 1 = {(side - kernel) / stride + 1:g}"
            raise misfit(
                name,
                size,
                why=f"conv1 has {steps} windows along a side without padding, which is no whole number",
                fits=f"sides of {below} and {below + stride}; any from 64 with padding=auto or padding=2",
                size=227,
            )


def alexnet_torchvision(
    *, num_classes: int = 1000, in_channels: int = 3, input_size: tuple[int, int] = (224, 224)
) -> nn.Sequential:
    """The network of torchvision for images from 63x63 on. Raises U122 for smaller ones."""
    rows = ONE_WEIRD_TRICK
    final_size("alexnet_torchvision", input_size, windows(rows, Window("conv1", 11, 4, 2)), published=224)
    parts: dict[str, nn.Module] = {}
    c_in = in_channels
    for layer, row in rows.items():  # at 224x224: (N, 64, 27, 27), (N, 192, 13, 13), ..., (N, 256, 6, 6)
        parts[layer] = convolution(c_in, row, 2 if layer == "conv1" else row.kernel // 2)
        c_in = row.width
    return stage(
        **parts,
        pool=stage(mean=nn.AdaptiveAvgPool2d((6, 6)), flatten=nn.Flatten()),  # (N, 9216) at any size
        fc6=stage(drop=nn.Dropout(0.5), linear=nn.Linear(c_in * 6 * 6, HIDDEN), relu=nn.ReLU()),
        fc7=stage(drop=nn.Dropout(0.5), linear=nn.Linear(HIDDEN, HIDDEN), relu=nn.ReLU()),
        fc8=nn.Linear(HIDDEN, num_classes),
    )


_SIZES = (
    "227x227 without padding where the paper writes 224x224; other sides get padding of 2 in conv1",
    "dropout divides while training instead of halving at test",
)
register(
    partial(build, "alexnet"),
    name="alexnet",
    source=SOURCE,
    summary="AlexNet as published: two towers, response normalisation; 60,965,224 parameters",
    deviations=_SIZES,
)
register(
    partial(build, "alexnet_single_tower"),
    name="alexnet_single_tower",
    source=SOURCE,
    summary="AlexNet with one tower, as lectures draw it; 62,378,344 parameters",
    deviations=("one tower: every kernel sees all maps", *_SIZES),
)
register(
    alexnet_torchvision,
    source="Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks; torchvision",
    summary="the later AlexNet that torchvision ships; 61,100,840 parameters",
    deviations=(
        "widths 64, 192, 384, 256, 256 in one tower, for 96, 256, 384, 384, 256 in two",
        "no response normalisation",
        "padding of 2 in conv1, for 224x224 pixels",
        "dropout before fc6 and fc7, not after",
        "a mean over 6x6 windows before fc6, so that any size fits",
        "torch's initial weights",
    ),
)
