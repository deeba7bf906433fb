"""Convolutions that train by Winograd's F(4x4, 3x3), as the plan names them.

`use_winograd(network, names)` changes the classes of these layers in place, `without_winograd(network)`
changes them back. Nothing else changes: not the names, the parameters, the state_dict nor the hooks. Outside
training, and wherever the maps are not bfloat16, the layer computes as torch does. A 2x2 max pooling right
behind such a convolution is done with it, and the larger maps are never written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from convworks.layers.fused import (
    FusedMaxPool2d,
    hooked,
    is_grouped,
    partly,
    pools_alone,
    rows,
    shared_layers,
    window_of,
)
from convworks.layers.own_convolution import OwnConv2d, even_padding, is_torchs
from convworks.ops.fast_winograd import (
    applies,
    output_size,
    winograd_convolution,
    winograd_convolution_pool,
)

_PAIR = "winograd_pair"  # the attribute of the layers of a pair; no part of the state_dict


@dataclass(slots=True, eq=False)
class Pair:
    """A convolution and the 2x2 max pooling of stride 2 right behind it, which are computed together."""

    convolution: nn.Conv2d
    pool: nn.MaxPool2d
    around: tuple[nn.Module, ...]  # what gives a value from between the two
    pooled: bool = False  # whether this pass's convolution has done the pooling

    def together(self) -> bool:
        """Whether nobody looks at what is between them."""
        return not any(hooked(each) for each in (self.convolution, self.pool, *self.around))


class WinogradConv2d(OwnConv2d):
    """A 3x3 convolution of stride 1 that trains by Winograd's F(4x4, 3x3) under bfloat16's autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H + 2 padding - 2, W + 2 padding - 2), or half of that for a `Pair`."""
        padding, pair = padding_of(self), self.__dict__.get(_PAIR)
        if pair is not None:
            pair.pooled = False  # whatever became of the pass before
        half = self.of_autocast(x)
        if padding is not None and half is not None and applies(half, self.weight, padding):
            with torch.autocast("cpu", enabled=False):
                if pair is not None and pair.together() and min(output_size(half, padding)) > 1:
                    pair.pooled = True
                    return winograd_convolution_pool(half, self.weight, self.bias, padding=padding)
                past = self.awaited(x, half)
                return winograd_convolution(half, self.weight, self.bias, padding=padding, past=past)
        return super().forward(x)


class PooledBefore(FusedMaxPool2d):
    """A max pooling that the convolution before it has done, where it could."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // 2, W // 2), or x as it is where it is pooled already."""
        pair: Pair = self.__dict__[_PAIR]
        if pair.pooled:
            pair.pooled = False
            return x
        if is_grouped(self):
            return super().forward(x)
        y: Tensor = nn.MaxPool2d.forward(self, x)
        return y


def padding_of(layer: nn.Conv2d) -> int | None:
    """The padding of a 3x3 window of stride 1 that is the same on all sides, else None."""
    window = (layer.kernel_size, layer.stride, layer.dilation, layer.groups)
    padding = even_padding(layer)
    if window != ((3, 3), (1, 1), (1, 1), 1) or padding is None:
        return None
    return padding if padding <= 2 else None


def suitable(network: nn.Module) -> list[str]:
    """The names of the convolutions that could train by Winograd's algorithm."""
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and is_torchs(layer) and padding_of(layer) is not None
    ]


def use_winograd(network: nn.Module, names: Collection[str]) -> None:
    """Let the layers of these names train by Winograd's algorithm, and no others, in place.

    A 2x2 max pooling of stride 2 right behind one in an `nn.Sequential` is computed together with it.
    """
    without_winograd(network)
    for name, layer in network.named_modules():
        if name in names and type(layer) is nn.Conv2d:
            layer.__class__ = WinogradConv2d
    for pair in list(_pairs(network)):
        pair.pool.__class__ = PooledBefore
        for layer in (pair.convolution, pair.pool):
            layer.__dict__[_PAIR] = pair


def without_winograd(network: nn.Module) -> nn.Module:
    """Undo `use_winograd`, in place; returns the same network."""
    for layer in network.modules():
        original = _original(layer)
        if original is not None:
            layer.__class__ = original
            layer.__dict__.pop(_PAIR, None)
    return network


def _original(layer: nn.Module) -> type[nn.Module] | None:
    """The class that the layer had before `use_winograd`, where that changed it."""
    if type(layer) is WinogradConv2d:
        return nn.Conv2d
    if type(layer) is PooledBefore:
        return FusedMaxPool2d if is_grouped(layer) else nn.MaxPool2d
    return None


def _pairs(network: nn.Module) -> Iterator[Pair]:
    shared = shared_layers(network)
    for row in rows(network):
        for first, second in pairwise(row):
            conv, pool = first.layer, second.layer
            if type(conv) is not WinogradConv2d or not _halves(pool) or {id(conv), id(pool)} & shared:
                continue
            assert isinstance(pool, nn.MaxPool2d)
            yield Pair(conv, pool, partly([first, second]))


def _halves(pool: nn.Module) -> bool:
    """Whether it is a 2x2 max pooling of stride 2 that does nothing else."""
    if type(pool) not in (nn.MaxPool2d, FusedMaxPool2d) or not pools_alone(pool):
        return False
    assert isinstance(pool, nn.MaxPool2d)
    odd = pool.ceil_mode or pool.return_indices or pool.dilation not in (1, (1, 1))
    return not odd and window_of(pool) == ((2, 2), (2, 2), (0, 0))
