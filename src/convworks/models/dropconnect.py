"""The DropConnect network for CIFAR-10.

L. Wan, M. Zeiler, S. Zhang, Y. LeCun, R. Fergus, "Regularization of neural networks using DropConnect",
ICML 2013: sections 3 and 6. Two convolutional and two locally connected layers, as in the definition
"layers-conv-local-11pct" of cuda-convnet, then 128 units with DropConnect and the softmax layer, on crops of
24x24. Twelve such networks together have 9.32 % errors. 1,253,834 parameters.

Inference (layers/dropconnect.py) is the paper's Gaussian in the limit of endless samples; none is drawn.

Deviations:
- initial weights are those of the definition, and torch's own for the 128 units, which it does not have;
- one network, not twelve. The crops and the votes are matters of training and of inference.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from convworks.layers import LocallyConnected2d, stage
from convworks.layers.dropconnect import DropConnect
from convworks.layers.normalization import LocalResponseNorm
from convworks.models.fit import Window, final_size
from convworks.models.initial import initialise, normal
from convworks.models.registry import bad_option, register

# The layers of the definition: maps, kernel, standard deviation of the initial weights.
# fmt: off
CONVOLUTIONS = {
    "conv1":  (64, 5, 0.0001),
    "conv2":  (64, 5, 0.01),
}
LOCAL = {
    "local3": (32, 3, 0.04),
    "local4": (32, 3, 0.04),
}
# fmt: on
UNITS = 128


def dropconnect_cifar(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: tuple[int, int] = (24, 24),
    inference: Literal["gaussian", "mean"] = "gaussian",
) -> nn.Sequential:
    """The network for 24x24 crops, and for images from 6x6 on. Raises U122 for smaller ones, U123."""
    if inference not in ("gaussian", "mean"):
        raise bad_option("dropconnect_cifar", "inference", inference, allowed=("gaussian", "mean"))
    pools = [Window(name, 3, 2, ceil=True) for name in CONVOLUTIONS]
    size = final_size("dropconnect_cifar", input_size, pools, published=24)
    parts: dict[str, nn.Module] = {}
    c_in = in_channels
    for name, (maps, kernel, std) in CONVOLUTIONS.items():  # (N, 64, 12, 12), (N, 64, 6, 6)
        parts[name] = stage(
            conv=nn.Conv2d(c_in, maps, kernel, padding=kernel // 2),
            relu=nn.ReLU(),
            norm=LocalResponseNorm(5, alpha=0.001, beta=0.75, k=1.0, form="mean"),  # cuda-convnet's
            pool=nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        initialise(parts[name], normal(std))
        c_in = maps
    for name, (maps, kernel, std) in LOCAL.items():  # (N, 32, 6, 6) twice
        local = LocallyConnected2d(c_in, maps, kernel, input_size=size, padding=kernel // 2)
        parts[name] = stage(local=local, relu=nn.ReLU())
        initialise(parts[name], normal(std))
        c_in = maps
    output = nn.Linear(UNITS, num_classes)
    initialise(output, normal(0.01))
    features = c_in * size[0] * size[1]
    return stage(
        **parts,
        fc128=stage(flatten=nn.Flatten(), dropconnect=DropConnect(features, UNITS, inference=inference)),
        fc10=output,
    )


register(
    dropconnect_cifar,
    source="Wan, Zeiler, Zhang, LeCun, Fergus 2013, Regularization of neural networks using DropConnect",
    summary="two convolutional, two local layers and 128 units with DropConnect; 1,253,834 parameters",
    deviations=(
        "initial weights of cuda-convnet's definition, and torch's for the 128 units",
        "one network, where the paper's result is the vote of twelve",
    ),
)
