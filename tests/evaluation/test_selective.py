"""Coverage and error against a plain count for every threshold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax

from convworks.errors import ConvworksError
from convworks.evaluation.selective import (
    MOST_POINTS,
    Curve,
    abstains,
    coverage_curve,
    curve_from_dict,
    suggestions,
    threshold_for,
)


def drawn(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(4, size=n)
    return softmax(random.normal(size=(n, 4)) + 2 * np.eye(4)[labels], axis=1), labels


def test_every_point_is_a_count() -> None:
    p, labels = drawn()
    p[10:40] = p[10]  # equal confidences
    curve = coverage_curve(p, labels)
    assert [x.threshold for x in curve.points] == sorted({float(v) for v in p.max(axis=1)})
    for point in curve.points:
        kept = p.max(axis=1) >= point.threshold
        assert point.answered == kept.sum()
        assert point.wrong == (p[kept].argmax(axis=1) != labels[kept]).sum()
    first = curve.points[0]
    assert (first.answered, curve.coverage(first)) == (300, 1.0)


def test_the_threshold_answers_most_images_below_the_error() -> None:
    p, labels = drawn()
    curve = coverage_curve(p, labels)
    point = threshold_for(curve, error=0.05)
    assert point is not None
    assert point.error <= 0.05
    better = [x for x in curve.points if x.answered > point.answered]
    assert all(x.error > 0.05 for x in better)
    sure = threshold_for(curve, error=0.1, sure=True)
    assert sure is not None
    assert sure.interval[1] <= 0.1
    assert sure.threshold >= point.threshold or sure.answered <= curve.n


def test_no_threshold_reaches_it() -> None:
    p, labels = drawn()
    wrong = coverage_curve(p, (p.argmax(axis=1) + 1) % 4)
    assert threshold_for(wrong, error=0.5) is None
    assert threshold_for(coverage_curve(p, p.argmax(axis=1)), error=0.0).answered == 300  # type: ignore[union-attr]
    assert suggestions(wrong) == []
    assert len(suggestions(coverage_curve(p, labels))) >= 2


def test_a_wanted_error_out_of_range() -> None:
    with pytest.raises(ConvworksError, match="between 0 and 1") as problem:
        threshold_for(coverage_curve(*drawn()), error=1.5)
    assert problem.value.code == "U262"


def test_no_image() -> None:
    with pytest.raises(ConvworksError, match="needs images") as problem:
        coverage_curve(np.empty((0, 3)), np.empty(0, dtype=np.int64))
    assert problem.value.code == "U261"


def test_the_area_is_the_mean_error_over_coverage() -> None:
    p, labels = drawn()
    curve = coverage_curve(p, labels)
    order = np.argsort(-p.max(axis=1), kind="stable")
    wrong = (p.argmax(axis=1) != labels)[order]
    assert curve.area == pytest.approx(np.mean(np.cumsum(wrong) / np.arange(1, 301)), abs=1e-12)


def test_the_curve_travels_thinned() -> None:
    p, labels = drawn(2_000)
    tree = json.loads(json.dumps(coverage_curve(p, labels).to_dict()))
    assert len(tree["points"]) == MOST_POINTS
    again = curve_from_dict(tree)
    assert isinstance(again, Curve)
    assert again.points[0].answered == 2_000
    assert curve_from_dict(None) is None


@pytest.mark.parametrize(
    "tree",
    [7, {"n": 3}, {"n": 3, "points": []}, {"n": 3, "points": [[0.5, 4, 0]]}, {"n": 3, "points": [[2, 1, 0]]}],
)
def test_a_damaged_curve(tree: object) -> None:
    with pytest.raises(ConvworksError, match="is damaged") as problem:
        curve_from_dict(tree)
    assert problem.value.code == "A476"


def test_abstaining() -> None:
    assert not abstains(0.3, None)
    assert abstains(0.3, 0.31)
    assert not abstains(0.3, 0.3)
