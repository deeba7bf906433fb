"""Residual units: the shortcut beside any module, and the three ways to make the two shapes the same.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015: equations 1 and 2, section 3.3 and
options A, B and C of section 4.1. He, Zhang, Ren, Sun, "Identity mappings in deep residual networks", 2016:
equations 1 to 5. Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", 2016: section 3.
Lectures, "residual units".
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.layers.containers import stage
from convworks.layers.structure import Add
from convworks.ops.arguments import bad_argument, one_of

OPTIONS = ("A", "B", "C")
Option = Literal["A", "B", "C"]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Residual(nn.Module):
    """activation(shortcut(x) + branch(x)): x -> y with a branch that is any differentiable module.

    In the letters of the papers x_{l+1} = f(h(x_l) + F(x_l)): `branch` is F, `shortcut` h, `activation` f,
    by default the identity. Where h and f are identities, x_L = x_l + sum of F(x_i), i from l to L - 1, and
    the gradient dE/dx_l = dE/dx_L (1 + d/dx_l of that sum) reaches x_l past all weights.

    Without a `shortcut` x is fitted to the shape of F(x) with no parameters (`Fit`), so that
    `Residual(module)` wraps any module. Raises BadArgument where the two shapes differ.

    Stochastic depth: with `survival` p < 1, a training pass leaves the branch out with probability 1 - p, one
    draw of torch's generator for the whole batch, and a test pass takes p F(x). A branch that is left out is
    not computed, unless `Fit` has to know its shape. `survival` is no part of the state_dict.
    """

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None = None, *, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = Fit() if shortcut is None else shortcut
        self.add = Add(names=("shortcut", "branch"))
        self.activation = nn.Identity() if activation is None else activation
        self.survival = 1.0

    def forward(self, x: Tensor) -> Tensor:
        fits = isinstance(self.shortcut, Fit)
        skipped = self.training and self.survival < 1 and float(torch.rand(())) >= self.survival
        if skipped and not fits:
            only: Tensor = self.activation(self.shortcut(x))
            return only
        y = self.branch(x)
        if self.survival < 1:
            y = torch.zeros_like(y) if skipped else y if self.training else self.survival * y
        same = self.shortcut(x, y) if fits else self.shortcut(x)
        total: Tensor = self.activation(self.add(same, y))
        return total


class Fit(nn.Module):
    """x in the shape of y, without parameters: (N, C, ...) and (N, C', ...) -> (N, C', ...).

    More maps are filled with zeros (option A). In each further dimension, where y is smaller, every s-th
    place is kept if that gives the size of y, else the middle is cut out; where y is larger, zeros go around.
    Raises BadArgument where y has fewer maps than x, which only a projection can give.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.ndim != y.ndim or len(x) != len(y) or x.shape[1] > y.shape[1]:
            a, b = tuple(x.shape), tuple(y.shape)
            raise bad_argument(
                "branch",
                f"a module from {a} to {b}",
                why="without weights the shortcut can only add maps, and cut or pad places",
                fits="shortcut=projection(c_in, c_out)"
                if x.ndim == y.ndim
                else "a module that keeps the rank",
            )
        for axis in range(2, x.ndim):
            x = _fit_axis(x, y.shape[axis], axis)
        return F.pad(x, _around(x.ndim, 1, 0, y.shape[1] - x.shape[1])) if x.shape[1] < y.shape[1] else x


class ZeroPad(nn.Module):
    """Option A: every `stride`-th place, and `extra` maps of zeros after the others; no parameters.

    (N, C, H, W) -> (N, C + extra, ceil(H / stride), ceil(W / stride)), and so for any rank.
    """

    def __init__(self, extra: int, *, stride: int = 1) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        places = (slice(None, None, self.stride),) * (x.ndim - 2)
        return F.pad(x[(slice(None), slice(None), *places)], _around(x.ndim, 1, 0, self.extra))

    def extra_repr(self) -> str:
        return f"extra={self.extra}, stride={self.stride}"


def projection(c_in: int, c_out: int, *, stride: int = 1, rank: int = 2, norm: bool = True) -> nn.Sequential:
    """Options B and C: a 1x1 convolution to `c_out` maps, with batch norm unless `norm` is false."""
    conv = CONVOLUTIONS[rank](c_in, c_out, 1, stride=stride, bias=False)
    return stage(conv=conv, bn=NORMS[rank](c_out)) if norm else stage(conv=conv)


def shortcut(
    option: Option, c_in: int, c_out: int, *, stride: int = 1, rank: int = 2, norm: bool = True
) -> nn.Module:
    """h of a unit. A pads with zeros, B projects where the shape changes, C always projects (section 4.1).

    Raises BadArgument for another option, and for A with fewer maps.
    """
    one_of("option", option, OPTIONS)
    if option != "C" and stride == 1 and c_in == c_out:
        return nn.Identity()
    if option != "A":
        return projection(c_in, c_out, stride=stride, rank=rank, norm=norm)
    if c_in > c_out:
        why = f"zeros cannot turn {c_in} maps into {c_out}"
        raise bad_argument("option", option, why=why, fits="option='B'")
    return ZeroPad(c_out - c_in, stride=stride)


def _fit_axis(x: Tensor, size: int, axis: int) -> Tensor:
    n = x.shape[axis]
    if size == n:
        return x
    if size > n:
        return F.pad(x, _around(x.ndim, axis, (size - n) // 2, size - n - (size - n) // 2))
    stride = -(-n // size)
    if -(-n // stride) == size:
        return x[(slice(None),) * axis + (slice(None, None, stride),)]
    return x.narrow(axis, (n - size) // 2, size)


def _around(ndim: int, axis: int, before: int, after: int) -> tuple[int, ...]:
    """The argument of F.pad, which counts from the last dimension, for one axis."""
    return (0, 0) * (ndim - 1 - axis) + (before, after)
