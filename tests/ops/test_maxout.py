"""Maxout and pooling across feature groups against loops, and the gradient to the winner alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from convworks.errors import ConvworksError
from convworks.ops import maxout as ops

FEW = settings(max_examples=25, deadline=None, derandomize=True)


@FEW
@given(
    groups=st.integers(1, 3),
    pieces=st.integers(1, 4),
    places=st.lists(st.integers(1, 3), max_size=3),
    seed=st.integers(0, 999),
)
def test_across_groups_equals_loops(groups: int, pieces: int, places: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(2, groups * pieces, *places)).astype(float)  # with equal numbers
    gradient = rng.normal(size=(2, groups, *places))
    y, winner = ops.across_groups(torch.from_numpy(x), pieces)
    back = ops.across_groups_backward(torch.from_numpy(gradient), winner, pieces)
    expected = np.zeros_like(x)
    for n, g, *at in np.ndindex(*gradient.shape):
        maps = [x[(n, g * pieces + k, *at)] for k in range(pieces)]
        first = maps.index(max(maps))
        assert y[(n, g, *at)].item() == max(maps)
        assert winner[(n, g, *at)].item() == first
        expected[(n, g * pieces + first, *at)] = gradient[(n, g, *at)]
    np.testing.assert_array_equal(back.numpy(), expected)


def test_across_groups_gradient_and_a_planted_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 6, 3))).requires_grad_()
    assert gradcheck(lambda x: ops.max_across_groups(x, 3), (x,))
    right = ops.across_groups_backward

    def wrong(gradient: Tensor, winner: Tensor, pieces: int) -> Tensor:
        return right(gradient, (winner + 1) % pieces, pieces)

    monkeypatch.setattr(ops, "across_groups_backward", wrong)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(lambda x: ops.max_across_groups(x, 3), (x,))


def test_changes_of_the_winner_are_counted() -> None:
    before = torch.tensor([[[1.0, 5.0, 3.0], [2.0, 4.0, 0.0]]])  # two maps of three places
    after = torch.tensor([[[3.0, 5.0, 1.0], [2.0, 4.0, 2.0]]])
    winners = [ops.across_groups(x, 2)[1] for x in (before, after)]
    assert winners[0].tolist() == [[[1, 0, 0]]]
    assert winners[1].tolist() == [[[0, 0, 1]]]
    assert ops.winner_changes(*winners) == 2
    assert ops.winner_changes(winners[0], winners[0]) == 0
    with pytest.raises(ConvworksError, match=r"after.shape = \(2,\)"):
        ops.winner_changes(winners[0], torch.zeros(2))


@FEW
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 999))
def test_maxout_equals_loops(pieces: int, outputs: int, inputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(3, inputs)), rng.normal(size=(pieces, outputs, inputs))
    b, gradient = rng.normal(size=(pieces, outputs)), rng.normal(size=(3, outputs))
    y, winner = ops.maxout(torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(b))
    to_x, to_w, to_b = np.zeros_like(x), np.zeros_like(w), np.zeros_like(b)
    for n, i in np.ndindex(3, outputs):
        scores = [sum(w[k, i, j] * x[n, j] for j in range(inputs)) + b[k, i] for k in range(pieces)]
        k = int(np.argmax(scores))
        np.testing.assert_allclose(y[n, i].item(), scores[k], rtol=1e-9, atol=1e-12)
        assert winner[n, i].item() == k
        to_x[n] += gradient[n, i] * w[k, i]
        to_w[k, i] += gradient[n, i] * x[n]
        to_b[k, i] += gradient[n, i]
    found = ops.maxout_backward(torch.from_numpy(x), torch.from_numpy(w), winner, torch.from_numpy(gradient))
    for part, expected in zip(found, (to_x, to_w, to_b), strict=True):
        np.testing.assert_allclose(part.numpy(), expected, rtol=1e-9, atol=1e-12)


def differences(values: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    """Central differences of sum(gradient * maxout) with respect to x, W and b, in numpy."""

    def cost() -> float:
        x, w, b = values
        return float((gradient * (np.einsum("nj,kij->nki", x, w) + b).max(axis=1)).sum())

    found = []
    for value in values:
        numeric = np.zeros_like(value)
        for place in np.ndindex(*value.shape):
            kept = value[place]
            value[place] = kept + 1e-6
            up = cost()
            value[place] = kept - 1e-6
            numeric[place] = (up - cost()) / 2e-6
            value[place] = kept
        found.append(numeric)
    return found


def test_maxout_backward_agrees_with_differences_and_a_planted_error_does_not() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(3, 4)), rng.normal(size=(2, 2, 4)), rng.normal(size=(2, 2))]
    gradient = rng.normal(size=(3, 2))
    x, w, b = (torch.from_numpy(value) for value in values)
    analytic = ops.maxout_backward(x, w, ops.maxout(x, w, b)[1], torch.from_numpy(gradient))
    for part, numeric in zip(analytic, differences(values, gradient), strict=True):
        np.testing.assert_allclose(part.numpy(), numeric, rtol=1e-6, atol=1e-8)
        planted = part.numpy().copy()
        planted.flat[np.abs(planted).argmax()] *= 1.01
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(planted, numeric, rtol=1e-6, atol=1e-8)


def test_two_pieces_are_the_absolute_value_and_relu_exactly() -> None:
    x = torch.linspace(-3, 3, 25)[:, None]
    absolute = torch.tensor([[[1.0]], [[-1.0]]])  # (2 pieces, 1 output, 1 input)
    rectified = torch.tensor([[[1.0]], [[0.0]]])
    torch.testing.assert_close(ops.maxout(x, absolute)[0], x.abs(), rtol=0, atol=0)
    torch.testing.assert_close(ops.maxout(x, rectified)[0], x.clamp(min=0), rtol=0, atol=0)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ConvworksError, match=r"pieces = 4 does not fit.*6 maps(.|\n)*pieces=2 or 3 or 6"):
        ops.across_groups(torch.zeros(1, 6, 2), 4)
    with pytest.raises(ConvworksError, match=r"weight.shape = \(2, 3, 4\)"):
        ops.maxout(torch.zeros(1, 5), torch.zeros(2, 3, 4))
    with pytest.raises(ConvworksError, match=r"bias.shape = \(3,\)"):
        ops.maxout(torch.zeros(1, 4), torch.zeros(2, 3, 4), torch.zeros(3))


def test_types_are_kept() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        y, winner = ops.maxout(torch.ones(1, 4, dtype=dtype), torch.ones(2, 3, 4, dtype=dtype))
        assert y.dtype == dtype
        assert ops.across_groups_backward(y, winner, 2).dtype == dtype
