"""Registration: sampling against a plain loop, and maps known because the pictures were made with them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from convworks.data.likeness import common_part, overlay_of, register, sample, saturating


def landscape(seed: int, *, side: int = 64) -> NDArray[np.float32]:
    """A smooth picture with structure at several scales, from 0 to 255."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    total = np.zeros((side, side))
    for _ in range(12):
        a, b = random.normal(0, 4, 2)
        total += random.normal() * np.cos(2 * np.pi * (a * y + b * x) + random.uniform(0, 6))
    total -= total.min()
    return (255 * total / total.max()).astype(np.float32)


def plain_sample(picture: NDArray[np.float32], y: float, x: float) -> float:
    height, width = picture.shape
    row, column = (min(max(p * s - 0.5, 0.0), s - 1.0) for p, s in ((y, height), (x, width)))
    top, left = min(int(row), height - 2), min(int(column), width - 2)
    down, right = row - top, column - left
    total = 0.0
    for dy, wy in ((0, 1 - down), (1, down)):
        for dx, wx in ((0, 1 - right), (1, right)):
            total += wy * wx * float(picture[top + dy, left + dx])
    return total


def test_sampling_is_the_plain_loop() -> None:
    random = np.random.default_rng(0)
    pictures = random.uniform(0, 255, (3, 7, 9)).astype(np.float32)
    y, x = random.uniform(-0.1, 1.1, (3, 5)), random.uniform(-0.1, 1.1, (3, 5))
    found = sample(pictures, y, x)
    wanted = [[[plain_sample(pictures[p], a, b) for b in x[p]] for a in y[p]] for p in range(3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-2)


def test_a_map_takes_one_span_to_the_other() -> None:
    one, two = np.array([[[0.1, 0.9], [0.0, 1.0]]]), np.array([[[0.0, 1.0], [0.2, 0.7]]])
    offset, scale = overlay_of(one, two)
    np.testing.assert_allclose(offset + scale * one[..., 0], two[..., 0])
    np.testing.assert_allclose(offset + scale * one[..., 1], two[..., 1])
    low, high = common_part(offset, scale)
    np.testing.assert_allclose((low[0], high[0]), ((0.1, 0.0), (0.9, 1.0)))


def warped(
    picture: NDArray[np.float32], offset: tuple[float, float], scale: tuple[float, float]
) -> NDArray[np.float32]:
    """The picture B for which A(u) = B(offset + scale u)."""
    side = len(picture)
    places = (np.arange(side) + 0.5) / side
    y, x = ((places - o) / s for o, s in zip(offset, scale, strict=True))
    found: NDArray[np.float32] = sample(picture[None], y[None], x[None])[0]
    return found


@pytest.mark.parametrize(
    ("offset", "scale"),
    [((0.0, 0.0), (1.0, 1.0)), ((-0.06, 0.04), (1.1, 1.0)), ((0.03, -0.05), (0.95, 1.08))],
)
def test_a_known_map_is_found_under_another_brightness(
    offset: tuple[float, float], scale: tuple[float, float]
) -> None:
    one = landscape(1)
    two = 0.7 * warped(one, offset, scale) + 31
    start = np.zeros((1, 2)), np.ones((1, 2))
    before = register(one[None], two[None], *start, grid=48, steps=0)
    found = register(one[None], two[None], *start, grid=48, steps=8)
    assert found.correlation[0] >= max(0.995, before.correlation[0])
    np.testing.assert_allclose(found.offset[0], offset, atol=0.01)
    np.testing.assert_allclose(found.scale[0], scale, atol=0.015)


def test_without_a_step_it_is_the_correlation_of_numpy() -> None:
    one, two = landscape(1), landscape(2)
    found = register(one[None], two[None], np.zeros((1, 2)), np.ones((1, 2)), grid=64, steps=0)
    wanted = np.corrcoef(one.ravel().astype(float), two.ravel().astype(float))[0, 1]
    assert found.correlation[0] == pytest.approx(wanted, abs=1e-4)


def test_unlike_pictures_stay_unlike_and_flat_ones_do_no_harm() -> None:
    one = np.stack([landscape(3), np.full((64, 64), 7, np.float32)])
    two = np.stack([landscape(4), landscape(5)])
    found = register(one, two, np.zeros((2, 2)), np.ones((2, 2)), grid=48, steps=6)
    assert found.correlation[0] < 0.9
    assert np.isfinite(found.correlation).all()
    assert abs(found.correlation[1]) < 0.1


def test_white_that_was_cut_off_is_understood() -> None:
    one = landscape(6)
    two = np.clip(one * 1.7, 0, 255).astype(np.float32)
    under = register(one[None], two[None], np.zeros((1, 2)), np.ones((1, 2)), grid=56, steps=2)
    for a, b in ((one, two), (two, one)):
        assert saturating(a[None], b[None], under, grid=56)[0] > 0.99 > under.correlation[0]
    other = landscape(7)
    apart = register(one[None], other[None], np.zeros((1, 2)), np.ones((1, 2)), grid=56, steps=2)
    assert saturating(one[None], other[None], apart, grid=56)[0] < 0.9
