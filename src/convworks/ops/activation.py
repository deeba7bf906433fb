"""Elementwise activation functions with their derivatives written out, and the table of both.

Each `name(x)` has the shape and type of x; `name_derivative(x)` is its derivative at x. The table ACTIVATIONS
names formula, derivative, range and behaviour of each. Softmax and maxout, which mix units, are in
`ops.softmax` and `ops.maxout`. Source: lectures, activation functions and the table of useful derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convworks.ops.arguments import bad_argument, one_of

SELU_SCALE = 1.0507009873554805  # lambda and alpha of the fixed point mean 0, variance 1
SELU_ALPHA = 1.6732632423543772
STEPS = 100  # units of stepped_sigmoid


def identity(x: Tensor) -> Tensor:
    """f(x) = x."""
    return x


def identity_derivative(x: Tensor) -> Tensor:
    """1."""
    return torch.ones_like(x)


def sigmoid(x: Tensor) -> Tensor:
    """s(x) = 1 / (1 + exp(-x)), without overflow at either end."""
    return torch.sigmoid(x)


def sigmoid_derivative(x: Tensor) -> Tensor:
    """s(x) (1 - s(x)), at most 1/4; written s(x) s(-x), which keeps its digits far from 0."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


def tanh(x: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)) = 2 s(2x) - 1."""
    return torch.tanh(x)


def tanh_derivative(x: Tensor) -> Tensor:
    """1 - tanh(x)^2."""
    return 1 - torch.tanh(x).square()


def scaled_tanh(x: Tensor, *, amplitude: float = 1.7159, slope: float = 2 / 3) -> Tensor:
    """A tanh(S x); 1.7159 and 2/3 make f(1) = 1 and f(-1) = -1 (LeCun et al. 1998, appendix A)."""
    return amplitude * torch.tanh(slope * x)


def scaled_tanh_derivative(x: Tensor, *, amplitude: float = 1.7159, slope: float = 2 / 3) -> Tensor:
    """A S (1 - tanh(S x)^2)."""
    return amplitude * slope * (1 - torch.tanh(slope * x).square())


def relu(x: Tensor) -> Tensor:
    """max(0, x). NaN stays NaN."""
    return torch.where(x <= 0, torch.zeros_like(x), x)


def relu_derivative(x: Tensor) -> Tensor:
    """1 where x > 0, and 0 where x <= 0: the lectures fix the derivative at 0 as 0."""
    return (x > 0).to(x.dtype)


def leaky_relu(x: Tensor, *, slope: float = 0.01) -> Tensor:
    """max(slope x, x) for a slope below 1 (Maas, Hannun, Ng 2013)."""
    return torch.where(x <= 0, slope * x, x)


def leaky_relu_derivative(x: Tensor, *, slope: float = 0.01) -> Tensor:
    """1 where x > 0, else the slope: never 0."""
    return torch.where(x > 0, torch.ones_like(x), torch.full_like(x, slope))


def per_map(value: Tensor, x: Tensor, *, name: str) -> Tensor:
    """One number, or one for each map, in the shape that broadcasts to x (N, C, ...): (C, 1, ...).

    Raises BadArgument where there are neither one nor C of them.
    """
    if value.numel() == 1:
        return value.reshape(())
    if x.ndim < 2 or value.shape != x.shape[1:2]:
        maps = x.shape[1] if x.ndim > 1 else 1
        raise bad_argument(
            f"{name}.shape",
            tuple(value.shape),
            why=f"the input {tuple(x.shape)} has {maps} maps",
            fits=f"one number, or {maps} of them",
        )
    return value.reshape(-1, *(1,) * (x.ndim - 2))


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where x > 0, else a x, with one slope a for all maps or one for each (C,).

    x is (N, C, ...). Source: He, Zhang, Ren, Sun, "Delving deep into rectifiers", 2015, section 2.1.
    """
    return torch.where(x <= 0, per_map(slope, x, name="slope").to(x.dtype) * x, x)


def prelu_backward(x: Tensor, slope: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """dC/dx = g [x > 0] + a g [x <= 0], and dC/da = sum of g x over the places with x <= 0 that share a."""
    a = per_map(slope, x, name="slope").to(x.dtype)
    to_input = torch.where(x > 0, gradient, a * gradient)
    shared = torch.where(x <= 0, gradient * x, torch.zeros_like(x))
    if slope.numel() == 1:
        return to_input, shared.sum().reshape(slope.shape)
    return to_input, shared.sum(dim=[d for d in range(x.ndim) if d != 1])


def rrelu_slopes(
    x: Tensor, *, lower: float = 1 / 8, upper: float = 1 / 3, generator: torch.Generator | None = None
) -> Tensor:
    """One slope for each number of x, uniform in [lower, upper), drawn from `generator` or torch's own."""
    if not 0 <= lower <= upper:
        raise bad_argument(
            "lower", lower, why=f"0 <= lower <= upper = {upper:g}", fits="lower=1/8, upper=1/3"
        )
    drawn = torch.rand(x.shape, generator=generator, dtype=torch.float32, device=x.device)
    return (lower + (upper - lower) * drawn).to(x.dtype)


def rrelu(
    x: Tensor, slopes: Tensor | None = None, *, lower: float = 1 / 8, upper: float = 1 / 3
) -> tuple[Tensor, Tensor]:
    """Randomised ReLU: (value, derivative). x where x > 0, else a x.

    In training `slopes` are those of `rrelu_slopes`; at test (None) a is the mean slope (lower + upper) / 2.
    Source: Xu, Wang, Chen, Li, "Empirical evaluation of rectified activations in convolutional network",
    arXiv 1505.00853, section 2.4. The paper also writes x / a with a from U(3, 8) and divides by 5.5 at test,
    a slope of 0.1818; torch and this function draw the slope itself, from U(1/8, 1/3), whose mean is 0.2292.
    """
    a = torch.full_like(x, (lower + upper) / 2) if slopes is None else slopes
    return torch.where(x <= 0, a * x, x), torch.where(x > 0, torch.ones_like(x), a)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha (exp(x) - 1) (Clevert, Unterthiner, Hochreiter, arXiv 1511.07289)."""
    return torch.where(x <= 0, alpha * torch.expm1(x.clamp(max=0)), x)


def elu_derivative(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """1 where x > 0, else alpha exp(x) = f(x) + alpha."""
    return torch.where(x > 0, torch.ones_like(x), alpha * torch.exp(x.clamp(max=0)))


def selu(x: Tensor) -> Tensor:
    """lambda elu(x, alpha), whose mean 0 and variance 1 attract (Klambauer et al., arXiv 1706.02515)."""
    return SELU_SCALE * elu(x, alpha=SELU_ALPHA)


def selu_derivative(x: Tensor) -> Tensor:
    """lambda where x > 0, else lambda alpha exp(x)."""
    return SELU_SCALE * elu_derivative(x, alpha=SELU_ALPHA)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


def softplus_derivative(x: Tensor) -> Tensor:
    """s(x) = 1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def stepped_sigmoid(x: Tensor, *, units: int = STEPS) -> Tensor:
    """The sum over i = 1..N of s(x - i + 0.5), close to softplus where x is well below N.

    N binary units with shared weights and biases shifted by 1. Source: Nair and Hinton, "Rectified linear
    units improve restricted Boltzmann machines", 2010, section 2; lectures, ReLU activation function.
    """
    return sum((torch.sigmoid(x - i + 0.5) for i in range(2, units + 1)), torch.sigmoid(x - 0.5))


def stepped_sigmoid_derivative(x: Tensor, *, units: int = STEPS) -> Tensor:
    """The sum over i of s(x - i + 0.5) (1 - s(x - i + 0.5))."""
    first = sigmoid_derivative(x - 0.5)
    return sum((sigmoid_derivative(x - i + 0.5) for i in range(2, units + 1)), first)


@dataclass(frozen=True)
class Activation:
    """A row of the table: an elementwise function, its derivative, and how it behaves."""

    name: str
    formula: str
    derivative_formula: str
    range: str
    zero_centred: bool  # is f(-x) = -f(x), so that inputs centred at 0 give outputs centred at 0?
    saturates: str  # where the derivative goes to 0
    forward: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    source: str

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """dC/dx = dC/dy f'(x)."""
        return gradient * self.derivative(x)

    def apply(self, x: Tensor) -> Tensor:
        """f(x) for autograd, with the derivative of the table as its backward pass."""
        applied: Tensor = _Elementwise.apply(x, self)  # type: ignore[no-untyped-call]
        return applied


class _Elementwise(torch.autograd.Function):
    """Saves x alone; the derivative is computed when it is needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        return activation.forward(x).view_as(x)  # identity must not hand its input back as another tensor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.activation.backward(x, gradient), None


def activate(x: Tensor, name: str) -> Tensor:
    """The activation of that name, through autograd. Raises BadArgument for a name not in the table."""
    return ACTIVATIONS[one_of("activation", name, ACTIVATIONS)].apply(x)


_LECTURES = "lectures, activation functions"
ACTIVATIONS: dict[str, Activation] = {
    row.name: row
    for row in (
        Activation(
            "identity", "x", "1", "(-inf, inf)", True, "nowhere", identity, identity_derivative, _LECTURES
        ),
        Activation(
            "sigmoid", "s(x) = 1 / (1 + exp(-x))", "s(x) (1 - s(x))", "[0, 1]", False,
            "at both ends: |x| > 4 leaves less than 2 % of the gradient", sigmoid, sigmoid_derivative,
            _LECTURES,
        ),
        Activation(
            "tanh", "tanh(x)", "1 - tanh(x)^2", "[-1, 1]", True,
            "at both ends: |x| > 3 leaves less than 1 % of the gradient", tanh, tanh_derivative, _LECTURES,
        ),
        Activation(
            "scaled_tanh", "1.7159 tanh(2x/3)", "1.1439 (1 - tanh(2x/3)^2)", "[-1.7159, 1.7159]", True,
            "at both ends: |x| > 4.5 leaves less than 2 % of the gradient", scaled_tanh,
            scaled_tanh_derivative, "LeCun et al. 1998, appendix A",
        ),
        Activation(
            "relu", "max(0, x)", "1 where x > 0, 0 where x <= 0", "[0, inf)", False,
            "for x <= 0, where the unit can die", relu, relu_derivative, _LECTURES,
        ),
        Activation(
            "leaky_relu", "max(0.01 x, x)", "1 where x > 0, else 0.01", "(-inf, inf)", False, "nowhere",
            leaky_relu, leaky_relu_derivative, "Maas, Hannun, Ng 2013; lectures, leaky ReLU",
        ),
        Activation(
            "prelu", "x where x > 0, else a x (a learned; 0.25 at first)",
            "1 where x > 0, else a; df/da = min(0, x)", "(-inf, inf)", False,
            "nowhere, unless a is 0", lambda x: leaky_relu(x, slope=0.25),
            lambda x: leaky_relu_derivative(x, slope=0.25), "He et al. 2015, section 2.1",
        ),
        Activation(
            "rrelu", "x where x > 0, else a x (a drawn from U(1/8, 1/3) in training, 11/48 at test)",
            "1 where x > 0, else a", "(-inf, inf)", False, "nowhere", lambda x: rrelu(x)[0],
            lambda x: rrelu(x)[1], "Xu et al. 2015, arXiv 1505.00853",
        ),
        Activation(
            "elu", "x where x > 0, else a (exp(x) - 1) (a = 1)", "1 where x > 0, else a exp(x)",
            "[-1, inf)", False, "for x far below 0", elu, elu_derivative,
            "Clevert et al. 2015, arXiv 1511.07289",
        ),
        Activation(
            "selu", "1.0507 x where x > 0, else 1.7581 (exp(x) - 1)",
            "1.0507 where x > 0, else 1.7581 exp(x)", "[-1.7581, inf)", False, "for x far below 0", selu,
            selu_derivative,
            "Klambauer et al. 2017, arXiv 1706.02515",
        ),
        Activation(
            "softplus", "log(1 + exp(x))", "1 / (1 + exp(-x))", "[0, inf)", False, "for x far below 0",
            softplus, softplus_derivative, "lectures, ReLU activation function",
        ),
        Activation(
            "stepped_sigmoid", "sum of s(x - i + 0.5), i = 1..100", "sum of s'(x - i + 0.5), i = 1..100",
            "[0, 100]", False, "for x far below 0 or above 100", stepped_sigmoid, stepped_sigmoid_derivative,
            "Nair, Hinton 2010; lectures, ReLU activation function",
        ),
    )
}  # fmt: skip
