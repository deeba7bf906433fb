"""Local response norm by the kernels against its definition in float64, place by place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from convworks.errors import ConvworksError
from convworks.ops.fused_response_norm import fused_response_norm
from convworks.ops.native import library
from tests.ops.native.kernels import loaded


@pytest.fixture(autouse=True, params=["kernels", "torch"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "torch":
        library.close_kernels()
        yield request.param
    else:
        with loaded():
            yield request.param


def by_loops(x: Tensor, dy: Tensor, size: int, alpha: float, beta: float, k: float) -> tuple[Tensor, Tensor]:
    """b and da in float64 by loops over maps; a = x."""
    a, db, n, c = x.double(), dy.double(), size // 2, x.shape[1]
    near = [range(max(0, i - n), min(c - 1, i + n) + 1) for i in range(c)]
    s = torch.stack([k + alpha * sum(a[:, j] ** 2 for j in near[i]) for i in range(c)], 1)
    da = db * s**-beta
    for i in range(c):
        shared = sum(db[:, j] * a[:, j] * s[:, j] ** (-beta - 1) for j in near[i])
        da[:, i] -= 2 * alpha * beta * a[:, i] * shared
    return a * s**-beta, da


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("channels", "size", "beta"), [(1, 5, 0.75), (3, 5, 0.5), (16, 3, 1.0), (37, 5, 0.75), (96, 9, 0.25)]
)
def test_forward_and_backward(channels: int, size: int, beta: float, relu: bool, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(2, channels, 5, 4, generator=draws)).to(dtype).requires_grad_()
    dy = torch.randn(2, channels, 5, 4, generator=draws).to(dtype)
    a = x.detach().clamp(min=0) if relu else x.detach()
    want, da = by_loops(a, dy, size, 0.1, beta, 2.0)
    if relu:
        da = da * (x.detach() > 0)
    y = fused_response_norm(x, size=size, alpha=0.1, beta=beta, relu=relu)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(y.detach().double(), want, rtol=tolerance, atol=tolerance)
    gradient = torch.autograd.grad(y, x, dy)[0].double()
    torch.testing.assert_close(gradient, da, rtol=tolerance, atol=tolerance)
    with pytest.raises(AssertionError):  # a planted error
        torch.testing.assert_close(gradient * 1.03, da, rtol=tolerance, atol=tolerance)


def test_both_forms_and_what_the_kernels_do_not_do() -> None:
    x = torch.randn(2, 7, 3, 3)
    for settings in ({"form": "mean"}, {"beta": 0.6}, {"size": 1}):
        got = fused_response_norm(x, alpha=0.3, **settings)  # type: ignore[arg-type]
        size = settings.get("size", 5)
        alpha = 0.3 / 5 if "form" in settings else 0.3
        want, _ = by_loops(x, x, size, alpha, settings.get("beta", 0.75), 2.0)  # type: ignore[arg-type]
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert fused_response_norm(x.double()).dtype == torch.float64
    with pytest.raises(ConvworksError, match="size"):
        fused_response_norm(x, size=4)
