"""Modules without autograd for signals and images: convolution, max pooling, batch norm.

The reference of the lectures' problem set "convolution module" and "max pooling module": the equations of the
three boxes, and what happens at the boundary. Stride 1, loops over the taps of the kernel, nothing fast.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convworks.ops.arguments import Sizes, bad_argument, per_dimension
from convworks.ops.backprop import BackpropModule, numbers
from convworks.ops.batch_norm import EPSILON, batch_norm, batch_norm_backward, batch_statistics
from convworks.ops.shape import resolve_padding

Frame = tuple[tuple[int, int], ...]  # (before, after) of each dimension


def correlate(x: Tensor, w: Tensor) -> Tensor:
    """y[n, o, t] = sum_i sum_k w[o, i, k] x[n, i, t + k] wherever the kernel lies inside x.

    (N, I, *S) and (O, I, *K) -> (N, O, *S - K + 1).
    """
    kernel = w.shape[2:]
    out = [s - k + 1 for s, k in zip(x.shape[2:], kernel, strict=True)]
    y = x.new_zeros(x.shape[0], w.shape[0], *out)
    for offset in itertools.product(*map(range, kernel)):
        window = _part(x, ((at, at + size) for at, size in zip(offset, out, strict=True)))
        y += torch.einsum("ni...,oi->no...", window, _part(w, ((k, k + 1) for k in offset)).flatten(1))
    return y


class _Convolution(BackpropModule):
    """See Convolution1d; `rank` dimensions."""

    rank: int

    def __init__(self, weight: Any, *, boundary: str = "valid") -> None:
        w = numbers(weight)
        if w.ndim != 2 + self.rank or 0 in w.shape:
            axes = ", ".join(("outputs", "inputs", *["taps"] * self.rank))
            raise bad_argument("weight", tuple(w.shape), why=f"its axes are ({axes}), none of them empty")
        self.boundary = boundary
        super().__init__(weight=w)

    def forward(self, x: Tensor) -> Tensor:
        return correlate(_pad(x, self._frame(x)), self.parameters["weight"])

    def to_input(self, x: Tensor, dy: Tensor) -> Tensor:
        w = self.parameters["weight"]
        space = tuple(range(2, w.ndim))
        flipped = w.flip(space).transpose(0, 1)  # (I, O, *K): the roles of the maps change too
        every_place = _pad(dy, tuple((k - 1, k - 1) for k in w.shape[2:]))
        return _crop(correlate(every_place, flipped), self._frame(x))  # the frame's own gradient is dropped

    def to_weights(self, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        padded = _pad(x, self._frame(x))
        # examples take the place of input maps, because the sum runs over them: (I, N, *S) with (O, N, *T)
        taps = correlate(padded.transpose(0, 1), dy.transpose(0, 1))  # (I, O, *K)
        return {"weight": taps.transpose(0, 1)}

    def _frame(self, x: Tensor) -> Frame:
        kernel = tuple(self.parameters["weight"].shape[2:])
        frame = resolve_padding(self.boundary, size=tuple(x.shape[2:]), kernel=kernel)
        for size, taps, (before, after) in zip(x.shape[2:], kernel, frame, strict=True):
            if size + before + after < taps:
                raise bad_argument(
                    "weight",
                    tuple(self.parameters["weight"].shape),
                    why=f"a kernel of {taps} does not fit into {size + before + after} places",
                    fits=f"up to {size + before + after} taps",
                )
        return frame


class Convolution1d(_Convolution):
    """y_t = sum_k w_k x_{t+k}: the convolution module of the problem set, on a signal with a frame of zeros.

    (N, I, S) -> (N, O, T) for w (O, I, K). T is S - K + 1 for the boundary "valid" (no frame), S for "same"
    (a frame of floor(K/2) on both sides, odd kernels only), S + K - 1 for "full" (a frame of K - 1).
    dC/dx_s = sum_k w_k dC/dy_{s-k}: the full convolution of dC/dy with the flipped kernel, less the frame.
    dC/dw_k = sum_t x_{t+k} dC/dy_t: the correlation of input and output gradient, summed over examples.
    The forward box does not flip the kernel, as in every library; a true convolution is the same module with
    the kernel flipped, and then the two backward boxes flip theirs.
    Source: lectures, introduction to convolutional networks, problem set, convolution module.
    Raises BadArgument for a weight of another rank, an unknown boundary, a kernel that does not fit.
    """

    rank = 1


class Convolution2d(_Convolution):
    """As Convolution1d in two dimensions: (N, I, H, W) -> (N, O, H', W') for w (O, I, K, L)."""

    rank = 2


class _MaxPool(BackpropModule):
    """See MaxPool1d; `rank` dimensions."""

    rank: int

    def __init__(self, size: Sizes, *, stride: Sizes | None = None) -> None:
        self.size = per_dimension("size", size, self.rank)
        self.stride = self.size if stride is None else per_dimension("stride", stride, self.rank)
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return self._best(x)[0]

    def to_input(self, x: Tensor, dy: Tensor) -> Tensor:
        _, winner = self._best(x)
        dx = torch.zeros_like(x)
        for tap, window in self._windows(x, out=tuple(dy.shape[2:])):
            dx[window] += dy * (winner == tap)
        return dx

    def _best(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The largest value of each window, and which of its taps has it."""
        pairs = zip(x.shape[2:], self.size, self.stride, strict=True)
        out = tuple((s - k) // step + 1 for s, k, step in pairs)
        if min(out) < 1:
            raise bad_argument(
                "size", self.size, why=f"a window does not fit into an input of {tuple(x.shape[2:])}"
            )
        largest = x.new_full((*x.shape[:2], *out), -math.inf)
        winner = torch.zeros(largest.shape, dtype=torch.int64, device=x.device)
        for tap, window in self._windows(x, out=out):
            better = x[window] > largest  # strictly: of equal values the first stays
            largest = torch.where(better, x[window], largest)
            winner = torch.where(better, tap, winner)
        return largest, winner

    def _windows(self, x: Tensor, *, out: Sequence[int]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """For every tap of the window, its number and the places of x that it sees."""
        for tap, offset in enumerate(itertools.product(*map(range, self.size))):
            places = zip(offset, self.stride, out, strict=True)
            yield tap, (..., *(slice(at, at + (n - 1) * step + 1, step) for at, step, n in places))


class MaxPool1d(_MaxPool):
    """y_t = max_k x_{t s + k}, k < size, stride s [the size]: the max-pooling module of the problem set.

    (N, C, S) -> (N, C, floor((S - size)/s) + 1); values behind the last whole window are not seen.
    dC/dx goes to the place of the maximum alone; of equal values the first has it; a place that is the
    maximum of several overlapping windows gets the sum. There are no weights.
    Source: lectures, introduction to convolutional networks, problem set, max pooling module.
    Raises BadArgument for a window larger than the input.
    """

    rank = 1


class MaxPool2d(_MaxPool):
    """As MaxPool1d in two dimensions; (N, C, H, W), the first of equal values in rows."""

    rank = 2


class BatchNorm(BackpropModule):
    """y = gamma (x - mu) / sqrt(sigma^2 + epsilon) + beta, mu and sigma^2 of each feature over the batch.

    (N, F) or (N, C, ...) -> the same, for gamma and beta (F,). The backward boxes are the six formulas of
    `batch_norm.batch_norm_backward`. The examples of a batch see each other: here alone, the gradient of a
    batch is not the sum of the gradients of its examples taken one by one.
    Source: Ioffe and Szegedy 2015, section 3; lectures, batch normalisation.
    """

    def __init__(self, gamma: Any, beta: Any, *, epsilon: float = EPSILON) -> None:
        self.epsilon = epsilon
        super().__init__(gamma=numbers(gamma), beta=numbers(beta))

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(x, self.parameters["gamma"], self.parameters["beta"], epsilon=self.epsilon)

    def to_input(self, x: Tensor, dy: Tensor) -> Tensor:
        gamma = self.parameters["gamma"]
        return batch_norm_backward(dy, x, gamma, batch_statistics(x), epsilon=self.epsilon).x

    def to_weights(self, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        gamma = self.parameters["gamma"]
        found = batch_norm_backward(dy, x, gamma, batch_statistics(x), epsilon=self.epsilon)
        return {"gamma": found.gamma, "beta": found.beta}


def _pad(x: Tensor, frame: Frame) -> Tensor:
    """x with zeros around it; torch counts the sides from the last dimension."""
    return F.pad(x, [side for pair in reversed(frame) for side in pair])


def _crop(x: Tensor, frame: Frame) -> Tensor:
    """x without a frame: the inverse of `_pad`."""
    sides = zip(x.shape[2:], frame, strict=True)
    return _part(x, ((before, n - after) for n, (before, after) in sides))


def _part(x: Tensor, ranges: Iterable[tuple[int, int]]) -> Tensor:
    """The places from the first to before the second number, of every dimension after the first two."""
    for axis, (start, stop) in enumerate(ranges, 2):
        x = x.narrow(axis, start, stop - start)
    return x
