"""Batch norm, residual addition, ReLU or GELU, max pooling in few passes over memory, forward and backward.

In training, per channel over M = N H W places,
    mu = mean x,  v = mean (x - mu)^2,  xhat = (x - mu) / sqrt(v + eps),  y = relu(gamma xhat + beta + r).
With g = dy where y > 0, else 0,
    dbeta = sum g,  dgamma = sum g xhat,  dr = g,
    dx = gamma / sqrt(v + eps) (g - mean g - xhat mean(g xhat)).
Separate operators read and write the maps fourteen times; here it is three times forward (x for the
statistics, x and y) and five backward. Before a max pooling the activated maps are never written at all: the
pooling takes the maximum of relu(gamma xhat + beta) over each window and keeps its place in one byte.

With GELU y = z Phi(z) and g = dy (Phi(z) + z phi(z)), where z = gamma xhat + beta, made again backward, and
Phi and phi are the normal distribution and its density. The kernels' values of both are off by less than
1e-6, for bfloat16 maps by less than 1e-4. GELU behind an addition is torch's.

Statistics, parameters and their gradients are float32, sums float64, whatever the maps are. The C++ kernels
of `ops/native` do the work where they are loaded, x is on the CPU and of float32 or bfloat16; everywhere else
it is torch's operators, whose numbers are the same to rounding. Where several values of a window are the
largest, the first one gets the gradient.
Sources: Ioffe and Szegedy 2015, Algorithm 1 and section 3; He et al. 2015, Figure 2; Hendrycks and Gimpel
2016, arXiv:1606.08415, section 2; lectures, "Batch normalization".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.arguments import bad_argument
from convworks.ops.native import library
from convworks.ops.native.library import Run, Window, call
from convworks.ops.shortcut_gradient import ShortcutGradient

Activation = Literal["none", "relu", "gelu"]

_CODES: dict[Activation, int] = {"none": 0, "relu": 1, "gelu": 2}  # of kernels.cpp
_TYPES = (torch.float32, torch.bfloat16)
_PLACES = 254  # of a window: a byte names them, and 255 says none


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Norm:
    """Parameters of a batch norm, (C,) each or None, and how its running statistics move."""

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    momentum: float  # share of the batch: running <- (1 - momentum) running + momentum batch
    epsilon: float

    @property
    def running(self) -> tuple[Tensor, Tensor] | None:
        if self.running_mean is None or self.running_var is None:
            return None
        return self.running_mean, self.running_var


def fused_batch_norm(
    x: Tensor,
    norm: Norm,
    *,
    activation: Activation = "none",
    residual: Tensor | None = None,
    past: ShortcutGradient | None = None,
) -> Tensor:
    """activation(batch_norm(x) + residual) with the batch's statistics; x and residual (N, C, H, W).

    The running statistics are moved in place, the variance with m / (m - 1). The residual's gradient is
    handed over to `past`, where the kernels do the work, and autograd gets none. Raises BadArgument where
    there is one value of each channel, which has no variance.
    """
    _more_than_one(x)
    added = residual is None or (_alike(residual, x) and activation != "gelu")
    if not (_fits(x, norm) and added):
        return _reference(x, norm, activation=activation, residual=residual)
    own = (norm.weight, norm.bias)
    y: Tensor = _BatchNorm.apply(x, *own, residual, norm, activation, past)  # type: ignore[no-untyped-call]
    return y


def fused_max_pool(x: Tensor, window: Window, *, relu: bool = False) -> Tensor:
    """max_pool(relu(x)), which is relu(max_pool(x)); (N, C, H, W) -> (N, C, H', W')."""
    if not pool_applies(x, window):
        y = F.max_pool2d(x, *window)
        return F.relu(y) if relu else y
    pooled: Tensor = _MaxPool.apply(x, window, relu)  # type: ignore[no-untyped-call]
    return pooled


def fused_norm_relu_pool(x: Tensor, norm: Norm, window: Window) -> Tensor:
    """max_pool(relu(batch_norm(x))) with the batch's statistics; (N, C, H, W) -> (N, C, H', W')."""
    _more_than_one(x)
    if not (_fits(x, norm) and pool_fits(window, x.shape[2:])):
        return F.max_pool2d(_reference(x, norm, activation="relu", residual=None), *window)
    y: Tensor = _NormReluPool.apply(x, norm.weight, norm.bias, norm, window)  # type: ignore[no-untyped-call]
    return y


def pool_applies(x: Tensor, window: Window) -> bool:
    """Whether the kernels pool x so."""
    return library.available() and _plain(x) and x.ndim == 4 and pool_fits(window, x.shape[2:])


def pool_fits(window: Window, size: Sequence[int]) -> bool:
    """Whether the kernels pool so: padding up to half a kernel, and every window inside the padded map."""
    kernel, _, padding = window
    small = all(2 * p <= k <= s + 2 * p for k, p, s in zip(kernel, padding, size, strict=True))
    return small and kernel[0] * kernel[1] <= _PLACES


def _more_than_one(x: Tensor) -> None:
    if x.ndim != 4:
        raise bad_argument("x", tuple(x.shape), why="maps have four dimensions", fits="(N, C, H, W)")
    if x.numel() == x.shape[1]:
        raise bad_argument(
            "x",
            tuple(x.shape),
            why="one value of each channel has no variance",
            fits="two images, or larger maps",
        )


def _plain(x: Tensor) -> bool:
    return x.dtype in _TYPES and x.device.type == "cpu" and x.numel() > 0 and x.layout == torch.strided


def _fits(x: Tensor, norm: Norm) -> bool:
    own = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return (
        library.available()
        and _plain(x)
        and all(
            each is None
            or (each.dtype == torch.float32 and each.is_contiguous() and each.device.type == "cpu")
            for each in own
        )
    )


def _alike(residual: Tensor, x: Tensor) -> bool:
    return residual.shape == x.shape and residual.dtype == x.dtype and residual.device == x.device


def _reference(x: Tensor, norm: Norm, *, activation: Activation, residual: Tensor | None) -> Tensor:
    """torch's operators."""
    y = F.batch_norm(
        x,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        training=True,
        momentum=norm.momentum,
        eps=norm.epsilon,
    )
    if residual is not None:
        y = residual + y
    if activation == "none":
        return y
    return F.relu(y) if activation == "relu" else F.gelu(y)


def _packed(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pooled(x: Tensor, window: Window) -> Tensor:
    """Room for the pooled maps."""
    size = [(s + 2 * p - k) // stride + 1 for s, k, stride, p in zip(x.shape[2:], *window, strict=True)]
    return torch.empty(*x.shape[:2], *size, dtype=x.dtype, memory_format=torch.channels_last)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        norm: Norm,
        activation: Activation,
        past: ShortcutGradient | None,
    ) -> Tensor:
        x = _packed(x)
        y = torch.empty_like(x)
        add = None if residual is None else _packed(residual)
        saved = library.norm_forward(
            x,
            add,
            weight,
            bias,
            norm.running,
            y,
            momentum=norm.momentum,
            epsilon=norm.epsilon,
            activation=_CODES[activation],
        )
        ctx.activation, ctx.added, ctx.past = activation, residual is not None, past
        masked = activation == "relu" and ctx.added
        ctx.save_for_backward(x, weight, bias, saved, y if masked else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, saved, y = ctx.saved_tensors
        dy = _packed(dy)
        code = _CODES[ctx.activation]
        dx, dresidual, (dweight, dbias) = library.norm_backward(
            x, dy, y, weight, bias, saved, activation=code
        )
        if ctx.added and ctx.activation == "none":
            dresidual = dy
        if ctx.past is not None and dresidual is not None:
            ctx.past.hand_over(dresidual)
            dresidual = None
        return (
            dx,
            dweight if ctx.needs_input_grad[1] else None,
            dbias if ctx.needs_input_grad[2] else None,
            dresidual,
            None,
            None,
            None,
        )


def pooled(x: Tensor, window: Window, *, relu: bool, run: Run = call) -> tuple[Tensor, Tensor]:
    """max_pool(relu(x)) without autograd, and the place of each maximum in its window; in channels_last."""
    y = _pooled(x, window)
    place, _ = library.pool_forward(x, y, window, relu=relu, run=run)
    return y, place


def unpooled(dy: Tensor, place: Tensor, shape: Sequence[int], window: Window, *, run: Run = call) -> Tensor:
    """The gradient of an x of that shape."""
    dx = torch.empty(tuple(shape), dtype=dy.dtype, memory_format=torch.channels_last)
    library.pool_backward(dy, place, dx, window, run=run)
    return dx


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window, relu: bool) -> Tensor:
        x = _packed(x)
        y, place = pooled(x, window, relu=relu)
        ctx.window, ctx.shape = window, x.shape
        ctx.save_for_backward(place)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return unpooled(_packed(dy), place, ctx.shape, ctx.window), None, None


class _NormReluPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: Norm, window: Window
    ) -> Tensor:
        x = _packed(x)
        y = _pooled(x, window)
        saved = library.norm_forward(
            x,
            None,
            weight,
            bias,
            norm.running,
            None,
            momentum=norm.momentum,
            epsilon=norm.epsilon,
            activation=_CODES["relu"],
        )
        place, chosen = library.pool_forward(x, y, window, weight=weight, bias=bias, saved=saved, relu=True)
        ctx.window = window
        ctx.save_for_backward(x, weight, bias, saved, place, chosen)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, saved, place, chosen = ctx.saved_tensors
        dx = torch.empty_like(x)
        dweight, dbias = library.pool_backward(
            _packed(dy), place, dx, ctx.window, x=x, chosen=chosen, weight=weight, bias=bias, saved=saved
        )
        return (
            dx,
            dweight if ctx.needs_input_grad[1] else None,
            dbias if ctx.needs_input_grad[2] else None,
            None,
            None,
        )
