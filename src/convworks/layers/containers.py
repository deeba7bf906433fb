"""Modules in a row, each under a name of its own."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def stage(**parts: nn.Module) -> nn.Sequential:
    """`stage(conv=..., relu=...)`: a sequence whose children are named, in the order given."""
    return nn.Sequential(OrderedDict(parts))
