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
from convworks.ops.native.captured import Captured
from convworks.ops.native.library import Run, call


@contextmanager
def _unseen() -> Iterator[None]:
    """As a kernel of C++ computes: without autocast and gradients, and no watch sees a convolution."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False), _disable_current_modes():
        yield


def _rounded(weight: Tensor) -> Tensor:
    return weight.detach().bfloat16().float()


def _sum_channels(x: Tensor, sums: Tensor, run: Run) -> None:
    def work() -> None:
        with _unseen():
            sums.copy_(x.float().sum((0, 2, 3)))

    _do(run, work)


def _do(run: Run, work: Callable[[], object]) -> None:
    """Now, or when what is captured is replayed."""
    if isinstance(run, Captured):
        run.then(work)
    else:
        work()


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
        run: Run = call,
    ) -> None:
        def work() -> None:
            called.append("forward")
            with _unseen():
                y.copy_(F.conv2d(x.float(), _rounded(weight), bias, stride, padding, 1, groups))

        _do(run, work)

    def input_gradient(
        dy: Tensor,
        weight: Tensor,
        dx: Tensor,
        *,
        padding: int,
        groups: int = 1,
        add: Tensor | None = None,
        run: Run = call,
    ) -> None:
        def work() -> None:
            called.append("input")
            with _unseen():
                through = conv2d_input(dx.shape, _rounded(weight), dy.float(), 1, padding, 1, groups)
                dx.copy_(through if add is None else through + add.float())

        _do(run, work)

    def weight_gradient(
        x: Tensor,
        dy: Tensor,
        dw: Tensor,
        *,
        stride: int,
        padding: int,
        groups: int = 1,
        run: Run = call,
    ) -> None:
        def work() -> None:
            called.append("weight")
            with _unseen():
                dw.copy_(conv2d_weight(x.float(), dw.shape, dy.float(), stride, padding, 1, groups))

        _do(run, work)

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
        weight_gradient(x, dy, dw, stride=stride, padding=padding, run=run)
        if db is not None:
            _sum_channels(dy, db, run)

    def channel_sums(x: Tensor, *, run: Run = call) -> Tensor:
        sums = torch.empty(x.shape[1])
        _sum_channels(x, sums, run)
        return sums

    def dense(x: Tensor, weight: Tensor, bias: Tensor | None, *, run: Run = call) -> Tensor:
        y = torch.empty(len(x), len(weight), dtype=torch.bfloat16)

        def work() -> None:
            called.append("dense")
            with _unseen():
                y.copy_(F.linear(x.float(), _rounded(weight), bias))

        _do(run, work)
        return y

    def dense_back(
        x: Tensor, dy: Tensor, weight: Tensor, *, wanted: tuple[bool, bool, bool], run: Run = call
    ) -> library.Gradients:
        found = library.Gradients(
            torch.empty_like(x) if wanted[0] else None,
            torch.empty_like(weight) if wanted[1] else None,
            torch.empty(len(weight)) if wanted[2] else None,
        )

        def work() -> None:
            called.append("dense back")
            with _unseen():
                if found.x is not None:
                    found.x.copy_(dy.float() @ _rounded(weight))
                if found.weight is not None:
                    found.weight.copy_(dy.float().T @ x.float())
                if found.bias is not None:
                    found.bias.copy_(dy.float().sum(0))

        _do(run, work)
        return found

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
