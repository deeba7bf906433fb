"""Convolutions and dense layers that train on the processor's matrix units (AMX), as the plan names them.

`use_amx(network, names)` changes the classes of these layers in place, `without_amx(network)` changes them
back. Nothing else changes: not the names, the parameters, the state_dict nor the hooks. Outside training, and
wherever what a layer is fed is not bfloat16, it computes as torch does.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from convworks.layers.own_convolution import OwnConv2d, OwnLinear, even_padding, is_torchs
from convworks.ops import amx_convolution as amx
from convworks.ops import amx_linear

LARGEST, MOST_STRIDE = 16, 8  # of a window, as `ops.amx_convolution.applies` asks for
FEWEST = 8  # channels of a group: with fewer the tiles are nearly empty


class AmxConv2d(OwnConv2d):
    """A convolution that trains on the matrix units under bfloat16's autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H', W')."""
        window, half = window_of(self), self.of_autocast(x)
        if window is not None and half is not None:
            stride, padding = window
            if amx.applies(half, self.weight, stride=stride, padding=padding, groups=self.groups):
                return amx.amx_convolution(
                    half,
                    self.weight,
                    self.bias,
                    stride=stride,
                    padding=padding,
                    groups=self.groups,
                    past=self.awaited(x, half),
                )
        return super().forward(x)


class AmxLinear(OwnLinear):
    """A dense layer that does."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., O)."""
        half = self.of_autocast(x)
        if half is not None and amx_linear.applies(half, self.weight, self.bias):
            return amx_linear.amx_linear(half, self.weight, self.bias)
        return super().forward(x)


_OWN: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: AmxConv2d, nn.Linear: AmxLinear}
_PLAIN = {own: plain for plain, own in _OWN.items()}


def window_of(layer: nn.Conv2d) -> tuple[int, int] | None:
    """(stride, padding) of a window that the kernels compute, each the same both ways, else None."""
    (stride, other), padding = layer.stride, even_padding(layer)
    fits = (
        (layer.groups == 1 or (stride == 1 and layer.in_channels >= FEWEST * layer.groups))
        and layer.dilation == (1, 1)
        and stride == other <= MOST_STRIDE
        and max(layer.kernel_size) <= LARGEST
        and max(layer.in_channels * stride, layer.out_channels) <= amx.MOST_CHANNELS
    )
    if not fits or padding is None or padding >= min(layer.kernel_size):
        return None
    return stride, padding


def suitable_amx(network: nn.Module) -> list[str]:
    """The names of the layers that could train on matrix units."""
    return [name for name, layer in network.named_modules() if _fits(layer)]


def _fits(layer: nn.Module) -> bool:
    if not is_torchs(layer):
        return False
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and window_of(layer) is not None)


def use_amx(network: nn.Module, names: Collection[str]) -> None:
    """Let the layers of these names train on matrix units, and no others, in place.

    A layer that trains by Winograd's algorithm goes on so.
    """
    without_amx(network)
    for name, layer in network.named_modules():
        own = _OWN.get(type(layer))
        if name in names and own is not None:
            layer.__class__ = own


def without_amx(network: nn.Module) -> nn.Module:
    """Undo `use_amx`, in place; returns the same network."""
    for layer in network.modules():
        original = _PLAIN.get(type(layer))
        if original is not None:
            layer.__class__ = original
    return network
