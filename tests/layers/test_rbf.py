"""The RBF output against the formula of equation 7, and its posterior against equation 9."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from convworks.layers import RBFOutput

CODES = torch.tensor([[1.0, -1, 1, 1], [-1, -1, 1, -1], [1, 1, -1, 1]])


def inputs(n: int = 5) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, 4)


def test_scores_are_minus_the_squared_distances() -> None:
    x = inputs()
    distances = np.array([[((xi - w) ** 2).sum() for w in CODES.numpy()] for xi in x.numpy()])
    np.testing.assert_allclose(RBFOutput(CODES)(x).numpy(), -distances, rtol=1e-5, atol=1e-5)


def test_an_input_that_equals_a_code_has_distance_zero() -> None:
    scores = RBFOutput(CODES)(CODES)
    torch.testing.assert_close(scores.diagonal(), torch.zeros(3), atol=1e-5, rtol=0)
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]


def test_cross_entropy_is_equation_9_without_its_constant() -> None:
    x, target = inputs(), torch.tensor([0, 1, 2, 1, 0])
    y = ((x[:, None, :] - CODES) ** 2).sum(dim=2)  # equation 7
    equation_9 = (y[torch.arange(5), target] + torch.log(torch.exp(-y).sum(dim=1))).mean()
    torch.testing.assert_close(F.cross_entropy(RBFOutput(CODES)(x), target), equation_9)


def test_gradient_agrees_with_finite_differences() -> None:
    x = inputs(2).double().requires_grad_()
    assert gradcheck(RBFOutput(CODES), (x,))


def test_codes_are_stored_and_not_trained() -> None:
    layer = RBFOutput(CODES)
    assert list(layer.parameters()) == []
    assert layer.fixed_parameters == 12
    torch.testing.assert_close(layer.state_dict()["codes"], CODES)


def test_float32_under_autocast() -> None:
    x = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        scores = RBFOutput(CODES)(x)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, RBFOutput(CODES)(x), rtol=0, atol=0)


def test_macs_are_one_for_each_difference() -> None:
    assert RBFOutput(CODES).macs((3,)) == 12
