"""Network in network: small perceptrons slide over the image, and classes are means of maps.

M. Lin, Q. Chen, S. Yan, "Network in network", ICLR 2014 (arXiv 1312.4400): sections 3.1, 3.2 and 4.1, for
CIFAR-10. An mlpconv layer is a convolution and two 1x1 convolutions, each with ReLU: a perceptron with two
hidden layers on every window. Global average pooling replaces the dense layers. 966,986 parameters.

Deviations:
- section 4.1 prints three mlpconv layers, pooling that halves the image and dropout after the first two, and
  no sizes. Widths, kernels, the 3x3 windows of the pooling and initial weights from N(0, 0.05^2) are those of
  the definition for CIFAR-10 that the authors published with their code;
- dropout divides by the probability to keep while training.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from convworks.layers import stage
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise, normal
from convworks.models.registry import register


class Row(NamedTuple):
    """An mlpconv layer: the kernel of its convolution, and three widths; 0 is the number of classes."""

    kernel: int
    conv: int
    hidden: int
    output: int


# fmt: off
CIFAR_10 = {
    #               kernel conv hidden output
    "mlpconv1": Row(     5, 192,   160,    96),
    "mlpconv2": Row(     5, 192,   192,   192),
    "mlpconv3": Row(     3, 192,   192,     0),
}
# fmt: on


def mlpconv(c_in: int, row: Row, maps: int) -> dict[str, nn.Module]:
    """Convolution and two 1x1 convolutions, each with ReLU: (N, C, H, W) -> (N, maps, H, W)."""
    return {
        "conv": nn.Conv2d(c_in, row.conv, row.kernel, padding=row.kernel // 2),
        "relu1": nn.ReLU(),
        "cccp1": nn.Conv2d(row.conv, row.hidden, 1),  # the paper's cascaded cross channel parametric pooling
        "relu2": nn.ReLU(),
        "cccp2": nn.Conv2d(row.hidden, maps, 1),
        "relu3": nn.ReLU(),
    }


def nin(
    *, num_classes: int = 10, in_channels: int = 3, input_size: tuple[int, int] = (32, 32)
) -> nn.Sequential:
    """The network for CIFAR-10, for images from 6x6 on. Raises U122 for smaller ones."""
    pools = [Window(name, 3, 2, ceil=True) for name in ("mlpconv1", "mlpconv2")]
    final_size("nin", input_size, pools, published=32)
    parts: dict[str, nn.Module] = {}
    c_in = in_channels
    for name, row in CIFAR_10.items():  # at 32x32: (N, 96, 16, 16), (N, 192, 8, 8), (N, K, 8, 8)
        layers = mlpconv(c_in, row, row.output or num_classes)
        if row.output:
            layers |= {"pool": nn.MaxPool2d(3, 2, ceil_mode=True), "drop": nn.Dropout(0.5)}
        parts[name] = stage(**layers)
        c_in = row.output
    network = stage(**parts, pool=stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))  # (N, K)
    initialise(network, normal(0.05))
    return network


register(
    nin,
    source="Lin, Chen, Yan 2014, Network in network",
    summary="1x1 convolutions as perceptrons over every window, classes as means of maps; 966,986 parameters",
    deviations=(
        "sizes and initial weights, which the paper does not print, are those of the authors' definition",
        "dropout divides while training",
    ),
)
