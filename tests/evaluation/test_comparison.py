"""Paired comparisons against scipy, exact coverage, and planted mistakes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from convworks.errors import ConvworksError
from convworks.evaluation.comparison import (
    bootstrap,
    disagreement,
    mcnemar,
    mean_interval,
    paired_difference,
    resamples,
    spread,
    student_quantile,
    welch,
)
from convworks.evaluation.metrics import wilson


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def newcombe(e: int, f: int, g: int, h: int) -> tuple[float, float]:
    """Method 10 of Newcombe (1998), written from its formulas with scipy's Wilson limits."""
    n = e + f + g + h
    one = stats.binomtest(e + f, n).proportion_ci(method="wilson")
    two = stats.binomtest(e + g, n).proportion_ci(method="wilson")
    p1, p2 = (e + f) / n, (e + g) / n
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    top = e * h - f * g
    phi = 0.0 if margins == 0 else (max(top - n / 2, 0) if top > 0 else top) / math.sqrt(margins)
    dl1, du1, dl2, du2 = p1 - one.low, one.high - p1, p2 - two.low, two.high - p2
    below = math.sqrt(dl1**2 - 2 * phi * dl1 * du2 + du2**2)
    above = math.sqrt(du1**2 - 2 * phi * du1 * dl2 + dl2**2)
    return p1 - p2 - below, p1 - p2 + above


@pytest.mark.parametrize(
    "cells", [(36, 12, 2, 4), (20, 3, 11, 5), (0, 4, 4, 0), (43, 0, 1, 10), (9, 7, 1, 0)]
)
def test_the_interval_is_newcombes(cells: tuple[int, int, int, int]) -> None:
    found = paired_difference(*answers(*cells))
    _, f, g, _ = cells
    assert found.difference == pytest.approx((f - g) / sum(cells), abs=1e-15)
    np.testing.assert_allclose((found.low, found.high), newcombe(*cells), rtol=0, atol=1e-12)
    assert tuple(disagreement(*answers(*cells))) == cells


def test_newcombes_own_example() -> None:
    """Newcombe 1998, table III (a): 36, 12, 2, 0 of 50 images: 0.2000 with 0.0569 to 0.3404 by method 10."""
    found = paired_difference(*answers(36, 12, 2, 0))
    np.testing.assert_allclose(found[:3], (0.2, 0.0569, 0.3404), atol=5e-5)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (5, 12), (12, 5), (30, 30), (700, 640)])
def test_p_is_that_of_the_exact_binomial(a: int, b: int) -> None:
    expected = stats.binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-10)


def test_p_of_many_images_is_that_of_the_exact_sum() -> None:
    n, k = 2_400, 1_150
    exact = Fraction(2 * sum(math.comb(n, i) for i in range(k + 1)), 2**n)
    assert mcnemar(k, n - k) == pytest.approx(float(exact), rel=1e-9)


def test_signs_and_swapping() -> None:
    a, b = answers(30, 9, 3, 8)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.difference > 0 > back.difference
    np.testing.assert_allclose((there.low, there.high), (-back.high, -back.low), atol=1e-15)
    assert there.p == back.p


def test_equal_answers_are_no_difference() -> None:
    a, _ = answers(10, 0, 0, 5)
    found = paired_difference(a, a)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.low < 0 < found.high


def test_no_image_says_nothing() -> None:
    assert tuple(paired_difference([], [])) == (0.0, -1.0, 1.0, 1.0)


def test_answers_that_are_no_pairs() -> None:
    with pytest.raises(ConvworksError, match="cannot be compared in pairs") as problem:
        paired_difference([True, False], [True])
    assert problem.value.code == "U260"


def test_wilson_covers_93_to_97_percent() -> None:
    """Simulated, 20,000 times for each n, with the true share drawn anew each time."""
    random = np.random.default_rng(1)
    for n in (20, 50, 200, 1000):
        shares = random.uniform(0.02, 0.98, 20_000)
        counts = random.binomial(n, shares)
        limits = np.array([wilson(k, n) for k in range(n + 1)])[counts]
        covered = np.mean((limits[:, 0] <= shares) & (shares <= limits[:, 1]))
        assert 0.93 <= covered <= 0.97, (n, covered)


def test_the_paired_interval_covers_too() -> None:
    random = np.random.default_rng(2)
    cells = np.array([0.8, 0.09, 0.05, 0.06])
    drawn = random.multinomial(200, cells, size=3_000)
    covered = 0
    for row in drawn:
        found = paired_difference(*answers(*row))
        covered += found.low <= 0.04 <= found.high
    assert 0.93 <= covered / len(drawn) <= 0.98


def test_a_broken_interval_would_be_seen() -> None:
    """The same simulation without the pairing covers far too much: the check can fail."""
    random = np.random.default_rng(2)
    covered = 0
    for both, only_a, only_b, _ in random.multinomial(200, [0.8, 0.09, 0.05, 0.06], size=500):
        a, b = wilson(both + only_a, 200), wilson(both + only_b, 200)
        covered += a[0] - b[1] <= 0.04 <= a[1] - b[0]
    assert covered / 500 > 0.99


def test_resamples_are_even_and_follow_from_the_seed() -> None:
    drawn = np.concatenate(list(resamples(7, count=3_000, seed=3)))
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-3
    again = [rows.tolist() for rows in resamples(7, count=5, seed=3)]
    assert again == [rows.tolist() for rows in resamples(7, count=5, seed=3)]
    assert again != [rows.tolist() for rows in resamples(7, count=5, seed=4)]


def test_the_bootstrap_agrees_with_theory() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose((low, high), (values.mean() - half, values.mean() + half), atol=0.01)


def test_the_bootstrap_leaves_out_resamples_without_a_number() -> None:
    low, high = bootstrap(lambda rows: math.nan if rows[0] == 0 else 1.0, 3, count=50)
    assert (low, high) == (1.0, 1.0)
    assert all(map(math.isnan, bootstrap(lambda rows: math.nan, 3, count=5)))
    with pytest.raises(ConvworksError, match="no image to resample"):
        bootstrap(lambda rows: 0.0, 0)


@pytest.mark.parametrize("freedom", [1.0, 1.7, 2.0, 4.3, 30.0, 1000.0, 2e6])
@pytest.mark.parametrize("share", [0.6, 0.95, 0.975, 0.995])
def test_students_quantile_is_scipys(share: float, freedom: float) -> None:
    assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-6)


def test_welchs_interval_is_scipys() -> None:
    a, b = [0.91, 0.93, 0.92, 0.95], [0.90, 0.89, 0.92]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    difference, low, high = welch(a, b)
    assert difference == pytest.approx(np.mean(a) - np.mean(b))
    np.testing.assert_allclose((low, high), (expected.low, expected.high), rtol=1e-6)
    assert welch([0.9], [0.8, 0.7])[1:] == (-math.inf, math.inf)
    assert welch([0.9, 0.9], [0.8, 0.8]) == pytest.approx((0.1, 0.1, 0.1))


def test_the_spread_of_runs() -> None:
    assert spread([0.9]) == (0.9, None)
    mean, deviation = spread([0.8, 0.9, 1.0])
    assert (mean, deviation) == (pytest.approx(0.9), pytest.approx(0.1))
