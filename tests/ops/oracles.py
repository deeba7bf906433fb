"""Convolution as plain loops over numbers in float64, written from the definition alone."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One convolution to compute; `padding` is (before, after) for each dimension."""

    batch: int
    size: tuple[int, ...]
    inputs: int  # maps in each group
    outputs: int  # maps in each group
    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    seed: int

    def arrays(self) -> tuple[Array, Array]:
        """x (N, C, *size) and w (O, C/G, *kernel)."""
        draw = np.random.default_rng(self.seed)
        x = draw.standard_normal((self.batch, self.inputs * self.groups, *self.size))
        return x, draw.standard_normal((self.outputs * self.groups, self.inputs, *self.kernel))

    @property
    def output(self) -> tuple[int, ...]:
        rows = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + a + b - (d * (k - 1) + 1)) // s + 1 for n, k, s, (a, b), d in rows)

    def errors(self) -> Array:
        """dy (N, O, *output)."""
        shape = (self.batch, self.outputs * self.groups, *self.output)
        return np.random.default_rng(self.seed + 1).standard_normal(shape)

    def terms(self):  # type: ignore[no-untyped-def]
        """(n, o, p, c, channel, t, cell) for every product w[o, c, t] x[n, channel, cell] of y[n, o, p]."""
        spots = itertools.product(
            range(self.batch), range(self.outputs * self.groups), itertools.product(*map(range, self.output))
        )
        for n, o, p in spots:
            first = (o // self.outputs) * self.inputs
            for c, t in itertools.product(range(self.inputs), itertools.product(*map(range, self.kernel))):
                rows = zip(p, self.stride, t, self.dilation, self.padding, strict=True)
                cell = tuple(q * s + u * d - before for q, s, u, d, (before, _) in rows)
                if all(0 <= i < length for i, length in zip(cell, self.size, strict=True)):
                    yield n, o, p, c, first + c, t, cell


def forward(case: Case) -> Array:
    x, w = case.arrays()
    y = np.zeros((case.batch, len(w), *case.output))
    for n, o, p, c, channel, t, cell in case.terms():
        y[(n, o, *p)] += w[(o, c, *t)] * x[(n, channel, *cell)]
    return y


def input_gradient(case: Case) -> Array:
    (x, w), dy = case.arrays(), case.errors()
    dx = np.zeros_like(x)
    for n, o, p, c, channel, t, cell in case.terms():
        dx[(n, channel, *cell)] += w[(o, c, *t)] * dy[(n, o, *p)]
    return dx


def weight_gradient(case: Case) -> Array:
    (x, w), dy = case.arrays(), case.errors()
    dw = np.zeros_like(w)
    for n, o, p, c, channel, t, cell in case.terms():
        dw[(o, c, *t)] += x[(n, channel, *cell)] * dy[(n, o, *p)]
    return dw


@st.composite
def cases(draw: st.DrawFn, *, winograd: bool = False) -> Case:
    """Small convolutions of 1 to 3 dimensions; with `winograd`, 3 taps at stride 1."""
    rank = draw(st.integers(1, 3))
    longest = {1: 9, 2: 6, 3: 4}[rank]

    def several(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(rank))

    kernel = (3,) * rank if winograd else several(1, 4 if rank < 3 else 3)
    stride = (1,) * rank if winograd else several(1, 3)
    dilation = (1,) * rank if winograd else several(1, 2)
    padding = tuple(zip(several(0, 3), several(0, 3), strict=True))
    size = tuple(
        max(n, d * (k - 1) + 1 - a - b)
        for n, k, d, (a, b) in zip(several(1, longest), kernel, dilation, padding, strict=True)
    )
    return Case(
        batch=draw(st.integers(1, 2)),
        size=tuple(max(1, n) for n in size),
        inputs=draw(st.integers(1, 2)),
        outputs=draw(st.integers(1, 2)),
        groups=draw(st.integers(1, 2)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        seed=draw(st.integers(0, 2**16)),
    )
