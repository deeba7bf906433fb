"""A 2x2 maximum behind Winograd's convolution: the same numbers, and gradients only where a maximum was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convworks.ops.fast_winograd import output_size, winograd_convolution, winograd_convolution_pool
from convworks.ops.native import convolutions
from tests.ops.native.kernels import with_winograd
from tests.ops.test_fast_winograd import LIMIT, definition, sample

SHAPES = [
    (2, 24, 40, (12, 12), 1), (3, 5, 17, (13, 11), 1), (1, 33, 64, (9, 6), 0), (4, 1, 16, (7, 8), 2),
    (2, 70, 31, (4, 5), 0), (1, 64, 96, (31, 31), 1),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    with with_winograd():
        yield


def places(x: Tensor, w: Tensor, b: Tensor | None, padding: int) -> tuple[Tensor, Tensor]:
    """The pooled maps and where in its window each maximum was."""
    height, width = (side // 2 for side in output_size(x, padding))
    y = torch.empty(
        (x.shape[0], w.shape[0], height, width), dtype=torch.bfloat16, memory_format=torch.channels_last
    )
    place = torch.empty_like(y, dtype=torch.uint8)
    made = convolutions.winograd_kernels(w, flip=False)
    convolutions.winograd_convolution_pool(x, made, b, y, place, padding=padding)
    return y, place


def unpooled(dy: Tensor, place: Tensor, size: tuple[int, int]) -> Tensor:
    """dy at the places of the maxima, 0 elsewhere: window by window."""
    spread = torch.zeros(*dy.shape[:2], *size, dtype=torch.float64)
    for row in range(dy.shape[2]):
        for column in range(dy.shape[3]):
            for at in range(4):
                hit = place[:, :, row, column] == at
                value = torch.where(hit, dy[:, :, row, column].double(), 0.0)
                spread[:, :, 2 * row + at // 2, 2 * column + at % 2] = value
    return spread


def trained(x: Tensor, w: Tensor, b: Tensor | None, dy: Tensor, padding: int) -> dict[str, Tensor]:
    leaves = [each.clone().requires_grad_() for each in (x, w, b) if each is not None]
    bias = leaves[2] if b is not None else None
    y = winograd_convolution_pool(leaves[0], leaves[1], bias, padding=padding)
    y.backward(dy)  # type: ignore[no-untyped-call]
    found: dict[str, Any] = {"y": y.detach(), "dx": leaves[0].grad, "dw": leaves[1].grad}
    return found if bias is None else found | {"db": bias.grad}


@pytest.mark.parametrize(("n", "c", "o", "size", "padding"), SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_maximum_of_the_convolution(
    n: int, c: int, o: int, size: tuple[int, int], padding: int, bias: bool
) -> None:
    x, w, b, _ = sample(n, c, o, size, padding, bias=bias)
    whole = winograd_convolution(x, w, b, padding=padding)
    y, place = places(x, w, b, padding)
    assert torch.equal(y, F.max_pool2d(whole, 2))
    windows = whole.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)  # (N, O, H', W', 4)
    assert torch.equal(windows.gather(-1, place[..., None].long())[..., 0], y)


@pytest.mark.parametrize(("n", "c", "o", "size", "padding"), SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_come_from_the_maxima_alone(
    n: int, c: int, o: int, size: tuple[int, int], padding: int, bias: bool
) -> None:
    x, w, b, whole = sample(n, c, o, size, padding, bias=bias)
    dy = whole[:, :, ::2, ::2][:, :, : whole.shape[2] // 2, : whole.shape[3] // 2].contiguous(
        memory_format=torch.channels_last
    )
    found = trained(x, w, b, dy, padding)
    _, place = places(x, w, b, padding)
    spread = unpooled(dy, place, output_size(x, padding))
    right = definition(
        x.double().numpy(),
        w.double().numpy(),
        None if b is None else b.double().numpy(),
        spread.numpy(),
        padding,
    )
    assert set(found) == ({"y", "dx", "dw", "db"} if bias else {"y", "dx", "dw"})
    for name in ("dx", "dw", "db") if bias else ("dx", "dw"):
        error = np.linalg.norm(found[name].double().numpy() - right[name])
        assert error < LIMIT * np.linalg.norm(right[name]), name


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    x, w, b, whole = sample(5, 24, 40, (13, 10), 1)
    dy = whole[:, :, :6, :5].contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(trained(x, w, b, dy, 1))
    finally:
        torch.set_num_threads(before)
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_the_first_of_equal_values_gets_the_gradient() -> None:
    x, w, _, _ = sample(1, 4, 16, (8, 8), 1)
    y, place = places(x, torch.zeros_like(w), None, 1)
    assert not y.any()
    assert not place.any()


def test_what_is_not_a_number_reaches_its_window() -> None:
    x, w, b, _ = sample(1, 4, 16, (8, 8), 1)
    x[0, 2, 5, 3] = float("nan")
    y = winograd_convolution_pool(x, w, b, padding=1)
    assert y[0, :, 2, 1].isnan().all()  # the windows that see row 5, column 3
    assert y[0, :, 0, 3].isfinite().all()
