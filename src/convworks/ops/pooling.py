"""Pooling with forward and backward written out: maximum, sum, mean, L2 norm, global, trainable sub-sampling.

x is (N, C, L), (N, C, H, W) or (N, C, D, H, W); y is (N, C, output...). Each map is pooled by itself, the
depth stays, and there are no parameters (sub-sampling aside). The windows are those of
`pool_window.pool_window`: `stride` is the kernel's size where it is None, a smaller one makes them overlap.
Layers take torch's kernels for maximum and mean; these functions are the algorithm, cell by cell of a window.
Sources: lectures, pooling operator; Boureau, Ponce, LeCun, "A theoretical analysis of feature pooling in
visual recognition", 2010; Krizhevsky et al. 2012, section 3.4 (overlapping).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convworks.ops.arguments import Sizes, bad_argument, one_of
from convworks.ops.pool_window import PoolWindow, pool_window
from convworks.ops.shape import Padding


def max_pool(x: Tensor, window: PoolWindow) -> tuple[Tensor, Tensor]:
    """y = max over the window, and which cell of the window it is, counted in row-major order.

    Of equal numbers the first in row-major order wins; padding never does. NaN is larger than any number.
    """
    padded = window.pad(x, value=-torch.inf)
    best = padded.new_full((*x.shape[:2], *window.output), -torch.inf)
    winner = torch.full(best.shape, -1, dtype=torch.int64, device=x.device)
    inside = window.pad(torch.ones(window.size, dtype=torch.bool, device=x.device))
    for number, (_, place) in enumerate(window.places()):
        cell = padded[place]
        better = (cell > best) | (cell.isnan() & ~best.isnan())
        better |= (winner < 0) & inside[place]  # a window of -inf alone has its first cell
        best = torch.where(better, cell, best)
        winner = torch.where(better, number, winner)
    return best, winner


def max_pool_backward(gradient: Tensor, winner: Tensor, window: PoolWindow) -> Tensor:
    """dC/dx: each dC/dy goes to the cell that won its window, and adds up where windows overlap."""
    to_padded = window.canvas(gradient)
    for number, (_, place) in enumerate(window.places()):
        to_padded[place] += torch.where(winner == number, gradient, torch.zeros_like(gradient))
    return window.crop(to_padded)


def sum_pool(x: Tensor, window: PoolWindow) -> Tensor:
    """y = the sum over the window; padding adds 0."""
    padded = window.pad(x)
    total = padded.new_zeros(*x.shape[:2], *window.output)
    for _, place in window.places():
        total += padded[place]
    return total


def sum_pool_backward(gradient: Tensor, window: PoolWindow) -> Tensor:
    """dC/dx: every cell of a window gets its dC/dy, and adds up where windows overlap."""
    to_padded = window.canvas(gradient)
    for _, place in window.places():
        to_padded[place] += gradient
    return window.crop(to_padded)


def mean_pool(x: Tensor, window: PoolWindow, *, count_padding: bool = True) -> Tensor:
    """y = the sum over the window / its cells. `count_padding`: is the padding among the cells?

    Yes in torch and Caffe, no in TensorFlow; the overhang of ceil mode counts in none of them.
    """
    return sum_pool(x, window) / window.divisors(count_padding=count_padding, like=x)


def mean_pool_backward(gradient: Tensor, window: PoolWindow, *, count_padding: bool = True) -> Tensor:
    """dC/dx: every cell of a window gets dC/dy / its cells."""
    return sum_pool_backward(gradient / window.divisors(count_padding=count_padding, like=gradient), window)


def l2_pool(x: Tensor, window: PoolWindow) -> Tensor:
    """y = sqrt(sum over the window of x^2), the mean of x^2 times the cells of a window, under the root.

    Sources: lectures, pooling (L2 norm); Le et al., "Tiled convolutional neural networks", 2010, section 3.
    """
    return sum_pool(x.square(), window).sqrt()


def l2_pool_backward(x: Tensor, y: Tensor, gradient: Tensor, window: PoolWindow) -> Tensor:
    """dC/dx = x times the sum of dC/dy / y over its windows; a window with y = 0 has no slope and gives 0."""
    scaled = torch.where(y == 0, torch.zeros_like(gradient), gradient / torch.where(y == 0, 1, y))
    return x * sum_pool_backward(scaled, window)


def subsample(x: Tensor, coefficient: Tensor, bias: Tensor, window: PoolWindow) -> Tensor:
    """y_c = coefficient_c (sum over the window of x_c) + bias_c: 2C parameters, 12 for S2 and 32 for S4.

    `coefficient` and `bias` are (C,). Source: LeCun et al. 1998, section II-B, layers S2 and S4.
    """
    per_map = (-1, *(1,) * len(window.size))
    return sum_pool(x, window) * coefficient.reshape(per_map) + bias.reshape(per_map)


def subsample_backward(
    x: Tensor, coefficient: Tensor, gradient: Tensor, window: PoolWindow
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to x, coefficient and bias: to the latter dC/dy times the sums, and dC/dy, of their map."""
    others = [d for d in range(x.ndim) if d != 1]
    scaled = gradient * coefficient.reshape(-1, *(1,) * len(window.size))
    to_coefficient = (gradient * sum_pool(x, window)).sum(dim=others)
    return sum_pool_backward(scaled, window), to_coefficient, gradient.sum(dim=others)


def global_mean(x: Tensor) -> Tensor:
    """(N, C, ...) -> (N, C, 1, ...): the mean of each map. 7x7x1024 -> 1x1x1024 in GoogLeNet.

    Source: Lin, Chen, Yan, "Network in network", 2013, section 3.2; lectures, GoogLeNet.
    """
    return x.mean(dim=_spatial(x), keepdim=True)


def global_mean_backward(gradient: Tensor, size: tuple[int, ...]) -> Tensor:
    """dC/dx: every cell of a map of that size gets dC/dy / cells."""
    return gradient.expand(*gradient.shape[:2], *size) / torch.Size(size).numel()


def global_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, ...) -> (N, C, 1, ...): the maximum of each map, and (N, C) where it is, in row-major order."""
    _spatial(x)
    flat = x.flatten(2)
    winner = flat.argmax(dim=2)  # torch names the first of equal ones
    return flat.gather(2, winner[..., None]).reshape(*x.shape[:2], *(1,) * (x.ndim - 2)), winner


def global_max_backward(gradient: Tensor, winner: Tensor, size: tuple[int, ...]) -> Tensor:
    """dC/dx: the winner of each map of that size gets dC/dy."""
    flat = gradient.new_zeros(*gradient.shape[:2], torch.Size(size).numel())
    return flat.scatter_(2, winner[..., None], gradient.flatten(2)).reshape(*gradient.shape[:2], *size)


def _spatial(x: Tensor) -> list[int]:
    if x.ndim < 3:
        raise bad_argument("x.shape", tuple(x.shape), why="it has no maps", fits="(N, C, ...)")
    return list(range(2, x.ndim))


POOLINGS = ("max", "mean", "sum", "l2")


def pool(
    x: Tensor,
    kind: str,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil: bool = False,
    count_padding: bool = True,
) -> Tensor:
    """Pooling of that kind (max, mean, sum, l2) for autograd, with the backward pass of this file.

    `count_padding` concerns the mean alone. Raises BadArgument for another kind, and for windows that do
    not fit.
    """
    one_of("kind", kind, POOLINGS)
    window = pool_window(tuple(x.shape[2:]), kernel_size, stride=stride, padding=padding, ceil=ceil)
    y: Tensor = _Pool.apply(x, kind, window, count_padding)  # type: ignore[no-untyped-call]
    return y


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str, window: PoolWindow, count_padding: bool) -> Tensor:
        ctx.kind, ctx.window, ctx.count_padding = kind, window, count_padding
        if kind == "max":
            y, winner = max_pool(x, window)
            ctx.save_for_backward(winner)
            return y
        if kind == "l2":
            y = l2_pool(x, window)
            ctx.save_for_backward(x, y)
            return y
        return sum_pool(x, window) if kind == "sum" else mean_pool(x, window, count_padding=count_padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        backward: dict[str, Callable[..., Tensor]] = {
            "max": lambda winner: max_pool_backward(gradient, winner, ctx.window),
            "l2": lambda x, y: l2_pool_backward(x, y, gradient, ctx.window),
            "sum": lambda: sum_pool_backward(gradient, ctx.window),
            "mean": lambda: mean_pool_backward(gradient, ctx.window, count_padding=ctx.count_padding),
        }
        return backward[ctx.kind](*ctx.saved_tensors), None, None, None
