"""ScaledTanh against the paper's constants and against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from convworks.layers import ScaledTanh


def test_plus_and_minus_one_are_fixed_points() -> None:
    # appendix A: "f(1) = 1 and f(-1) = -1"; 1.7159 is rounded to four decimals
    y = ScaledTanh()(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(y, torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64), atol=2e-5, rtol=0)


def test_equals_numpy_in_any_shape() -> None:
    a = np.random.default_rng(0).normal(scale=3, size=(2, 3, 4, 5))
    y = ScaledTanh()(torch.from_numpy(a))
    np.testing.assert_allclose(y.numpy(), 1.7159 * np.tanh(2 * a / 3), rtol=1e-12)


def test_range_and_gain_at_zero() -> None:
    a = torch.tensor([-1e3, 0.0, 1e3], dtype=torch.float64, requires_grad=True)
    y = ScaledTanh()(a)
    torch.testing.assert_close(y.detach(), torch.tensor([-1.7159, 0.0, 1.7159], dtype=torch.float64))
    y.sum().backward()
    assert a.grad is not None
    assert a.grad[1].item() == pytest.approx(1.7159 * 2 / 3)


def test_gradient_agrees_with_finite_differences() -> None:
    a = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    assert gradcheck(ScaledTanh(amplitude=1.2, slope=0.5), (a,))
