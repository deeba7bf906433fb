"""The windows of a pooling: where they lie in the padded input, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from convworks.ops.arguments import Sizes, bad_argument, per_dimension
from convworks.ops.shape import Padding, pooled_size, resolve_padding

Place = tuple[EllipsisType | slice, ...]


@dataclass(frozen=True, slots=True)
class PoolWindow:
    """One entry for each spatial dimension. `overhang` is what ceil mode adds after the padding."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    overhang: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def cells(self) -> int:
        """How many cells a window has."""
        return math.prod(self.kernel)

    def pad(self, x: Tensor, *, value: float = 0.0) -> Tensor:
        """x with padding and overhang around its spatial dimensions."""
        sides = []
        for (before, after), over in zip(reversed(self.padding), reversed(self.overhang), strict=True):
            sides += [before, after + over]  # F.pad begins with the last dimension
        return F.pad(x, sides, value=value) if any(sides) else x

    def crop(self, padded: Tensor) -> Tensor:
        """The inverse of `pad`: the cells of the input."""
        inside = zip(self.padding, self.size, strict=True)
        place: Place = (..., *(slice(before, before + n) for (before, _), n in inside))
        return padded[place]

    def places(self) -> Iterator[tuple[tuple[int, ...], Place]]:
        """Each cell of a window in row-major order, with the slice of the padded input that holds it."""
        reach = [s * (n - 1) + 1 for s, n in zip(self.stride, self.output, strict=True)]
        for cell in product(*(range(k) for k in self.kernel)):
            rows = zip(cell, reach, self.stride, strict=True)
            yield cell, (..., *(slice(start, start + length, step) for start, length, step in rows))

    def canvas(self, gradient: Tensor) -> Tensor:
        """Zeros of the padded size, for the leading dimensions and type of `gradient`."""
        edges = zip(self.size, self.padding, self.overhang, strict=True)
        padded = [n + sum(pair) + over for n, pair, over in edges]
        return gradient.new_zeros(*gradient.shape[: -len(self.size)], *padded)

    def divisors(self, *, count_padding: bool, like: Tensor) -> Tensor:
        """(output...) how many cells each mean divides by: the overhang never counts, padding if asked."""
        counted = torch.ones(self.size, dtype=like.dtype, device=like.device)
        sides = [edge for pair in reversed(self.padding) for edge in pair]
        counted = F.pad(counted, sides, value=1.0 if count_padding else 0.0)
        over = [edge for extra in reversed(self.overhang) for edge in (0, extra)]
        counted = F.pad(counted, over)
        total = torch.zeros(self.output, dtype=like.dtype, device=like.device)
        for _, place in self.places():
            total += counted[place]
        return total


def pool_window(
    size: tuple[int, ...],
    kernel: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil: bool = False,
) -> PoolWindow:
    """The windows over maps of that size; the stride is the kernel's size where it is None.

    The output is floor((N - F + padding) / S) + 1, so that a rest of the input is left out (lectures,
    pooling). With `ceil` it is rounded up and the last window hangs over the edge, unless it would begin
    there: Caffe's and torch's rule. Raises BadArgument where a kernel is larger than the padded input, and
    for padding of a whole kernel, where a window would see no cell of the input.
    """
    rank = len(size)
    if rank not in (1, 2, 3):
        fits = "(N, C, L), (N, C, H, W) or (N, C, D, H, W)"
        raise bad_argument("x.ndim", rank + 2, why="pooling is 1-D to 3-D", fits=fits)
    kernels = per_dimension("kernel_size", kernel, rank)
    strides = kernels if stride is None else per_dimension("stride", stride, rank)
    pairs = resolve_padding(padding, size=size, kernel=kernels, stride=strides)
    if any(max(pair) >= k for pair, k in zip(pairs, kernels, strict=True)):
        why = f"a window of {kernels} could see padding alone"
        raise bad_argument("padding", padding, why=why, fits=f"padding={min(kernels) // 2} or less")
    output = pooled_size(size, kernels, stride=strides, padding=pairs, ceil_mode=ceil)
    reached = ((n - 1) * s + f for n, s, f in zip(output, strides, kernels, strict=True))
    overhang = tuple(max(0, end - n - sum(pair)) for end, n, pair in zip(reached, size, pairs, strict=True))
    return PoolWindow(size, kernels, strides, pairs, overhang, output)
