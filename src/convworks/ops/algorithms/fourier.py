"""Convolution in the frequency domain: a product there is a circular convolution here.

    y = F^-1 [ F(x) conj(F(w)) ]     summed over the channels before the way back (cross-correlation)

The image is cut into overlapping tiles, so that the transforms of the kernels stay small; the channels are
summed by one complex matrix product for each frequency. The cost hardly depends on the size of the kernel:
this is the algorithm for large ones. A stride is taken from the result at stride 1, a dilated kernel is
spread with zeros. Computes in float32, or float64 for float64.
Source: lectures, "implementation tricks: FFT"; Mathieu, Henaff, LeCun, "Fast training of convolutional
networks through FFTs", 2014; Oppenheim and Schafer, "Discrete-time signal processing", overlap-save.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from convworks.ops.algorithms import tiles
from convworks.ops.algorithms.window import Window, last, wide

Sides = tuple[int, ...]

# What one number costs relative to one multiply-add of a matrix product: the transforms with their change of
# layout about 200 multiply-adds, measured; a complex product is four real ones on half of the numbers.
_TRANSFORM, _PRODUCT = 200.0, 2.0


def forward(x: Tensor, weight: Tensor, window: Window, side: Sides | None = None) -> Tensor:
    """x (N, C, *size), weight (O, C/G, *kernel) -> (N, O, *output). `side`: cells of a tile."""
    plan = _Plan(window, tuple(x.shape[2:]), side or best_sides(x.shape, weight.shape, window)[0])
    products = plan.of_input(x) @ plan.of_kernel(weight).conj()  # (D, G, N T, O/G)
    parts = plan.back(tiles.from_domain(products, x.shape[0]), plan.step)
    whole = tiles.join(parts, output=plan.size)
    return whole[last(slice(None, None, s) for s in window.stride)].contiguous().to(x.dtype)


def input_gradient(
    dy: Tensor, weight: Tensor, window: Window, size: Sides, side: Sides | None = None
) -> Tensor:
    """dC/dx (N, C, *size): errors times F(w), not conjugated, the overlaps of the tiles added."""
    shape = (dy.shape[0], weight.shape[1] * window.groups, *size)
    plan = _Plan(window, size, side or best_sides(shape, weight.shape, window)[0])
    back = plan.of_errors(dy) @ plan.of_kernel(weight).transpose(2, 3)  # (D, G, N T, C/G)
    parts = plan.back(tiles.from_domain(back, dy.shape[0]), plan.side)
    return window.crop(tiles.overlap_add(parts, step=plan.step, padded=window.padded(size))).to(dy.dtype)


def weight_gradient(x: Tensor, dy: Tensor, window: Window, side: Sides | None = None) -> Tensor:
    """dC/dw (O, C/G, *kernel): F(x) times conj(F(errors)), summed over the tiles of all images."""
    shape = (dy.shape[1], x.shape[1] // window.groups, *window.kernel)
    plan = _Plan(window, tuple(x.shape[2:]), side or best_sides(x.shape, shape, window)[0])
    products = plan.of_input(x).transpose(2, 3) @ plan.of_errors(dy).conj()  # (D, G, C/G, O/G)
    spectra = tiles.kernels_from_domain(products)
    spread: Tensor = torch.fft.irfftn(spectra.reshape(*shape[:2], *plan.bins), s=plan.side)
    taps = tuple(slice(0, e, d) for e, d in zip(window.span, window.dilation, strict=True))
    return spread[last(taps)].contiguous().to(x.dtype)


def best_sides(shape: Sides, kernels: Sides, window: Window) -> list[Sides]:
    """The tiles worth trying for an input (N, C, *size) and a weight (O, C/G, *kernel), the best first.

    By a count of transformed numbers and multiply-adds. A tile must be larger than the kernel's span, and
    larger than the whole padded input it need not be.
    """
    reach = _unstrided(window, shape[2:])
    choices = []
    for e, n in zip(window.span, reach, strict=True):
        largest = _round(n + e - 1)
        sizes = {_round(e - 1 + max(1, -(-n // parts))) for parts in range(1, 9)}
        choices.append(sorted(size for size in sizes if size <= largest))
    costs = {side: cost(side, shape, kernels, window) for side in itertools.product(*choices)}
    return sorted(costs, key=lambda side: costs[side])


def extra_bytes(shape: Sides, kernels: Sides, window: Window, side: Sides, itemsize: int = 4) -> int:
    """Bytes of the three sets of transforms: inputs, kernels, products; complex, half of each is stored."""
    size = _unstrided(window, shape[2:])
    count = math.prod(tiles.counts(size, tuple(a - e + 1 for a, e in zip(side, window.span, strict=True))))
    numbers = shape[0] * count * (shape[1] + kernels[0]) + kernels[0] * kernels[1]
    return numbers * math.prod(side[:-1]) * (side[-1] // 2 + 1) * 2 * itemsize


def cost(side: Sides, shape: Sides, kernels: Sides, window: Window) -> float:
    """Multiply-adds, and transformed numbers as the multiply-adds that take as long."""
    reach = _unstrided(window, shape[2:])
    step = tuple(a - e + 1 for a, e in zip(side, window.span, strict=True))
    images = shape[0] * math.prod(tiles.counts(reach, step))
    maps, (o, c) = shape[1], kernels[:2]
    transformed = images * (maps + o) + o * c
    return math.prod(side) * (_TRANSFORM * transformed + _PRODUCT * images * o * c)


def _unstrided(window: Window, size: Sides) -> Sides:
    """The output at stride 1, up to the last position that the stride keeps."""
    return tuple((n - 1) * s + 1 for n, s in zip(window.output(size), window.stride, strict=True))


def _round(size: int) -> int:
    """The next length with no factor above 7, for which the transform is fast; even ones only."""
    size += size % 2
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


class _Plan:
    """Tiles of `side` cells over an input of `size`."""

    def __init__(self, window: Window, size: Sides, side: Sides) -> None:
        self.window, self.side = window, side
        self.size = _unstrided(window, size)
        self.step = tuple(a - e + 1 for a, e in zip(side, window.span, strict=True))
        self.count = tiles.counts(self.size, self.step)
        self.bins = (*side[:-1], side[-1] // 2 + 1)  # of a transform of real numbers

    def of_input(self, x: Tensor) -> Tensor:
        """F(x) for every tile: (D, G, N T, C/G), complex."""
        padded = self.window.pad(x.to(wide(x.dtype)))
        return self._transform(tiles.cut(padded, side=self.side, step=self.step, tiles=self.count))

    def of_errors(self, dy: Tensor) -> Tensor:
        """F(dy) for every tile, zeros between strides and after the tile's outputs: (D, G, N T, O/G)."""
        errors = _spread(dy.to(wide(dy.dtype)), self.window.stride)
        return self._transform(tiles.blocks(errors, step=self.step, tiles=self.count))

    def of_kernel(self, weight: Tensor) -> Tensor:
        """F(w) for every kernel, spread by the dilation: (D, G, C/G, O/G)."""
        spread = _spread(weight.to(wide(weight.dtype)), self.window.dilation)
        spectra = torch.fft.rfftn(spread, s=self.side, dim=self._last())
        return tiles.kernels_to_domain(spectra.flatten(2), self.window.groups)

    def back(self, spectra: Tensor, kept: Sides) -> Tensor:
        """(N, O, T, D) -> (N, O, *tiles, *kept), the first `kept` cells of each tile."""
        parts: Tensor = torch.fft.irfftn(
            spectra.reshape(*spectra.shape[:2], *self.count, *self.bins), s=self.side, dim=self._last()
        )
        return parts[last(slice(0, n) for n in kept)]

    def _transform(self, parts: Tensor) -> Tensor:
        rank = self.window.rank
        spectra = torch.fft.rfftn(parts, s=self.side, dim=self._last())
        return tiles.to_domain(spectra.flatten(2 + rank).flatten(2, 1 + rank), self.window.groups)

    def _last(self) -> Sides:
        return tuple(range(-self.window.rank, 0))


def _spread(x: Tensor, factors: Sides) -> Tensor:
    """Zeros between neighbours: (..., n) -> (..., (n - 1) f + 1) in each of the last dimensions."""
    if all(f == 1 for f in factors):
        return x
    sizes = tuple((n - 1) * f + 1 for n, f in zip(x.shape[2:], factors, strict=True))
    wider = x.new_zeros(*x.shape[:2], *sizes)
    wider[last(slice(None, None, f) for f in factors)] = x
    return wider
