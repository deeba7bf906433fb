"""The networks that the ledger asks: each is built without memory and traced once for an audit."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import nn

from convworks import anatomy, models
from convworks.anatomy import Row
from convworks.ops.stack import StackRow, parse_stack, trace_stack

Size = tuple[int, ...]


class Networks:
    """Rows of networks at their published sizes, and of small stacks, each computed when it is asked for."""

    def __init__(self) -> None:
        self._modules: dict[str, nn.Module] = {}
        self._rows: dict[str, list[Row]] = {}
        self._stages: dict[str, dict[str, Row]] = {}

    def module(self, name: str) -> nn.Module:
        """The network without its weights: layers and shapes. Raises U101 for an unknown name."""
        if name not in self._modules:
            row = models.info(name)
            with torch.device("meta"):
                self._modules[name] = models.create(name, num_classes=row.num_classes)
        return self._modules[name]

    def input(self, name: str) -> Size:
        """(H, W, C) of the published input, in the lectures' order."""
        row = models.info(name)
        return (*row.input_size, row.in_channels)

    def rows(self, name: str) -> list[Row]:
        """The anatomy of a network, layer by layer."""
        if name not in self._rows:
            height, width, channels = self.input(name)
            self._rows[name] = anatomy.trace(self.module(name), (channels, height, width))
        return self._rows[name]

    def stage(self, name: str, stage: str) -> Row:
        """A child of the network, with the sums of its layers."""
        if name not in self._stages:
            self._stages[name] = {row.name: row for row in anatomy.stages(self.rows(name))}
        return self._stages[name][stage]

    def layer(self, name: str, path: str) -> Row:
        """One layer by its path, "conv1.pool"."""
        return next(row for row in self.rows(name) if row.name == path)

    def within(self, name: str, stage: str) -> list[Row]:
        """The layers of a stage or of a part of it, in order."""
        return [row for row in self.rows(name) if f"{row.name}.".startswith(f"{stage}.")]

    def parameters(self, name: str, *, idle: bool = False) -> int:
        """Trained parameters; with `idle` also those of layers that only training calls: auxiliary heads."""
        return sum(row.parameters for row in self.rows(name) if row.output or idle)

    def macs(self, name: str) -> int:
        """Multiply-adds of one image."""
        return sum(row.macs for row in self.rows(name))

    def weighted(self, name: str, *, idle: bool = False) -> list[Row]:
        """Convolutions and dense layers, without projections of shortcuts: what papers count as layers."""
        return [
            row
            for row in self.rows(name)
            if (row.macs or (idle and not row.output and row.parameters)) and ".shortcut" not in row.name
        ]

    def dense_share(self, name: str, *, idle: bool = False) -> Fraction:
        """Per cent of the parameters that stand in dense layers."""
        dense = sum(row.parameters for row in self.weighted(name, idle=idle) if "Linear" in row.kind)
        return Fraction(100 * dense, self.parameters(name, idle=idle))

    def field(self, name: str, stage: str) -> int:
        """The receptive field of a stage's last layer, along the height."""
        return self.stage(name, stage).field[0]

    def stack(self, text: str) -> tuple[StackRow, ...]:
        """A small stack of layers from one line, "32x32x3: 10@5x5 p2"."""
        return trace_stack(parse_stack(text))


def hwc(shape: Size) -> Size:
    """(C, H, W) in the lectures' order (H, W, C); (F,) as it is."""
    return (*shape[1:], shape[0])


def window(row: Row) -> str:
    """A layer as "7x7/2", kernel and stride."""
    return f"{'x'.join(map(str, row.kernel))}/{row.stride[0]}"
