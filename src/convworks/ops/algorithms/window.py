"""The sliding window of a convolution: kernel, stride, padding, dilation and groups as plain numbers.

Letters: N batch, C input maps, O output maps, G groups, K taps of a kernel, P positions of the output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import EllipsisType
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Index: TypeAlias = tuple[slice | int | EllipsisType, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """One entry for each spatial dimension; `padding` has (cells before, cells after)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    rank: int = field(init=False, compare=False, repr=False)
    even: tuple[int, ...] | None = field(init=False, compare=False, repr=False)  # padding alike on both sides
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """What every call needs, computed once: convolutions can be shorter than a few microseconds."""
        alike = all(before == after >= 0 for before, after in self.padding)
        parts = (self.kernel, self.stride, self.padding, self.dilation, self.groups)
        object.__setattr__(self, "rank", len(self.kernel))
        object.__setattr__(self, "even", tuple(before for before, _ in self.padding) if alike else None)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        return self._hash

    @property
    def span(self) -> tuple[int, ...]:
        """Cells from the first to the last tap: dilation (kernel - 1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def padded(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n + before + after for n, (before, after) in zip(size, self.padding, strict=True))

    def output(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """floor((N + padding - span) / stride) + 1 in each dimension."""
        sides = zip(self.padded(size), self.span, self.stride, strict=True)
        return tuple((n - e) // s + 1 for n, e, s in sides)

    def positions(self) -> Iterator[tuple[int, ...]]:
        """The taps of the kernel, in row-major order."""
        return itertools.product(*(range(k) for k in self.kernel))

    def pad(self, x: Tensor) -> Tensor:
        """Zeros around x (N, C, *size); the same tensor where there are none to add."""
        if not any(before or after for before, after in self.padding):
            return x
        return F.pad(x, [cells for pair in reversed(self.padding) for cells in pair])

    def crop(self, padded: Tensor) -> Tensor:
        """The inside of a padded (N, C, *padded): the adjoint of `pad`, which is also its inverse."""
        if not any(before or after for before, after in self.padding):
            return padded
        return F.pad(padded, [-cells for pair in reversed(self.padding) for cells in pair])

    def seen_by(self, tap: tuple[int, ...], padded: Tensor, output: tuple[int, ...]) -> Tensor:
        """The cells that one tap meets while the window slides: a strided view (N, C, *output)."""
        for dim, (t, d, s, n) in enumerate(
            zip(tap, self.dilation, self.stride, output, strict=True), start=2
        ):
            padded = padded[(slice(None),) * dim + (slice(t * d, t * d + (n - 1) * s + 1, s),)]
        return padded

    def useful(self, size: tuple[int, ...]) -> tuple[slice, ...]:
        """The taps that meet the input at least once; the others only ever meet padding.

        With N = 7 and 15 cells of padding, 13 of the 31 taps of a kernel are useful.
        """
        found = []
        output = self.output(size)
        for n, k, s, (before, _), d, m in zip(
            size, self.kernel, self.stride, self.padding, self.dilation, output, strict=True
        ):
            # tap t meets the cells t d - before + p s, p = 0 .. m - 1
            meets = [
                t
                for t in range(k)
                if any(0 <= t * d - before + p * s < n for p in _near(t * d - before, s, m))
            ]
            found.append(slice(meets[0], meets[-1] + 1) if meets else slice(0, k))
        return tuple(found)

    def trimmed(self, size: tuple[int, ...]) -> tuple[Window, tuple[slice, ...]]:
        """The window with its useful taps alone, and which those are. The outputs are the same.

        Where cells of the input would have to be cut off as well, the window stays as it is.
        """
        taps = self.useful(size)
        padding = tuple(
            (
                before - cut.start * d,
                (m - 1) * s + d * (cut.stop - cut.start - 1) + 1 - n - before + cut.start * d,
            )
            for n, (before, _), cut, d, s, m in zip(
                size, self.padding, taps, self.dilation, self.stride, self.output(size), strict=True
            )
        )
        if any(cells < 0 for pair in padding for cells in pair):
            return self, tuple(slice(0, k) for k in self.kernel)
        kernel = tuple(cut.stop - cut.start for cut in taps)
        return Window(kernel, self.stride, padding, self.dilation, self.groups), taps


def _near(offset: int, stride: int, count: int) -> tuple[int, ...]:
    """The positions p at which offset + p stride can first be inside: the first, and those around zero."""
    p = -offset // stride
    return tuple({min(max(q, 0), count - 1) for q in (0, p, p + 1, count - 1)})


def last(index: Iterable[slice | int]) -> Index:
    """An index of the last axes: x[last((1, 2))] is x[..., 1, 2]."""
    return (..., *index)


def maps(index: Iterable[slice | int]) -> Index:
    """An index of the axes after batch and maps: x[maps((1, 2))] is x[:, :, 1, 2]."""
    return (slice(None), slice(None), *index)


def split_groups(x: Tensor, groups: int) -> Tensor:
    """(N, C, ...) as (N, G, C/G, ...)."""
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:])


def group_kernels(weight: Tensor, groups: int) -> Tensor:
    """(O, C/G, *K) as (G, O/G, C/G, *K)."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are kept in: float32 for bfloat16 and float16."""
    return torch.promote_types(dtype, torch.float32)


def numel(sizes: tuple[int, ...]) -> int:
    return math.prod(sizes)
