"""Softmax against scipy, its backward pass, and what the lectures say of it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from convworks.ops import softmax as ops
from convworks.ops.softmax import skewness, softmax, softmax_backward, softmax_through_autograd

SEEDS = st.integers(0, 9999)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


@FEW
@given(seed=SEEDS, classes=st.integers(1, 7), dim=st.sampled_from([0, 1]))
def test_equals_scipy_sums_to_1_and_is_shift_invariant(seed: int, classes: int, dim: int) -> None:
    x = np.random.default_rng(seed).normal(scale=5, size=(3, classes))
    p = softmax(torch.from_numpy(x), dim=dim).numpy()
    np.testing.assert_allclose(p, scipy.special.softmax(x, axis=dim), rtol=1e-12)
    np.testing.assert_allclose(p.sum(axis=dim), 1.0, rtol=1e-12)
    np.testing.assert_allclose(softmax(torch.from_numpy(x + 17.0), dim=dim).numpy(), p, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_of_ten_thousand_do_not_overflow(dtype: torch.dtype) -> None:
    p = softmax(torch.tensor([[1e4, -1e4], [-1e4, -1e4], [1e4, 1e4]], dtype=dtype))
    torch.testing.assert_close(p, torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]], dtype=dtype))


def test_backward_is_the_jacobian_diag_p_minus_p_p() -> None:
    rng = np.random.default_rng(0)
    p = scipy.special.softmax(rng.normal(size=5))
    gradient = rng.normal(size=5)
    expected = (np.diag(p) - np.outer(p, p)) @ gradient
    found = softmax_backward(torch.from_numpy(p)[None], torch.from_numpy(gradient)[None])
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-12)


def test_gradient_check_and_a_planted_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 3))).requires_grad_()
    assert gradcheck(softmax_through_autograd, (x,))
    assert gradcheck(lambda x: softmax_through_autograd(x, dim=-1), (x,))

    def wrong(p: Tensor, gradient: Tensor, *, dim: int) -> Tensor:
        found = softmax_backward(p, gradient, dim=dim)
        found[0, 0, 0] *= 1.01
        return found

    monkeypatch.setattr(ops, "softmax_backward", wrong)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(softmax_through_autograd, (x,))


@FEW
@given(seed=SEEDS, classes=st.integers(3, 50), scale=st.floats(0.1, 8))
def test_softmax_increases_the_skewness(seed: int, classes: int, scale: float) -> None:
    y = np.random.default_rng(seed).normal(scale=scale, size=(1, classes))
    before, after = skewness(torch.from_numpy(y)).item(), skewness(softmax(torch.from_numpy(y))).item()
    assert before == pytest.approx(scipy.stats.skew(y[0]), rel=1e-9)
    assert after == pytest.approx(scipy.stats.skew(scipy.special.softmax(y[0])), rel=1e-9)
    assert after > before


def test_equal_numbers_have_no_skewness() -> None:
    assert skewness(torch.ones(1, 5)).item() == 0.0
