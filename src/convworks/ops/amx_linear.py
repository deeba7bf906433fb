"""Dense layers in bfloat16 on the processor's matrix units (AMX), forward and backward, for training.

    y  = x W^T + b
    dx = dy W        dW = dy^T x        db = sum of dy over the batch
Products are those of bfloat16 and sums float32, as in torch's own; x, y, dy and dx are bfloat16, the others
float32. A large layer costs what its weights cost in memory: they are read once for a product and rounded in
registers, no copy of them in bfloat16 is written, and their gradient is written once.

The C++ kernels of `ops/native` do the work (`amx_linear.cpp`); `applies` says where they can.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.native import library, linear


def available() -> bool:
    """Whether the kernels are loaded and this processor and system let them use its matrix units."""
    return library.amx_available()


def applies(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `amx_linear` can compute it."""
    return (
        x.dtype == torch.bfloat16
        and weight.ndim == 2
        and x.ndim >= 1
        and x.shape[-1] == weight.shape[1]
        and min(x.numel(), weight.numel()) > 0
        and all(
            each.dtype == torch.float32 and each.device.type == "cpu" and each.is_contiguous()
            for each in (weight, bias)
            if each is not None
        )
        and x.device.type == "cpu"
        and available()
    )


def amx_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., C) bfloat16, weight (O, C) and bias (O,) float32 -> (..., O) bfloat16.

    Ask `applies` first: nothing is checked here.
    """
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class _Linear(torch.autograd.Function):
    """The layer; all gradients that are asked for in one call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = _rows(x)
        ctx.save_for_backward(rows, weight)
        ctx.shape = x.shape
        return linear.forward(rows, weight, bias).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, dw, db = linear.backward(x, _rows(dy), weight, wanted=ctx.needs_input_grad)
        return None if dx is None else dx.view(ctx.shape), dw, db


def _rows(x: Tensor) -> Tensor:
    """(..., C) -> (N, C), rows that follow each other."""
    return x.reshape(-1, x.shape[-1]).contiguous()
