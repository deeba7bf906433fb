"""Locally connected layers: a local window as in a convolution, and a kernel of its own at every position.

    y[n, o, p] = b[o, p] + sum over c and t of w[o, c, t, p] x[n, c, p stride + t dilation - padding]

With the same kernel everywhere it is a convolution, whose gradient is the sum of those of the copies.
Source: lectures, "locally connected networks" and "weight sharing"; LeCun, "Generalization and network design
strategies", 1989; Taigman et al., "DeepFace", 2014.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.algorithms import lowering
from convworks.ops.algorithms.window import Window, maps
from convworks.ops.arguments import Sizes, bad_argument, per_dimension
from convworks.ops.shape import Padding, output_size, resolve_padding


def locally_connected(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
) -> Tensor:
    """x (N, C, *size), weight (O, C, *kernel, *output), bias (O, *output) -> (N, O, *output).

    Raises BadArgument where the weight has not one kernel for each position of the output.
    """
    rank, size = x.dim() - 2, tuple(x.shape[2:])
    if weight.dim() != 2 + 2 * rank or weight.shape[1] != x.shape[1]:
        why = f"x {tuple(x.shape)} needs (O, {x.shape[1]}, *kernel, *output): {2 + 2 * rank} axes"
        raise bad_argument("weight.shape", tuple(weight.shape), why=why)
    kernel = tuple(weight.shape[2 : 2 + rank])
    strides, dilations = per_dimension("stride", stride, rank), per_dimension("dilation", dilation, rank)
    pairs = resolve_padding(padding, size=size, kernel=kernel, stride=strides, dilation=dilations)
    output = output_size(size, kernel, stride=strides, padding=pairs, dilation=dilations)
    if tuple(weight.shape[2 + rank :]) != output:
        why = f"the window has the positions {output} on an input of {size}"
        fits = f"a weight {(*weight.shape[: 2 + rank], *output)}"
        raise bad_argument("weight.shape", tuple(weight.shape), why=why, fits=fits)
    window = Window(kernel, strides, pairs, dilations)
    y: Tensor = _LocallyConnected.apply(x, weight, window)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias.to(y.dtype)


def forward(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """One product for each position: (O, C K) times (C K, N)."""
    columns = lowering.lower(x, window)[:, 0]  # (N, C K, P)
    y = torch.einsum("okp,nkp->nop", _kernels(weight, window), columns)
    return y.reshape(x.shape[0], weight.shape[0], *window.output(tuple(x.shape[2:])))


def input_gradient(dy: Tensor, weight: Tensor, window: Window, size: tuple[int, ...]) -> Tensor:
    """dC/dx (N, C, *size): each error back through the kernel of its own position."""
    n, output = dy.shape[0], tuple(dy.shape[2:])
    columns = torch.einsum("okp,nop->nkp", _kernels(weight, window), dy.flatten(2))
    columns = columns.reshape(n, weight.shape[1], *window.kernel, *output)
    padded = columns.new_zeros(n, weight.shape[1], *window.padded(size))
    for tap in window.positions():
        window.seen_by(tap, padded, output).add_(columns[maps(tap)])
    return window.crop(padded)


def weight_gradient(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """dC/dw (O, C, *kernel, *output): error times cell, position by position, summed over the batch only."""
    columns = lowering.lower(x, window)[:, 0]
    gradient = torch.einsum("nop,nkp->okp", dy.flatten(2), columns)
    return gradient.reshape(dy.shape[1], x.shape[1], *window.kernel, *dy.shape[2:])


def _kernels(weight: Tensor, window: Window) -> Tensor:
    """(O, C, *kernel, *output) as (O, C K, P)."""
    return weight.flatten(2 + window.rank).flatten(1, 1 + window.rank)


class _LocallyConnected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.window = window
        return forward(x, weight, window)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = input_gradient(dy, weight, ctx.window, tuple(x.shape[2:])) if ctx.needs_input_grad[0] else None
        dw = weight_gradient(x, dy, ctx.window) if ctx.needs_input_grad[1] else None
        return dx, dw, None
