"""Weighted-mean pooling, and how far pooling is invariant to shifts.

Source: lectures, pooling (weighted mean; invariance to local translations); Goodfellow, Bengio, Courville,
"Deep learning", 2016, section 9.3 (weights by the distance from the central pixel).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from convworks.ops.arguments import bad_argument
from convworks.ops.pool_window import Place, PoolWindow


def weighted_mean_pool(x: Tensor, weight: Tensor, window: PoolWindow) -> Tensor:
    """y = (sum over the cells p of w_p x_p) / (sum of w_p), w of the kernel's shape; padding counts as x = 0.

    Equal weights give the mean. The sum of the weights must not be 0. Raises BadArgument for a weight of
    another shape.
    """
    _check_weight(weight, window)
    padded = window.pad(x)
    total = padded.new_zeros(*x.shape[:2], *window.output)
    for cell, place in window.places():
        total += weight[cell] * padded[place]
    return total / weight.sum()


def weighted_mean_pool_backward(
    x: Tensor, weight: Tensor, y: Tensor, gradient: Tensor, window: PoolWindow
) -> tuple[Tensor, Tensor]:
    """Gradients to x and w. With W = sum of w: dC/dx_p adds w_p g / W; dC/dw_p = sum of g (x_p - y) / W."""
    padded, to_padded = window.pad(x), window.canvas(gradient)
    scaled = gradient / weight.sum()
    to_weight = torch.empty_like(weight)
    for cell, place in window.places():
        to_padded[place] += weight[cell] * scaled
        to_weight[cell] = (scaled * (padded[place] - y)).sum()
    return window.crop(to_padded), to_weight


def distance_weights(kernel: tuple[int, ...], *, sigma: float) -> Tensor:
    """exp(-d^2 / 2 sigma^2) with d the distance from the centre of the window, in cells: float32."""
    if sigma <= 0:
        raise bad_argument("sigma", sigma, why="it must be above 0", fits="sigma=1.0")
    squares = torch.zeros(kernel)
    for dimension, k in enumerate(kernel):
        line = torch.arange(k, dtype=torch.float32) - (k - 1) / 2
        squares += line.square().reshape(-1, *(1,) * (len(kernel) - 1 - dimension))
    return torch.exp(-squares / (2 * sigma**2))


def weighted_mean_through_autograd(x: Tensor, weight: Tensor, window: PoolWindow) -> Tensor:
    """`weighted_mean_pool` for training, with `weighted_mean_pool_backward` as its backward pass."""
    y: Tensor = _WeightedMean.apply(x, weight.to(x.dtype), window)  # type: ignore[no-untyped-call]
    return y


class _WeightedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, window: PoolWindow) -> Tensor:
        y = weighted_mean_pool(x, weight, window)
        ctx.save_for_backward(x, weight, y)
        ctx.window = window
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        return *weighted_mean_pool_backward(x, weight, y, gradient, ctx.window), None


def _check_weight(weight: Tensor, window: PoolWindow) -> None:
    if tuple(weight.shape) != window.kernel:
        fits = f"a weight of shape {window.kernel}"
        raise bad_argument(
            "weight.shape", tuple(weight.shape), why=f"the window is {window.kernel}", fits=fits
        )


@dataclass(frozen=True, slots=True)
class Invariance:
    """Shares of outputs that a shift leaves unchanged, over all shifts and outputs."""

    raw: float
    pooled: float
    shifts: int


def translation_invariance(
    x: Tensor, pooling: Callable[[Tensor], Tensor], *, shift: int = 1, tolerance: float = 0.0
) -> Invariance:
    """How many outputs stay (within `tolerance`) when x moves by `shift` cells along one or more dimensions.

    The inner part of the maps is compared with the same maps moved in each of the 3^d - 1 directions, so
    that no cell comes from outside. `raw` is the same share without pooling. x is (N, C, ...). Places that
    are 0 before and after count as unchanged, so sparse maps have a high `raw`.
    Raises BadArgument where the maps are no larger than twice the shift.
    """
    size = tuple(x.shape[2:])
    if shift < 1 or min(size, default=0) <= 2 * shift:
        raise bad_argument("shift", shift, why=f"the maps are {size}", fits="shift=1 and larger maps")
    directions = [d for d in product((-shift, 0, shift), repeat=len(size)) if any(d)]

    def moved(by: tuple[int, ...]) -> Tensor:
        rows = zip(by, size, strict=True)
        inside: Place = (..., *(slice(shift + step, n - shift + step) for step, n in rows))
        return x[inside]

    still = moved((0,) * len(size))
    raw = [unchanged(still, moved(d), tolerance=tolerance) for d in directions]
    pooled = [unchanged(pooling(still), pooling(moved(d)), tolerance=tolerance) for d in directions]
    count = len(directions)
    return Invariance(raw=sum(raw) / count, pooled=sum(pooled) / count, shifts=count)


def unchanged(before: Tensor, after: Tensor, *, tolerance: float = 0.0) -> float:
    """The share of numbers that differ by no more than `tolerance`."""
    return float(((before - after).abs() <= tolerance).double().mean())
