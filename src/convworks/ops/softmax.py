"""Softmax with its backward pass written out, and the skewness that it increases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def softmax(x: Tensor, *, dim: int = 1) -> Tensor:
    """p_i = exp(x_i) / sum_j exp(x_j) along `dim`; a number added to every x_i changes nothing.

    The largest x is subtracted first, so that exp cannot overflow: scores of +-1e4 are fine. Same shape.
    Source: lectures, softmax transformation; Bridle 1990.
    """
    powers = torch.exp(x - x.amax(dim=dim, keepdim=True))
    return powers / powers.sum(dim=dim, keepdim=True)


def softmax_backward(p: Tensor, gradient: Tensor, *, dim: int = 1) -> Tensor:
    """dC/dx_i = p_i (g_i - sum_j g_j p_j), from dp_j/dx_i = p_j ([i = j] - p_i); p is the output."""
    return p * (gradient - (gradient * p).sum(dim=dim, keepdim=True))


def softmax_through_autograd(x: Tensor, *, dim: int = 1) -> Tensor:
    """`softmax` for training, with `softmax_backward` as its backward pass."""
    result: Tensor = _Softmax.apply(x, dim)  # type: ignore[no-untyped-call]
    return result


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        p = softmax(x, dim=dim)
        ctx.save_for_backward(p)
        ctx.dim = dim
        return p

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        return softmax_backward(p, gradient, dim=ctx.dim), None


def skewness(x: Tensor, *, dim: int = 1) -> Tensor:
    """The third standardised moment mean((x - m)^3) / mean((x - m)^2)^1.5 along `dim`, which is dropped.

    Softmax "increases the skewness" (lectures, softmax transformation): exp is convex and increasing, and
    such a map never lowers the skewness of a sample (van Zwet, "Convex transformations of random variables",
    1964). Equal numbers have none: 0.
    """
    centred = x - x.mean(dim=dim, keepdim=True)
    spread = centred.square().mean(dim=dim).pow(1.5)
    third = centred.pow(3).mean(dim=dim)
    return torch.where(spread > 0, third / torch.where(spread > 0, spread, 1), torch.zeros_like(third))
