"""Lowering (im2col and a matrix product): O = I K.

The cells under every position of the window become one column of the matrix I, which repeats each input cell
up to prod(kernel) times; all else is one matrix product. The extra memory is that matrix: see `extra_bytes`.
Source: lectures, "implementation tricks: lowering"; Chellapilla, Puri, Simard, "High performance
convolutional neural networks for document processing", 2006.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convworks.ops.algorithms.window import Window, group_kernels, maps, numel, split_groups, wide


def extra_bytes(shape: tuple[int, ...], window: Window, itemsize: int = 4) -> int:
    """Bytes of the matrix I for an input (N, C, *size): N C prod(kernel) prod(output) itemsize."""
    return shape[0] * shape[1] * numel(window.kernel) * numel(window.output(shape[2:])) * itemsize


def lower(x: Tensor, window: Window) -> Tensor:
    """The matrix I of x (N, C, *size): (N, G, C/G prod(kernel), prod(output)). A view for 1x1 windows."""
    output = window.output(tuple(x.shape[2:]))
    columns = window.pad(x)
    for dim, (e, s) in enumerate(zip(window.span, window.stride, strict=True), start=2):
        columns = columns.unfold(dim, e, s)  # appends an axis of the span
    for dim, d in enumerate(window.dilation, start=2 + window.rank):
        if d > 1:
            columns = columns.movedim(dim, -1)[..., ::d].movedim(-1, dim)
    taps = range(2 + window.rank, 2 + 2 * window.rank)
    columns = columns.permute(0, 1, *taps, *range(2, 2 + window.rank))  # (N, C, *K, *output)
    n, c = x.shape[:2]
    return columns.reshape(n, window.groups, c // window.groups * numel(window.kernel), numel(output))


def forward(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """x (N, C, *size), weight (O, C/G, *kernel) -> (N, O, *output)."""
    kernels = group_kernels(weight, window.groups).flatten(2)  # (G, O/G, C/G K)
    y = torch.matmul(kernels, lower(x, window))  # (N, G, O/G, P)
    return y.reshape(x.shape[0], weight.shape[0], *window.output(tuple(x.shape[2:])))


def input_gradient(dy: Tensor, weight: Tensor, window: Window, size: tuple[int, ...]) -> Tensor:
    """dC/dx (N, C, *size): the gradient dI = K^T dO, added back to the cells it came from."""
    n, groups, output = dy.shape[0], window.groups, tuple(dy.shape[2:])
    kernels = group_kernels(weight, groups).flatten(2).transpose(1, 2)  # (G, C/G K, O/G)
    columns = torch.matmul(kernels, split_groups(dy, groups).flatten(3))  # (N, G, C/G K, P)
    columns = columns.reshape(n, groups * weight.shape[1], *window.kernel, *output)
    sums = (n, groups * weight.shape[1], *window.padded(size))
    padded = columns.new_zeros(sums, dtype=wide(dy.dtype))
    for tap in window.positions():
        window.seen_by(tap, padded, output).add_(columns[maps(tap)])
    return window.crop(padded).to(dy.dtype)


def weight_gradient(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """dC/dw (O, C/G, *kernel): dK = dO I^T, summed over the batch."""
    errors = split_groups(dy, window.groups).flatten(3)  # (N, G, O/G, P)
    gradient = torch.matmul(errors, lower(x, window).transpose(2, 3)).sum(dim=0)  # (G, O/G, C/G K)
    return gradient.reshape(dy.shape[1], x.shape[1] // window.groups, *window.kernel)
