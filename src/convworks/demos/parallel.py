"""The batch of a convolution split over threads."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from convworks.demos.result import Result
from convworks.ops.convolution import convolve


def split_convolution(x: Tensor, weight: Tensor, gradient: Tensor, *, parts: int) -> tuple[Tensor, Tensor]:
    """(output, gradient of the weights) of a 3x3 convolution, the batch cut into parts of one thread each.

    Outputs are put one after the other, gradients added. Each part computes with one thread of torch's.
    """

    def part(piece: Tensor, to_output: Tensor) -> tuple[Tensor, Tensor]:
        kernel = weight.detach().requires_grad_()
        with torch.enable_grad():
            y = convolve(piece, kernel, padding=1)
            (to_weight,) = torch.autograd.grad(y, kernel, to_output)
        return y.detach(), to_weight

    with ThreadPoolExecutor(parts) as pool:
        done = list(pool.map(part, x.chunk(parts), gradient.chunk(parts)))
    return torch.cat([y for y, _ in done]), torch.stack([g for _, g in done]).sum(dim=0)


def threads(*, seed: int, quick: bool) -> Result:
    """Time of forward and backward and the largest difference, for 1, 2, 4, ... up to the processors."""
    generator = torch.Generator().manual_seed(seed)
    count, side = (32, 24) if quick else (128, 48)
    x = torch.randn(count, 32, side, side, generator=generator)
    weight = torch.randn(32, 32, 3, 3, generator=generator) / 17
    gradient = torch.randn(count, 32, side, side, generator=generator)
    torch.set_num_threads(1)  # each part has one thread of its own
    whole, whole_gradient = split_convolution(x, weight, gradient, parts=1)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    powers = {2**n for n in range(available.bit_length()) if 2**n <= available}
    rows: list[tuple[int, float, float, float, float]] = []
    for parts in sorted({1, 2, available} | powers):
        seconds = []
        for _ in range(3 if quick else 7):
            start = time.perf_counter()
            y, to_weight = split_convolution(x, weight, gradient, parts=parts)
            seconds.append(time.perf_counter() - start)
        best = min(seconds)
        faster = rows[0][1] / (1000 * best) if rows else 1.0
        relative = float((to_weight - whole_gradient).abs().max() / whole_gradient.abs().max())
        rows.append((parts, 1000 * best, faster, float((y - whole).abs().max()), relative))
    worst = max(max(row[3], row[4]) for row in rows)
    return Result(
        columns=("threads", "ms", "speed-up", "difference of outputs", "of weight gradients"),
        rows=tuple(rows),
        lecture="split the batch into different threads",
        found=f"{rows[-1][0]} threads on {available} processors are {rows[-1][2]:.2f} times as fast; "
        f"results differ by {worst:.0e} at most, the rounding of a sum in another order",
    )
