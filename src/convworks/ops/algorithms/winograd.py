"""Winograd's minimal filtering F(m, 3): m outputs of a 3-tap kernel with m + 2 multiplications, not 3 m.

    Y = A^T [ (G g) * (B^T d) ]     for each tile d of m + 2 cells; in two dimensions A^T [ ... ] A, and so on

In two dimensions F(2x2, 3x3) takes 16 multiplications for each tile where the definition takes 36 (2.25 times
fewer), F(4x4, 3x3) 36 where it takes 144. The products are summed over the channels before the way back, so
that only one transform for each map is left. Kernels of 3 taps, stride 1, no dilation.
Source: lectures, "implementation tricks: Winograd"; Winograd, "Arithmetic complexity of computations", 1980;
Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016, sections 4.1 and 4.2.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from convworks.ops.algorithms import tiles
from convworks.ops.algorithms.window import Window, wide

TAPS = 3
# Interpolation points of the polynomials besides infinity: small ones, so that little is lost to rounding.
POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}


class Matrices(NamedTuple):
    """A^T (m, m + 2), G (m + 2, 3) and B^T (m + 2, m + 2) of F(m, 3)."""

    output: list[list[Fraction]]
    kernel: list[list[Fraction]]
    input: list[list[Fraction]]


@cache
def matrices(m: int) -> Matrices:
    """The exact matrices of F(m, 3) by the construction of Toom and Cook at the points of `POINTS`.

    The transposed polynomial product: a row of B^T has the coefficients of the product of (x - q) over the
    other points q, divided in G by its value at the own point; the last row belongs to infinity.
    """
    points = [Fraction(p) for p in POINTS[m]]
    n = m + TAPS - 1
    own = [_product_of_roots([q for q in points if q != p]) for p in points]
    scale = [sum(c * p**k for k, c in enumerate(row)) for p, row in zip(points, own, strict=True)]
    output = [[p**k for p in points] + [Fraction(int(k == m - 1))] for k in range(m)]
    kernel = [[p**k / s for k in range(TAPS)] for p, s in zip(points, scale, strict=True)]
    kernel.append([Fraction(int(k == TAPS - 1)) for k in range(TAPS)])
    rows = [row + [Fraction(0)] * (n - len(row)) for row in own]
    return Matrices(output, kernel, [*rows, _product_of_roots(points)])


def _product_of_roots(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of the product of (x - root), the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(-root * c for c in coefficients), Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def multiplications(m: int, rank: int = 2) -> tuple[int, int]:
    """Multiplications for one tile of m^rank outputs and one channel: (Winograd's, the definition's)."""
    return (m + TAPS - 1) ** rank, (m * TAPS) ** rank


def applies(window: Window) -> bool:
    """Whether the window is one that the algorithm can compute."""
    ones = (1,) * window.rank
    return window.kernel == (TAPS,) * window.rank and window.stride == ones and window.dilation == ones


def forward(x: Tensor, weight: Tensor, window: Window, m: int = 2) -> Tensor:
    """x (N, C, *size), weight (O, C/G, 3, ...) -> (N, O, *output) by F(m, 3) in each dimension."""
    plan = _Plan(window, tuple(x.shape[2:]), m, x)
    products = plan.of_input(x) @ plan.of_kernel(weight)  # (D, G, N T, O/G)
    parts = tiles.from_domain(products, x.shape[0]) @ plan.output.T  # (N, O, T, m^rank)
    parts = parts.reshape(*parts.shape[:2], *plan.count, *plan.step)
    return tiles.join(parts, output=plan.size).to(x.dtype)


def input_gradient(dy: Tensor, weight: Tensor, window: Window, size: tuple[int, ...], m: int = 2) -> Tensor:
    """dC/dx (N, C, *size): the same three linear steps, transposed and in reverse."""
    plan = _Plan(window, size, m, dy)
    back = plan.of_errors(dy) @ plan.of_kernel(weight).transpose(2, 3)  # (D, G, N T, C/G)
    parts = tiles.from_domain(back, dy.shape[0]) @ plan.input  # (N, C, T, cells)
    parts = parts.reshape(*parts.shape[:2], *plan.count, *plan.side)
    return window.crop(tiles.overlap_add(parts, step=plan.step, padded=window.padded(size))).to(dy.dtype)


def weight_gradient(x: Tensor, dy: Tensor, window: Window, m: int = 2) -> Tensor:
    """dC/dw (O, C/G, 3, ...): products of both transforms, summed over tiles, and G transposed."""
    plan = _Plan(window, tuple(x.shape[2:]), m, x)
    products = plan.of_input(x).transpose(2, 3) @ plan.of_errors(dy)  # (D, G, C/G, O/G)
    gradient = tiles.kernels_from_domain(products) @ plan.kernel
    return gradient.reshape(dy.shape[1], x.shape[1] // window.groups, *window.kernel).to(x.dtype)


class _Plan:
    """Tiles of an input of `size` and the matrices of all dimensions together (Kronecker products)."""

    def __init__(self, window: Window, size: tuple[int, ...], m: int, like: Tensor) -> None:
        self.window, self.size = window, window.output(size)
        self.step, self.side = (m,) * window.rank, (m + TAPS - 1,) * window.rank
        self.count = tiles.counts(self.size, self.step)
        self.output, self.kernel, self.input = (
            _kronecker(matrix, window.rank, like) for matrix in matrices(m)
        )
        self.dtype = self.input.dtype

    def of_input(self, x: Tensor) -> Tensor:
        """B^T d for every tile: (D, G, N T, C/G)."""
        padded = self.window.pad(x.to(self.dtype))
        parts = tiles.cut(padded, side=self.side, step=self.step, tiles=self.count)
        rank = self.window.rank
        parts = parts.flatten(2 + rank).flatten(2, 1 + rank)  # (N, C, T, cells)
        return tiles.to_domain(parts @ self.input.T, self.window.groups)

    def of_kernel(self, weight: Tensor) -> Tensor:
        """G g for every kernel: (D, G, C/G, O/G)."""
        flat = weight.to(self.dtype).flatten(2)
        return tiles.kernels_to_domain(flat @ self.kernel.T, self.window.groups)

    def of_errors(self, dy: Tensor) -> Tensor:
        """A dy for every tile: (D, G, N T, O/G)."""
        parts = tiles.blocks(dy.to(self.dtype), step=self.step, tiles=self.count)
        rank = self.window.rank
        parts = parts.flatten(2 + rank).flatten(2, 1 + rank)  # (N, O, T, m^rank)
        return tiles.to_domain(parts @ self.output, self.window.groups)


def _kronecker(matrix: list[list[Fraction]], rank: int, like: Tensor) -> Tensor:
    one = torch.tensor([[float(v) for v in row] for row in matrix], dtype=torch.float64)
    whole = one
    for _ in range(rank - 1):
        whole = torch.kron(whole, one)
    return whole.to(device=like.device, dtype=wide(like.dtype))
