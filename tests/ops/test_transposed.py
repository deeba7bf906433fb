"""Transposed convolution is the transposed linear map: <A x, y> = <x, A^T y>."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from convworks.ops.arguments import BadArgument
from convworks.ops.transposed import transposed_convolve
from tests.ops import oracles
from tests.ops.oracles import Case, cases


def extra(case: Case) -> tuple[int, ...]:
    """The cells that the floor of the convolution's output size left over."""
    rows = zip(case.size, case.kernel, case.stride, case.padding, case.dilation, strict=True)
    return tuple((n + a + b - (d * (k - 1) + 1)) % s for n, k, s, (a, b), d in rows)


@pytest.mark.parametrize("name", ["library", "direct", "lowering", "fft"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=cases())
def test_is_the_adjoint_of_the_convolution(name: str, case: Case) -> None:
    (x, w), y = case.arrays(), case.errors()
    back = transposed_convolve(
        torch.from_numpy(y),
        torch.from_numpy(w),
        stride=case.stride,
        padding=case.padding,
        output_padding=extra(case),
        dilation=case.dilation,
        groups=case.groups,
        algorithm=name,
    )
    np.testing.assert_allclose((oracles.forward(case) * y).sum(), (x * back.numpy()).sum(), atol=1e-9)


@pytest.mark.parametrize("name", ["direct", "lowering", "fft", "winograd"])
def test_gradcheck(name: str) -> None:
    y = torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda y, w, b: transposed_convolve(y, w, b, padding=1, groups=2, algorithm=name), (y, w, b)
    )


def test_equals_torchs_own() -> None:
    y, w = torch.randn(2, 6, 5, 4), torch.randn(6, 3, 3, 3)
    expected = F.conv_transpose2d(y, w, stride=2, padding=1, output_padding=1, dilation=2)
    actual = transposed_convolve(y, w, stride=2, padding=1, output_padding=1, dilation=2, algorithm="direct")
    torch.testing.assert_close(actual, expected)


def test_a_weight_of_another_form_is_refused() -> None:
    with pytest.raises(BadArgument, match=r"weight.shape = \(3, 2, 3, 3\)"):
        transposed_convolve(torch.zeros(1, 4, 5, 5), torch.zeros(3, 2, 3, 3))
