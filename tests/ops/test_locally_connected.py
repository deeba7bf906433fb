"""A kernel of its own at every position, against loops; with one kernel everywhere it is a convolution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from convworks.ops.arguments import BadArgument
from convworks.ops.locally_connected import locally_connected
from tests.ops.oracles import Case, cases


@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=cases())
def test_forward_and_gradients_equal_the_loops(case: Case) -> None:
    case = replace(case, groups=1)
    x, dy = case.arrays()[0], case.errors()
    w = np.random.default_rng(case.seed).standard_normal(
        (case.outputs, case.inputs, *case.kernel, *case.output)
    )
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
    for n, o, p, c, channel, t, cell in case.terms():
        y[(n, o, *p)] += w[(o, c, *t, *p)] * x[(n, channel, *cell)]
        dx[(n, channel, *cell)] += w[(o, c, *t, *p)] * dy[(n, o, *p)]
        dw[(o, c, *t, *p)] += x[(n, channel, *cell)] * dy[(n, o, *p)]
    given_x, given_w = torch.from_numpy(x).requires_grad_(), torch.from_numpy(w).requires_grad_()
    result = locally_connected(
        given_x, given_w, stride=case.stride, padding=case.padding, dilation=case.dilation
    )
    result.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(result.detach(), y, atol=1e-10)
    np.testing.assert_allclose(given_x.grad, dx, atol=1e-10)
    np.testing.assert_allclose(given_w.grad, dw, atol=1e-10)


def test_shared_kernels_make_a_convolution_and_its_gradient_is_the_sum_of_the_copies() -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    shared = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    copies = shared.detach()[..., None, None].expand(4, 3, 3, 3, 4, 5).clone().requires_grad_()
    dy = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    tied, untied = torch.nn.functional.conv2d(x, shared), locally_connected(x, copies)
    torch.testing.assert_close(tied, untied)
    tied.backward(dy)
    untied.backward(dy)
    assert copies.grad is not None
    torch.testing.assert_close(copies.grad.sum(dim=(4, 5)), shared.grad)


def test_gradcheck_and_a_planted_error() -> None:
    x = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(locally_connected, (x, w, b))

    def wrong(x: torch.Tensor) -> torch.Tensor:
        y = locally_connected(x, w.detach())
        return y + 0.01 * (y - y.detach())

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(wrong, (x,))


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 3, 3, 3, 5, 5), "a weight (2, 3, 3, 3, 4, 4)"), ((2, 3, 3, 3), "(O, 3, *kernel, *output): 6 axes")],
)
def test_a_weight_of_another_form_is_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(BadArgument) as caught:
        locally_connected(torch.zeros(1, 3, 6, 6), torch.zeros(shape))
    assert words in str(caught.value)
