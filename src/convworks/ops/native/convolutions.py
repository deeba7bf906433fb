"""The kernels of convolutions (`winograd.cpp`, `amx_convolution.cpp`, `few_channels.cpp`), on torch tensors.

They are in the library that `library.open_kernels` loads, and check nothing: `ops/fast_winograd.py` and
`ops/amx_convolution.py` do. Maps are bfloat16 in channels_last, weights float32 of any strides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convworks.ops.native import library
from convworks.ops.native.library import Run, call, integers


def winograd_kernels(weight: Tensor, *, flip: bool) -> Tensor:
    """G w G^T in the order that `winograd_convolution` reads; flipped for the gradient with respect to x.

    weight (O, C, 3, 3), float32 of any strides; flipped, the result is of the weights (C, O, 3, 3).
    """
    outputs, inputs = (weight.shape[1], weight.shape[0]) if flip else (weight.shape[0], weight.shape[1])
    first, second, *places = weight.stride()
    strides = (second, first, *places) if flip else (first, second, *places)
    made = torch.empty(library.winograd_size(outputs, inputs), dtype=torch.bfloat16)
    call(
        "convworks_winograd_kernels",
        weight,
        integers(*strides),
        outputs,
        inputs,
        flip,
        made,
        torch.get_num_threads(),
    )
    return made


def winograd_convolution(
    x: Tensor, kernels: Tensor, bias: Tensor | None, y: Tensor, *, padding: int, add: Tensor | None = None
) -> None:
    """Writes y = x * w + bias + add, by the kernels that `winograd_kernels` made of w; `add` is as y."""
    shape = integers(x.shape[0], *x.shape[2:], x.shape[1], y.shape[1], padding)
    tensors = (x, kernels, bias, add, y)
    call("convworks_winograd_forward", shape, *tensors, torch.get_num_threads())


def winograd_convolution_pool(
    x: Tensor, kernels: Tensor, bias: Tensor | None, y: Tensor, place: Tensor, *, padding: int
) -> None:
    """Writes the 2x2 maxima of x * w + bias, and to place, uint8 as y, where in its window each one was."""
    shape = integers(x.shape[0], *x.shape[2:], x.shape[1], y.shape[1], padding)
    tensors = (x, kernels, bias, y, place)
    call("convworks_winograd_pool_forward", shape, *tensors, torch.get_num_threads())


def winograd_pooled_input(
    dy: Tensor, place: Tensor, kernels: Tensor, dx: Tensor, *, size: Sequence[int], padding: int
) -> None:
    """Writes dx by flipped kernels: the convolution of what dy and place say of maps of that size.

    `padding` is that of this convolution: 2 less the forward one's.
    """
    shape = integers(dy.shape[0], *size, dy.shape[1], dx.shape[1], padding)
    tensors = (dy, place, kernels, dx)
    call("convworks_winograd_pool_input", shape, *tensors, torch.get_num_threads())


def winograd_weight_gradient(
    x: Tensor, dy: Tensor, dw: Tensor, *, padding: int, place: Tensor | None = None
) -> None:
    """Writes dw (O, C, 3, 3), float32 of any strides; dy is behind a 2x2 maximum where there is a place."""
    shape = integers(x.shape[0], *x.shape[2:], x.shape[1], dy.shape[1], padding)
    end = (dw, integers(*dw.stride()), torch.get_num_threads())
    if place is None:
        call("convworks_winograd_weight", shape, x, dy, *end)
    else:
        call("convworks_winograd_pool_weight", shape, x, dy, place, *end)


def amx_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    run: Run = call,
) -> None:
    """Writes y = x * weight + bias; weight (O, C / groups, h, w), float32 of any strides."""
    shape = integers(x.shape[0], *x.shape[2:], *_sides(weight, groups), stride, padding, padding, groups)
    tensors = (x, weight, integers(*weight.stride()), 0, bias, None, y)
    run("convworks_amx_forward", shape, *tensors, torch.get_num_threads())


def amx_input_gradient(
    dy: Tensor,
    weight: Tensor,
    dx: Tensor,
    *,
    padding: int,
    groups: int = 1,
    add: Tensor | None = None,
    run: Run = call,
) -> None:
    """Writes dx, of stride 1: dy convolved with the weights turned by half a turn, and `add`, as dx."""
    inputs, outputs, height, width = _sides(weight, groups)
    before = (height - 1 - padding, width - 1 - padding)
    shape = integers(dy.shape[0], *dy.shape[2:], outputs, inputs, height, width, 1, *before, groups)
    first, second, *places = weight.stride()
    tensors = (dy, weight, integers(second, first, *places), 1, None, add, dx)
    run("convworks_amx_forward", shape, *tensors, torch.get_num_threads())


def amx_weight_gradient(
    x: Tensor,
    dy: Tensor,
    dw: Tensor,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
    run: Run = call,
) -> None:
    """Writes dw (O, C / groups, h, w), float32 of any strides; with groups the stride is 1."""
    shape = integers(x.shape[0], *x.shape[2:], *_sides(dw, groups), stride, padding, padding, groups)
    tensors = (x, dy, dw, integers(*dw.stride()))
    run("convworks_amx_weight", shape, *tensors, torch.get_num_threads())


def few_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    y: Tensor,
    *,
    stride: int,
    padding: int,
    run: Run = call,
) -> None:
    """As `amx_forward`, faster for few channels."""
    shape = integers(x.shape[0], *x.shape[2:], *_sides(weight, 1), stride, padding, padding)
    tensors = (x, weight, integers(*weight.stride()), bias, y)
    run("convworks_few_forward", shape, *tensors, torch.get_num_threads())


def few_weight_gradient(
    x: Tensor,
    dy: Tensor,
    dw: Tensor,
    db: Tensor | None,
    *,
    stride: int,
    padding: int,
    run: Run = call,
) -> None:
    """As `amx_weight_gradient`, faster for few channels; writes db (O,), float32, too."""
    shape = integers(x.shape[0], *x.shape[2:], *_sides(dw, 1), stride, padding, padding)
    tensors = (x, dy, dw, integers(*dw.stride()), db)
    run("convworks_few_weight", shape, *tensors, torch.get_num_threads())


def _sides(weight: Tensor, groups: int) -> tuple[int, int, int, int]:
    """Inputs, outputs, height and width of the weights of one of a convolution's groups."""
    outputs, inputs, height, width = weight.shape
    return inputs, outputs // groups, height, width
