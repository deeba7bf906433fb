"""ZFNet, the network of "Visualizing and understanding convolutional networks".

M. D. Zeiler, R. Fergus, ECCV 2014 (arXiv 1311.2901): Figure 3 and section 3. AlexNet with 7x7 kernels at
stride 2 in the first layer, stride 2 in the second, and one tower. 62,357,608 parameters at 224x224.

Certain from Figure 3 and its caption: widths, kernels and strides; maps of 110, 55, 26, 13, 13, 13, 13 and 6
on a side; ReLU, then 3x3 pooling at stride 2, then contrast normalisation across feature maps in layers 1 and
2; two layers of 4096 with dropout of 0.5 (section 3), and weights of 10^-2 with biases of 0 at the start.

Deviations, where Figure 3 leaves a choice:
- 110 and 55 need padding, which is not printed: 1 in the first layer, and pooling rounded up in both;
- the contrast normalisation has no printed constants: it is AlexNet's response normalisation;
- "initialized to 10^-2" is read as a Gaussian with that standard deviation, as in AlexNet;
- dropout divides by the probability to keep while training.
The limit of 10^-1 on the filters' RMS is a matter of training and not of the network.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from convworks.layers import stage
from convworks.layers.normalization import LocalResponseNorm
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise, normal
from convworks.models.registry import register


class Row(NamedTuple):
    """A convolution with ReLU; `pool` is 3x3 at stride 2, `norm` is across the maps."""

    width: int
    kernel: int
    stride: int
    padding: int
    pool: bool
    norm: bool


# Figure 3, layers 1 to 5.
# fmt: off
FIGURE_3 = {
    #            width kernel stride padding pool   norm
    "conv1": Row(   96,     7,     2,      1, True,  True),
    "conv2": Row(  256,     5,     2,      0, True,  True),
    "conv3": Row(  384,     3,     1,      1, False, False),
    "conv4": Row(  384,     3,     1,      1, False, False),
    "conv5": Row(  256,     3,     1,      1, True,  False),
}
# fmt: on
HIDDEN = 4096


def windows() -> list[Window]:
    """The layers that make maps smaller: 224, 110, 55, 26, 13, 13, 13, 13, 6."""
    found = []
    for name, row in FIGURE_3.items():
        found.append(Window(name, row.kernel, row.stride, row.padding))
        found += [Window(f"{name}.pool", 3, 2, ceil=True)] if row.pool else []
    return found


def zfnet(
    *, num_classes: int = 1000, in_channels: int = 3, input_size: tuple[int, int] = (224, 224)
) -> nn.Sequential:
    """The network of Figure 3 for images from 63x63 on. Raises U122 for smaller ones."""
    height, width = final_size("zfnet", input_size, windows(), published=224)
    parts: dict[str, nn.Module] = {}
    c_in = in_channels
    for name, row in FIGURE_3.items():  # at 224x224: (N, 96, 55, 55), (N, 256, 13, 13), ..., (N, 256, 6, 6)
        layers: dict[str, nn.Module] = {
            "conv": nn.Conv2d(c_in, row.width, row.kernel, row.stride, row.padding),
            "relu": nn.ReLU(),
        }
        if row.pool:
            layers["pool"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        if row.norm:
            layers["norm"] = LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
        parts[name] = stage(**layers)
        c_in = row.width
    network = stage(
        **parts,
        fc6=stage(
            flatten=nn.Flatten(),
            linear=nn.Linear(c_in * height * width, HIDDEN),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.5),
        ),
        fc7=stage(linear=nn.Linear(HIDDEN, HIDDEN), relu=nn.ReLU(), drop=nn.Dropout(0.5)),
        fc8=nn.Linear(HIDDEN, num_classes),
    )
    initialise(network, normal(0.01))
    return network


register(
    zfnet,
    source="Zeiler, Fergus 2014, Visualizing and understanding convolutional networks",
    summary="AlexNet in one tower with 7x7 kernels at stride 2 first; 62,357,608 parameters",
    deviations=(
        "padding of 1 in conv1 and pooling rounded up, which Figure 3's sizes need",
        "AlexNet's response normalisation for the contrast normalisation across maps",
        "initial weights from N(0, 0.01^2), which 'initialized to 10^-2' leaves open",
        "dropout divides while training",
    ),
)
