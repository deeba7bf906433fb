"""Layers with a local window and no shared weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from convworks.ops.arguments import Sizes, per_dimension
from convworks.ops.locally_connected import locally_connected
from convworks.ops.shape import Padding, output_size


class _LocallyConnected(nn.Module):
    """Any rank; the final classes fix it."""

    rank: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        input_size: Sequence[int],
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = per_dimension("kernel_size", kernel_size, self.rank)
        self.stride = per_dimension("stride", stride, self.rank)
        self.dilation = per_dimension("dilation", dilation, self.rank)
        self.input_size = per_dimension("input_size", input_size, self.rank)
        self.in_channels, self.out_channels, self.padding = in_channels, out_channels, padding
        output = output_size(
            self.input_size, self.kernel_size, stride=self.stride, padding=padding, dilation=self.dilation
        )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size, *output))
        self.bias = nn.Parameter(torch.empty(out_channels, *output)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan-in), as for a convolution."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        for parameter in self.parameters():
            parameter.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return locally_connected(
            x, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation
        )

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image: as many as a convolution of the same shape has."""
        return math.prod(output) * self.in_channels * math.prod(self.kernel_size)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"input_size={self.input_size}, stride={self.stride}, padding={self.padding!r}"
        )


class LocallyConnected1d(_LocallyConnected):
    """(N, C, L) -> (N, O, L') for inputs of `input_size`; see `LocallyConnected2d`."""

    rank = 1


class LocallyConnected2d(_LocallyConnected):
    """(N, C, H, W) -> (N, O, H', W'): a convolution whose kernel is another one at every position.

    28x28x6 from 32x32x3 with 5x5 has 357,504 parameters, a convolution 456. Raises
    BadArgument. Source: lectures, "locally connected networks"; Taigman et al., "DeepFace", 2014.
    """

    rank = 2


class LocallyConnected3d(_LocallyConnected):
    """(N, C, D, H, W) -> (N, O, D', H', W') for inputs of `input_size`; see `LocallyConnected2d`."""

    rank = 3
