"""Answering only when sure: the error among the answered images against the share that is answered.

A model abstains where its largest probability is below a threshold. From images that it did not learn from,
the curve of coverage and error says which threshold keeps the error below a wanted one (Chow 1970;
El-Yaniv and Wiener 2010, "On the foundations of noise-free selective classification").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Interval, wilson

WANTED = 0.05  # error among the answered images, where none is asked for
MOST_POINTS = 200  # of a stored curve


@dataclass(frozen=True, slots=True)
class Point:
    """Answering from `threshold` on: how many images are answered, and how many of those wrong."""

    threshold: float  # answers with at least this probability are given
    answered: int
    wrong: int

    @property
    def error(self) -> float:
        return self.wrong / self.answered

    @property
    def interval(self) -> Interval:
        """Wilson, 95 %, of the error among the answered images."""
        return wilson(self.wrong, self.answered)


@dataclass(frozen=True, slots=True)
class Curve:
    """Points with rising thresholds: the first answers all `n` images."""

    n: int
    points: tuple[Point, ...]

    def coverage(self, point: Point) -> float:
        return point.answered / self.n

    @property
    def area(self) -> float:
        """Mean error over all coverages (area under the risk-coverage curve); 0 is best."""
        answered = np.array([each.answered for each in self.points], dtype=np.float64)
        errors = np.array([each.error for each in self.points], dtype=np.float64)
        widths = -np.diff(np.append(answered, 0.0)) / self.n
        return float(errors @ widths)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, thinned to MOST_POINTS points."""
        at = np.unique(np.linspace(0, len(self.points) - 1, MOST_POINTS).round().astype(int))
        kept = [self.points[i] for i in at] if len(self.points) > MOST_POINTS else self.points
        return {"n": self.n, "points": [[p.threshold, p.answered, p.wrong] for p in kept]}


def curve_from_dict(tree: Any) -> Curve | None:
    """A stored curve; None where there is none. Raises A476 where it is damaged."""
    if tree is None:
        return None
    try:
        points = tuple(Point(float(t), int(answered), int(wrong)) for t, answered, wrong in tree["points"])
        found = Curve(int(tree["n"]), points)
        sound = bool(points) and all(
            0 <= p.threshold <= 1 + 1e-6 and 0 <= p.wrong <= p.answered <= found.n and p.answered
            for p in points
        )
    except (TypeError, ValueError, KeyError) as problem:
        raise _damaged(str(problem)) from problem
    if not sound:
        raise _damaged("its counts do not fit each other")
    return found


def _damaged(why: str) -> ConvworksError:
    return ConvworksError(
        "A476", f"the model's curve of thresholds is damaged: {why}", try_="give the threshold as a number"
    )


def coverage_curve(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> Curve:
    """The curve of (N, K) probabilities: one point for each different confidence.

    Raises U261 where there is no image.
    """
    if not len(labels):
        raise ConvworksError("U261", "a curve of thresholds needs images", try_="convworks check DATA")
    confidence = np.asarray(probabilities, dtype=np.float64).max(axis=1)
    wrong = np.asarray(probabilities).argmax(axis=1) != labels
    order = np.argsort(-confidence, kind="stable")
    ordered, errors = confidence[order], np.cumsum(wrong[order])
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each group of equal confidences
    points = [Point(float(ordered[i]), int(i) + 1, int(errors[i])) for i in last]
    return Curve(len(labels), tuple(reversed(points)))


def threshold_for(curve: Curve, *, error: float, sure: bool = False) -> Point | None:
    """The point that answers most images with at most `error` among them; None where there is none.

    With `sure` the upper end of the 95 % interval must not exceed it, which asks for more images. The
    threshold was chosen on these images, so on new ones the error is a little higher than the point says.
    """
    if not 0 <= error < 1:
        raise ConvworksError(
            "U262", f"a wanted error must lie between 0 and 1, not {error:g}", try_="--max-error 0.05"
        )
    for point in curve.points:
        if (point.interval[1] if sure else point.error) <= error:
            return point
    return None


def suggestions(curve: Curve, errors: Sequence[float] = (0.1, 0.05, 0.02, 0.01)) -> list[dict[str, Any]]:
    """Rows of wanted error, threshold, coverage and the error found with its interval."""
    rows: list[dict[str, Any]] = []
    for wanted in errors:
        point = threshold_for(curve, error=wanted)
        if point is not None:
            low, high = point.interval
            rows.append(
                {
                    "wanted": wanted,
                    "threshold": point.threshold,
                    "coverage": curve.coverage(point),
                    "error": point.error,
                    "ci": [low, high],
                }
            )
    return rows


def abstains(probability: float, threshold: float | None) -> bool:
    """Whether a model keeps its answer to itself."""
    return threshold is not None and probability < threshold
