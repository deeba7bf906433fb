"""Maxout: the largest of k linear functions, and the largest of k maps (pooling across feature groups).

Source: Goodfellow, Warde-Farley, Mirza, Courville, Bengio, "Maxout networks", 2013, section 3; lectures,
max-out and pooling across feature groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convworks.ops.arguments import bad_argument


def across_groups(x: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    """(N, C, ...) -> (N, C/k, ...): the largest of each k consecutive maps, and which one it is (0..k-1).

    Of equal maps the first wins. Raises BadArgument where k does not divide C.
    """
    grouped = _grouped(x, pieces)
    winner = grouped.argmax(dim=2)  # torch names the first of equal ones
    return grouped.gather(2, winner.unsqueeze(2)).squeeze(2), winner


def across_groups_backward(gradient: Tensor, winner: Tensor, pieces: int) -> Tensor:
    """(N, C/k, ...) -> (N, C, ...): the gradient goes to the winner of each group, 0 to the others."""
    n, groups, *places = gradient.shape
    spread = gradient.new_zeros(n, groups, pieces, *places)
    return spread.scatter_(2, winner.unsqueeze(2), gradient.unsqueeze(2)).flatten(1, 2)


def winner_changes(before: Tensor, after: Tensor) -> int:
    """At how many places another map of the group wins: `winner` of two `across_groups`, of one shape.

    Moving from one input to another changes winners where the feature changes: what the group pools over.
    """
    if before.shape != after.shape:
        why = f"the winners before have the shape {tuple(before.shape)}"
        raise bad_argument("after.shape", tuple(after.shape), why=why, fits="the same shape")
    return int((before != after).sum())


def max_across_groups(x: Tensor, pieces: int) -> Tensor:
    """`across_groups` for training: the values, with the backward pass above."""
    pooled: Tensor = _AcrossGroups.apply(x, pieces)  # type: ignore[no-untyped-call]
    return pooled


class _AcrossGroups(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pieces: int) -> Tensor:
        y, winner = across_groups(x, pieces)
        ctx.save_for_backward(winner)
        ctx.pieces = pieces
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (winner,) = ctx.saved_tensors
        return across_groups_backward(gradient, winner, ctx.pieces), None


def maxout(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """y_i = max_k (sum_j W_kij x_j + b_ki): (N, J) -> (N, I), and the piece that won at each place.

    `weight` is (K, I, J) and `bias` (K, I). Two pieces represent |x| (rows x and -x) and ReLU (x and 0)
    exactly. Of equal pieces the first wins. Raises BadArgument for other shapes.
    """
    _check_maxout(x, weight, bias)
    scores = torch.einsum("nj,kij->nki", x, weight)
    scores = scores if bias is None else scores + bias
    winner = scores.argmax(dim=1)  # (N, I); torch names the first of equal ones
    return scores.gather(1, winner.unsqueeze(1)).squeeze(1), winner


def maxout_backward(
    x: Tensor, weight: Tensor, winner: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to x, W and b. With m_nki = [k won at (n, i)] and the gradient g:

    dC/dx_nj = sum_ki m g W_kij;  dC/dW_kij = sum_n m g x_nj;  dC/db_ki = sum_n m g.
    """
    to_scores = gradient.new_zeros(len(x), *weight.shape[:2])
    to_scores.scatter_(1, winner.unsqueeze(1), gradient.unsqueeze(1))  # (N, K, I)
    to_x = torch.einsum("nki,kij->nj", to_scores, weight)
    return to_x, torch.einsum("nki,nj->kij", to_scores, x), to_scores.sum(dim=0)


def _grouped(x: Tensor, pieces: int) -> Tensor:
    """(N, C, ...) -> (N, C/k, k, ...)."""
    maps = x.shape[1]
    if pieces < 1 or maps % pieces:
        divisors = [k for k in range(2, maps + 1) if maps % k == 0]
        fits = f"pieces={' or '.join(map(str, divisors[:4]))}"
        raise bad_argument("pieces", pieces, why=f"it does not divide the {maps} maps", fits=fits)
    return x.reshape(len(x), maps // pieces, pieces, *x.shape[2:])


def _check_maxout(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if weight.ndim != 3 or x.ndim != 2 or weight.shape[2] != x.shape[1]:
        raise bad_argument(
            "weight.shape",
            tuple(weight.shape),
            why=f"the input is {tuple(x.shape)}",
            fits=f"a weight (pieces, outputs, {x.shape[-1]}) and an input (N, {x.shape[-1]})",
        )
    if bias is not None and bias.shape != weight.shape[:2]:
        shape = tuple(weight.shape[:2])
        raise bad_argument("bias.shape", tuple(bias.shape), why="it has one for each row", fits=f"{shape}")
