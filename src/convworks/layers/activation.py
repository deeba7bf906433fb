"""Activations that torch lacks. Its own: nn.ReLU, LeakyReLU, PReLU, RReLU, ELU, SELU, Softplus, Softmax."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.layers.pooling import MaxoutPool
from convworks.ops.activation import (
    ACTIVATIONS,
    STEPS,
    activate,
    scaled_tanh,
    stepped_sigmoid,
    stepped_sigmoid_derivative,
)
from convworks.ops.arguments import Sizes, bad_argument, one_of
from convworks.ops.maxout import max_across_groups


class ScaledTanh(nn.Module):
    """f(a) = A tanh(S a), by default the squashing function of LeNet-5.

    A = 1.7159 and S = 2/3 make f(1) = 1 and f(-1) = -1, and put the largest curvature there, so that targets
    of +1 and -1 lie inside the range. Any shape; elementwise. Source: LeCun, Bottou, Bengio, Haffner,
    "Gradient-based learning applied to document recognition", 1998, section II-B and appendix A.
    """

    def __init__(self, amplitude: float = 1.7159, slope: float = 2 / 3) -> None:
        super().__init__()
        self.amplitude, self.slope = amplitude, slope

    def forward(self, a: Tensor) -> Tensor:
        return scaled_tanh(a, amplitude=self.amplitude, slope=self.slope)

    def extra_repr(self) -> str:
        return f"{self.amplitude:g} tanh({self.slope:.4g} a)"


class Activate(nn.Module):
    """Any function of the table ACTIVATIONS by its name; elementwise, any shape.

    The backward pass is the derivative of the table. Raises BadArgument for a name that is not there.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = one_of("activation", name, ACTIVATIONS)

    def forward(self, x: Tensor) -> Tensor:
        return activate(x, self.name)

    def extra_repr(self) -> str:
        return self.name


class SteppedSigmoid(nn.Module):
    """The sum over i = 1..units of s(x - i + 0.5): close to softplus for x well below `units`. Any shape.

    The sums of forward and backward pass are made one unit after the other, so that no unit is stored.
    Raises BadArgument for less than one unit. Source: Nair and Hinton 2010, section 2; lectures, ReLU.
    """

    def __init__(self, units: int = STEPS) -> None:
        super().__init__()
        if units < 1:
            raise bad_argument("units", units, why="it is a number of sigmoids", fits=f"units={STEPS}")
        self.units = units
        self.row = replace(
            ACTIVATIONS["stepped_sigmoid"],
            forward=partial(stepped_sigmoid, units=units),
            derivative=partial(stepped_sigmoid_derivative, units=units),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.row.apply(x)

    def extra_repr(self) -> str:
        return f"units={self.units}"


class Maxout(nn.Module):
    """A dense layer of maxout units: y_i = max over k of (sum_j W_kij x_j + b_ki). (N, J) -> (N, I).

    `weight` is (pieces, outputs, inputs), `bias` (pieces, outputs). With two pieces a unit can be |x| or
    ReLU exactly. The gradient goes to the winning piece; of equal ones the first wins.
    Source: Goodfellow et al., "Maxout networks", 2013, section 3; lectures, max-out.
    """

    def __init__(self, in_features: int, out_features: int, *, pieces: int = 2) -> None:
        super().__init__()
        if pieces < 1:
            raise bad_argument("pieces", pieces, why="it is a number of linear functions", fits="pieces=2")
        self.in_features, self.out_features, self.pieces = in_features, out_features, pieces
        self.weight = nn.Parameter(torch.empty(pieces, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(pieces, out_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan-in), torch's rule for its own linear layers."""
        bound = 1 / math.sqrt(self.in_features)
        self.weight.uniform_(-bound, bound)
        self.bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        scores = F.linear(x, self.weight.flatten(0, 1), self.bias.flatten())  # (N, K I)
        by_unit = scores.view(len(x), self.pieces, self.out_features).transpose(1, 2)  # (N, I, K)
        return max_across_groups(by_unit.flatten(1), self.pieces)

    def macs(self, output: tuple[int, ...]) -> int:
        """Multiply-adds of one example: every piece is computed."""
        return math.prod(output) * self.pieces * self.in_features

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, pieces={self.pieces}"


class MaxoutConv2d(nn.Sequential):
    """A convolution of pieces x outputs maps, then the largest of each `pieces` maps.

    (N, C, H, W) -> (N, O, H', W'). Source: Goodfellow et al. 2013, section 3; lectures, pooling across
    feature groups.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        pieces: int = 2,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        size = kernel_size if isinstance(kernel_size, int) else (kernel_size[0], kernel_size[1])
        pool = MaxoutPool(pieces)  # or says that there are no pieces
        self.conv = nn.Conv2d(in_channels, out_channels * pieces, size, stride=stride, padding=padding)
        self.max = pool
