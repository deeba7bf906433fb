"""What the convolutions of a training step cost when nothing else is done: the ceiling of its speed.

One step is watched for every convolution that torch computes, forward and backward. The same calls are then
repeated on tensors of the same shapes, types and layouts, without the layers between them, the loss or the
optimizer. No training step of this network can be faster on this machine with torch's convolutions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convworks.eager import EagerMode

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default


class _Watch(EagerMode):
    """Keeps the arguments of every convolution, with descriptions in place of tensors."""

    def __init__(self, whole: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []
        self._whole = whole
        self._forward: Counter[str] = Counter()  # those whose gradient has not come yet

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (_FORWARD, _BACKWARD) and self._counts(func, args):
            self.calls.append((func, tuple(_described(each) for each in args)))
        return func(*args, **(kwargs or {}))

    def _counts(self, func: Any, args: Any) -> bool:
        """Whether the call is of a convolution that torch computes as a whole, where only that counts."""
        first = 0 if func is _FORWARD else 1  # of (dy, x, weight, ...)
        x, weight, _, *window = args[first : first + 9]
        kind = f"{tuple(x.shape)} {tuple(weight.shape)} {window}"
        if func is _FORWARD:
            self._forward[kind] += 1
            return True
        self._forward[kind] -= 1
        return not self._whole or self._forward[kind] >= 0


class _Like(tuple[Any, ...]):
    """(shape, strides, type, device) of a tensor."""

    __slots__ = ()


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Like((tuple(value.shape), value.stride(), value.dtype, value.device))
    return value


def convolutions_alone(step: Callable[[], object], *, whole: bool = False) -> Callable[[], float] | None:
    """A function that makes the convolutions of one call of `step` and returns their seconds.

    None where there are none. Tensors of the same kind share their memory, so it takes less than the step.
    With `whole`, a gradient counts only where torch computed the convolution forward, too: it is not one that
    a kernel of ours has asked torch for.
    """
    with _Watch(whole) as watch:
        step()
    if not watch.calls:
        return None
    made: dict[_Like, Tensor] = {}

    def real(value: Any) -> Any:
        if not isinstance(value, _Like):
            return value
        if value not in made:
            shape, strides, kind, device = value
            made[value] = torch.empty_strided(shape, strides, dtype=kind, device=device).normal_()
        return made[value]

    calls = [(func, tuple(real(each) for each in args)) for func, args in watch.calls]

    @torch.no_grad()
    def alone() -> float:
        start = time.perf_counter()
        for func, args in calls:
            func(*args)
        if any(each.device.type == "cuda" for each in made.values()):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return alone
