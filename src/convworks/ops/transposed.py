"""Transposed convolution: the linear map of a convolution, transposed. Also the gradient to its input.

If A is the convolution with some weight, then <A x, y> = <x, A^T y>. A^T enlarges: its output has the size
of an input that A would have made small. Source: lectures, "transposed convolution"; Dumoulin and Visin, "A
guide to convolution arithmetic for deep learning", 2016, section 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.algorithms import named
from convworks.ops.algorithms.named import Algorithm, check_applies
from convworks.ops.algorithms.window import Window
from convworks.ops.arguments import Sizes, bad_argument, one_of, per_dimension
from convworks.ops.shape import Padding, resolve_padding, transposed_size

ALGORITHMS = ("library", "direct", "lowering", "fft", "winograd", "winograd4")


def transposed_convolve(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "library",
) -> Tensor:
    """y (N, O, *size), weight (O, C/groups, *kernel), bias (C,) -> (N, C, *larger).

    stride, padding and dilation are those of the convolution (N, C, ...) -> (N, O, ...) that is transposed,
    so the larger size is S (N - 1) + E - 2P + output_padding. The weight is laid out as that convolution's.
    Raises BadArgument for shapes that do not fit together.
    """
    rank, size, kernel = y.dim() - 2, tuple(y.shape[2:]), tuple(weight.shape[2:])
    if weight.dim() != y.dim() or weight.shape[0] != y.shape[1] or weight.shape[0] % groups:
        why = f"it must be ({y.shape[1]}, C/groups, ...) for y {tuple(y.shape)} and groups={groups}"
        raise bad_argument("weight.shape", tuple(weight.shape), why=why)
    strides, dilations = per_dimension("stride", stride, rank), per_dimension("dilation", dilation, rank)
    larger = transposed_size(
        size, kernel, stride=strides, padding=padding, output_padding=output_padding, dilation=dilations
    )
    pairs = resolve_padding(padding, size=size, kernel=kernel, stride=strides, dilation=dilations)
    window = Window(kernel, strides, pairs, dilations, groups)
    check_applies(one_of("algorithm", algorithm, ALGORITHMS), window)
    x: Tensor = _Transposed.apply(y, weight, window, larger, named.algorithm(algorithm))  # type: ignore[no-untyped-call]
    return x if bias is None else x + bias.to(x.dtype).view(-1, *(1,) * rank)


class _Transposed(torch.autograd.Function):
    """Forward is the convolution's gradient to its input, and its own gradient is the convolution."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, window: Window, size: tuple[int, ...], chosen: Algorithm
    ) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.window, ctx.chosen = window, chosen
        return chosen.input_gradient(y, weight, window, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        y, weight = ctx.saved_tensors
        wants_y, wants_weight = ctx.needs_input_grad[:2]
        dy = ctx.chosen.forward(dx, weight, ctx.window) if wants_y else None
        dw = ctx.chosen.weight_gradient(dx, y, ctx.window) if wants_weight else None
        return dy, dw, None, None, None
