"""A perceptron with one hidden layer of 128 units, the fully connected baseline for MNIST.

The lectures' example "MLP one hidden layer of 128 dim": 784-128-10 has 101,770 parameters. It sees an image
as a vector, so that a shifted digit is a new one to it.

Deviations: none. (The lectures name neither the activation nor the initial weights: ReLU and torch's own.)
"""

from __future__ import annotations

import math

from torch import nn

from convworks.layers import stage
from convworks.models.registry import misfit, register


def mlp128(
    *, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)
) -> nn.Sequential:
    """(N, C, H, W) -> 128 -> (N, K), for images of any one size. Raises U122 for one without pixels."""
    if min(input_size) < 1:
        raise misfit("mlp128", input_size, why="there are no pixels", fits="1x1 and larger", size=28)
    return stage(
        fc1=stage(
            flatten=nn.Flatten(), linear=nn.Linear(in_channels * math.prod(input_size), 128), relu=nn.ReLU()
        ),
        fc2=nn.Linear(128, num_classes),
    )


register(
    mlp128,
    source="the lectures' MNIST example, a perceptron with one hidden layer",
    summary="one hidden layer of 128 units; 101,770 parameters",
)
