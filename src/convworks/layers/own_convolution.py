"""What the convolutions that train by kernels of `convworks.ops` have in common.

They are torch's own, whose class is changed in place, as the plan names them; outside training, and wherever
the maps are not bfloat16, they compute as torch does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OwnConv2d(nn.Conv2d):
    """A convolution of torch's that trains by kernels of ours under bfloat16's autocast."""

    def of_autocast(self, x: Tensor) -> Tensor | None:
        """The maps in the type that autocast computes in, where this pass is of training; else None."""
        if self.training and torch.is_autocast_enabled("cpu"):
            return x.to(torch.get_autocast_dtype("cpu"))
        return None


def is_torchs(layer: nn.Module) -> bool:
    """Whether a layer is torch's own convolution, no subclass of somebody else, whatever it trains by."""
    return type(layer) is nn.Conv2d or type(layer).__base__ is OwnConv2d


def even_padding(layer: nn.Conv2d) -> int | None:
    """The number of zeros that is put on all sides alike, else None; for a window without dilation."""
    if layer.padding_mode != "zeros":
        return None
    if isinstance(layer.padding, str):
        height, width = layer.kernel_size
        if layer.padding == "valid":
            return 0
        return (height - 1) // 2 if height == width and height % 2 else None
    first, second = layer.padding
    return int(first) if first == second else None
