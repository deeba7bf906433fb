"""Calibration errors and the Brier score against plain loops and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from convworks.evaluation.metrics import Metrics, measure
from convworks.evaluation.reliability import brier, expected_calibration_error, reliability
from tests.evaluation.test_metrics import drawn, names

EXACT = {"rel": 0, "abs": 1e-12}


@pytest.mark.parametrize("k", [2, 3, 10])
def test_brier_is_the_formula(k: int) -> None:
    p, labels = drawn(n=101, k=k)
    total = sum((p[i, j] - (labels[i] == j)) ** 2 for i in range(101) for j in range(k))
    assert brier(p, labels) == pytest.approx(total / 101, **EXACT)


def test_brier_of_two_classes_is_twice_scikit_learns() -> None:
    p, labels = drawn(n=80, k=2)
    assert brier(p, labels) == pytest.approx(2 * oracle.brier_score_loss(labels, p[:, 1]), **EXACT)


def loop_ece(p: np.ndarray, labels: np.ndarray, bins: int) -> float:
    confidence, right, total = p.max(axis=1), p.argmax(axis=1) == labels, 0.0
    for m in range(bins):
        inside = [i for i in range(len(p)) if m / bins < confidence[i] <= (m + 1) / bins]
        if inside:
            total += len(inside) / len(p) * abs(np.mean(right[inside]) - np.mean(confidence[inside]))
    return total


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_ece_is_the_loop(bins: int) -> None:
    p, labels = drawn(n=500, k=6)
    assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(
        loop_ece(p, labels, bins), **EXACT
    )


@pytest.mark.parametrize(("kind", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_table_is_scikit_learns_curve(kind: str, strategy: str) -> None:
    p, labels = drawn(n=600, k=3, seed=2)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    shares, means = calibration_curve(right, confidence, n_bins=10, strategy=strategy)
    table = reliability(p, labels, bins=10, kind=kind)  # type: ignore[arg-type]
    full = table.counts > 0
    if kind == "width":
        np.testing.assert_allclose(table.accuracy[full], shares, rtol=0, atol=1e-12)
        np.testing.assert_allclose(table.confidence[full], means, rtol=0, atol=1e-12)
    else:  # the quantiles of scikit-learn lie between images, ours on one
        assert set(table.counts) == {60}
        np.testing.assert_allclose(table.accuracy, shares, atol=0.04)
    assert table.counts.sum() == 600


def test_equal_confidences_share_a_bin() -> None:
    p = np.array([[0.6, 0.4]] * 9 + [[1.0, 0.0]])
    table = reliability(p, np.zeros(10, dtype=np.int64), bins=5, kind="mass")
    assert table.counts.tolist() in ([9, 1], [9, 1, 0])
    assert reliability(p[:2], np.zeros(2, dtype=np.int64), bins=5, kind="mass").counts.sum() == 2


def test_a_sure_and_right_model_has_no_error() -> None:
    p = np.eye(4)[[0, 1, 2, 3]]
    table = reliability(p, np.arange(4))
    assert (table.expected, table.largest, brier(p, np.arange(4))) == (0.0, 0.0, 0.0)
    assert table.counts[-1] == 4
    wrong = reliability(p, np.array([1, 2, 3, 0]))
    assert (wrong.expected, wrong.largest) == (1.0, 1.0)


def test_no_image_and_no_bin() -> None:
    assert reliability(np.empty((0, 3)), np.empty(0, dtype=np.int64)).expected == 0.0
    with pytest.raises(ValueError, match="needs a bin"):
        reliability(np.eye(2), np.arange(2), bins=0)


def test_the_table_as_json_has_no_nan() -> None:
    p, labels = drawn(n=20, k=3)
    tree = reliability(p, labels).to_dict()
    assert sum(each["n"] for each in tree["bins"]) == 20
    json.dumps(tree, allow_nan=False)
    assert any(each["confidence"] is None for each in tree["bins"])


@pytest.mark.parametrize("k", [2, 7])
def test_metrics_hold_them_and_macro_f1_is_scikit_learns(k: int) -> None:
    p, labels = drawn(n=90, k=k, seed=3)
    found = measure(p, labels, names(k))
    answers = p.argmax(axis=1)
    assert found.macro_f1 == pytest.approx(oracle.f1_score(labels, answers, average="macro"), **EXACT)
    assert found.brier == brier(p, labels)
    assert found.ece == expected_calibration_error(p, labels)
    again = Metrics.from_dict(json.loads(json.dumps(found.to_dict())))
    assert (again.brier, again.ece, again.macro_f1) == (found.brier, found.ece, found.macro_f1)


def test_records_of_before_have_none() -> None:
    p, labels = drawn(n=30, k=3)
    tree = measure(p, labels, names(3)).to_dict()
    for key in ("brier", "ece", "macro_f1"):
        del tree[key]
    old = Metrics.from_dict(tree)
    assert (old.brier, old.ece) == (None, None)
    assert 0 < old.macro_f1 < 1


def test_rows_that_sum_to_a_little_more_stay_readable() -> None:
    p = softmax(np.random.default_rng(0).normal(size=(20, 3)) * 40, axis=1) * 1.005
    found = measure(p, np.zeros(20, dtype=np.int64), names(3))
    Metrics.from_dict(found.to_dict())
