"""Every pooling and its backward pass against plain loops, with overlap, padding and ceil mode; the numbers
of the lectures; the rule for ties."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from convworks.errors import ConvworksError
from convworks.ops import pooling as ops
from convworks.ops.pool_window import PoolWindow, pool_window
from convworks.ops.pooling import POOLINGS, pool
from convworks.ops.stack import parse_stack, trace_stack

MATRIX = torch.tensor([[3.0, 9, 2, 4], [1, 4, 5, 7], [8, 9, 1, 7], [1, 0, 8, 1]])[None, None]
EACH = pytest.mark.parametrize("kind", POOLINGS)


def cells_of(window: PoolWindow, place: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The cells of the input that the window at `place` covers, in row-major order."""
    ranges = []
    rows = zip(place, window.kernel, window.stride, window.padding, window.size, strict=True)
    for at, k, s, (before, _), n in rows:
        first = at * s - before
        ranges.append([i for i in range(first, first + k) if 0 <= i < n])
    return list(itertools.product(*ranges))


def loops(kind: str, x: np.ndarray, g: np.ndarray, window: PoolWindow) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient to the input; the mean counts no padding."""
    y, back = np.zeros_like(g), np.zeros_like(x)
    for n, c, *place in np.ndindex(*g.shape):
        cells = cells_of(window, tuple(place))
        values = [x[(n, c, *cell)] for cell in cells]
        slope = g[(n, c, *place)]
        if kind == "max":
            y[(n, c, *place)] = max(values)
            shares = [float(i == values.index(max(values))) for i in range(len(values))]
        elif kind == "l2":
            y[(n, c, *place)] = norm = float(np.sqrt(sum(v * v for v in values)))
            shares = [v / norm if norm else 0.0 for v in values]
        else:
            count = len(values) if kind == "mean" else 1
            y[(n, c, *place)] = sum(values) / count
            shares = [1 / count] * len(values)
        for cell, share in zip(cells, shares, strict=True):
            back[(n, c, *cell)] += slope * share
    return y, back


@st.composite
def drawn(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.integers(1, 3))
    several = {1: 8, 2: 6, 3: 4}[rank]
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    return {
        "size": tuple(draw(st.integers(k, several)) for k in kernel),
        "kernel": tuple(kernel),
        "stride": draw(st.sampled_from([None, *range(1, 4)])),
        "padding": draw(
            st.one_of(st.just("tf_same"), st.just(tuple(draw(st.integers(0, k - 1)) for k in kernel)))
        ),
        "ceil": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


@EACH
@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=drawn())
def test_forward_and_backward_equal_loops(kind: str, case: dict[str, Any]) -> None:
    rng = np.random.default_rng(case["seed"])
    shape = {name: case[name] for name in ("stride", "padding", "ceil")}
    window = pool_window(case["size"], case["kernel"], **shape)
    x = rng.integers(-3, 4, size=(2, 2, *case["size"])).astype(float)  # with ties and zeros
    g = rng.normal(size=(2, 2, *window.output))
    expected, to_x = loops(kind, x, g, window)
    tensor = torch.from_numpy(x).requires_grad_()
    y = pool(tensor, kind, case["kernel"], **shape, count_padding=False)
    y.backward(torch.from_numpy(g))
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(tensor.grad.numpy(), to_x, rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    size=st.integers(3, 9), k=st.integers(1, 3), s=st.integers(1, 4), p=st.integers(0, 1), ceil=st.booleans()
)
def test_sizes_ceil_mode_and_counted_padding_are_those_of_torch(
    size: int, k: int, s: int, p: int, ceil: bool
) -> None:
    p = min(p, k // 2)
    x = torch.from_numpy(np.random.default_rng(size).normal(size=(1, 2, size, size + 1)))
    found = pool(x, "mean", k, stride=s, padding=p, ceil=ceil)
    torch.testing.assert_close(found, F.avg_pool2d(x, k, s, p, ceil_mode=ceil))
    found = pool(x, "mean", k, stride=s, padding=p, ceil=ceil, count_padding=False)
    torch.testing.assert_close(found, F.avg_pool2d(x, k, s, p, ceil_mode=ceil, count_include_pad=False))
    torch.testing.assert_close(
        pool(x, "max", k, stride=s, padding=p, ceil=ceil), F.max_pool2d(x, k, s, p, ceil_mode=ceil)
    )


def test_the_matrix_of_the_lectures() -> None:
    for kind, expected in {
        "max": [[9.0, 7], [9, 8]],
        "mean": [[4.25, 4.5], [4.5, 4.25]],
        "sum": [[17.0, 18], [18, 17]],
    }.items():
        torch.testing.assert_close(pool(MATRIX, kind, 2, stride=2)[0, 0], torch.tensor(expected))


@pytest.mark.parametrize(("size", "output"), [(55, 27), (27, 13), (13, 6)])
def test_overlapping_pooling_of_alexnet(size: int, output: int) -> None:
    assert pool_window((size, size), 3, stride=2).output == (output, output)
    assert pool(torch.zeros(1, 96, size, size), "max", 3, stride=2).shape == (1, 96, output, output)


def test_presets_keep_the_depth() -> None:
    # lectures: W2 = (W1 - F) / S + 1, D2 = D1; F = 2, S = 2 and F = 3, S = 2
    assert pool(torch.zeros(2, 5, 8, 8), "max", 2).shape == (2, 5, 4, 4)
    assert pool(torch.zeros(2, 5, 9, 9), "max", 3, stride=2).shape == (2, 5, 4, 4)


@EACH
def test_maps_are_pooled_independently(kind: str) -> None:
    x = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(pool(x[:, order], kind, 2), pool(x, kind, 2)[:, order], rtol=0, atol=0)


def test_l2_is_the_mean_of_squares_times_the_cells_under_the_root() -> None:
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool(x, "l2", 3), (F.avg_pool2d(x.square(), 3) * 9).sqrt())


def test_the_first_of_equal_numbers_gets_the_gradient() -> None:
    x = torch.tensor([[[[1.0, 5, 5], [5, 0, 5]]]], requires_grad=True)
    pool(x, "max", (2, 3)).backward(torch.tensor([[[[7.0]]]]))
    torch.testing.assert_close(x.grad, torch.tensor([[[[0.0, 7, 0], [0, 0, 0]]]]))
    x = torch.zeros(1, 1, 4, requires_grad=True)  # overlapping: the second window begins at cell 2
    pool(x, "max", 2, stride=1).backward(torch.tensor([[[1.0, 10, 100]]]))
    torch.testing.assert_close(x.grad, torch.tensor([[[1.0, 10, 100, 0]]]))


def test_the_gradient_reaches_the_argmax_only() -> None:
    x = MATRIX.clone().requires_grad_()
    pool(x, "max", 2).sum().backward()
    expected = torch.tensor([[0.0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]])
    torch.testing.assert_close(x.grad[0, 0], expected)


def test_infinities_and_nan() -> None:
    x = torch.tensor([[[-torch.inf, -torch.inf, 1.0, torch.nan, torch.nan, 2.0]]])
    y, winner = ops.max_pool(x, pool_window((6,), 2))
    assert y[0, 0].tolist()[0] == -torch.inf
    assert bool(y[0, 0, 1:].isnan().all())
    assert winner[0, 0].tolist() == [0, 1, 0]
    y, winner = ops.max_pool(x[..., :2], pool_window((2,), 3, padding=1))  # padding never wins
    assert winner[0, 0].tolist() == [1]


def test_a_window_of_zeros_has_no_slope_under_the_root() -> None:
    x = torch.zeros(1, 1, 4, requires_grad=True)
    pool(x, "l2", 2).sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros(1, 1, 4))


@EACH
def test_gradient_check_and_a_planted_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2, 5, 4))).requires_grad_()
    assert gradcheck(lambda x: pool(x, kind, 3, stride=2, padding=1), (x,))
    name = f"{kind}_pool_backward"
    right = getattr(ops, name)

    def wrong(*args: Any, **options: Any) -> Tensor:
        found = right(*args, **options)
        place = np.unravel_index(int(found[0, 0].abs().argmax()), found[0, 0].shape)
        found[0, 0][place] *= 1.01
        return found

    monkeypatch.setattr(ops, name, wrong)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(lambda x: pool(x, kind, 3, stride=2, padding=1), (x,))


@pytest.mark.parametrize("size", [(7,), (3, 4), (2, 3, 2)])
def test_global_pooling_equals_loops(size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, g = rng.integers(-3, 4, size=(2, 3, *size)).astype(float), rng.normal(size=(2, 3, *(1,) * len(size)))
    window = pool_window(size, size)
    for kind in ("mean", "max"):
        y, back = loops(kind, x, g, window)
        if kind == "mean":
            found = ops.global_mean(torch.from_numpy(x))
            to_x = ops.global_mean_backward(torch.from_numpy(g), size)
        else:
            found, winner = ops.global_max(torch.from_numpy(x))
            to_x = ops.global_max_backward(torch.from_numpy(g), winner, size)
        np.testing.assert_allclose(found.numpy(), y, rtol=1e-12)
        np.testing.assert_allclose(to_x.numpy(), back, rtol=1e-12)
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(1.01 * to_x.numpy(), back, rtol=1e-12)


def test_global_average_pooling_of_googlenet() -> None:
    assert ops.global_mean(torch.zeros(1, 1024, 7, 7)).shape == (1, 1024, 1, 1)


def test_subsampling_equals_loops_and_differences() -> None:
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 3, 4, 6)), rng.normal(size=(2, 3, 2, 3))
    a, b = rng.normal(size=3), rng.normal(size=3)
    window = pool_window((4, 6), 2)

    def forward(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a[:, None, None] * loops("sum", x, g, window)[0] + b[:, None, None]

    y = ops.subsample(torch.from_numpy(x), torch.from_numpy(a), torch.from_numpy(b), window)
    np.testing.assert_allclose(y.numpy(), forward(x, a, b), rtol=1e-12)
    found = ops.subsample_backward(torch.from_numpy(x), torch.from_numpy(a), torch.from_numpy(g), window)
    for number, analytic in enumerate(found):
        values = [x, a, b]
        numeric = np.zeros(values[number].shape)
        for place in np.ndindex(*numeric.shape):
            step = np.zeros_like(numeric)
            step[place] = 1e-6
            up, down = (
                forward(*(v + sign * step if i == number else v for i, v in enumerate(values)))
                for sign in (1, -1)
            )
            numeric[place] = ((up - down) * g).sum() / 2e-6
        np.testing.assert_allclose(analytic.numpy(), numeric, rtol=1e-6, atol=1e-8)
        planted = analytic.numpy().copy()
        planted.flat[np.abs(planted).argmax()] *= 1.01
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(planted, numeric, rtol=1e-6, atol=1e-8)


def test_pooling_enlarges_the_field_and_saves_multiply_adds() -> None:
    first, second = "32x32x3: 64@3x3 same, ", "64@3x3 same"
    plain = trace_stack(parse_stack(first + second))
    pooled = trace_stack(parse_stack(f"{first}max 2x2/2, {second}"))
    # r = 1 + 2 + 2 without, and 1 + 2 + 1 + 2 * 2 with the pooling between (lectures, role of pooling)
    assert (plain[-1].field, pooled[-1].field) == ((5, 5), (8, 8))
    assert pooled[1].parameters == 0
    saved = plain[-1].macs - pooled[-1].macs  # the second convolution has a quarter of the places
    assert saved == 64 * 64 * 9 * (32 * 32 - 16 * 16) == 28_311_552


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@EACH
def test_types_are_kept(kind: str, dtype: torch.dtype) -> None:
    x = torch.ones(1, 1, 4, 4, dtype=dtype, requires_grad=True)
    y = pool(x, kind, 2)
    y.sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert x.grad.dtype == dtype


def test_windows_that_do_not_fit() -> None:
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ConvworksError, match=r"kernel_size = .*5 is larger than the padded input, 4"):
        pool(x, "max", 5)
    with pytest.raises(
        ConvworksError, match=r"padding = 2 does not fit: a window of \(2, 2\)(.|\n)*padding=1"
    ):
        pool(x, "max", 2, padding=2)
    with pytest.raises(ConvworksError, match=r"stride = 0 does not fit"):
        pool(x, "max", 2, stride=0)
    with pytest.raises(ConvworksError, match=r"kind = 'maximum'(.|\n)*max, mean, sum, l2"):
        pool(x, "maximum", 2)
    with pytest.raises(ConvworksError, match=r"x.ndim = 6 does not fit: pooling is 1-D to 3-D"):
        pool(torch.zeros(1, 1, 2, 2, 2, 2), "max", 2)
    with pytest.raises(ConvworksError, match=r"x.shape = \(2, 3\)"):
        ops.global_mean(torch.zeros(2, 3))
