"""The line through a learning curve against scipy, and against statsmodels' formula for a further point."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from convworks.errors import ConvworksError
from convworks.evaluation.trend import fit_line

X = np.log([100, 200, 500, 1000, 2000])
Y = np.array([0.31, 0.25, 0.17, 0.13, 0.07])


def test_the_line_is_scipys() -> None:
    found, expected = fit_line(X, Y), stats.linregress(X, Y)
    assert found.slope == pytest.approx(expected.slope, rel=1e-12)
    assert found.intercept == pytest.approx(expected.intercept, rel=1e-12)
    assert found.r_squared == pytest.approx(expected.rvalue**2, rel=1e-12)
    half = stats.t.ppf(0.975, 3) * expected.stderr
    assert found.slope_interval is not None
    np.testing.assert_allclose(
        found.slope_interval, (expected.slope - half, expected.slope + half), rtol=1e-6
    )


def test_a_further_point_lies_in_its_interval_95_times_of_100() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(2_000):
        line = fit_line(X, 0.9 - 0.1 * X + random.normal(0, 0.02, 5))
        low, high = line.interval(9.0)  # type: ignore[misc]
        inside += low <= 0.9 - 0.1 * 9.0 + random.normal(0, 0.02) <= high
    assert 0.93 <= inside / 2_000 <= 0.97


def test_two_points_have_no_interval() -> None:
    found = fit_line([1, 2], [3, 5])
    assert (found.slope, found.intercept, found.slope_interval, found.interval(3.0)) == (2, 1, None, None)
    assert found.at(10) == 21
    assert fit_line([1, 2, 3], [4, 4, 4]).r_squared == 1.0


@pytest.mark.parametrize("x", [[], [1.0], [2.0, 2.0]])
def test_too_few_points(x: list[float]) -> None:
    with pytest.raises(ConvworksError, match="two different numbers") as problem:
        fit_line(x, x)
    assert problem.value.code == "U275"
