"""The table of activations against numpy and central differences, and what each row says of itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck

from convworks.errors import ConvworksError
from convworks.ops import activation as ops
from convworks.ops.activation import ACTIVATIONS, activate

ORACLES: dict[str, Callable[[float], float]] = {
    "identity": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    "scaled_tanh": lambda x: 1.7159 * math.tanh(2 / 3 * x),
    "relu": lambda x: max(0.0, x),
    "leaky_relu": lambda x: max(0.01 * x, x),
    "prelu": lambda x: max(0.25 * x, x),
    "rrelu": lambda x: x if x > 0 else x * (1 / 8 + 1 / 3) / 2,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "stepped_sigmoid": lambda x: sum(1 / (1 + math.exp(-(x - i + 0.5))) for i in range(1, 101)),
}
POINTS = torch.linspace(-8, 8, 34, dtype=torch.float64)  # 0, where some have a kink, is not among them
EACH = pytest.mark.parametrize("name", list(ACTIVATIONS))


def test_every_row_has_an_oracle() -> None:
    assert ORACLES.keys() == ACTIVATIONS.keys()
    assert all(row.name == name for name, row in ACTIVATIONS.items())


@EACH
def test_values_equal_plain_python(name: str) -> None:
    expected = [ORACLES[name](x) for x in POINTS.tolist()]
    np.testing.assert_allclose(ACTIVATIONS[name].forward(POINTS).numpy(), expected, rtol=1e-9, atol=1e-12)


@EACH
def test_derivatives_agree_with_central_differences(name: str) -> None:
    h, f = 1e-5, ORACLES[name]
    expected = [(f(x + h) - f(x - h)) / (2 * h) for x in POINTS.tolist()]
    np.testing.assert_allclose(ACTIVATIONS[name].derivative(POINTS).numpy(), expected, rtol=1e-6, atol=1e-9)


@EACH
def test_the_backward_of_the_table_is_that_of_autograd(name: str) -> None:
    x = POINTS.clone().requires_grad_()
    assert gradcheck(lambda x: activate(x, name), (x,))
    gradient = torch.linspace(1, 2, len(POINTS), dtype=torch.float64)
    activate(x, name).backward(gradient)
    torch.testing.assert_close(x.grad, ACTIVATIONS[name].backward(POINTS, gradient))


@EACH
def test_a_planted_error_in_a_derivative_is_caught(name: str) -> None:
    row = ACTIVATIONS[name]

    def wrong(x: Tensor) -> Tensor:
        found = row.derivative(x).clone()
        found[len(found) // 2] *= 1.01
        return found

    x = POINTS.clone().requires_grad_()
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(dataclasses.replace(row, derivative=wrong).apply, (x,))


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_types_and_extremes(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[-1e4, -90.0, -1.0], [0.0, 2.0, 1e4]], dtype=dtype, requires_grad=True)
    y = activate(x, name)
    y.float().sum().backward()
    assert y.dtype == dtype
    assert x.grad is not None
    assert bool(y.isfinite().all())
    assert bool(x.grad.isfinite().all())
    exact = ACTIVATIONS[name].forward(x.detach().double())
    torch.testing.assert_close(y.detach().double(), exact, rtol=2e-2, atol=2e-2)


@EACH
def test_autograd_through_the_plain_forward_is_the_derivative(name: str) -> None:
    # a layer may call `forward` alone: no exp of a branch that is not taken may turn the gradient into NaN
    x = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=torch.float64, requires_grad=True)
    row = ACTIVATIONS[name]
    row.forward(x).sum().backward()
    torch.testing.assert_close(x.grad, row.derivative(x.detach()))


@EACH
def test_nan_stays_nan(name: str) -> None:
    assert bool(ACTIVATIONS[name].forward(torch.tensor([float("nan")])).isnan().all())


@EACH
def test_the_range_is_the_range(name: str) -> None:
    row = ACTIVATIONS[name]
    low, high = (float(part) for part in row.range.strip("()[]").split(","))
    y = row.forward(torch.linspace(-200, 300, 5001, dtype=torch.float64))
    assert low - 2e-5 <= y.min().item()  # the ends are printed with four decimals
    assert y.max().item() <= high + 2e-5
    if math.isfinite(low):
        assert y.min().item() == pytest.approx(low, abs=2e-4)
    if math.isfinite(high):
        assert y.max().item() == pytest.approx(high, abs=2e-4)


@EACH
def test_zero_centred_means_odd(name: str) -> None:
    row = ACTIVATIONS[name]
    odd = bool(torch.allclose(row.forward(-POINTS), -row.forward(POINTS)))
    assert odd == row.zero_centred
    assert row.formula
    assert row.derivative_formula
    assert row.source


@pytest.mark.parametrize(
    ("name", "x", "share"), [("sigmoid", 4, 0.02), ("tanh", 3, 0.01), ("scaled_tanh", 4.5, 0.02)]
)
def test_saturation_is_as_the_table_says(name: str, x: float, share: float) -> None:
    ends = ACTIVATIONS[name].derivative(torch.tensor([-x, x], dtype=torch.float64))
    assert ends.max().item() < share
    assert f"|x| > {x} leaves less than {100 * share:.0f} %" in ACTIVATIONS[name].saturates


def test_sigmoid_and_tanh_at_zero() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert ops.sigmoid(zero).item() == 0.5
    assert ops.sigmoid_derivative(zero).item() == 0.25
    assert ops.tanh_derivative(zero).item() == 1.0
    assert ops.softplus_derivative(zero).item() == 0.5


def test_relu_has_the_derivative_0_at_0() -> None:
    # lectures: f'(z) = 1 if z > 0, f'(z) = 0 if z <= 0; also through autograd of the plain forward
    x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    torch.testing.assert_close(ops.relu_derivative(x.detach()), torch.tensor([0.0, 0.0, 1.0]))
    ops.relu(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.0, 1.0]))


def test_leaky_relu_never_has_gradient_0() -> None:
    x = torch.tensor([-100.0, -1.0, 0.0, 1.0])
    torch.testing.assert_close(ops.leaky_relu_derivative(x), torch.tensor([0.01, 0.01, 0.01, 1.0]))


def test_elu_alpha() -> None:
    x = torch.tensor([-2.0, 3.0], dtype=torch.float64)
    expected = [2.5 * (math.exp(-2) - 1), 3.0]
    np.testing.assert_allclose(ops.elu(x, alpha=2.5).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(ops.elu_derivative(x, alpha=2.5).numpy(), [2.5 * math.exp(-2), 1.0])


def test_stepped_sigmoids_are_close_to_softplus() -> None:
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    error = (ops.stepped_sigmoid(x, units=100) - torch.log1p(torch.exp(x))).abs().max().item()
    assert error < 0.02
    assert error == pytest.approx(0.0106, abs=1e-4)


def test_selu_keeps_mean_0_and_variance_1_through_20_layers() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(1000, 200)))
    for _ in range(20):
        weight = torch.from_numpy(rng.normal(scale=200**-0.5, size=(200, 200)))
        x = ops.selu(x @ weight)
    assert abs(x.mean().item()) < 0.1
    assert x.var().item() == pytest.approx(1.0, abs=0.15)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(maps=st.integers(1, 4), rank=st.integers(0, 3), shared=st.booleans(), seed=st.integers(0, 999))
def test_prelu_against_loops_and_differences(maps: int, rank: int, shared: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, maps, *(2,) * rank))
    x += 0.1 * np.sign(x)  # away from the kink
    slope = rng.normal(size=1 if shared else maps)
    gradient = rng.normal(size=x.shape)

    def loops(slope: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        for place in np.ndindex(*x.shape):
            y[place] = x[place] if x[place] > 0 else slope[0 if shared else place[1]] * x[place]
        return y

    np.testing.assert_allclose(ops.prelu(torch.from_numpy(x), torch.from_numpy(slope)).numpy(), loops(slope))
    to_x, to_slope = ops.prelu_backward(
        torch.from_numpy(x), torch.from_numpy(slope), torch.from_numpy(gradient)
    )
    numeric = [
        ((loops(slope + step) - loops(slope - step)) * gradient).sum() / 2e-6
        for step in 1e-6 * np.eye(len(slope))
    ]
    np.testing.assert_allclose(to_slope.numpy(), numeric, rtol=1e-6, atol=1e-8)
    ones = np.where(x > 0, 1.0, slope[0] if shared else slope.reshape(-1, *(1,) * rank))
    np.testing.assert_allclose(to_x.numpy(), ones * gradient)
    layer = torch.nn.PReLU(len(slope)).double()
    layer.weight.data = torch.from_numpy(slope)
    layer(torch.from_numpy(x)).backward(torch.from_numpy(gradient))
    torch.testing.assert_close(layer.weight.grad, to_slope)
    with pytest.raises(AssertionError):  # a slope gradient that is 1 % off is seen
        np.testing.assert_allclose(1.01 * to_slope.numpy() + 1e-6, numeric, rtol=1e-6, atol=1e-8)


def test_prelu_of_other_shapes_is_refused() -> None:
    with pytest.raises(ConvworksError, match=r"slope.shape = \(2,\).*has 3 maps"):
        ops.prelu(torch.zeros(1, 3, 4), torch.zeros(2))


def test_rrelu_slopes_are_random_in_training_and_the_mean_at_test() -> None:
    x = -torch.ones(200, 200, dtype=torch.float64)
    slopes = ops.rrelu_slopes(x, generator=torch.Generator().manual_seed(1))
    again = ops.rrelu_slopes(x, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(slopes, again, rtol=0, atol=0)
    assert slopes.min().item() >= 1 / 8
    assert slopes.max().item() <= 1 / 3
    assert slopes.mean().item() == pytest.approx((1 / 8 + 1 / 3) / 2, abs=1e-3)
    assert slopes.var().item() == pytest.approx((1 / 3 - 1 / 8) ** 2 / 12, rel=0.05)
    y, derivative = ops.rrelu(x, slopes)
    torch.testing.assert_close(y, -slopes)
    torch.testing.assert_close(derivative, slopes)
    y, derivative = ops.rrelu(torch.tensor([-2.0, 2.0], dtype=torch.float64))
    np.testing.assert_allclose(y.numpy(), [-2 * 11 / 48, 2.0])
    np.testing.assert_allclose(derivative.numpy(), [11 / 48, 1.0])
    layer = torch.nn.RReLU().eval()  # torch's own layer has the same slope at test
    torch.testing.assert_close(layer(torch.tensor([-2.0])).item(), -2 * 11 / 48)


def test_rrelu_bounds_in_the_wrong_order() -> None:
    with pytest.raises(ConvworksError, match=r"lower = 0.5 .*upper = 0.2"):
        ops.rrelu_slopes(torch.zeros(2), lower=0.5, upper=0.2)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConvworksError, match=r"activation = 'rellu'(.|\n)*activation='relu'"):
        activate(torch.zeros(1), "rellu")
