"""A stack of dilated causal convolutions with gates, in the manner of WaveNet.

A. van den Oord, S. Dieleman, H. Zen, K. Simonyan, O. Vinyals, A. Graves, N. Kalchbrenner, A. Senior,
K. Kavukcuoglu, "WaveNet: a generative model for raw audio", 2016: sections 2.1 (dilated causal convolutions),
2.3 (gates, equation 2) and 2.4 (residual and skip connections, Figure 4). Lectures, "dilated convolution".

With layers 1, 2, ..., l and dilations 1, 2, 4, ..., 2^(l-1) an output sees

    2^l steps with a kernel of 2 (the paper: 1024 with l = 10),    2^(l+1) - 1 steps with a kernel of 3,

and no step after its own. `cycles` repeats the dilations, which adds as many steps less one each time.

A series comes as an image of one row, (N, C, 1, L); the result is the distribution of what follows its last
step. Without its last child (`network[:-1]`) the network gives that of every step, (N, K, L).

Deviations, because the paper does not print its sizes:
- 32 maps in the stack and 256 before the softmax are our choice;
- the first convolution sees one step, so that the stack alone makes the receptive field;
- the input is as many maps as the caller has, not a fixed code of the audio;
- layers have biases and begin with torch's own initial weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from convworks.layers import Conv1d, stage
from convworks.models.registry import bad_option, register
from convworks.models.sequence import final_length

SOURCE = "van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves et al. 2016, WaveNet"
WIDTH = 32  # maps in the stack
HEAD = 256  # maps between the two last convolutions


class GatedUnit(nn.Module):
    """z = tanh(W_f * x) sigmoid(W_g * x), then a 1x1 convolution: (N, C, L) -> (N, C, L) (equation 2)."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.filter = Conv1d(width, width, kernel, dilation=dilation, padding="causal")
        self.gate = Conv1d(width, width, kernel, dilation=dilation, padding="causal")
        self.tanh, self.sigmoid = nn.Tanh(), nn.Sigmoid()
        self.conv = Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(self.tanh(self.filter(x)) * self.sigmoid(self.gate(x)))
        return h


class GatedStack(nn.Module):
    """The sum of all units' outputs, each of which is also added to the input of the next (Figure 4)."""

    def __init__(self, width: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        for i, dilation in enumerate(dilations, start=1):
            self.add_module(f"unit{i}", GatedUnit(width, kernel, dilation))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for unit in self.children():
            h = unit(x)
            x, total = x + h, total + h  # the residual and the skip connection
        return total


class LastStep(nn.Module):
    """(N, K, L) -> (N, K), the last step of each."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., -1]


def dilations(layers: int, cycles: int = 1) -> list[int]:
    """1, 2, 4, ..., 2^(layers - 1), and that again for each cycle (section 2.1)."""
    return [2**i for i in range(layers)] * cycles


def wavenet(
    *,
    num_classes: int = 256,
    in_channels: int = 1,
    input_size: tuple[int, int] = (1, 1024),
    layers: int = 10,
    kernel: Literal[2, 3] = 2,
    cycles: int = 1,
) -> nn.Sequential:
    """The stack of Figure 4, for (1, L) of any length; steps before the first are zeros.

    Raises U122 for an image of more than one row, U123 for layers, a kernel or cycles out of range.
    """
    final_length("wavenet", input_size, (), channels=in_channels, published=1024)
    for option, value, allowed in (("layers", layers, range(1, 17)), ("kernel", kernel, (2, 3)),
                                   ("cycles", cycles, range(1, 9))):  # fmt: skip
        if value not in allowed:
            raise bad_option("wavenet", option, value, allowed=tuple(map(str, allowed)))
    return stage(
        series=nn.Flatten(start_dim=2),  # (N, C, L)
        causal=Conv1d(in_channels, WIDTH, 1),  # (N, 32, L)
        stack=GatedStack(WIDTH, kernel, dilations(layers, cycles)),  # (N, 32, L)
        head=stage(
            relu1=nn.ReLU(), conv1=Conv1d(WIDTH, HEAD, 1), relu2=nn.ReLU(), conv2=Conv1d(HEAD, num_classes, 1)
        ),  # (N, K, L)
        last=LastStep(),  # (N, K)
    )


register(
    wavenet,
    source=SOURCE,
    summary="ten dilated causal convolutions with gates: 1024 steps of a series, what comes next",
    deviations=(
        "32 maps in the stack and 256 before the softmax: the paper does not print them",
        "the first convolution sees one step, and the input is not a fixed code of the audio",
        "biases and torch's initial weights: not printed",
    ),
)
