"""A small residual network of our own for images of 16 pixels and more, shaped for speed on CPUs.

Not from a paper. The first convolution already halves the image, every block halves it again before its batch
norm and ReLU, so that few passes over memory remain; all inner widths are multiples of 32, which fill the
matrix units (AMX, AVX512-bf16) whole; the mean over the last maps takes any image size.

Deviations: none, as there is no source to deviate from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convworks.layers import stage
from convworks.models.registry import misfit, register

WIDTHS = (64, 128, 256)


class Block(nn.Module):
    """3x3 convolution, 2x2 maximum, BN, ReLU; then y + ReLU(BN(3x3 convolution of y))."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.down = stage(
            conv=nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            pool=nn.MaxPool2d(2),
            norm=nn.BatchNorm2d(c_out),
            relu=nn.ReLU(inplace=True),
        )
        self.residual = stage(
            conv=nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(c_out),
            relu=nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        return torch.add(y, self.residual(y))


def fastnet(
    *, num_classes: int = 10, in_channels: int = 3, input_size: tuple[int, int] = (32, 32)
) -> nn.Sequential:
    """A 4x4/2 convolution to 32 maps, three blocks, the mean over the last maps, a linear layer.

    For images of 16x16 and more, of any size. Raises U122 for smaller ones.
    """
    if min(input_size) < 16:
        raise misfit(
            "fastnet",
            input_size,
            why="it halves the image four times",
            fits="16x16 and larger",
            size=32,
        )
    return stage(  # at 32x32:
        stem=stage(
            conv=nn.Conv2d(in_channels, 32, 4, stride=2, padding=1, bias=False),
            norm=nn.BatchNorm2d(32),
            relu=nn.ReLU(inplace=True),
        ),  # (N, 32, 16, 16)
        block1=Block(32, WIDTHS[0]),  # (N, 64, 8, 8)
        block2=Block(WIDTHS[0], WIDTHS[1]),  # (N, 128, 4, 4)
        block3=Block(WIDTHS[1], WIDTHS[2]),  # (N, 256, 2, 2)
        pool=stage(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()),  # (N, 256)
        output=nn.Linear(WIDTHS[2], num_classes),
    )


register(
    fastnet,
    source="convworks' own design",
    summary="small residual network for CPUs, three blocks; images of 16 pixels and more",
)
