"""The convolutional network of the PyTorch tutorials for MNIST, which the lectures show layer by layer.

From the `basic MNIST` example of the PyTorch project, 2017: a 5x5 convolution to 10 maps, 2x2 maximum
pooling, a 5x5 convolution to 20 maps, dropout of whole maps, pooling, 320 units flattened, 50, dropout, 10.
21,840 parameters at 28x28 with one channel.

Deviations: the network ends in logits; the log-softmax of the example is part of the loss here.
"""

from __future__ import annotations

from torch import nn

from convworks.layers import stage
from convworks.models.registry import misfit, register


def tutorial_cnn(
    *, num_classes: int = 10, in_channels: int = 1, input_size: tuple[int, int] = (28, 28)
) -> nn.Sequential:
    """The tutorial's network for images from 16x16 on. Raises U122 for smaller ones."""
    if min(input_size) < 16:
        raise misfit(
            "tutorial_cnn",
            input_size,
            why="two 5x5 convolutions without padding and two poolings would leave no pixel",
            fits="16x16 and larger",
            size=28,
        )
    height, width = (((side - 4) // 2 - 4) // 2 for side in input_size)
    return stage(  # at 28x28:
        conv1=stage(
            conv=nn.Conv2d(in_channels, 10, 5), pool=nn.MaxPool2d(2), relu=nn.ReLU()
        ),  # (N, 10, 12, 12)
        conv2=stage(
            conv=nn.Conv2d(10, 20, 5), drop=nn.Dropout2d(0.5), pool=nn.MaxPool2d(2), relu=nn.ReLU()
        ),  # (N, 20, 4, 4)
        fc1=stage(
            flatten=nn.Flatten(),
            linear=nn.Linear(20 * height * width, 50),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.5),
        ),
        fc2=nn.Linear(50, num_classes),
    )


register(
    tutorial_cnn,
    source="the MNIST example of the PyTorch project, 2017, as the lectures draw it",
    summary="two 5x5 convolutions, dropout, two dense layers; 21,840 parameters",
    deviations=("it ends in logits: the log-softmax is in the loss",),
)
