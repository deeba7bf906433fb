"""How an error falls with the number of training images: straight lines through a few points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convworks.errors import ConvworksError
from convworks.evaluation.comparison import student_quantile
from convworks.evaluation.metrics import Interval


@dataclass(frozen=True, slots=True)
class Line:
    """y = intercept + slope x, by least squares through `points` points."""

    intercept: float
    slope: float
    slope_interval: Interval | None  # 95 %; None with two points, through which a line always goes
    r_squared: float
    points: int
    residual: float | None  # standard deviation of the residuals
    mean: float  # of x
    spread: float  # sum of (x - mean)^2

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x

    def interval(self, x: float, *, confidence: float = 0.95) -> Interval | None:
        """Where one further point at x would lie (prediction interval), if the line goes on."""
        if self.residual is None:
            return None
        width = math.sqrt(1 + 1 / self.points + (x - self.mean) ** 2 / self.spread) * self.residual
        half = student_quantile(0.5 + confidence / 2, self.points - 2) * width
        return self.at(x) - half, self.at(x) + half


def fit_line(x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95) -> Line:
    """The least-squares line. Raises U275 for fewer than two different x."""
    xs: NDArray[np.float64] = np.asarray(x, dtype=np.float64)
    ys: NDArray[np.float64] = np.asarray(y, dtype=np.float64)
    n, mean = len(xs), float(xs.mean()) if len(xs) else math.nan
    spread = float(((xs - mean) ** 2).sum()) if n else 0.0
    if n < 2 or spread == 0:
        raise ConvworksError(
            "U275", "a curve needs two different numbers of images", try_="--fractions 0.1,0.3,1"
        )
    slope = float(((xs - mean) * (ys - ys.mean())).sum()) / spread
    intercept = float(ys.mean()) - slope * mean
    left = float(((ys - intercept - slope * xs) ** 2).sum())
    total = float(((ys - ys.mean()) ** 2).sum())
    residual = math.sqrt(left / (n - 2)) if n > 2 else None
    interval = None
    if residual is not None:
        half = student_quantile(0.5 + confidence / 2, n - 2) * residual / math.sqrt(spread)
        interval = slope - half, slope + half
    return Line(intercept, slope, interval, 1 - left / total if total else 1.0, n, residual, mean, spread)
