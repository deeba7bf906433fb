"""Convolution by its definition: for each tap of the kernel, one shifted image times one weight.

    y[n, o, p] = sum over c and t of w[o, c, t] x[n, c, p stride + t dilation - padding]

The sum over the channels c is a matrix product; the taps t are a loop. Nothing but the output and one shifted
view is held. Source: lectures, "convolution operator"; Goodfellow, Bengio, Courville, "Deep Learning", 9.1.
"""

from __future__ import annotations

from torch import Tensor

from convworks.ops.algorithms.window import Window, group_kernels, last, numel, split_groups, wide


def forward(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    """x (N, C, *size), weight (O, C/G, *kernel) -> (N, O, *output)."""
    output = window.output(tuple(x.shape[2:]))
    padded = window.pad(x.to(wide(x.dtype)))
    kernels = group_kernels(weight.to(padded.dtype), window.groups)  # (G, O/G, C/G, *K)
    y = padded.new_zeros(x.shape[0], window.groups, weight.shape[0] // window.groups, numel(output))
    for tap in window.positions():
        cells = split_groups(window.seen_by(tap, padded, output), window.groups).flatten(3)  # (N, G, C/G, P)
        y += kernels[last(tap)] @ cells
    return y.reshape(x.shape[0], weight.shape[0], *output).to(x.dtype)


def input_gradient(dy: Tensor, weight: Tensor, window: Window, size: tuple[int, ...]) -> Tensor:
    """dC/dx (N, C, *size): every output sends its gradient back to the cells it was computed from.

    dx[c, p stride + t dilation - padding] += sum over o of w[o, c, t] dy[o, p]
    """
    groups, output = window.groups, tuple(dy.shape[2:])
    channels = weight.shape[1] * groups
    kernels = group_kernels(weight.to(wide(dy.dtype)), groups).transpose(1, 2)  # (G, C/G, O/G, *K)
    errors = split_groups(dy.to(kernels.dtype), groups).flatten(3)  # (N, G, O/G, P)
    padded = kernels.new_zeros(dy.shape[0], channels, *window.padded(size))
    for tap in window.positions():
        back = kernels[last(tap)] @ errors  # (N, G, C/G, P)
        window.seen_by(tap, padded, output).add_(back.reshape(dy.shape[0], channels, *output))
    return window.crop(padded).to(dy.dtype)


def weight_gradient(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """dC/dw (O, C/G, *kernel): for each tap, the products of what it met with the errors, summed.

    dw[o, c, t] = sum over n and p of dy[n, o, p] x[n, c, p stride + t dilation - padding]
    """
    groups, output = window.groups, tuple(dy.shape[2:])
    padded = window.pad(x.to(wide(x.dtype)))
    errors = split_groups(dy.to(padded.dtype), groups).flatten(3)  # (N, G, O/G, P)
    gradient = padded.new_empty(groups, dy.shape[1] // groups, x.shape[1] // groups, *window.kernel)
    for tap in window.positions():
        cells = split_groups(window.seen_by(tap, padded, output), groups).flatten(3)  # (N, G, C/G, P)
        gradient[last(tap)] = (errors @ cells.transpose(2, 3)).sum(dim=0)
    return gradient.flatten(0, 1).to(x.dtype)
