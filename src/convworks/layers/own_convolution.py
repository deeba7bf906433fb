"""What the layers that train by kernels of `convworks.ops` have in common.

They are torch's own, whose class is changed in place, as the plan names them; outside training, and wherever
what they are fed is not bfloat16, they compute as torch does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convworks.ops.shortcut_gradient import ShortcutGradient


class _Own(nn.Module):
    """A layer of torch's that trains by kernels of ours under bfloat16's autocast."""

    def of_autocast(self, x: Tensor) -> Tensor | None:
        """x in the type that autocast computes in, where this pass is of training; else None."""
        if self.training and torch.is_autocast_enabled("cpu"):
            return x.to(torch.get_autocast_dtype("cpu"))
        return None


_PAST = "shortcut_gradient"  # the attribute of a convolution during one pass; no part of the state_dict


class OwnConv2d(_Own, nn.Conv2d):
    """A convolution that is such a layer; it may be the first of a residual unit's branch."""

    def begins(self, past: ShortcutGradient) -> None:
        """Let the next pass await what comes past the branch, if it computes by kernels of ours."""
        self.__dict__[_PAST] = past

    def awaited(self, x: Tensor, half: Tensor) -> ShortcutGradient | None:
        """What this pass awaits, where x is what the kernels read: its gradient has their type."""
        past: ShortcutGradient | None = self.__dict__.pop(_PAST, None)
        if past is None or half is not x:
            return None
        past.awaited = True
        return past

    def awaits_nothing(self) -> None:
        """Undo `begins`, whatever became of the pass."""
        self.__dict__.pop(_PAST, None)


class OwnLinear(_Own, nn.Linear):
    """A dense layer that is one."""


def is_torchs(layer: nn.Module) -> bool:
    """Whether it is torch's own convolution or dense layer, no subclass of others, whatever it trains by."""
    kind = type(layer)
    return kind in (nn.Conv2d, nn.Linear) or kind.__base__ in (OwnConv2d, OwnLinear)


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
