"""What the tests of layers that train by kernels of ours try them on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def images(seed: int = 0) -> Tensor:
    """(4, 3, 10, 9)."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 10, 9, generator=draws).contiguous(memory_format=torch.channels_last)


def vectors(seed: int = 0) -> Tensor:
    """(6, 20)."""
    return torch.randn(6, 20, generator=torch.Generator().manual_seed(seed))


def alike(a: Tensor, b: Tensor, limit: float = 0.015) -> bool:
    """Whether they are equal to bfloat16's rounding."""
    return bool((a.float() - b.float()).norm() < limit * b.float().norm())


def run(net: nn.Module, x: Tensor, *, autocast: bool = True) -> Tensor:
    """A pass in bfloat16, or without autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found: Tensor = net(x)
    return found
