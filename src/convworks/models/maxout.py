"""Maxout networks: every unit is the largest of some linear functions of its input.

I. J. Goodfellow, D. Warde-Farley, M. Mirza, A. Courville, Y. Bengio, "Maxout networks", ICML 2013 (arXiv
1302.4389): sections 3, 5.1 and 5.2. Three convolutional maxout layers with spatial pooling, then the softmax
layer for MNIST, with 0.45 % errors. For CIFAR-10 there is a dense maxout layer between; 11.68 % errors, and
9.38 % with augmentation.

Deviations:
- the paper prints no sizes: kernels, padding, maps, pieces, pooling, dropout and initial weights, uniform in
  +-0.005, are those of the definitions that the authors published with their code;
- dropout divides by the probability to keep while training; the definitions do not for that of the input;
- `maxout_mnist` has one bias for each map, where its definition has one for each unit.
The limits on the norms of kernels are a matter of training and not of the network.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from convworks.layers import stage
from convworks.layers.activation import Maxout, MaxoutConv2d
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise, uniform
from convworks.models.registry import register

SOURCE = "Goodfellow, Warde-Farley, Mirza, Courville, Bengio 2013, Maxout networks"


class Row(NamedTuple):
    """A convolutional maxout layer: the largest of `pieces` maps, then the largest of each pooling window."""

    maps: int
    pieces: int
    kernel: int
    padding: int
    pool: int
    stride: int


# fmt: off
CONFIGS = {
    "maxout_mnist": {
        #         maps pieces kernel padding pool stride
        "h0": Row(  48,     2,     8,      0,   4,     2),
        "h1": Row(  48,     2,     8,      3,   4,     2),
        "h2": Row(  24,     4,     5,      3,   2,     2),
    },
    "maxout_cifar": {
        "h0": Row(  96,     2,     8,      4,   4,     2),
        "h1": Row( 192,     2,     8,      3,   4,     2),
        "h2": Row( 192,     2,     5,      3,   2,     2),
    },
}
# fmt: on
DENSE, DENSE_PIECES = 500, 5  # h3 of the network for CIFAR-10


def windows(rows: dict[str, Row]) -> list[Window]:
    """The layers that change the size. Pooling covers the whole map, so its sizes are rounded up."""
    found = []
    for name, row in rows.items():
        found.append(Window(name, row.kernel, 1, row.padding))
        found.append(Window(f"{name}.pool", row.pool, row.stride, ceil=True))
    return found


def convolutions(rows: dict[str, Row], c_in: int) -> dict[str, nn.Module]:
    """Dropout of the input, maxout, pooling, three times; of the image 0.2 are dropped, of maps half."""
    parts: dict[str, nn.Module] = {}
    for name, row in rows.items():
        parts[name] = stage(
            drop=nn.Dropout(0.5 if parts else 0.2),
            conv=MaxoutConv2d(c_in, row.maps, row.kernel, pieces=row.pieces, padding=row.padding),
            pool=nn.MaxPool2d(row.pool, row.stride, ceil_mode=True),
        )
        c_in = row.maps
    return parts


def maxout_mnist(
    *, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)
) -> nn.Sequential:
    """Three convolutional maxout layers and a linear one (section 5.1). Raises U122 for small images."""
    rows = CONFIGS["maxout_mnist"]
    height, width = final_size("maxout_mnist", input_size, windows(rows), published=28)
    features = rows["h2"].maps * height * width
    network = stage(  # at 28x28: (N, 48, 10, 10), (N, 48, 4, 4), (N, 24, 3, 3), (N, K)
        **convolutions(rows, in_channels),
        y=stage(flatten=nn.Flatten(), drop=nn.Dropout(0.5), linear=nn.Linear(features, num_classes)),
    )
    initialise(network, uniform(0.005))
    return network


def maxout_cifar(
    *, num_classes: int = 10, in_channels: int = 3, input_size: tuple[int, int] = (32, 32)
) -> nn.Sequential:
    """Three convolutional maxout layers, 500 dense maxout units, a linear layer (section 5.2).

    Raises U122 for small images.
    """
    rows = CONFIGS["maxout_cifar"]
    height, width = final_size("maxout_cifar", input_size, windows(rows), published=32)
    features = rows["h2"].maps * height * width
    network = stage(  # at 32x32: (N, 96, 16, 16), (N, 192, 7, 7), (N, 192, 5, 5), (N, 500), (N, K)
        **convolutions(rows, in_channels),
        h3=stage(
            flatten=nn.Flatten(), drop=nn.Dropout(0.5), maxout=Maxout(features, DENSE, pieces=DENSE_PIECES)
        ),
        y=stage(drop=nn.Dropout(0.5), linear=nn.Linear(DENSE, num_classes)),
    )
    initialise(network, uniform(0.005))
    return network


_DEVIATIONS = (
    "sizes, dropout and initial weights are those of the authors' definitions: the paper prints none",
    "dropout divides while training, that of the input too",
)
register(
    maxout_mnist,
    source=SOURCE,
    summary="three convolutional maxout layers for MNIST; 418,714 parameters",
    deviations=(*_DEVIATIONS, "one bias for each map, not for each unit"),
)
register(
    maxout_cifar,
    source=SOURCE,
    summary="three convolutional maxout layers and a dense one for CIFAR-10; 16,247,830 parameters",
    deviations=_DEVIATIONS,
)
