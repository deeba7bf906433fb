"""Convolution in bfloat16 on the processor's matrix units (AMX), forward and backward, for training.

    y  = sum over taps of A(tap) W(tap)      A(tap): a pixel of x for each output, W(tap): inputs by outputs
    dx = the same of dy, with the taps turned by half a turn and the channels exchanged (stride 1)
    dw = sum over outputs of A(tap)^T dy
The groups of a convolution are computed one after the other.
Each sum is one product of matrices ("implicit GEMM"): A is never written down, its rows are read where the
padded maps have them. Products are those of bfloat16 and sums float32, as in torch's own convolution; weights
are rounded to bfloat16, their gradient is float32.

The C++ kernels of `ops/native` do the work (`amx_convolution.cpp`); `applies` says where they can.
Sources: lectures, "implementation tricks: im2col"; Chetlur et al. 2014, "cuDNN: efficient primitives for deep
learning", section 3 (lowering without writing); Georganas et al. 2018, "Anatomy of high-performance deep
learning convolutions on SIMD architectures".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.native import convolutions, library
from convworks.ops.native.library import Gradients, Run, call
from convworks.ops.shortcut_gradient import ShortcutGradient

MOST_CHANNELS = 8192  # of the kernels' row of zeros
FEW_TERMS = 32  # numbers of a window that one product takes
FEW_CHANNELS, FEW_STEP = 8, 12  # of a pixel, and of a stride of pixels, which the kernels separate


def available() -> bool:
    """Whether the kernels are loaded and this processor and system let them use its matrix units."""
    return library.amx_available()


def applies(x: Tensor, weight: Tensor, *, stride: int, padding: int, groups: int = 1) -> bool:
    """Whether `amx_convolution` can compute it.

    Its window has no dilation, and the same stride and padding both ways: the caller knows.
    """
    if not (available() and x.ndim == weight.ndim == 4):
        return False
    height, width = weight.shape[2:]
    return (
        x.dtype == torch.bfloat16
        and weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.shape[1] == weight.shape[1] * groups
        and weight.shape[0] % groups == 0
        and (groups == 1 or stride == 1)
        and min(x.numel(), weight.numel()) > 0
        and 1 <= stride <= 8
        and 0 <= padding < min(height, width)
        and max(height, width) <= 16
        and min(x.shape[2] + 2 * padding - height, x.shape[3] + 2 * padding - width) >= 0
        and max(weight.shape[0], weight.shape[1] * stride) <= MOST_CHANNELS
    )


def amx_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    past: ShortcutGradient | None = None,
) -> Tensor:
    """x (N, C, H, W) bfloat16, weight (O, C / groups, h, w), bias (O,) float32 -> (N, O, H', W') bfloat16.

    H' = (H + 2 padding - h) // stride + 1. What comes `past` a branch that begins here is added to the
    gradient of x. Ask `applies` first: nothing is checked here.
    """
    y: Tensor = _Amx.apply(x, weight, bias, stride, padding, groups, past)  # type: ignore[no-untyped-call]
    return y


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    run: Run = call,
) -> Tensor:
    """y of `amx_convolution` alone, without autograd; x in channels_last, as y is."""
    sides = (
        (size + 2 * padding - taps) // stride + 1
        for size, taps in zip(x.shape[2:], weight.shape[2:], strict=True)
    )
    y = torch.empty(
        (x.shape[0], weight.shape[0], *sides), dtype=torch.bfloat16, memory_format=torch.channels_last
    )
    if groups == 1 and _one_product(weight):
        convolutions.few_forward(x, weight, bias, y, stride=stride, padding=padding, run=run)
    else:
        convolutions.amx_forward(x, weight, bias, y, stride=stride, padding=padding, groups=groups, run=run)
    return y


def backward(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    wanted: tuple[bool, bool, bool],
    add: Tensor | None = None,
    run: Run = call,
) -> Gradients:
    """The gradients that are wanted, that of x of stride 1 and with `add`; x and dy in channels_last."""
    dx = dw = db = None
    if wanted[0]:
        dx = torch.empty_like(x)
        convolutions.amx_input_gradient(dy, weight, dx, padding=padding, groups=groups, add=add, run=run)
    if wanted[1]:
        dw = torch.empty_like(weight)
        if groups == 1 and _few_channels(weight, stride):
            db = torch.empty(dy.shape[1]) if wanted[2] else None
            convolutions.few_weight_gradient(x, dy, dw, db, stride=stride, padding=padding, run=run)
        else:
            convolutions.amx_weight_gradient(
                x, dy, dw, stride=stride, padding=padding, groups=groups, run=run
            )
    if wanted[2] and db is None:
        db = library.channel_sums(dy, run=run)
    return Gradients(dx, dw, db)


class _Amx(torch.autograd.Function):
    """The convolution; where its stride is not 1, the gradient of x is torch's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        padding: int,
        groups: int,
        past: ShortcutGradient | None,
    ) -> Tensor:
        x = _packed(x)
        ctx.stride, ctx.padding, ctx.groups, ctx.past = stride, padding, groups, past or ShortcutGradient()
        ctx.save_for_backward(x, weight)
        return forward(x, weight, bias, stride=stride, padding=padding, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = _packed(dy)
        of_x, *of_parameters = ctx.needs_input_grad[:3]
        here = of_x and ctx.stride == 1
        dx, dw, db = backward(
            x,
            dy,
            weight,
            stride=ctx.stride,
            padding=ctx.padding,
            groups=ctx.groups,
            wanted=(here, *of_parameters),
            add=ctx.past.take(x) if here else None,
        )
        if of_x and not here:
            dx = _strided_input_gradient(dy, x, weight, ctx.stride, ctx.padding)
        if dx is not None:
            ctx.past.add_rest(dx)
        return dx, dw, db, None, None, None, None


def _one_product(weight: Tensor) -> bool:
    """Whether forward is faster by `few_channels.cpp`, which multiplies the whole window at once."""
    return weight.shape[2] > 1 and weight[0].numel() <= FEW_TERMS


def _few_channels(weight: Tensor, stride: int) -> bool:
    """Whether the weights' gradient is faster by `few_channels.cpp`, which separates the channels."""
    outputs, channels = weight.shape[:2]
    most = FEW_CHANNELS if outputs > 16 else FEW_CHANNELS // 2
    return channels <= most and channels * stride <= FEW_STEP


def _strided_input_gradient(dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    sides = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
    half = weight.to(torch.bfloat16, memory_format=torch.channels_last)
    found, _, _ = torch.ops.aten.convolution_backward(dy, x, half, None, *sides, [True, False, False])
    result: Tensor = found
    return result


def _packed(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
