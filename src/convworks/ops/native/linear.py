"""The kernels of dense layers (`amx_linear.cpp`), as functions on torch tensors.

They are in the library that `library.open_kernels` loads, and check nothing: `ops/amx_linear.py` does.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from convworks.ops.native.library import Gradients, Run, call, integers


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, run: Run = call) -> Tensor:
    """x (N, C) bfloat16, weight (O, C) and bias (O,) float32 -> (N, O) bfloat16; rows follow each other."""
    y = torch.empty(x.shape[0], weight.shape[0], dtype=torch.bfloat16)
    run("convworks_linear_forward", _shape(x, weight), x, weight, bias, y, torch.get_num_threads())
    return y


def backward(
    x: Tensor, dy: Tensor, weight: Tensor, *, wanted: tuple[bool, bool, bool], run: Run = call
) -> Gradients:
    """The gradients of x, weight and bias that are wanted; dy (N, O) bfloat16, rows follow each other."""
    found = Gradients(
        torch.empty_like(x) if wanted[0] else None,
        torch.empty_like(weight) if wanted[1] else None,
        torch.empty(weight.shape[0], dtype=torch.float32) if wanted[2] else None,
    )
    run("convworks_linear_backward", _shape(x, weight), x, dy, weight, *found, torch.get_num_threads())
    return found


def _shape(x: Tensor, weight: Tensor) -> ctypes.Array[ctypes.c_int64]:
    return integers(x.shape[0], weight.shape[1], weight.shape[0])
