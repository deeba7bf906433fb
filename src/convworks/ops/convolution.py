"""Convolution in one, two or three dimensions, by any of several algorithms, each with its own gradients.

A layer computes the cross-correlation

    y[n, o, p] = b[o] + sum over c and t of w[o, c, t] x[n, c, p stride + t dilation - padding]

and the true convolution of the textbooks is the same with the kernel reversed: `flip=True`. The two differ
only in the order in which the taps are stored (lectures, "convolution" and "convolutional layer"; Goodfellow,
Bengio, Courville, "Deep Learning", equations 9.4 and 9.6).

What the algorithms are, and their gradients to the input and to the weights, stands in `ops/algorithms/`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convworks.ops.algorithms import library
from convworks.ops.algorithms.named import NAMES, Algorithm, algorithm, check_applies
from convworks.ops.algorithms.window import Window
from convworks.ops.arguments import Sizes, bad_argument, one_of, per_dimension
from convworks.ops.autotune import PASSES, fastest
from convworks.ops.shape import Padding, output_size, resolve_padding

ALGORITHMS = NAMES
Shape: TypeAlias = tuple[int, ...]
# The passes that autograd will ask for, by whether x and the weight need a gradient.
PASSES_OF = {
    (False, False): PASSES[:1],
    (True, False): PASSES[:2],
    (False, True): (PASSES[0], PASSES[2]),
    (True, True): PASSES,
}


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "library",
    flip: bool = False,
) -> Tensor:
    """x (N, C, *size), weight (O, C/groups, *kernel), bias (O,) -> (N, O, *output); 1 to 3 dimensions.

    `padding` is numbers or a mode of `ops.shape.resolve_padding`. `algorithm`: "library" is what torch
    dispatches to; "direct", "lowering", "fft", "winograd" (F(2,3)) and "winograd4" (F(4,3)) are ours, with
    our gradients; "auto" measures once for each shape and uses the fastest for each of the three passes.
    In bfloat16 all but lowering compute in float32 and round at the end. `flip=True` is true convolution.
    Raises BadArgument for shapes that do not fit together.
    """
    if flip:
        weight = weight.flip(tuple(range(2, weight.dim())))
    x, weight = _under_autocast(x, weight)
    window = window_of(x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups)
    if bias is not None:
        _check_bias(bias, weight.shape[0])
    chosen = choose(algorithm, x, weight, window)
    if chosen.name == "library":
        return library.forward(x, weight, window, None if bias is None else bias.to(x.dtype))
    y: Tensor = _Convolution.apply(x, weight, window, chosen)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias.to(y.dtype).view(-1, *(1,) * window.rank)


def window_of(
    x: Tensor, weight: Tensor, *, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> Window:
    """The window of these arguments, checked against the shapes. Raises BadArgument."""
    if x.dtype != weight.dtype or not x.is_floating_point():
        why = f"x is {_dtype(x)}, the weight {_dtype(weight)}; both must be of one floating type"
        raise bad_argument("dtype", _dtype(x), why=why, fits=f"x.to({weight.dtype})")
    try:
        return _window(x.shape, weight.shape, stride, padding, dilation, groups)
    except TypeError:  # lists cannot be remembered
        return _window.__wrapped__(x.shape, weight.shape, stride, padding, dilation, groups)


@lru_cache(maxsize=1024)
def _window(
    shape: Shape, kernels: Shape, stride: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> Window:
    shape, kernels = tuple(shape), tuple(kernels)
    _check_channels(shape, kernels, groups)
    rank, size, kernel = len(shape) - 2, shape[2:], kernels[2:]
    strides = per_dimension("stride", stride, rank)
    dilations = per_dimension("dilation", dilation, rank)
    pairs = resolve_padding(padding, size=size, kernel=kernel, stride=strides, dilation=dilations)
    output_size(size, kernel, stride=strides, padding=pairs, dilation=dilations)  # or says why there is none
    return Window(kernel, strides, pairs, dilations, groups)


def _check_channels(shape: Shape, kernels: Shape, groups: int) -> None:
    """Ranks, maps and groups that fit together, or BadArgument."""
    if len(shape) not in (3, 4, 5):
        fits = "(N, C, L), (N, C, H, W) or (N, C, D, H, W)"
        raise bad_argument("x.shape", shape, why=f"it has {len(shape)} axes", fits=fits)
    if len(kernels) != len(shape):
        why = f"x {shape} has {len(shape) - 2} spatial dimensions, the weight {len(kernels) - 2}"
        fits = f"a weight (O, {shape[1]}, {', '.join(['k'] * (len(shape) - 2))})"
        raise bad_argument("weight.shape", kernels, why=why, fits=fits)
    channels, outputs = shape[1], kernels[0]
    if groups < 1 or channels % groups or outputs % groups:
        common = [g for g in range(1, min(channels, outputs) + 1) if not channels % g and not outputs % g]
        why = f"it must divide the {channels} input and the {outputs} output maps"
        raise bad_argument("groups", groups, why=why, fits=f"groups={_listed(common)}")
    if kernels[1] * groups != channels:
        why = f"each kernel sees {kernels[1]} maps in each of {groups} groups, and x has {channels}"
        fits = f"a weight ({outputs}, {channels // groups}, ...)"
        raise bad_argument("weight.shape", kernels, why=why, fits=fits)


def choose(name: str, x: Tensor, weight: Tensor, window: Window) -> Algorithm:
    """The algorithm of a name; for "auto" the fastest for each pass that autograd will need."""
    if name == "auto":
        gradients = torch.is_grad_enabled()
        return fastest(
            x, weight, window, PASSES_OF[gradients and x.requires_grad, gradients and weight.requires_grad]
        )
    one_of("algorithm", name, ALGORITHMS)
    check_applies(name, window)
    return algorithm(name)


class _Convolution(torch.autograd.Function):
    """Forward and both gradients by the functions of an algorithm; autograd only passes them on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, window: Window, chosen: Algorithm) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.window, ctx.chosen = window, chosen
        return chosen.forward(x, weight, window)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        if wants_x and wants_weight and ctx.chosen.library_gradients:
            return *library.gradients(x, dy, weight, ctx.window, tuple(x.shape[2:])), None, None
        dx = ctx.chosen.input_gradient(dy, weight, ctx.window, tuple(x.shape[2:])) if wants_x else None
        dw = ctx.chosen.weight_gradient(x, dy, ctx.window) if wants_weight else None
        return dx, dw, None, None


def _under_autocast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast a convolution takes the lower type, as torch's own does."""
    kind = x.device.type
    if kind == "meta" or x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return x, weight
    lower = torch.get_autocast_dtype(kind)
    return x.to(lower), weight.to(lower)


def _check_bias(bias: Tensor, outputs: int) -> None:
    if tuple(bias.shape) != (outputs,):
        why = f"there is one for each of {outputs} output maps"
        raise bad_argument("bias.shape", tuple(bias.shape), why=why, fits=f"a tensor ({outputs},)")


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _listed(numbers: list[int]) -> str:
    """1, 2, 4 or 8; the middle of a long list is left out."""
    shown = [str(n) for n in (numbers if len(numbers) <= 6 else [*numbers[:4], *numbers[-2:]])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
