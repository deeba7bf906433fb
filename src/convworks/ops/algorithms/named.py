"""The algorithms by name: `direct`, `lowering`, `fft`, `winograd`, `winograd4` and torch's own, `library`.

Names with more in them are those that `auto` measures: "fft 48x48" is one size of tiles, "channels_last" is
torch's own in the other memory format, and "trimmed ..." leaves out the taps that only ever meet padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias

import torch
from torch import Tensor

from convworks.ops.algorithms import direct, fourier, library, lowering, winograd
from convworks.ops.algorithms.window import Window, last
from convworks.ops.arguments import bad_argument, one_of

Sides: TypeAlias = tuple[int, ...]
Forward: TypeAlias = Callable[[Tensor, Tensor, Window], Tensor]
InputGradient: TypeAlias = Callable[[Tensor, Tensor, Window, Sides], Tensor]
WeightGradient: TypeAlias = Callable[[Tensor, Tensor, Window], Tensor]

NAMES = ("library", "auto", "direct", "lowering", "fft", "winograd", "winograd4")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The three passes of one algorithm, or of the fastest for each."""

    name: str
    forward: Forward
    input_gradient: InputGradient
    weight_gradient: WeightGradient

    @property
    def library_gradients(self) -> bool:
        """Whether both gradients are torch's own, so that one call computes them together."""
        ours = (self.input_gradient, self.weight_gradient)
        return ours == (library.input_gradient, library.weight_gradient)


@cache
def algorithm(name: str) -> Algorithm:
    """The algorithm of a name. Raises BadArgument for a name that is none."""
    if name.startswith("trimmed "):
        return _trimmed(algorithm(name.removeprefix("trimmed ")))
    if name.startswith("fft "):
        side = tuple(int(n) for n in name.removeprefix("fft ").split("x"))
        return _with_option(name, fourier, side=side)
    if name == "channels_last":
        return Algorithm(name, _last_forward, _last_input_gradient, _last_weight_gradient)
    known = {
        "library": Algorithm(name, library.forward, library.input_gradient, library.weight_gradient),
        "direct": Algorithm(name, direct.forward, direct.input_gradient, direct.weight_gradient),
        "lowering": Algorithm(name, lowering.forward, lowering.input_gradient, lowering.weight_gradient),
        "fft": Algorithm(name, fourier.forward, fourier.input_gradient, fourier.weight_gradient),
        "winograd": _with_option(name, winograd, m=2),
        "winograd4": _with_option(name, winograd, m=4),
    }
    return known[one_of("algorithm", name, known)]


def check_applies(name: str, window: Window) -> None:
    """Raises BadArgument where an algorithm cannot compute such a window."""
    if name.startswith("winograd") and not winograd.applies(window):
        shape = f"kernel {window.kernel}, stride {window.stride}, dilation {window.dilation}"
        why = f"Winograd's algorithm needs 3 taps in each dimension, stride 1, no dilation; here {shape}"
        raise bad_argument("algorithm", name, why=why, fits="algorithm='auto', 'direct', 'lowering' or 'fft'")


def _with_option(name: str, module: object, **option: object) -> Algorithm:
    passes = (getattr(module, part) for part in ("forward", "input_gradient", "weight_gradient"))
    return Algorithm(name, *(partial(each, **option) for each in passes))


def _trimmed(base: Algorithm) -> Algorithm:
    """The same algorithm on the taps that meet the input: equal results, fewer multiply-adds."""

    def forward(x: Tensor, weight: Tensor, window: Window) -> Tensor:
        smaller, taps = window.trimmed(tuple(x.shape[2:]))
        return base.forward(x, weight[last(taps)].contiguous(), smaller)

    def input_gradient(dy: Tensor, weight: Tensor, window: Window, size: Sides) -> Tensor:
        smaller, taps = window.trimmed(size)
        return base.input_gradient(dy, weight[last(taps)].contiguous(), smaller, size)

    def weight_gradient(x: Tensor, dy: Tensor, window: Window) -> Tensor:
        smaller, taps = window.trimmed(tuple(x.shape[2:]))
        inner = base.weight_gradient(x, dy, smaller)
        whole = inner.new_zeros(*inner.shape[:2], *window.kernel)  # a tap that met nothing has no gradient
        whole[last(taps)] = inner
        return whole

    return Algorithm(f"trimmed {base.name}", forward, input_gradient, weight_gradient)


def _last(x: Tensor) -> Tensor:
    """Channels innermost in memory; the shape stays (N, C, ...)."""
    form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=form)


def _last_forward(x: Tensor, weight: Tensor, window: Window) -> Tensor:
    return library.forward(_last(x), _last(weight), window).contiguous()


def _last_input_gradient(dy: Tensor, weight: Tensor, window: Window, size: Sides) -> Tensor:
    return library.input_gradient(_last(dy), _last(weight), window, size).contiguous()


def _last_weight_gradient(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    return library.weight_gradient(_last(x), _last(dy), window).contiguous()
