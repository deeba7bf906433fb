"""Convolutions that train by Winograd's F(4x4, 3x3), as the plan names them.

`use_winograd(network, names)` changes the classes of these layers in place, `without_winograd(network)`
changes them back. Nothing else changes: not the names, the parameters, the state_dict nor the hooks. Outside
training, and wherever the maps are not bfloat16, the layer computes as torch does.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from convworks.ops.fast_winograd import applies, winograd_convolution


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 that trains by Winograd's F(4x4, 3x3) under bfloat16's autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H + 2 padding - 2, W + 2 padding - 2)."""
        padding = padding_of(self)
        if self.training and padding is not None and torch.is_autocast_enabled("cpu"):
            half = x.to(torch.get_autocast_dtype("cpu"))
            if applies(half, self.weight, padding):
                with torch.autocast("cpu", enabled=False):
                    return winograd_convolution(half, self.weight, self.bias, padding=padding)
        return super().forward(x)


def padding_of(layer: nn.Conv2d) -> int | None:
    """The padding of a 3x3 window of stride 1 that is the same on all sides, else None."""
    window = (layer.kernel_size, layer.stride, layer.dilation, layer.groups)
    if window != ((3, 3), (1, 1), (1, 1), 1) or layer.padding_mode != "zeros":
        return None
    if isinstance(layer.padding, str):
        return {"same": 1, "valid": 0}[layer.padding]
    first, second = layer.padding
    return int(first) if first == second and first <= 2 else None


def suitable(network: nn.Module) -> list[str]:
    """The names of the convolutions that could train by Winograd's algorithm."""
    return [
        name
        for name, layer in network.named_modules()
        if type(layer) in (nn.Conv2d, WinogradConv2d) and padding_of(layer) is not None
    ]


def use_winograd(network: nn.Module, names: Collection[str]) -> None:
    """Let the layers of these names train by Winograd's algorithm, and no others, in place."""
    without_winograd(network)
    for name, layer in network.named_modules():
        if name in names and type(layer) is nn.Conv2d:
            layer.__class__ = WinogradConv2d


def without_winograd(network: nn.Module) -> nn.Module:
    """Undo `use_winograd`, in place; returns the same network."""
    for layer in network.modules():
        if type(layer) is WinogradConv2d:
            layer.__class__ = nn.Conv2d
    return network
