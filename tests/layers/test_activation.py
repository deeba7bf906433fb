"""Activations against numpy, the paper's constants and torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from convworks.errors import ConvworksError
from convworks.layers.activation import Activate, Maxout, MaxoutConv2d, ScaledTanh, SteppedSigmoid


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


@pytest.mark.parametrize("name", ["sigmoid", "relu", "leaky_relu", "elu", "selu", "softplus", "rrelu"])
def test_activate_equals_the_layer_of_torch(name: str) -> None:
    theirs = {
        "sigmoid": nn.Sigmoid(), "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(), "elu": nn.ELU(),
        "selu": nn.SELU(), "softplus": nn.Softplus(), "rrelu": nn.RReLU().eval(),
    }  # fmt: skip
    x = torch.linspace(-5, 5, 41, dtype=torch.float64).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    y, other = Activate(name)(x), theirs[name](twin)
    torch.testing.assert_close(y, other)
    (y.sum() + other.sum()).backward()
    torch.testing.assert_close(x.grad, twin.grad)
    assert repr(Activate(name)) == f"Activate({name})"


def test_activate_refuses_an_unknown_name() -> None:
    with pytest.raises(ConvworksError, match="activation = 'gelu' does not fit"):
        Activate("gelu")


def test_stepped_sigmoid_has_as_many_units_as_asked() -> None:
    x = torch.linspace(-6, 6, 13, dtype=torch.float64, requires_grad=True)
    expected = sum(1 / (1 + np.exp(-(x.detach().numpy() - i + 0.5))) for i in range(1, 4))
    np.testing.assert_allclose(SteppedSigmoid(3)(x).detach().numpy(), expected, rtol=1e-12)
    assert gradcheck(SteppedSigmoid(3), (x,))
    torch.testing.assert_close(SteppedSigmoid()(x).detach(), F.softplus(x.detach()), atol=0.02, rtol=0)
    with pytest.raises(ConvworksError, match="units = 0 does not fit"):
        SteppedSigmoid(0)


def test_maxout_equals_numpy_and_its_gradients_are_right() -> None:
    torch.manual_seed(0)
    layer = Maxout(4, 3, pieces=2).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    scores = np.einsum("nj,kij->nki", x.detach().numpy(), weight.numpy()) + bias.numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), scores.max(axis=1), rtol=1e-12)
    assert gradcheck(
        lambda x, w, b: functional_call(layer, {"weight": w, "bias": b}, (x,)),
        (x, weight.requires_grad_(), bias.requires_grad_()),
    )
    assert layer.macs((3,)) == 3 * 2 * 4
    assert sum(p.numel() for p in layer.parameters()) == 2 * 3 * 5


def test_two_maxout_pieces_can_be_the_absolute_value() -> None:
    layer = Maxout(1, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0]], [[-1.0]]]))
        layer.bias.zero_()
    x = torch.linspace(-3, 3, 7)[:, None]
    torch.testing.assert_close(layer(x).detach(), x.abs(), rtol=0, atol=0)


def test_maxout_convolution_is_the_largest_of_its_maps() -> None:
    torch.manual_seed(0)
    layer = MaxoutConv2d(2, 3, 3, pieces=4, stride=2, padding=1)
    x = torch.randn(1, 2, 7, 7)
    maps = layer.conv(x).detach().reshape(1, 3, 4, 4, 4)
    torch.testing.assert_close(layer(x).detach(), maps.amax(dim=2), rtol=0, atol=0)
    with pytest.raises(ConvworksError, match="pieces = 0 does not fit"):
        MaxoutConv2d(2, 3, 3, pieces=0)
    with pytest.raises(ConvworksError, match="pieces = 0 does not fit"):
        Maxout(2, 3, pieces=0)


def test_maxout_under_autocast() -> None:
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    layer = Maxout(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
