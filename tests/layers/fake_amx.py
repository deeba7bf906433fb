"""Matrix units for tests, on every processor: torch computes what the kernels would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.utils._python_dispatch import _disable_current_modes

from convworks.ops.native import convolutions, library, linear


@contextmanager
def _unseen() -> Iterator[None]:
    """As a kernel of C++ computes: without autocast and gradients, and no watch sees a convolution."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False), _disable_current_modes():
        yield


def _rounded(weight: Tensor) -> Tensor:
    return weight.detach().bfloat16().float()


def fake_amx(monkeypatch: pytest.MonkeyPatch, available: Callable[[], bool] = lambda: True) -> list[str]:
    """Put torch in the place of the kernels; returns the list that tells what was computed by them."""
    called: list[str] = []

    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        y: Tensor,
        *,
        stride: int,
        padding: int,
        groups: int = 1,
    ) -> None:
        called.append("forward")
        with _unseen():
            y.copy_(F.conv2d(x.float(), _rounded(weight), bias, stride, padding, 1, groups))

    def input_gradient(
        dy: Tensor, weight: Tensor, dx: Tensor, *, padding: int, groups: int = 1, add: Tensor | None = None
    ) -> None:
        called.append("input")
        with _unseen():
            through = conv2d_input(dx.shape, _rounded(weight), dy.float(), 1, padding, 1, groups)
            dx.copy_(through if add is None else through + add.float())

    def weight_gradient(
        x: Tensor, dy: Tensor, dw: Tensor, *, stride: int, padding: int, groups: int = 1
    ) -> None:
        called.append("weight")
        with _unseen():
            dw.copy_(conv2d_weight(x.float(), dw.shape, dy.float(), stride, padding, 1, groups))

    def few_weight_gradient(
        x: Tensor, dy: Tensor, dw: Tensor, db: Tensor | None, *, stride: int, padding: int
    ) -> None:
        weight_gradient(x, dy, dw, stride=stride, padding=padding)
        if db is not None:
            db.copy_(channel_sums(dy))

    def channel_sums(x: Tensor) -> Tensor:
        with _unseen():
            return x.float().sum((0, 2, 3))

    def dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        called.append("dense")
        with _unseen():
            return F.linear(x.float(), _rounded(weight), bias).bfloat16()

    def dense_back(
        x: Tensor, dy: Tensor, weight: Tensor, *, wanted: tuple[bool, bool, bool]
    ) -> linear.Gradients:
        called.append("dense back")
        with _unseen():
            dx = (dy.float() @ _rounded(weight)).bfloat16() if wanted[0] else None
            dw = dy.float().T @ x.float() if wanted[1] else None
            return linear.Gradients(dx, dw, dy.float().sum(0) if wanted[2] else None)

    monkeypatch.setattr(library, "amx_available", available)
    monkeypatch.setattr(convolutions, "amx_forward", forward)
    monkeypatch.setattr(convolutions, "amx_input_gradient", input_gradient)
    monkeypatch.setattr(convolutions, "amx_weight_gradient", weight_gradient)
    monkeypatch.setattr(convolutions, "few_forward", forward)
    monkeypatch.setattr(convolutions, "few_weight_gradient", few_weight_gradient)
    monkeypatch.setattr(library, "channel_sums", channel_sums)
    monkeypatch.setattr(linear, "forward", dense)
    monkeypatch.setattr(linear, "backward", dense_back)
    return called
