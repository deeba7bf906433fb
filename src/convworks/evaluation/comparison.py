"""Two classifiers on the same images: the difference of their accuracies, and how sure it is.

Shapes: N images. Answers on the same images are paired: an image that is hard for one is hard for the other,
so the difference is much surer than two separate intervals would say. numpy only, in float64; the bootstrap
draws from Philox, so that a seed gives the same interval everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Interval, wilson
from convworks.randomness import words

RESAMPLES = 2_000  # of a bootstrap interval: its ends then vary by about a twentieth of its width
_EXACT = 2_000  # discordant images up to which McNemar's sum is taken in whole numbers


class PairedDifference(NamedTuple):
    """Accuracy of A minus that of B, its 95 % interval, and McNemar's p for 'there is no difference'."""

    difference: float
    low: float
    high: float
    p: float


class Disagreement(NamedTuple):
    """How many images both, one or none of two classifiers have right."""

    both: int
    only_a: int
    only_b: int
    neither: int


def disagreement(correct_a: ArrayLike, correct_b: ArrayLike) -> Disagreement:
    """The four counts of two (N,) arrays of right and wrong. Raises U260 where they do not fit."""
    a, b = _pair(correct_a, correct_b)
    return Disagreement(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))


def paired_difference(
    correct_a: ArrayLike, correct_b: ArrayLike, *, confidence: float = 0.95
) -> PairedDifference:
    """(difference, low, high, p) of A's accuracy minus B's, from (N,) right and wrong on the same images.

    The interval is Newcombe's for paired proportions (1998, "Improved confidence intervals for the difference
    between binomial proportions based on paired data", Statistics in Medicine 17, method 10), p is McNemar's
    exact one. With no image nothing is known: (0, -1, 1, 1). Raises U260 where the arrays do not fit.
    """
    counts = disagreement(correct_a, correct_b)
    n = sum(counts)
    if n == 0:
        return PairedDifference(0.0, -1.0, 1.0, 1.0)
    difference = (counts.only_a - counts.only_b) / n
    low, high = _newcombe(counts, confidence)
    return PairedDifference(difference, low, high, mcnemar(counts.only_a, counts.only_b))


def _newcombe(counts: Disagreement, confidence: float) -> Interval:
    both, only_a, only_b, neither = counts
    n = sum(counts)
    share_a, share_b = (both + only_a) / n, (both + only_b) / n
    low_a, high_a = wilson(both + only_a, n, confidence)
    low_b, high_b = wilson(both + only_b, n, confidence)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    product: float = both * neither - only_a * only_b
    if product > 0:
        product = max(product - n / 2, 0)  # the continuity correction of method 10
    phi = product / math.sqrt(margins) if margins else 0.0
    below = (share_a - low_a, high_b - share_b)
    above = (high_a - share_a, share_b - low_b)
    difference = share_a - share_b
    return (
        max(-1.0, difference - _combined(below, phi)),
        min(1.0, difference + _combined(above, phi)),
    )


def _combined(parts: tuple[float, float], phi: float) -> float:
    one, two = parts
    return math.sqrt(max(0.0, one * one - 2 * phi * one * two + two * two))


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p: how often as uneven a split of the discordant images comes from a fair coin.

    p = min(1, 2 sum_{i <= min} C(n, i) / 2^n), n = only_a + only_b (McNemar 1947; exact form).
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    if n <= _EXACT:
        ways: int = 2 * sum(math.comb(n, i) for i in range(fewer + 1))
        total: int = 2**n
        return min(1.0, ways / total)
    i = np.arange(fewer + 1, dtype=np.float64)
    logs = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in i])
    logs -= n * math.log(2)
    return min(1.0, 2 * float(np.exp(logs).sum()))


# --- bootstrap --------------------------------------------------------------------------------------------


def resamples(n: int, *, count: int = RESAMPLES, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """`count` times n of n rows with replacement; number r depends on (seed, r) alone."""
    index = np.arange(n, dtype=np.int64)
    for number in range(count):
        drawn = words(seed, "bootstrap", number, index, 1)[:, 0]
        yield ((drawn * np.uint64(n)) >> np.uint64(32)).astype(np.int64)  # bias below n / 2^32


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    *,
    count: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of a number that is computed from rows 0 to n - 1 (Efron 1979).

    `statistic(rows)` gets each resample; two classifiers are compared by a statistic of their difference,
    which keeps the pairs together. A resample without a number (NaN) is left out. Raises U260 for n < 1.
    """
    if n < 1:
        raise ConvworksError("U260", "there is no image to resample", try_="convworks check DATA")
    found = np.array([statistic(rows) for rows in resamples(n, count=count, seed=seed)], dtype=np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(values: ArrayLike, *, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Bootstrap interval of the mean of (N,) values, such as differences of each image."""
    each = np.asarray(values, dtype=np.float64)
    return bootstrap(lambda rows: float(each[rows].mean()), len(each), seed=seed, confidence=confidence)


# --- a few runs -------------------------------------------------------------------------------------------


def spread(values: ArrayLike) -> tuple[float, float | None]:
    """(mean, sample standard deviation) of a few runs; no deviation of a single one."""
    each = np.asarray(values, dtype=np.float64)
    return float(each.mean()), float(each.std(ddof=1)) if len(each) > 1 else None


def welch(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """(difference, low, high) of the mean of runs A minus that of runs B, variances unequal (Welch 1947).

    At least two runs on each side, else the interval is (-inf, inf).
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    difference = float(x.mean() - y.mean())
    if len(x) < 2 or len(y) < 2:
        return difference, -math.inf, math.inf
    vx, vy = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    if vx + vy == 0:
        return difference, difference, difference
    freedom = (vx + vy) ** 2 / (vx**2 / (len(x) - 1) + vy**2 / (len(y) - 1))
    half = student_quantile(0.5 + confidence / 2, freedom) * math.sqrt(vx + vy)
    return difference, difference - half, difference + half


@cache
def student_quantile(share: float, freedom: float) -> float:
    """The quantile of Student's t above the median, by bisection of its distribution (Simpson's rule).

    The density is integrated over the angle atan(t / sqrt(freedom)), where it is smooth on a finite range.
    """
    if not 0.5 <= share < 1 or freedom <= 0:
        raise ValueError(f"there is no quantile {share} of Student's t with {freedom} degrees of freedom")
    if freedom > 1e6:
        return NormalDist().inv_cdf(share)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)

    def mass(angle: float) -> float:  # P(0 < T < sqrt(freedom) tan(angle))
        at = np.linspace(0, angle, 4_001)
        density = np.cos(at) ** (freedom - 1)
        weights = np.ones(4_001)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        return scale * float(weights @ density) * angle / 4_000 / 3

    low, high = 0.0, math.pi / 2 * (1 - 1e-12)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < share - 0.5 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _pair(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.shape != b.shape or a.ndim != 1:
        raise ConvworksError(
            "U260",
            f"answers of shapes {a.shape} and {b.shape} cannot be compared in pairs",
            why="a paired comparison needs right or wrong for the same images in the same order",
            try_="compare both on the images that they have in common",
        )
    return a.astype(bool), b.astype(bool)
