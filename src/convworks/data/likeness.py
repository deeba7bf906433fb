"""How alike two pictures are once one is laid over the other: registration and correlation in plain NumPy.

A map u -> offset + scale * u, for each axis on its own, takes a place of the first picture (0 is one border,
1 the other) to the place of the second that shows the same. It is found by Gauss-Newton steps on the squared
difference, with gain and offset of the brightness solved for at the same time (Lucas and Kanade, 1981, with
the linear model of brightness of Hager and Belhumeur, 1998). What counts is the correlation in the common
part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

LARGEST_SHIFT = 0.35  # of the picture's side
SCALES = (0.75, 1.35)
STEP = 0.1  # of the side, at most in one Gauss-Newton step
DAMPING = 1e-3
LIMITS = (6.0, 249.0)  # grey levels beyond which a pixel may have been cut off


@dataclass(frozen=True, slots=True)
class Overlay:
    """Maps of P pairs, (P, 2) for y and x, and the correlation (P,) of the pictures under them."""

    offset: Doubles
    scale: Doubles
    correlation: Doubles

    def take(self, rows: Integers | NDArray[np.bool_]) -> Overlay:
        return Overlay(self.offset[rows], self.scale[rows], self.correlation[rows])


def overlay_of(one: Doubles, two: Doubles) -> tuple[Doubles, Doubles]:
    """Offset and scale of the map that takes the span `one` to `two`, (P, 2, 2) of [axis][ends]."""
    scale = (two[..., 1] - two[..., 0]) / (one[..., 1] - one[..., 0])
    return two[..., 0] - scale * one[..., 0], scale


def common_part(offset: Doubles, scale: Doubles) -> tuple[Doubles, Doubles]:
    """The part of the first picture that the second one shows too, (P, 2) of its lower and upper ends."""
    low = np.maximum(0.0, (0.0 - offset) / scale)
    high = np.minimum(1.0, (1.0 - offset) / scale)
    return low, np.maximum(high, low + 0.1)


def sample(pictures: Floats, y: Doubles, x: Doubles) -> Floats:
    """(P, H, W) at places y (P, G) and x (P, G), 0 to 1 -> (P, G, G), bilinear; clamped at the border."""
    count, height, width = pictures.shape
    rows, row_part = _cells(y, height)
    columns, column_part = _cells(x, width)
    pair = np.arange(count)[:, None]
    lines = pictures[pair, rows]
    lines = lines + (pictures[pair, rows + 1] - lines) * row_part[:, :, None]  # (P, G, W)
    pair, line = pair[:, :, None], np.arange(y.shape[1])[None, :, None]
    left = lines[pair, line, columns[:, None, :]]
    right = lines[pair, line, columns[:, None, :] + 1]
    found: Floats = left + (right - left) * column_part[:, None, :]
    return found


def _cells(place: Doubles, size: int) -> tuple[Integers, Floats]:
    """The pixel before each place, and how far the place lies towards the next one."""
    at = np.clip(place * size - 0.5, 0, size - 1)
    before = np.minimum(at.astype(np.int64), size - 2)
    return before, (at - before).astype(np.float32)


def register(one: Floats, two: Floats, offset: Doubles, scale: Doubles, *, grid: int, steps: int) -> Overlay:
    """The best map of each pair of pictures (P, H, W) that `steps` Gauss-Newton steps find from a first map.

    `grid` x `grid` places of the common part are compared. The result is never worse than the first map.
    """
    best = Overlay(offset, scale, np.full(len(one), -1.0))
    for step in range(steps + 1):
        a, b, u, spacing = _laid_over(one, two, offset, scale, grid)
        correlation = _correlation(a, b)
        better = correlation > best.correlation
        best = Overlay(
            np.where(better[:, None], offset, best.offset),
            np.where(better[:, None], scale, best.scale),
            np.where(better, correlation, best.correlation),
        )
        if step < steps:
            change = _gauss_newton(a, b, u, spacing)
            offset = np.clip(offset + change[:, (0, 2)], -LARGEST_SHIFT, LARGEST_SHIFT)
            scale = np.clip(scale + change[:, (1, 3)], *SCALES)
    return best


def _laid_over(
    one: Floats, two: Floats, offset: Doubles, scale: Doubles, grid: int, *, centred: bool = True
) -> tuple[Floats, Floats, Doubles, Doubles]:
    """Both pictures on the grid (P, G, G), the first centred; the places (P, 2, G) and their spacing."""
    low, high = common_part(offset, scale)
    u = low[..., None] + (high - low)[..., None] * (np.arange(grid) + 0.5) / grid
    w = offset[..., None] + scale[..., None] * u
    a, b = sample(one, u[:, 0], u[:, 1]), sample(two, w[:, 0], w[:, 1])
    if centred:
        a = a - a.mean(axis=(1, 2), keepdims=True)
    return a, b, u, scale * (high - low) / grid


def _correlation(a: Floats, b: Floats) -> Doubles:
    b = b - b.mean(axis=(1, 2), keepdims=True)
    power = np.einsum("pij,pij->p", a, a) * np.einsum("pij,pij->p", b, b)
    found: Doubles = np.einsum("pij,pij->p", a, b) / np.sqrt(np.maximum(power, 1e-9))
    return found.astype(np.float64)


def saturating(one: Floats, two: Floats, under: Overlay, *, grid: int) -> Doubles:
    """The correlation (P,) if one picture is the other brightened until parts of it are white or black.

    The gain is fitted where neither picture is at its limit, and applied with that limit, in both directions;
    never less than the plain correlation. Where too few pixels are off the limits it is the plain one.
    """
    a, b, _, _ = _laid_over(one, two, under.offset, under.scale, grid, centred=False)
    inside = (np.minimum(a, b) > LIMITS[0]) & (np.maximum(a, b) < LIMITS[1])
    enough = inside.mean(axis=(1, 2)) > 0.2
    best = under.correlation
    for dark, light in ((a, b), (b, a)):
        n = np.maximum(inside.sum(axis=(1, 2), keepdims=True), 1)
        mean_d, mean_l = (
            np.where(inside, each, 0).sum(axis=(1, 2), keepdims=True) / n for each in (dark, light)
        )
        d, l_ = (np.where(inside, each - mean, 0) for each, mean in ((dark, mean_d), (light, mean_l)))
        square = np.maximum((d * d).sum(axis=(1, 2), keepdims=True), 1e-6)
        gain = (d * l_).sum(axis=(1, 2), keepdims=True) / square
        guess = np.clip(gain * (dark - mean_d) + mean_l, 0, 255)
        found = _correlation(guess - guess.mean(axis=(1, 2), keepdims=True), light)
        best = np.where(enough, np.maximum(best, found), best)
    return best


def _gauss_newton(a: Floats, b: Floats, u: Doubles, spacing: Doubles) -> Doubles:
    """The change (P, 4) of offset and scale in y, then in x: least squares of b + J d = gain * a + offset."""
    pairs, grid = len(a), a.shape[1]
    slope_y = np.gradient(b, axis=1) / spacing[:, 0, None, None].astype(np.float32)
    slope_x = np.gradient(b, axis=2) / spacing[:, 1, None, None].astype(np.float32)
    places = u.astype(np.float32)
    columns = [slope_y, slope_y * places[:, 0, :, None], slope_x, slope_x * places[:, 1, None, :]]
    J = np.stack([*columns, -a, -np.ones_like(a)], axis=-1).reshape(pairs, grid * grid, 6)
    normal = (J.transpose(0, 2, 1) @ J).astype(np.float64)
    weight = np.trace(normal[:, :4, :4], axis1=1, axis2=2) / 4  # of the map; the brightness is left free
    normal[:, range(4), range(4)] += DAMPING * weight[:, None]
    normal[:, range(6), range(6)] += 1e-6
    right = (J.transpose(0, 2, 1) @ -b.reshape(pairs, -1, 1)).astype(np.float64)
    change: Doubles = np.linalg.solve(normal, right)[:, :4, 0]
    return np.clip(change, -STEP, STEP)
