"""Cutout, mixup and CutMix: closed forms, loops, and the distribution of the shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from convworks.data.augment import Augment, augment
from convworks.data.augment_mix import blend, draw_mix, paste_rectangles, squares, symmetric_beta
from convworks.errors import ConvworksError
from convworks.randomness import uniform

from .pixels import noise

MANY = np.arange(6000)


def mixes(**changes: Any) -> Any:
    values: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "seed": 3, "epoch": 1, "indices": MANY}
    values |= {"rows": np.arange(100, 400), "height": 20, "width": 30}
    return draw_mix(**{**values, **changes})


# The share


def distance(found: NDArray[np.float64], alpha: float) -> float:
    """Kolmogorov and Smirnov's, over points between 0 and 1: the ends round to 0 and 1 themselves."""
    points = np.linspace(0.001, 0.999, 999)
    below = np.searchsorted(np.sort(found), points) / len(found)
    return float(np.abs(below - stats.beta(alpha, alpha).cdf(points)).max())


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4, 0.5, 1.0, 2.5, 10.0])
def test_shares_have_the_beta_distribution(alpha: float) -> None:
    u = uniform(0, "test", 0, np.arange(20_000), 2)
    found = symmetric_beta(alpha, u[:, 0], u[:, 1])
    assert distance(found, alpha) < 0.012
    assert found.min() >= 0
    assert found.max() <= 1


def test_another_alpha_would_be_seen() -> None:
    u = uniform(0, "test", 0, np.arange(20_000), 2)
    assert distance(symmetric_beta(0.4, u[:, 0], u[:, 1]), 0.46) > 0.012


def test_extreme_draws_stay_in_bounds() -> None:
    ends = np.array([0.0, 1 - 2.0**-32])
    for alpha in (1e-6, 0.01, 10.0):
        found = symmetric_beta(alpha, np.repeat(ends, 3), np.tile([0.0, 0.25, 0.5], 2))
        assert np.isfinite(found).all()
        assert ((found >= 0) & (found <= 1)).all()


# Mixup


def test_mixup_draws_a_partner_from_all_training_rows() -> None:
    found = mixes(mixup=0.4)
    assert found.blended.all()
    assert set(np.unique(found.partner)) == set(range(100, 400))
    assert stats.chisquare(np.unique(found.partner, return_counts=True)[1]).pvalue > 1e-4
    assert stats.kstest(found.share, stats.beta(0.4, 0.4).cdf).statistic < 0.02
    np.testing.assert_array_equal(found.rectangles, 0)
    few = mixes(mixup=0.4, indices=np.array([17, 3]))
    np.testing.assert_array_equal(few.share, found.share[[17, 3]])
    np.testing.assert_array_equal(few.partner, found.partner[[17, 3]])
    assert (mixes(mixup=0.4, epoch=2).partner != found.partner).any()


def test_blending_is_the_sum_with_the_shares() -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(7, 3, 5, 4)).astype(np.float32) for _ in range(2))
    share = np.array([0, 1, 0.5, 0.25, 0.9, 1 / 3, 1], dtype=np.float32)
    expected = [s * a + (1 - s) * b for s, a, b in zip(share.astype(float), x, y, strict=True)]
    kept = x.copy()
    blend(x, y, share)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    np.testing.assert_array_equal(x[[1, 6]], kept[[1, 6]])  # a share of one changes no bit
    np.testing.assert_array_equal(x[0], y[0])
    blend(x[:0], y[:0], share[:0])


# CutMix


def test_the_share_is_the_part_outside_of_the_rectangle() -> None:
    found = mixes(cutmix=1.0)
    assert not found.blended.any()
    for share, (top, left, bottom, right) in zip(found.share, found.rectangles.tolist(), strict=True):
        mask = np.ones((20, 30))
        mask[top:bottom, left:right] = 0
        assert share == np.float32(mask.mean())


def test_rectangles_equal_the_authors_code() -> None:
    """rand_bbox of Yun et al.: sides of sqrt(1 - lambda), the centre uniform, then clipped."""
    found = mixes(cutmix=1.0)
    u = uniform(3, "mix", 1, MANY, 6)
    lam = symmetric_beta(1.0, u[:, 2], u[:, 3])
    for row, rectangle in zip(range(200), found.rectangles.tolist(), strict=False):
        ratio = np.sqrt(1.0 - lam[row])
        high, wide = int(20 * ratio), int(30 * ratio)
        y, x = int(u[row, 4] * 20), int(u[row, 5] * 30)
        expected = [
            max(y - high // 2, 0),
            max(x - wide // 2, 0),
            min(y + high // 2, 20),
            min(x + wide // 2, 30),
        ]
        assert rectangle == expected


def test_pasting() -> None:
    own, other = noise(3, 6, 7, 3), noise(3, 6, 7, 3, seed=1)
    got = own.copy()
    paste_rectangles(got, other, np.array([[0, 0, 0, 0], [1, 2, 4, 7], [0, 0, 6, 7]]))
    expected = own.copy()
    expected[1, 1:4, 2:7] = other[1, 1:4, 2:7]
    expected[2] = other[2]
    np.testing.assert_array_equal(got, expected)


def test_both_are_drawn_equally_often() -> None:
    found = mixes(mixup=0.2, cutmix=1.0)
    assert stats.binomtest(int(found.blended.sum()), len(MANY), 0.5).pvalue > 1e-4
    assert (found.rectangles[found.blended] == 0).all()
    alone = mixes(cutmix=1.0)
    np.testing.assert_array_equal(found.share[~found.blended], alone.share[~found.blended])


# Cutout


def cut(images: NDArray[np.uint8], side: int, **changes: Any) -> NDArray[np.uint8]:
    values: dict[str, Any] = {"seed": 0, "epoch": 0, "indices": np.arange(len(images)), "fill": 7, **changes}
    height, width = images.shape[1:3]
    return augment(
        torch.from_numpy(images), Augment(cutout=side), height=height, width=width, **values
    ).numpy()


@pytest.mark.parametrize("side", [1, 4, 5, 10])
@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_equals_the_authors_code(side: int, channels: int) -> None:
    """A square around a uniform pixel, clipped at the border, of one colour."""
    images = np.full((400, 10, 13, channels), 200, dtype=np.uint8)
    blank = np.arange(5, 5 + channels, dtype=np.uint8)
    got = cut(images, side, blank=blank)
    u = uniform(0, "cutout", 0, np.arange(400), 2)
    for result, (a, b) in zip(got, u.tolist(), strict=True):
        expected = np.full((10, 13, channels), 200, dtype=np.uint8)
        y, x = int(a * 10) - side // 2, int(b * 13) - side // 2
        expected[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = blank
        np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(cut(images, side)[..., 0] == 7, (got != 200).all(axis=3))


def test_cutout_leaves_the_source_alone() -> None:
    images = noise(20, 8, 8, 3)
    kept = images.copy()
    assert (cut(images, 4) != images).any()
    np.testing.assert_array_equal(images, kept)


def test_squares_may_leave_the_image() -> None:
    place = np.array([[0.0, 0.0], [0.999, 0.999], [0.5, 0.5]])
    np.testing.assert_array_equal(
        squares(place, side=4, height=10, width=10), [[0, 0, 2, 2], [7, 7, 10, 10], [3, 3, 7, 7]]
    )


def test_a_cutout_larger_than_the_image_is_refused() -> None:
    with pytest.raises(
        ConvworksError, match="a cutout of 9 pixels is too large for images of 8x12"
    ) as caught:
        cut(noise(1, 8, 12, 3), 9)
    assert caught.value.code == "U203"
    cut(noise(1, 8, 12, 3), 8)
