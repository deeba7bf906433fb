"""Layers of ours that are a window over their input although their operators hide it.

Locally connected layers, and convolutions by another algorithm than the library's, copy the cells under each
position into the columns of a matrix, so that the pass sees one product that mixes all positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from convworks.anatomy.receptive_field import Fields
from convworks.anatomy.tracer import FieldTracer
from convworks.layers.convolution import Conv1d, Conv2d, Conv3d
from convworks.layers.locally_connected import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d
from convworks.ops.shape import resolve_padding

LOCAL = (LocallyConnected1d, LocallyConnected2d, LocallyConnected3d)


def hides_its_window(layer: nn.Module) -> bool:
    """Whether the field of a layer is to be had from its settings, since its operators do not show it."""
    if isinstance(layer, (Conv1d, Conv2d, Conv3d)):
        return layer.algorithm != "library" and layer.data_format == "channels_first"
    return isinstance(layer, LOCAL)


def slid(fields: Fields, layer: Any, x: Tensor) -> Fields:
    """The fields behind a layer that slides over x (N, C, *size)."""
    size = tuple(x.shape[2:])
    pairs = resolve_padding(
        layer.padding, size=size, kernel=layer.kernel_size, stride=layer.stride, dilation=layer.dilation
    )
    found = []
    for field in fields:
        if field.axis is None or field.axis < 2:
            found.append(field)
            continue
        at = field.axis - 2
        found.append(field.window(layer.kernel_size[at], layer.stride[at], pairs[at][0], layer.dilation[at]))
    return tuple(found)


@contextmanager
def windows_seen(network: nn.Module, tracer: FieldTracer) -> Iterator[None]:
    """While this is open, the tracer takes the field of such a layer's output from the layer."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        before = tracer.fields_of(inputs[0])
        if before is not None:
            tracer.seen(output, slid(before, layer, inputs[0]))

    layers = [layer for layer in network.modules() if hides_its_window(layer)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
