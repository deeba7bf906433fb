"""Local response norm with the ReLU before it, in one pass over memory forward and one backward.

    b_i = a_i s_i^-beta,  s_i = k + alpha sum_{j near i} a_j^2,  a = relu(x) or x,
    da_i = db_i s_i^-beta - 2 alpha beta a_i sum_{j near i} db_j a_j s_j^(-beta-1).
The formulas are those of `ops.normalization.local_response_norm`, which does the work where the kernels of
`ops/native` are not loaded or do not fit: they take beta in quarters up to one, as published networks have
it, whose powers are square roots. s is computed again in the backward pass, so nothing is kept but x.
Source: Krizhevsky, Sutskever, Hinton 2012, section 3.3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.native import library
from convworks.ops.normalization import ResponseForm, local_response_norm

_QUARTERS = (0.25, 0.5, 0.75, 1.0)
_WIDEST = 65  # maps of a window


def fused_response_norm(
    x: Tensor,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    form: ResponseForm = "sum",
    relu: bool = False,
) -> Tensor:
    """local_response_norm(relu(x)); (N, C, H, W) -> the same. Raises what that raises."""
    fits = beta in _QUARTERS and size % 2 == 1 and 1 <= size <= _WIDEST and k > 0 and alpha >= 0
    plain = x.ndim == 4 and x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"
    if not (library.available() and fits and plain and x.numel() and form in ("sum", "mean")):
        a = F.relu(x) if relu else x
        return local_response_norm(a, size=size, alpha=alpha, beta=beta, k=k, form=form)
    settings = {
        "reach": size // 2,
        "alpha": alpha if form == "sum" else alpha / size,
        "quarters": round(4 * beta),
        "k": k,
        "relu": relu,
    }
    y: Tensor = _Response.apply(x, settings)  # type: ignore[no-untyped-call]
    return y


class _Response(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: dict[str, Any]) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)
        ctx.settings = settings
        return library.response(x, None, **settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        return library.response(x, dy, **ctx.settings), None
