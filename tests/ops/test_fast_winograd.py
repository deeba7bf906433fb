"""Winograd's F(4x4, 3x3) in bfloat16 against the definition in float64, tap by tap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from convworks.ops import fast_winograd
from convworks.ops.fast_winograd import applies, winograd_convolution
from convworks.ops.native import convolutions, library
from tests.ops.native.kernels import with_winograd

Array = NDArray[np.float64]
LIMIT = 0.025  # norm of the error over the norm of the result; about 0.01 is usual
WORST = 0.25  # the largest error over the root mean square; the tail is long where few maps are summed
NAMES = ("y", "dx", "dw", "db")


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    with with_winograd():
        yield


def definition(x: Array, w: Array, b: Array | None, dy: Array, padding: int) -> dict[str, Array]:
    """y, dx, dw and db, one tap of the window after the other."""
    height, width = (size + 2 * padding - 2 for size in x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    y = np.zeros((x.shape[0], w.shape[0], height, width))
    back, dw = np.zeros_like(padded), np.zeros_like(w)
    for i in range(3):
        for j in range(3):
            seen = padded[:, :, i : i + height, j : j + width]
            y += np.einsum("nchw,oc->nohw", seen, w[:, :, i, j], optimize=True)
            dw[:, :, i, j] = np.einsum("nchw,nohw->oc", seen, dy, optimize=True)
            back[:, :, i : i + height, j : j + width] += np.einsum(
                "nohw,oc->nchw", dy, w[:, :, i, j], optimize=True
            )
    dx = back[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]
    if b is not None:
        y += b[None, :, None, None]
    return {"y": y, "dx": dx, "dw": dw, "db": dy.sum((0, 2, 3))}


def sample(
    n: int, c: int, o: int, size: tuple[int, int], padding: int, *, packed: bool = True, bias: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """x, w, b and dy. Magnitudes lie between a half and one and a half: no result is small by chance."""
    draws = torch.Generator().manual_seed(1000 * n + 100 * c + 10 * o + size[0] + size[1] + padding)

    def some(*shape: int) -> Tensor:
        signs = torch.randint(0, 2, shape, generator=draws) * 2 - 1
        return (torch.rand(shape, generator=draws) + 0.5) * signs

    def maps(*shape: int) -> Tensor:
        return some(*shape).to(torch.bfloat16, memory_format=torch.channels_last)

    layout = torch.channels_last if packed else torch.contiguous_format
    w = some(o, c, 3, 3).contiguous(memory_format=layout)
    x = maps(n, c, *size)
    dy = maps(n, o, *(side + 2 * padding - 2 for side in size))
    return x, w, some(o) if bias else None, dy


def computed(x: Tensor, w: Tensor, b: Tensor | None, dy: Tensor, padding: int) -> dict[str, Tensor]:
    leaves = [each.clone().requires_grad_() for each in (x, w, b) if each is not None]
    bias = leaves[2] if b is not None else None
    y = winograd_convolution(leaves[0], leaves[1], bias, padding=padding)
    gradients = torch.autograd.grad(y, leaves, dy)
    return dict(zip(NAMES, (y.detach(), *gradients), strict=False))


def bits(found: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: value.contiguous().view(torch.uint8).numpy().tobytes() for name, value in found.items()}


def require_close(given: tuple[Tensor, Tensor, Tensor | None, Tensor], padding: int) -> None:
    """The norm of each result's error is small beside the norm that such a result has; no number stands out.

    That norm is the root of its terms' squares, summed: a result of few numbers may be small by cancellation.
    """
    exact = definition(*(float64(each) for each in given), padding)
    squares = definition(*(square(float64(each)) for each in given), padding)
    for name, got in computed(*given, padding).items():
        assert got.dtype == (torch.bfloat16 if name in {"y", "dx"} else torch.float32)
        assert tuple(got.shape) == exact[name].shape
        wrong = float64(got) - exact[name]
        few = 2 if wrong.size < 100 else 1
        assert np.linalg.norm(wrong) < few * LIMIT * np.sqrt(squares[name].sum()), name
        assert np.abs(wrong).max() < WORST * np.sqrt(squares[name].mean()), name


def square(value: Any) -> Any:
    return None if value is None else value**2


def float64(value: Tensor | None) -> Any:
    return None if value is None else value.double().numpy()


channels = st.sampled_from([1, 15, 16, 17, 31, 32, 33, 48, 64]) | st.integers(1, 70)


@settings(deadline=None, max_examples=150)
@given(
    n=st.integers(1, 5),
    c=channels,
    o=channels,
    padding=st.sampled_from([0, 1, 2]),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    packed=st.booleans(),
    bias=st.booleans(),
)
def test_forward_and_gradients(
    n: int, c: int, o: int, padding: int, sides: tuple[int, int], packed: bool, bias: bool
) -> None:
    height, width = (max(side, 3 - 2 * padding) for side in sides)
    require_close(sample(n, c, o, (height, width), padding, packed=packed, bias=bias), padding)


@pytest.mark.parametrize(
    ("n", "c", "o", "size"),
    [
        (2, 300, 40, (5, 6)),  # more channels than a block
        (1, 40, 300, (6, 5)),
        (40, 24, 24, (16, 16)),  # many tiles
        (1, 3, 5, (90, 70)),
        (3, 512, 512, (4, 4)),
    ],
)
def test_many_blocks(n: int, c: int, o: int, size: tuple[int, int]) -> None:
    require_close(sample(n, c, o, size, 1), 1)


def test_against_automatic_differentiation_in_float64() -> None:
    x, w, b, dy = sample(3, 20, 36, (9, 11), 1)
    found = computed(x, w, b, dy, 1)
    assert b is not None
    leaves = [each.double().requires_grad_() for each in (x, w, b)]
    y = F.conv2d(*leaves, padding=1)
    for name, want in zip(NAMES, (y.detach(), *torch.autograd.grad(y, leaves, dy.double())), strict=True):
        assert float((found[name].double() - want).norm() / want.norm()) < LIMIT, name


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_a_weight_of_a_single_tap_moves_the_maps(padding: int) -> None:
    # Each tap takes a channel of its own to an output of its own, and the gradient back again.
    x, _, _, dy = sample(2, 9, 9, (7, 10), padding)
    order = [3, 7, 0, 8, 5, 1, 6, 2, 4]
    w = torch.zeros(9, 9, 3, 3)
    for tap, to in enumerate(order):
        w[to, tap, tap // 3, tap % 3] = 1
    w = w.contiguous(memory_format=torch.channels_last)
    found = computed(x, w, None, dy, padding)
    height, width = dy.shape[2:]
    padded = F.pad(x.float(), (padding,) * 4)
    back = torch.zeros_like(padded)
    for tap, to in enumerate(order):
        i, j = divmod(tap, 3)
        want = padded[:, tap, i : i + height, j : j + width]
        torch.testing.assert_close(found["y"][:, to].float(), want, rtol=0, atol=0.2)
        back[:, tap, i : i + height, j : j + width] = dy[:, to].float()
    want = back[:, :, padding : padding + 7, padding : padding + 10]
    torch.testing.assert_close(found["dx"].float(), want, rtol=0, atol=0.2)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 4), (4, 3), (5, 6)])
def test_one_pixel_and_one_gradient_meet_in_one_weight(row: int, column: int) -> None:
    x, dy = (torch.zeros(1, each, 6, 7, dtype=torch.bfloat16) for each in (3, 4))
    x[0, 2, row, column] = 2.0
    for i in range(max(0, row - 1), min(6, row + 2)):
        for j in range(max(0, column - 1), min(7, column + 2)):
            dy.zero_()
            dy[0, 1, i, j] = 1.5
            dw = computed(x, torch.ones(4, 3, 3, 3), None, dy, 1)["dw"]
            want = torch.zeros(4, 3, 3, 3)
            want[1, 2, row - i + 1, column - j + 1] = 3.0
            torch.testing.assert_close(dw, want, rtol=0, atol=0.2)


def test_nothing_but_zeros_gives_the_bias_exactly() -> None:
    x, w, b, dy = sample(2, 20, 33, (6, 9), 1)
    assert b is not None
    only = b.bfloat16()[None, :, None, None].expand(2, 33, 6, 9)
    for given_x, given_w in ((torch.zeros_like(x), w), (x, torch.zeros_like(w))):
        assert torch.equal(winograd_convolution(given_x, given_w, b, padding=1), only)
    assert not winograd_convolution(torch.zeros_like(x), w, None, padding=1).any()
    found = computed(x, w, b, torch.zeros_like(dy), 1)
    assert not any(found[name].any() for name in ("dx", "dw", "db"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_reaches_everything_that_sees_it(bad: float) -> None:
    x, w, b, dy = sample(2, 5, 20, (9, 9), 1)
    x[1, 4, 6, 0] = bad
    y = winograd_convolution(x, w, b, padding=1)
    assert not y[1, :, 5:8, 0:2].isfinite().any()
    assert y[0].isfinite().all()
    dw = computed(x, w, b, dy, 1)["dw"]
    assert not dw[:, 4, :, 1].isfinite().any()
    assert dw[:, :4].isfinite().all()
    x[1, 4, 6, 0] = 0
    dy[0, 19, 3, 3] = bad
    found = computed(x, w, b, dy, 1)
    assert not found["dx"][0, :, 2:5, 2:5].isfinite().any()
    assert found["dx"][1].isfinite().all()
    assert not found["dw"][19].isfinite().any()
    assert not found["db"][19].isfinite()
    w[7, 2, 1, 1] = bad
    assert not winograd_convolution(x, w, b, padding=1)[:, 7].isfinite().any()


@pytest.mark.parametrize("shape", [(5, 24, 40, (13, 9)), (1, 3, 64, (33, 31)), (2, 70, 1, (4, 4))], ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(
    shape: tuple[int, int, int, tuple[int, int]],
) -> None:
    before = torch.get_num_threads()
    given = sample(*shape, 1)
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(bits(computed(*given, 1)))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_nor_on_the_layout_of_what_is_given() -> None:
    x, w, b, dy = sample(2, 18, 34, (7, 6), 1)
    want = bits(computed(x, w, b, dy, 1))
    assert bits(computed(x.contiguous(), w.contiguous(), b, dy.contiguous(), 1)) == want
    wide = torch.zeros(2, 18, 7, 12, dtype=torch.bfloat16)[..., ::2].copy_(x)
    assert bits(computed(wide, w.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2), b, dy, 1)) == want
    grown = winograd_convolution(x, w.requires_grad_(), b, padding=1)
    (summed,) = torch.autograd.grad(grown.sum(), w)  # a gradient without memory of its own
    (ones,) = torch.autograd.grad(winograd_convolution(x, w, b, padding=1), w, torch.ones_like(dy))
    assert torch.equal(summed, ones)


def test_nothing_that_is_given_changes() -> None:
    given = [each for each in sample(2, 9, 10, (5, 5), 1) if each is not None]
    before = [each.clone() for each in given]
    x, w, b, dy = given
    leaves = [each.requires_grad_() for each in (x, w, b)]
    torch.autograd.grad(winograd_convolution(x, w, b, padding=1), leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize(
    ("wanted", "forward", "weights"), [((0, 1, 2), 2, 1), ((1, 2), 1, 1), ((0,), 2, 0), ((2,), 1, 0)]
)
def test_only_gradients_that_are_wanted_are_computed(
    wanted: tuple[int, ...], forward: int, weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("winograd_convolution", "winograd_weight_gradient", "amx_weight_gradient"):
        real = getattr(convolutions, name)
        monkeypatch.setattr(
            convolutions, name, lambda *a, name=name, real=real, **k: called.append(name) or real(*a, **k)
        )
    *leaves, dy = (each for each in sample(1, 4, 5, (6, 6), 1) if each is not None)
    for each in wanted:
        leaves[each].requires_grad_()
    winograd_convolution(leaves[0], leaves[1], leaves[2], padding=1).backward(dy)
    assert called.count("winograd_convolution") == forward
    assert len(called) - forward == weights  # the one way or, with matrix units, the other
    assert [each.grad is not None for each in leaves] == [k in wanted for k in range(3)]


def test_where_it_applies() -> None:
    x, w = torch.zeros(2, 4, 5, 5, dtype=torch.bfloat16), torch.zeros(6, 4, 3, 3)
    assert all(applies(x, w, padding) for padding in (0, 1, 2))
    assert applies(x[:, :, :1, :1], w, 1)
    for name, value, weight, padding in (
        ("float32 maps", x.float(), w, 1),
        ("half maps", x.half(), w, 1),
        ("bfloat16 weights", x, w.bfloat16(), 1),
        ("5x5", x, torch.zeros(6, 4, 5, 5), 1),
        ("3x1", x, w[..., :1], 1),
        ("padding 3", x, w, 3),
        ("negative padding", x, w, -1),
        ("no image", x[:0], w, 1),
        ("window larger than the image", x[:, :, :2], w, 0),
        ("no batch", x[0], w, 1),
        ("another device", x.to("meta"), w.to("meta"), 1),
        ("too many channels", x[:, :1].expand(2, 8193, 5, 5), torch.zeros(1, 8193, 3, 3), 1),
    ):
        assert not applies(value, weight, padding), name


def test_without_kernels_it_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.zeros(2, 4, 5, 5, dtype=torch.bfloat16), torch.zeros(6, 4, 3, 3)
    monkeypatch.setattr(library, "winograd_available", lambda: False)
    assert not fast_winograd.available()
    assert not applies(x, w, 1)


def test_the_points_give_the_convolution_exactly() -> None:
    """F(4, 3) at 0, +-sqrt(1/2), +-sqrt(2) and infinity, built by Toom and Cook's way in float64."""
    a, b = np.sqrt(0.5), np.sqrt(2.0)
    points = np.array([0, a, -a, b, -b])
    output = np.zeros((4, 6))  # A^T: powers of the points, and infinity's
    output[:, :5] = points ** np.arange(4)[:, None]
    output[3, 5] = 1
    kernel, data = np.zeros((6, 3)), np.zeros((6, 6))  # G, B^T
    for k, point in enumerate(points):
        others = np.delete(points, k)
        kernel[k] = point ** np.arange(3) / np.prod(point - others)
        data[k, :5] = np.poly(others)[::-1]
    kernel[5, 2] = 1
    data[5] = np.poly(points)[::-1]
    for seen in np.eye(6):
        for window in np.eye(3):
            want = np.correlate(seen, window)
            np.testing.assert_allclose(output @ ((kernel @ window) * (data @ seen)), want, atol=1e-14)
    # what winograd.cpp has written out
    np.testing.assert_allclose(data[0], [1, 0, -2.5, 0, 1, 0], atol=1e-14)
    np.testing.assert_allclose(data[1], [0, -2 * a, -2, a, 1, 0], atol=1e-14)
    np.testing.assert_allclose(data[4], [0, b / 2, -0.5, -b, 1, 0], atol=1e-14)
    np.testing.assert_allclose(data[5], [0, 1, 0, -2.5, 0, 1], atol=1e-14)
