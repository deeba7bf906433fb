"""Weighted means against loops and differences, and how far pooling is invariant to shifts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from convworks.errors import ConvworksError
from convworks.ops import weighted_pooling as ops
from convworks.ops.pool_window import pool_window


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    stride=st.integers(1, 3),
    padded=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_loops(kernel: list[int], stride: int, padded: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(k + int(rng.integers(0, 3)) for k in kernel)
    padding = tuple(k // 2 for k in kernel) if padded else 0
    window = pool_window(size, kernel, stride=stride, padding=padding)
    x, w = rng.normal(size=(2, 2, *size)), rng.uniform(0.5, 2, size=kernel)
    around = [(0, 0), (0, 0), *window.padding]
    whole = np.pad(x, around)
    expected = np.zeros((2, 2, *window.output))
    for n, c, *place in np.ndindex(*expected.shape):
        starts = [at * stride for at in place]
        block = whole[(n, c, *(slice(a, a + k) for a, k in zip(starts, kernel, strict=True)))]
        expected[(n, c, *place)] = (w * block).sum() / w.sum()
    y = ops.weighted_mean_pool(torch.from_numpy(x), torch.from_numpy(w), window)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_uniform_weights_are_average_pooling() -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    window = pool_window((6, 7), 3, stride=2, padding=1)
    y = ops.weighted_mean_pool(x, torch.full((3, 3), 0.7, dtype=torch.float64), window)
    torch.testing.assert_close(y, F.avg_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize("planted", [0, 1])
def test_gradient_check_and_a_planted_error(planted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(2, 2, 4, 5))).requires_grad_()
    w = torch.from_numpy(rng.uniform(0.5, 2, size=(3, 2))).requires_grad_()
    window = pool_window((4, 5), (3, 2), stride=1, padding=(1, 0))
    assert gradcheck(lambda x, w: ops.weighted_mean_through_autograd(x, w, window), (x, w))
    right = ops.weighted_mean_pool_backward

    def wrong(*args: object) -> tuple[Tensor, Tensor]:
        found = [part.clone() for part in right(*args)]  # type: ignore[arg-type]
        found[planted][(0,) * found[planted].ndim] *= 1.01
        return found[0], found[1]

    monkeypatch.setattr(ops, "weighted_mean_pool_backward", wrong)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(lambda x, w: ops.weighted_mean_through_autograd(x, w, window), (x, w))


def test_weights_by_distance_from_the_centre() -> None:
    w = ops.distance_weights((3, 3), sigma=1.0)
    expected = np.exp(-np.array([[2, 1, 2], [1, 0, 1], [2, 1, 2]]) / 2)
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(ops.distance_weights((2,), sigma=1.0).numpy(), np.exp([-0.125] * 2), rtol=1e-6)
    with pytest.raises(ConvworksError, match="sigma = 0 does not fit"):
        ops.distance_weights((3,), sigma=0)


def test_a_weight_of_another_shape() -> None:
    with pytest.raises(ConvworksError, match=r"weight.shape = \(3, 3\) does not fit: the window is \(2, 2\)"):
        ops.weighted_mean_pool(torch.zeros(1, 1, 4, 4), torch.ones(3, 3), pool_window((4, 4), 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    x = torch.ones(1, 1, 4, 4, dtype=dtype, requires_grad=True)
    w = torch.ones(2, 2, requires_grad=True)
    y = ops.weighted_mean_through_autograd(x, w, pool_window((4, 4), 2))
    y.sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert w.grad is not None
    assert w.grad.dtype == torch.float32


def blobs() -> Tensor:
    """Sparse bright points on a dark ground: what a feature detector gives."""
    x = torch.rand(8, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    return torch.where(x > 0.9, x, torch.zeros_like(x))


def test_max_pooling_is_more_invariant_to_a_shift_than_the_raw_maps() -> None:
    dense = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    found = ops.translation_invariance(dense, lambda x: F.max_pool2d(x, 2))
    assert found.shifts == 8
    assert found.raw == 0.0
    # The maximum stays where the largest cell of both windows lies in their overlap: 2 of 6 cells for a shift
    # along one dimension, 1 of 7 for a diagonal one.
    assert found.pooled == pytest.approx((4 * 2 / 6 + 4 * 1 / 7) / 8, abs=0.02)
    wider = ops.translation_invariance(dense, lambda x: F.max_pool2d(x, 3))
    assert wider.pooled == pytest.approx((4 * 6 / 12 + 4 * 4 / 14) / 8, abs=0.03)
    assert wider.pooled > found.pooled > found.raw


def test_dark_places_of_sparse_maps_count_as_unchanged() -> None:
    found = ops.translation_invariance(blobs(), lambda x: F.max_pool2d(x, 2))
    assert found.raw == pytest.approx(0.9**2, abs=0.02)  # both dark
    assert found.pooled < found.raw  # four cells are less often all dark


def test_the_share_is_that_of_loops() -> None:
    x = blobs()[:1, :1, :6, :6]
    found = ops.translation_invariance(x, lambda x: F.max_pool2d(x, 2))
    a = x[0, 0].numpy()
    raw, pooled = [], []
    for i, j in [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]:
        still, moved = a[1:5, 1:5], a[1 + i : 5 + i, 1 + j : 5 + j]
        raw.append((still == moved).mean())
        tops = [m.reshape(2, 2, 2, 2).max(axis=(1, 3)) for m in (still, moved)]
        pooled.append((tops[0] == tops[1]).mean())
    assert found.raw == pytest.approx(np.mean(raw))
    assert found.pooled == pytest.approx(np.mean(pooled))


def test_tolerance_and_small_maps() -> None:
    x = torch.tensor([[[0.0, 0.1, 0.2, 0.3]]])
    assert ops.translation_invariance(x, lambda x: x, tolerance=0.2).raw == 1.0
    assert ops.translation_invariance(x, lambda x: x, tolerance=0.05).raw == 0.0
    with pytest.raises(ConvworksError, match=r"shift = 2 does not fit: the maps are \(4,\)"):
        ops.translation_invariance(x, lambda x: x, shift=2)
