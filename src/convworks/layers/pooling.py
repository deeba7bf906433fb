"""Pooling layers that torch lacks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Subsampling(nn.Module):
    """The S layers of LeNet-5: the sum of each 2x2 block, times a trainable coefficient, plus a bias.

    (N, C, H, W) -> (N, C, H/2, W/2), blocks do not overlap. There is one coefficient and one bias for each
    map, 2C parameters. The squashing function that follows in the paper is a layer of its own here. A new
    layer averages (coefficient 1/4, bias 0). Source: LeCun et al. 1998, section II-B, layer S2.
    """

    def __init__(self, channels: int, size: int = 2) -> None:
        super().__init__()
        self.kernel_size = self.stride = (size, size)
        self.padding = (0, 0)
        self.coefficient = nn.Parameter(torch.full((channels,), 1 / size**2))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        total = F.avg_pool2d(x, self.kernel_size, divisor_override=1)  # a sum, not a mean
        # Under autocast the sums are bfloat16: stay there, instead of going up to the parameters' float32.
        coefficient = self.coefficient.to(total.dtype)[:, None, None]
        return torch.addcmul(self.bias.to(total.dtype)[:, None, None], total, coefficient)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one image for an output (C, H, W): each unit has size x size inputs."""
        c, h, w = output
        return c * h * w * self.kernel_size[0] * self.kernel_size[1]

    def extra_repr(self) -> str:
        return f"{self.coefficient.numel()}, size={self.kernel_size[0]}"
