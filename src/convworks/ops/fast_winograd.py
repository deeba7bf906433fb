"""3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) in bfloat16, forward and backward, for training.

    y  = A^T [ (G w G^T) * (B^T x B) ] A
    dx = the same, of dy with the weights turned by half a turn and their channels exchanged
    dw = G^T [ sum over tiles (B^T x B) * (A dy A^T) ] G
36 products for each tile of 16 outputs, where the definition takes 144. The products are those of bfloat16
with sums in float32; the transforms, the weights and their gradient are float32. The interpolation points are
0, +-sqrt(1/2), +-sqrt(2) and infinity: of all symmetric ones they lose nearly the least to rounding, a third
of what 0, +-1, +-2 lose. An output is wrong by about 1 % of the outputs' size, where bfloat16's own rounding
of the weights costs 0.2 %. It is used in training alone, where a step's gradient is noisy by far more.

The C++ kernels of `ops/native` do the work (`winograd.cpp`); `applies` says where they can. Where there are
matrix units (AMX), they do the products, and the weights' gradient of few channels is `amx_convolution`'s.
Sources: lectures, "implementation tricks: Winograd"; Lavin and Gray 2016, "Fast algorithms for convolutional
neural networks", sections 4.1 to 4.3; Barabasz et al. 2020, "Error analysis and improving the accuracy of
Winograd convolution for deep neural networks".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.native import convolutions, library
from convworks.ops.shortcut_gradient import ShortcutGradient

TAPS = 3
MOST_CHANNELS = 8192  # of the kernels' row of zeros
WIDE = 128  # channels where the transforms of the weights' gradient pay beside matrix units


def available() -> bool:
    """Whether the kernels are loaded and this processor can run them."""
    return library.winograd_available()


def applies(x: Tensor, weight: Tensor, padding: int) -> bool:
    """Whether `winograd_convolution` can compute it; the window has stride 1, no dilation and one group."""
    return (
        available()
        and x.dtype == torch.bfloat16
        and weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.ndim == 4
        and weight.shape[2:] == (TAPS, TAPS)
        and padding in (0, 1, 2)
        and x.numel() > 0
        and min(x.shape[2:]) + 2 * padding >= TAPS
        and max(weight.shape[:2]) <= MOST_CHANNELS
    )


def winograd_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, padding: int, past: ShortcutGradient | None = None
) -> Tensor:
    """x (N, C, H, W) bfloat16, weight (O, C, 3, 3) and bias (O,) float32 -> (N, O, H', W') bfloat16.

    H' = H + 2 padding - 2. What comes `past` a branch that begins here is added to the gradient of x. Ask
    `applies` first: nothing is checked here.
    """
    y: Tensor = _Winograd.apply(x, weight, bias, padding, False, past)  # type: ignore[no-untyped-call]
    return y


def winograd_convolution_pool(x: Tensor, weight: Tensor, bias: Tensor | None, *, padding: int) -> Tensor:
    """(N, O, H' // 2, W' // 2): the 2x2 maximum of `winograd_convolution`, which is never in memory.

    The first of equal values in a window gets the gradient. H' and W' are 2 at the least.
    """
    y: Tensor = _Winograd.apply(x, weight, bias, padding, True, None)  # type: ignore[no-untyped-call]
    return y


class _Winograd(torch.autograd.Function):
    """The convolution, or with `pooled` its 2x2 maximum."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: int,
        pooled: bool,
        past: ShortcutGradient | None,
    ) -> Tensor:
        x = _packed(x)
        height, width = output_size(x, padding)
        y = _maps(x, weight.shape[0], (height // 2, width // 2) if pooled else (height, width))
        place = torch.empty_like(y, dtype=torch.uint8) if pooled else None
        kernels = convolutions.winograd_kernels(weight, flip=False)
        if place is None:
            convolutions.winograd_convolution(x, kernels, bias, y, padding=padding)
        else:
            convolutions.winograd_convolution_pool(x, kernels, bias, y, place, padding=padding)
        ctx.padding, ctx.past = padding, past or ShortcutGradient()
        ctx.save_for_backward(x, weight, place)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, place = ctx.saved_tensors
        dy = _packed(dy)
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            kernels, before = convolutions.winograd_kernels(weight, flip=True), TAPS - 1 - ctx.padding
            if place is None:
                convolutions.winograd_convolution(dy, kernels, None, dx, padding=before, add=ctx.past.take(x))
                ctx.past.add_rest(dx)
            else:
                size = output_size(x, ctx.padding)
                convolutions.winograd_pooled_input(dy, place, kernels, dx, size=size, padding=before)
        if ctx.needs_input_grad[1]:
            dw = torch.empty_like(weight)
            if place is None and min(weight.shape[:2]) < WIDE and library.amx_available():
                convolutions.amx_weight_gradient(x, dy, dw, stride=1, padding=ctx.padding)
            else:
                convolutions.winograd_weight_gradient(x, dy, dw, padding=ctx.padding, place=place)
        if ctx.needs_input_grad[2]:
            db = dy.sum((0, 2, 3), dtype=torch.float32)
        return dx, dw, db, None, None, None


def output_size(x: Tensor, padding: int) -> tuple[int, int]:
    """Height and width of the convolution's output."""
    height, width = (size + 2 * padding - TAPS + 1 for size in x.shape[2:])
    return height, width


def _maps(x: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)


def _packed(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
