"""Max pooling of maps with few channels by the kernels, against torch's in float64; every number exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convworks.ops.fused_batch_norm import Norm, fused_max_pool, fused_norm_relu_pool
from convworks.ops.native.library import Window
from tests.ops.native.kernels import loaded

KERNELS = [
    ((2, 2), (2, 2)),
    ((3, 3), (2, 2)),
    ((3, 3), (1, 1)),
    ((1, 2), (2, 3)),
    ((3, 2), (3, 2)),
    ((2, 3), (1, 2)),
]
SPECIAL = [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-40, -1e-40]


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    with loaded():
        yield


class Case(NamedTuple):
    channels: int
    size: tuple[int, int]
    window: Window
    relu: bool = False
    dtype: torch.dtype = torch.bfloat16
    images: int = 3


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel, stride = draw(st.sampled_from(KERNELS))
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.sampled_from([0, kernel[1] // 2])))
    size = (draw(st.integers(kernel[0], 20)), draw(st.integers(kernel[1], 40)))
    channels = draw(st.integers(1, 33) | st.sampled_from([40, 47, 48, 63, 64, 65]))
    dtype = draw(st.sampled_from([torch.bfloat16, torch.bfloat16, torch.float32]))
    return Case(
        channels, size, (kernel, stride, padding), draw(st.booleans()), dtype, draw(st.integers(1, 3))
    )


def maps(case: Case, seed: int = 0) -> Tensor:
    """Whole numbers, of which many are equal."""
    draws = torch.Generator().manual_seed(seed + case.channels)
    drawn = torch.randint(-4, 5, (case.images, case.channels, *case.size), generator=draws)
    return drawn.to(case.dtype).to(memory_format=torch.channels_last)


def both(
    case: Case, x: Tensor, dy: Tensor | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """y and dx of ours and of torch's, in float64."""
    found = []
    for dtype in (x.dtype, torch.float64):
        own = x.to(dtype).requires_grad_()
        if dtype == torch.float64:
            y = F.max_pool2d(F.relu(own) if case.relu else own, *case.window)
        else:
            y = fused_max_pool(own, case.window, relu=case.relu)
        if dy is None:
            draws = torch.Generator().manual_seed(1)
            dy = torch.randint(-3, 4, y.shape, generator=draws).to(x.dtype)
        (dx,) = torch.autograd.grad(y, own, dy.to(dtype))
        found.append((y.detach().double(), dx.double()))
    return found[0], found[1]


@settings(deadline=None, max_examples=200)
@given(cases())
def test_the_largest_and_its_gradient(case: Case) -> None:
    ours, wanted = both(case, maps(case))
    assert torch.equal(ours[0], wanted[0])
    assert torch.equal(ours[1], wanted[1])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("channels", range(1, 34))
def test_each_number_of_channels(channels: int, relu: bool) -> None:
    for size in ((8, 34), (5, 35), (6, 2)):
        case = Case(channels, size, ((2, 2), (2, 2), (0, 0)), relu)
        ours, wanted = both(case, maps(case))
        assert torch.equal(ours[0], wanted[0])
        assert torch.equal(ours[1], wanted[1])


@settings(deadline=None, max_examples=150)
@given(cases())
def test_what_is_not_finite_and_ties(case: Case) -> None:
    draws = torch.Generator().manual_seed(case.channels)
    x = maps(case)
    values = torch.tensor(SPECIAL, dtype=case.dtype)[torch.randint(0, len(SPECIAL), x.shape, generator=draws)]
    x = torch.where(torch.rand(x.shape, generator=draws) < 0.4, values, x)
    ours, wanted = both(case, x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(ours[0].nan_to_num(99.0), wanted[0].nan_to_num(99.0))
    assert torch.equal(ours[0].isnan(), wanted[0].isnan())
    if not case.relu:  # whether a unit that is NaN is on is not torch's question
        assert torch.equal(ours[1], wanted[1])


def test_gradients_that_are_not_finite_stay_where_they_belong() -> None:
    case = Case(6, (8, 12), ((2, 2), (2, 2), (0, 0)))
    x = maps(case)
    dy = torch.randn(3, 6, 4, 6).bfloat16()
    dy[0, 1, 2, 3], dy[1, 2, 0, 0], dy[2, 5, 3, 5], dy[0, 0, 0, 0] = float("nan"), float("inf"), 1e-40, -0.0
    ours, wanted = both(case, x, dy)
    torch.testing.assert_close(ours[1], wanted[1], rtol=0, atol=0, equal_nan=True)
    assert not (ours[1].signbit() & (ours[1] == 0)).any()


@pytest.mark.parametrize("channels", [1, 3, 6, 7, 12, 15, 16, 17, 24, 33])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (2, 3, 0)])
def test_behind_a_batch_norm(channels: int, kernel: int, stride: int, padding: int) -> None:
    window: Window = ((kernel, kernel), (stride, stride), (padding, padding))
    draws = torch.Generator().manual_seed(channels)
    x = torch.randn(4, channels, 11, 19, generator=draws).to(memory_format=torch.channels_last)
    weight, bias = (torch.randn(channels, generator=draws) for _ in range(2))
    found = []
    for dtype in (torch.float32, torch.float64):
        own = [each.to(dtype).requires_grad_() for each in (x, weight, bias)]
        if dtype == torch.float32:
            norm = Norm(
                weight=own[1], bias=own[2], running_mean=None, running_var=None, momentum=0.1, epsilon=1e-5
            )
            y = fused_norm_relu_pool(own[0], norm, window)
        else:
            z = F.batch_norm(own[0], None, None, own[1], own[2], training=True, eps=1e-5)
            y = F.max_pool2d(F.relu(z), *window)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        found.append([y.detach().double(), *(each.double() for each in torch.autograd.grad(y, own, dy))])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 6, 24, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_and_where_memory_begins(channels: int, dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    for kernel in (2, 3):
        case = Case(channels, (40, 36), ((kernel, kernel), (2, 2), (0, 0)), True, dtype, 13)
        x = maps(case)
        wanted = both(case, x)[1]
        room = torch.empty(x.numel() + 3, dtype=dtype)
        moved = room.as_strided(x.size(), x.stride(), 3).copy_(x)
        try:
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                for given_x in (x, moved, x.contiguous()):
                    ours = both(case, given_x)[0]
                    assert torch.equal(ours[0], wanted[0])
                    assert torch.equal(ours[1], wanted[1])
        finally:
            torch.set_num_threads(before)
