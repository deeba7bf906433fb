"""Overlapping tiles of an image, for the algorithms that multiply in another domain (FFT and Winograd).

A tile of `side` cells gives `step` = side - kernel + 1 outputs in each dimension, so neighbours overlap by
kernel - 1 cells ("overlap-save"); a gradient goes back by adding the overlaps ("overlap-add").
Letters: T tiles of one image (all dimensions together), A cells of a tile, D numbers of its transform.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Sides = tuple[int, ...]


def counts(output: Sides, step: Sides) -> Sides:
    """Tiles in each dimension that cover the output."""
    return tuple(-(-n // m) for n, m in zip(output, step, strict=True))


def cut(padded: Tensor, *, side: Sides, step: Sides, tiles: Sides) -> Tensor:
    """(N, C, *padded) -> the view (N, C, *tiles, *side); cells beyond the edge are zero."""
    needed = [(t - 1) * m + a for t, m, a in zip(tiles, step, side, strict=True)]
    more = [n - have for n, have in zip(needed, padded.shape[2:], strict=True)]
    if any(more):  # cells after the last tile, which no output needs, are cut off
        padded = F.pad(padded, [cells for after in reversed(more) for cells in (0, after)])
    for dim, (a, m) in enumerate(zip(side, step, strict=True), start=2):
        padded = padded.unfold(dim, a, m)
    return padded


def blocks(dy: Tensor, *, step: Sides, tiles: Sides) -> Tensor:
    """(N, O, *output) -> (N, O, *tiles, *step), zeros after the edge: the adjoint of `join`."""
    return cut(dy, side=step, step=step, tiles=tiles)


def join(parts: Tensor, *, output: Sides) -> Tensor:
    """(N, O, *tiles, *step) side by side -> (N, O, *output)."""
    rank = len(output)
    order = [axis for d in range(rank) for axis in (2 + d, 2 + rank + d)]
    whole = parts.permute(0, 1, *order).reshape(
        *parts.shape[:2], *(parts.shape[2 + d] * parts.shape[2 + rank + d] for d in range(rank))
    )
    for dim, n in enumerate(output, start=2):
        whole = whole.narrow(dim, 0, n)
    return whole.contiguous()


def overlap_add(parts: Tensor, *, step: Sides, padded: Sides) -> Tensor:
    """(N, C, *tiles, *side) -> (N, C, *padded), overlaps added: the adjoint of `cut`."""
    rank = len(step)
    for d, (m, length) in enumerate(zip(step, padded, strict=True)):
        # The tile axis of dimension d stands at 2 + d, its cells right after the tile axes that are left.
        parts = parts.movedim((2 + d, 2 + rank), (-2, -1))  # (..., tiles, side)
        parts = _add_line(parts, m, length).movedim(-1, 2 + d)
    return parts.contiguous()


def _add_line(parts: Tensor, step: int, length: int) -> Tensor:
    """(..., t, a) -> (..., length) along one dimension."""
    tiles, side = parts.shape[-2:]
    pieces = -(-side // step)
    parts = F.pad(parts, (0, pieces * step - side))
    parts = parts.reshape(*parts.shape[:-1], pieces, step)  # (..., t, pieces, m)
    line = parts.new_zeros(*parts.shape[:-3], tiles + pieces - 1, step)
    for j in range(pieces):
        line[..., j : j + tiles, :] += parts[..., j, :]
    line = line.flatten(-2)
    return F.pad(line, (0, length - line.shape[-1]))


def to_domain(transformed: Tensor, groups: int) -> Tensor:
    """(N, C, T, D) -> (D, G, N T, C/G): one matrix for each number of the transform and each group."""
    n, c, t, d = transformed.shape
    return (
        transformed.reshape(n, groups, c // groups, t, d).permute(4, 1, 0, 3, 2).reshape(d, groups, n * t, -1)
    )


def from_domain(products: Tensor, batch: int) -> Tensor:
    """(D, G, N T, O/G) -> (N, O, T, D)."""
    d, groups, rows, o = products.shape
    parts = products.reshape(d, groups, batch, rows // batch, o)
    return parts.permute(2, 1, 4, 3, 0).reshape(batch, groups * o, rows // batch, d)


def kernels_to_domain(transformed: Tensor, groups: int) -> Tensor:
    """(O, C/G, D) -> (D, G, C/G, O/G)."""
    o, c, d = transformed.shape
    return transformed.reshape(groups, o // groups, c, d).permute(3, 0, 2, 1).contiguous()


def kernels_from_domain(products: Tensor) -> Tensor:
    """(D, G, C/G, O/G) -> (O, C/G, D)."""
    return products.permute(1, 3, 2, 0).flatten(0, 1)
