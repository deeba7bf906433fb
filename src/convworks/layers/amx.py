"""Convolutions that train on the processor's matrix units (AMX), as the plan names them.

`use_amx(network, names)` changes the classes of these layers in place, `without_amx(network)` changes them
back. Nothing else changes: not the names, the parameters, the state_dict nor the hooks. Outside training, and
wherever the maps are not bfloat16, the layer computes as torch does.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from convworks.layers.own_convolution import OwnConv2d, even_padding, is_torchs
from convworks.ops import amx_convolution as amx

LARGEST, MOST_STRIDE = 16, 8  # of a window, as `ops.amx_convolution.applies` asks for


class AmxConv2d(OwnConv2d):
    """A convolution that trains on the matrix units under bfloat16's autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        window, half = window_of(self), self.of_autocast(x)
        if window is not None and half is not None:
            stride, padding = window
            if amx.applies(half, self.weight, stride=stride, padding=padding):
                with torch.autocast("cpu", enabled=False):
                    return amx.amx_convolution(half, self.weight, self.bias, stride=stride, padding=padding)
        return super().forward(x)


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {AmxConv2d: nn.Conv2d}


def window_of(layer: nn.Conv2d) -> tuple[int, int] | None:
    """(stride, padding) of a window that the kernels compute, each the same both ways, else None."""
    (stride, other), padding = layer.stride, even_padding(layer)
    fits = (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and stride == other <= MOST_STRIDE
        and max(layer.kernel_size) <= LARGEST
        and max(layer.in_channels * stride, layer.out_channels) <= amx.MOST_CHANNELS
    )
    if not fits or padding is None or padding >= min(layer.kernel_size):
        return None
    return stride, padding


def suitable_amx(network: nn.Module) -> list[str]:
    """The names of the convolutions that could train on matrix units."""
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and is_torchs(layer) and window_of(layer) is not None
    ]


def use_amx(network: nn.Module, names: Collection[str]) -> None:
    """Let the layers of these names train on matrix units, and no others, in place.

    A layer that trains by Winograd's algorithm goes on so.
    """
    without_amx(network)
    for name, layer in network.named_modules():
        if name in names and type(layer) is nn.Conv2d:
            layer.__class__ = AmxConv2d


def without_amx(network: nn.Module) -> nn.Module:
    """Undo `use_amx`, in place; returns the same network."""
    for layer in network.modules():
        original = _PLAIN.get(type(layer))
        if original is not None:
            layer.__class__ = original
    return network
