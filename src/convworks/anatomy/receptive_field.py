"""Which cells of the input a unit of a layer sees: the receptive field, exact through any network.

A unit at position p of a map sees the cells from first + p jump to last + p jump, so its field has the size
last - first + 1. A window of k taps with stride s, padding a and dilation d makes of that

    first' = first - a jump      last' = last + ((k - 1) d - a) jump      jump' = s jump

(lectures, "receptive field": r += (k - 1) d j). Where branches meet, the field reaches from the smallest
first to the largest last of all paths. The pass follows the operators that torch runs, not the modules, so
that shortcuts, concatenations, slices and functional code count too. Source: Araujo, Norris, Sim, "Computing
receptive fields of convolutional neural networks", Distill, 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Field:
    """The receptive field along one dimension of the input, for the unit at position 0.

    `axis` is the axis of the tensor that runs along this dimension; None where one unit sees what all
    positions saw, as after flattening.
    """

    first: Fraction
    last: Fraction
    jump: Fraction
    axis: int | None

    @property
    def size(self) -> int:
        return int(self.last - self.first) + 1

    @property
    def centre(self) -> float:
        """Of the unit at position 0, in cells of the input; 0 is the middle of the first cell."""
        return float(self.first + self.last) / 2

    def window(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> Field:
        reach = (kernel - 1) * dilation
        return Field(
            self.first - padding * self.jump,
            self.last + (reach - padding) * self.jump,
            self.jump * stride,
            self.axis,
        )

    def moved(self, cells: int, step: int = 1) -> Field:
        """Position 0 is where `cells` was, and neighbours are `step` apart."""
        return Field(
            self.first + cells * self.jump, self.last + cells * self.jump, self.jump * step, self.axis
        )

    def merged(self, positions: int) -> Field:
        """One unit sees what `positions` of them saw."""
        return Field(self.first, self.last + (positions - 1) * self.jump, self.jump, None)


Fields = tuple[Field, ...]


def union(many: Sequence[Fields]) -> Fields:
    """From the smallest first to the largest last, dimension by dimension."""
    found = []
    for rows in zip(*many, strict=True):
        axis = rows[0].axis if all(row.axis == rows[0].axis for row in rows) else None
        found.append(
            Field(min(r.first for r in rows), max(r.last for r in rows), max(r.jump for r in rows), axis)
        )
    return tuple(found)


# --- rules: (fields of the first source, arguments of the operator, that source, its output) -> fields ------


def _pick(values: Any, place: int, default: int) -> int:
    """One of a list that may be a single number for all dimensions, or empty."""
    if isinstance(values, int):
        return values
    values = list(values)
    return int(values[place] if place < len(values) else values[0]) if values else default


def _windows(
    fields: Fields, source: Tensor, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> Fields:
    """A window over the last `rank` axes."""
    found = []
    for field in fields:
        place = -1 if field.axis is None else field.axis - (source.dim() - rank)
        if place < 0:
            found.append(field)
            continue
        size = _pick(kernel, place, 1)
        found.append(
            field.window(
                size, _pick(stride, place, size), _pick(padding, place, 0), _pick(dilation, place, 1)
            )
        )
    return tuple(found)


def _convolution(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    weight, (stride, padding, dilation, transposed) = args[1], args[3:7]
    kernel = tuple(weight.shape[2:])
    if not transposed:
        return _windows(fields, source, len(kernel), kernel, stride, padding, dilation)
    found = []
    for field in fields:
        place = -1 if field.axis is None else field.axis - (source.dim() - len(kernel))
        if place < 0:
            found.append(field)
            continue
        s, p, d = (_pick(each, place, 1) for each in (stride, padding, dilation))
        # output o sees the inputs i with o = i s - p + t d for a tap t
        low, high = Fraction(p - (kernel[place] - 1) * d, s), Fraction(p, s)
        first, last = field.first + low * field.jump, field.last + high * field.jump
        found.append(Field(first, last, field.jump / s, field.axis))
    return tuple(found)


def _pooling(rank: int, *, dilated: bool) -> Callable[..., Fields]:
    """(x, kernel, stride, padding, dilation or ceil mode, ...) over `rank` axes."""

    def rule(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
        kernel, stride, padding, dilation = (*args[1:], *((), 0, 1)[len(args) - 2 :])[:4]
        stride = stride if stride != [] else kernel
        return _windows(fields, source, rank, kernel, stride, padding, dilation if dilated else 1)

    return rule


def _adaptive(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    """Adaptive pooling: m of n positions; each sees ceil(n / m), or one more where m does not divide n."""
    found = []
    for field in fields:
        if field.axis is None:
            found.append(field)
            continue
        n, m = source.shape[field.axis], output.shape[field.axis]
        if m == 1:
            found.append(replace(field.merged(n), axis=field.axis))
        else:
            kernel = -(-n // m) + (1 if n % m else 0)
            found.append(field.window(kernel, 1, 0).moved(0))
            found[-1] = replace(found[-1], jump=field.jump * Fraction(n, m))
    return tuple(found)


def _reduction(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    """Mean, sum or largest over some axes, kept or not."""
    dims = args[1] if len(args) > 1 and args[1] is not None else range(source.dim())
    gone = {d % source.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    kept = output.dim() == source.dim()
    found = []
    for field in fields:
        if field.axis is not None and field.axis in gone:
            merged = field.merged(source.shape[field.axis])
            found.append(replace(merged, axis=field.axis) if kept else merged)
        elif field.axis is None or kept:
            found.append(field)
        else:
            found.append(replace(field, axis=field.axis - sum(d < field.axis for d in gone)))
    return tuple(found)


def _view(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    """An axis goes on where one of its length has as many numbers behind it; else its positions merge."""

    def behind(tensor: Tensor, axis: int) -> int:
        return int(torch.Size(tensor.shape[axis + 1 :]).numel())

    found = []
    for field in fields:
        if field.axis is None:
            found.append(field)
            continue
        length, rest = source.shape[field.axis], behind(source, field.axis)
        places = [a for a in range(output.dim()) if output.shape[a] == length and behind(output, a) == rest]
        found.append(replace(field, axis=places[-1]) if places else field.merged(length))
    return tuple(found)


def _permute(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    if isinstance(args[1], int):  # transpose(x, a, b)
        order = list(range(source.dim()))
        a, b = (each % source.dim() for each in args[1:3])
        order[a], order[b] = order[b], order[a]
    else:
        order = [each % source.dim() for each in args[1]]
    return tuple(f if f.axis is None else replace(f, axis=order.index(f.axis)) for f in fields)


def _slice(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    dim, start, _, step = (*args[1:], *(0, None, None, 1)[len(args) - 1 :])[:4]
    dim, length = dim % source.dim(), source.shape[dim]
    begin = 0 if start is None else (start + length if start < 0 else min(start, length))
    return tuple(f.moved(begin, step) if f.axis == dim else f for f in fields)


def _select(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    dim = args[1] % source.dim()
    found = []
    for field in fields:
        if field.axis == dim:
            found.append(replace(field.moved(args[2] % source.shape[dim]), axis=None))
        elif field.axis is not None and field.axis > dim:
            found.append(replace(field, axis=field.axis - 1))
        else:
            found.append(field)
    return tuple(found)


def _pad(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    """F.pad: cells before and after, the last axis first."""
    found = []
    for field in fields:
        place = None if field.axis is None else 2 * (source.dim() - 1 - field.axis)
        inside = place is not None and place < len(args[1])
        found.append(field.moved(-args[1][place]) if inside else field)
    return tuple(found)


def _unsqueeze(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    dim = args[1] % output.dim()
    return tuple(replace(f, axis=f.axis + 1) if f.axis is not None and f.axis >= dim else f for f in fields)


def _upsample(fields: Fields, args: tuple[Any, ...], source: Tensor, output: Tensor) -> Fields:
    found = []
    for field in fields:
        if field.axis is None:
            found.append(field)
        else:
            scale = Fraction(source.shape[field.axis], output.shape[field.axis])
            found.append(replace(field, jump=field.jump * scale))
    return tuple(found)


RULES: dict[str, Callable[..., Fields]] = {
    "convolution": _convolution,
    "max_pool1d_with_indices": _pooling(1, dilated=True),
    "max_pool2d_with_indices": _pooling(2, dilated=True),
    "max_pool3d_with_indices": _pooling(3, dilated=True),
    "avg_pool1d": _pooling(1, dilated=False),
    "avg_pool2d": _pooling(2, dilated=False),
    "avg_pool3d": _pooling(3, dilated=False),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d"), _adaptive),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive),
    **dict.fromkeys(("mean", "sum", "amax", "max", "argmax"), _reduction),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze", "flatten", "_reshape_alias"), _view),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    "slice": _slice,
    "select": _select,
    "constant_pad_nd": _pad,
    "unsqueeze": _unsqueeze,
    **dict.fromkeys(("upsample_nearest2d", "upsample_nearest1d"), _upsample),
}
# Operators that mix all positions, so that merging them is exact.
MERGING = frozenset({"addmm", "mm", "bmm", "baddbmm", "linear", "matmul"})
