"""The small network of cuda-convnet for CIFAR-10, airplane to truck, which learns in minutes.

A. Krizhevsky, cuda-convnet, 2011: the definition "layers-80sec", 26 % errors after 80 seconds on a GPU of the
time. Caffe's "cifar10_quick" is a copy. 145,578 parameters.

Deviations: none. The initial weights are those of the definition. (Caffe's copy has no ReLU behind fc64; the
definition has one.)
"""

from __future__ import annotations

from torch import nn

from convworks.layers import stage
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise, normal
from convworks.models.registry import register

# Standard deviations of the initial weights; biases begin at 0.
INITIAL = {"conv1": 0.0001, "conv2": 0.01, "conv3": 0.01, "fc64": 0.1, "fc10": 0.1}


def cifar_quick(
    *, num_classes: int = 10, in_channels: int = 3, input_size: tuple[int, int] = (32, 32)
) -> nn.Sequential:
    """Three 5x5 convolutions with 3x3 pooling at stride 2, two dense layers, for images from 12x12 on.

    Raises U122 for smaller ones.
    """
    pools = [Window(name, 3, 2, ceil=True) for name in ("conv1", "conv2", "conv3")]
    height, width = final_size("cifar_quick", input_size, pools, published=32)
    network = stage(  # at 32x32:
        conv1=stage(
            conv=nn.Conv2d(in_channels, 32, 5, padding=2),
            pool=nn.MaxPool2d(3, 2, ceil_mode=True),
            relu=nn.ReLU(),
        ),  # (N, 32, 16, 16)
        conv2=stage(
            conv=nn.Conv2d(32, 32, 5, padding=2), relu=nn.ReLU(), pool=nn.AvgPool2d(3, 2, ceil_mode=True)
        ),  # (N, 32, 8, 8)
        conv3=stage(
            conv=nn.Conv2d(32, 64, 5, padding=2), relu=nn.ReLU(), pool=nn.AvgPool2d(3, 2, ceil_mode=True)
        ),  # (N, 64, 4, 4)
        fc64=stage(flatten=nn.Flatten(), linear=nn.Linear(64 * height * width, 64), relu=nn.ReLU()),
        fc10=nn.Linear(64, num_classes),
    )
    for name, part in network.named_children():
        initialise(part, normal(INITIAL[name]))
    return network


register(
    cifar_quick,
    source="Krizhevsky 2011, cuda-convnet, the definition layers-80sec",
    summary="three 5x5 convolutions and two dense layers, for CIFAR-10 in minutes; 145,578 parameters",
)
