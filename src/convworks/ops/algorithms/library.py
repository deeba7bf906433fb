"""What torch dispatches to on this machine (oneDNN, NNPACK, cuDNN ...), behind the same three functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convworks.ops.algorithms.window import Window

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def forward(x: Tensor, weight: Tensor, window: Window, bias: Tensor | None = None) -> Tensor:
    """x (N, C, *size), weight (O, C/G, *kernel) -> (N, O, *output)."""
    x, padding = _symmetric(x, window)
    return _CONVOLUTIONS[window.rank](x, weight, bias, window.stride, padding, window.dilation, window.groups)


def input_gradient(dy: Tensor, weight: Tensor, window: Window, size: tuple[int, ...]) -> Tensor:
    """dC/dx (N, C, *size)."""
    channels = weight.shape[1] * window.groups
    even = window.even is not None
    x = dy.new_empty(()).expand(dy.shape[0], channels, *(size if even else window.padded(size)))
    dx = _backward(dy, x, weight, window, even=even, wanted=(True, False))[0]
    return dx if even else window.crop(dx)


def weight_gradient(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """dC/dw (O, C/G, *kernel)."""
    x, _ = _symmetric(x, window)
    even = window.even is not None
    weight = dy.new_empty(()).expand(dy.shape[1], x.shape[1] // window.groups, *window.kernel)
    return _backward(dy, x, weight, window, even=even, wanted=(False, True))[1]


def gradients(
    x: Tensor, dy: Tensor, weight: Tensor, window: Window, size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Both gradients by one call, which is what autograd makes for torch's own convolution."""
    x, _ = _symmetric(x, window)
    dx, dw = _backward(dy, x, weight, window, even=window.even is not None, wanted=(True, True))
    return (dx if window.even is not None else window.crop(dx)), dw


def _symmetric(x: Tensor, window: Window) -> tuple[Tensor, tuple[int, ...]]:
    """torch pads both sides alike; for anything else the zeros are put there before."""
    if window.even is not None:
        return x, window.even
    return window.pad(x), (0,) * window.rank


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, window: Window, *, even: bool, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    padding = [before if even else 0 for before, _ in window.padding]
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy, x, weight, None, window.stride, padding, window.dilation, False, [0] * window.rank,
        window.groups, [*wanted, False],
    )  # fmt: skip
    return dx, dw
