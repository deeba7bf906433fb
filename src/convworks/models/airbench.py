"""The networks of K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, 2024.

Six 3x3 convolutions behind a 2x2 one that whitens the patches of the training images. Its shapes suit
machines that multiply matrices quickly: few, wide layers, pooled early.

Deviations: none of the network. The whitening filters come from training images, so a recipe puts them in
(`initialize = "whitening"`); without it the first layer keeps random filters, which never learn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convworks.layers import stage
from convworks.models.fit import Window, final_size
from convworks.models.registry import bad_option, register

PATCH = 2  # side of the patches that are whitened
SCALE = 1 / 9  # of the logits
EPSILON = 1e-12  # of batch normalisation
MOMENTUM = 0.4  # share of a batch in the running statistics; the paper writes 0.6 for the rest


class Scaled(nn.Module):
    """x times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def extra_repr(self) -> str:
        return f"{self.factor:.4g}"


def convolution(c_in: int, c_out: int) -> nn.Conv2d:
    """3x3 without bias; its first c_in filters begin as the identity (section 3.3)."""
    layer = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    with torch.no_grad():
        first = min(c_in, c_out)
        layer.weight[:first].zero_()
        layer.weight[range(first), range(first), 1, 1] = 1.0
    return layer


def normalisation(maps: int) -> nn.BatchNorm2d:
    """Batch normalisation whose scale stays 1: only the shift is learnt."""
    layer = nn.BatchNorm2d(maps, eps=EPSILON, momentum=MOMENTUM)
    layer.weight.requires_grad = False
    return layer


def block(c_in: int, c_out: int) -> nn.Sequential:
    """(N, c_in, H, W) -> (N, c_out, H // 2, W // 2)."""
    return stage(
        conv1=convolution(c_in, c_out),
        pool=nn.MaxPool2d(2),
        norm1=normalisation(c_out),
        act1=nn.GELU(),
        conv2=convolution(c_out, c_out),
        norm2=normalisation(c_out),
        act2=nn.GELU(),
    )


def network(
    name: str,
    widths: tuple[int, int, int],
    *,
    num_classes: int,
    in_channels: int,
    input_size: tuple[int, int],
    width: float = 1.0,
) -> nn.Sequential:
    """(N, in_channels, H, W) -> (N, num_classes), by blocks of `width` times these widths.

    Raises U122 below 25x25, U123 for a width that leaves a block without maps.
    """
    widths = narrowed(name, widths, width)
    windows = [Window("whiten", PATCH, 1)]
    windows += [Window(f"block{n}.pool", 2, 2) for n in (1, 2, 3)] + [Window("pool", 3, 3)]
    rows, columns = final_size(name, input_size, windows, published=32)
    patch = in_channels * PATCH**2
    whiten = nn.Conv2d(in_channels, 2 * patch, PATCH)  # each filter and its negative
    whiten.weight.requires_grad = False
    nn.init.zeros_(whiten.bias)  # type: ignore[arg-type]
    return stage(  # at 32x32:
        whiten=stage(conv=whiten, act=nn.GELU()),  # (N, 24, 31, 31)
        block1=block(2 * patch, widths[0]),  # (N, widths[0], 15, 15)
        block2=block(widths[0], widths[1]),  # (N, widths[1], 7, 7)
        block3=block(widths[1], widths[2]),  # (N, widths[2], 3, 3)
        pool=stage(max=nn.MaxPool2d(3), flatten=nn.Flatten()),  # (N, widths[2])
        output=stage(
            linear=nn.Linear(widths[2] * rows * columns, num_classes, bias=False), scale=Scaled(SCALE)
        ),
    )


def narrowed(name: str, widths: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """The widths times a factor, rounded. Raises U123 where that is no number or leaves no maps."""
    if not isinstance(factor, int | float) or not 0.02 <= factor <= 16:
        raise bad_option(name, "width", factor, allowed=("0.5", "numbers from 0.02 to 16"))
    first, second, third = (round(each * factor) for each in widths)
    return first, second, third


def airbench94(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: tuple[int, int] = (32, 32),
    width: float = 1.0,
) -> nn.Sequential:
    """The network for 94 %: section 3.1; with another `width` the blocks have so many times its maps.

    For images from 25x25 on; raises U122 for smaller ones, U123 for a width that leaves no maps.
    """
    return network(
        "airbench94",
        (64, 256, 256),
        num_classes=num_classes,
        in_channels=in_channels,
        input_size=input_size,
        width=width,
    )


def airbench95(
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    input_size: tuple[int, int] = (32, 32),
    width: float = 1.0,
) -> nn.Sequential:
    """The network for 95 %, with wider blocks; options, sizes and errors are those of airbench94."""
    return network(
        "airbench95",
        (128, 384, 384),
        num_classes=num_classes,
        in_channels=in_channels,
        input_size=input_size,
        width=width,
    )


SOURCE = "Jordan 2024, 94% on CIFAR-10 in 3.29 seconds on a single GPU"

register(
    airbench94,
    source=SOURCE,
    summary="whitened patches and six wide 3x3 convolutions, for fast training; 1,971,352 parameters learn",
)
register(
    airbench95,
    source=SOURCE,
    summary="airbench94 with wider maps, 128, 384 and 384, for 95 %; 4,604,440 parameters learn",
)
