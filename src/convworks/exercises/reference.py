"""The two modules of the problem sets as plain loops over Python floats: what "
"students' files are measured by."""

from __future__ import annotations

from collections.abc import Sequence

Line = Sequence[float]


def frame(boundary: str, taps: int) -> int:
    """Zeros on each side: none for "valid", (taps - 1) / 2 for "same" with odd taps, taps - 1 for "full"."""
    return {"valid": 0, "same": (taps - 1) // 2, "full": taps - 1}[boundary]


def convolution_forward(x: Line, w: Line, boundary: str, *, flip: bool) -> list[float]:
    """y_t = sum_k w_k x_{t + k - P} without `flip`; w_{M-1-k} with it, a true convolution. x is 0 outside."""
    p, m = frame(boundary, len(w)), len(w)
    y = [0.0] * (len(x) + 2 * p - m + 1)
    for t, k, s in _edges(len(y), m, len(x), p):
        y[t] += w[m - 1 - k if flip else k] * x[s]
    return y


def convolution_backward_input(dy: Line, w: Line, n: int, boundary: str, *, flip: bool) -> list[float]:
    """dC/dx_s: every edge of the forward pass walked backwards. `n` is the length of x."""
    m, dx = len(w), [0.0] * n
    for t, k, s in _edges(len(dy), m, n, frame(boundary, m)):
        dx[s] += w[m - 1 - k if flip else k] * dy[t]
    return dx


def convolution_backward_weights(dy: Line, x: Line, m: int, boundary: str, *, flip: bool) -> list[float]:
    """dC/dw_k: the sum over every place where the weight was used. `m` is the length of w."""
    dw = [0.0] * m
    for t, k, s in _edges(len(dy), m, len(x), frame(boundary, m)):
        dw[m - 1 - k if flip else k] += x[s] * dy[t]
    return dw


def _edges(outputs: int, taps: int, inputs: int, p: int) -> list[tuple[int, int, int]]:
    """(output, tap, input) of every product that is not with padding."""
    every = [(t, k, t + k - p) for t in range(outputs) for k in range(taps)]
    return [edge for edge in every if 0 <= edge[2] < inputs]


def max_pool_forward(x: Line, size: int, stride: int) -> list[float]:
    """y_t = max of x_{t stride} ... x_{t stride + size - 1}; an incomplete window at the end is left out."""
    return [max(x[start : start + size]) for start in range(0, len(x) - size + 1, stride)]


def max_pool_backward(dy: Line, x: Line, size: int, stride: int) -> list[float]:
    """dC/dx: dy_t goes to the first largest value of window t; windows that overlap add up."""
    dx = [0.0] * len(x)
    for t, gradient in enumerate(dy):
        window = list(x[t * stride : t * stride + size])
        dx[t * stride + window.index(max(window))] += gradient
    return dx
