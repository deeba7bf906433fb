"""Convolution and cross-correlation of two signals as mathematics defines them, in any number of dimensions.

    (w * x)(t) = sum over s of w(s) x(t - s)        convolution: it commutes, w * x = x * w
    (w ⋆ x)(t) = sum over s of w(s) x(t + s)        cross-correlation: it does not

For integers the sums are exact. Source: lectures, "convolution in one and two dimensions".
"""

from __future__ import annotations

import itertools

from torch import Tensor

from convworks.ops.arguments import bad_argument, one_of

MODES = ("full", "same", "valid")


def convolution(x: Tensor, kernel: Tensor, *, mode: str = "full") -> Tensor:
    """Both of one rank, of any type -> "full" N + M - 1, "same" N, "valid" N - M + 1 in each dimension.

    "same" is the middle of "full", as in numpy and scipy. With N = 28 and M = 5: 32, 28, 24.
    Raises BadArgument for different ranks, and for "valid" with a kernel that is larger than x.
    """
    one_of("mode", mode, MODES)
    if x.dim() != kernel.dim() or not x.dim():
        why = f"x has {x.dim()} dimensions and the kernel {kernel.dim()}"
        raise bad_argument("kernel.shape", tuple(kernel.shape), why=why, fits="as many dimensions as x")
    sizes = list(zip(x.shape, kernel.shape, strict=True))
    if mode == "valid" and any(m > n for n, m in sizes):
        why = f"it is larger than x {tuple(x.shape)}, so that no position holds all of it"
        raise bad_argument("kernel.shape", tuple(kernel.shape), why=why, fits="mode='full'")
    full = x.new_zeros([n + m - 1 for n, m in sizes])
    for shift in itertools.product(*(range(m) for m in kernel.shape)):
        # w(s) times x, moved by s
        full[tuple(slice(s, s + n) for s, n in zip(shift, x.shape, strict=True))] += kernel[shift] * x
    if mode == "full":
        return full
    if mode == "same":
        kept = [slice((m - 1) // 2, (m - 1) // 2 + n) for n, m in sizes]
    else:
        kept = [slice(m - 1, n) for n, m in sizes]
    return full[tuple(kept)]


def cross_correlation(x: Tensor, kernel: Tensor, *, mode: str = "full") -> Tensor:
    """The convolution with the kernel reversed in every dimension; shapes and errors as there."""
    return convolution(x, kernel.flip(tuple(range(kernel.dim()))), mode=mode)
