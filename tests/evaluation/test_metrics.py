"""Every score against scikit-learn and scipy, and the ties against a brute-force count."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics as oracle

from convworks.errors import ConvworksError
from convworks.evaluation.metrics import (
    LOG_CLIP,
    Metrics,
    confusion_matrix,
    log_loss,
    measure,
    predict,
    top_k,
    true_ranks,
    wilson,
)

EXACT = {"rtol": 0, "atol": 1e-12}


def drawn(*, n: int, k: int, seed: int = 0, dtype: type = np.float64) -> tuple[NDArray, NDArray]:
    """Probabilities that favour the true class a little, and labels in which every class occurs."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), random.integers(k, size=n - k)])
    scores = random.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    return softmax(scores, axis=1).astype(dtype), labels


def names(k: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(k))


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 7), (7, 7), (3, 10), (198, 239), (9_950, 10_000)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_equals_scipy(successes: int, n: int, confidence: float) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    np.testing.assert_allclose(wilson(successes, n, confidence), (expected.low, expected.high), **EXACT)


@given(n=st.integers(1, 10**6), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_wilson_equals_scipy_for_any_count(n: int, share: float) -> None:
    successes = round(share * n)
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(successes, n), (expected.low, expected.high), **EXACT)


def test_wilson_of_nothing_knows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_stays_between_zero_and_one() -> None:
    assert {wilson(0, n)[0] for n in range(1, 500)} == {0.0}
    assert {wilson(n, n)[1] for n in range(1, 500)} == {1.0}


@pytest.mark.parametrize("arguments", [(-1, 3), (4, 3), (1, 3, 0.0), (1, 3, 1.0), (0, -1)])
def test_wilson_refuses_impossible_numbers(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        wilson(*arguments)


@pytest.mark.parametrize(("n", "k"), [(3, 2), (50, 3), (400, 10), (300, 60)])
def test_scores_equal_scikit_learn(n: int, k: int) -> None:
    n = max(n, k)
    probabilities, labels = drawn(n=n, k=k, seed=n)
    found = measure(probabilities, labels, names(k))
    answered = probabilities.argmax(axis=1)
    everyone = list(range(k))
    precision, recall, f1, support = oracle.precision_recall_fscore_support(
        labels, answered, labels=everyone, zero_division=0.0
    )
    np.testing.assert_allclose(found.top1, oracle.accuracy_score(labels, answered), **EXACT)
    np.testing.assert_allclose(
        found.balanced_accuracy, oracle.balanced_accuracy_score(labels, answered), **EXACT
    )
    np.testing.assert_allclose(found.loss, oracle.log_loss(labels, probabilities, labels=everyone), **EXACT)
    np.testing.assert_array_equal(found.confusion, oracle.confusion_matrix(labels, answered, labels=everyone))
    np.testing.assert_allclose([each.recall for each in found.classes], recall, **EXACT)
    np.testing.assert_allclose([each.precision or 0.0 for each in found.classes], precision, **EXACT)
    np.testing.assert_allclose([each.f1 for each in found.classes], f1, **EXACT)
    np.testing.assert_array_equal([each.n for each in found.classes], support)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 10])
def test_top_k_equals_scikit_learn(k: int) -> None:
    probabilities, labels = drawn(n=500, k=11)
    expected = oracle.top_k_accuracy_score(labels, probabilities, k=k)
    np.testing.assert_allclose(top_k(probabilities, labels, k=k), expected, **EXACT)


def test_intervals_are_those_of_the_counts() -> None:
    probabilities, labels = drawn(n=120, k=7)
    found = measure(probabilities, labels, names(7))
    expected = binomtest(round(found.top1 * 120), 120).proportion_ci(method="wilson")
    np.testing.assert_allclose(found.top1_ci, (expected.low, expected.high), **EXACT)
    assert found.top5 is not None
    expected = binomtest(round(found.top5 * 120), 120).proportion_ci(method="wilson")
    np.testing.assert_allclose(found.top5_ci, (expected.low, expected.high), **EXACT)
    for index, each in enumerate(found.classes):
        expected = binomtest(int(found.confusion[index, index]), each.n).proportion_ci(method="wilson")
        np.testing.assert_allclose(each.recall_ci, (expected.low, expected.high), **EXACT)


def brute_rank(row: list[float], true: int) -> int:
    """Take the largest away, the lowest index first, until the true class comes up."""
    left = dict(enumerate(row))
    for place in range(len(row)):
        best = min(left, key=lambda index: (-left[index], index))
        if best == true:
            return place
        del left[best]
    raise AssertionError("the true class is not in the row")


@given(
    scores=arrays.arrays(
        np.int8, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=st.integers(0, 3)
    ),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_ties_equal_brute_force(scores: NDArray, data: st.DataObject) -> None:
    n, k = scores.shape
    labels = data.draw(arrays.arrays(np.int64, n, elements=st.integers(0, k - 1)))
    probabilities = (scores + 1) / (scores + 1).sum(axis=1, keepdims=True)
    expected = [
        brute_rank(row, true) for row, true in zip(probabilities.tolist(), labels.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(true_ranks(probabilities, labels), expected)
    np.testing.assert_array_equal(true_ranks(probabilities, labels) == 0, predict(probabilities) == labels)
    for wanted in range(1, k + 1):
        share = sum(rank < wanted for rank in expected) / n
        np.testing.assert_allclose(top_k(probabilities, labels, k=wanted), share, **EXACT)


def test_all_equal_probabilities_answer_the_first_class() -> None:
    probabilities = np.full((10, 10), 0.1)
    found = measure(probabilities, np.arange(10), names(10))
    assert (found.top1, found.top5) == (0.1, 0.5)


@pytest.mark.parametrize(("k", "there"), [(1, False), (2, False), (5, False), (6, True)])
def test_top5_needs_more_than_five_classes(k: int, there: bool) -> None:
    probabilities, labels = drawn(n=20, k=k)
    found = measure(probabilities, labels, names(k))
    assert (found.top5 is not None, found.top5_ci is not None) == (there, there)


def test_float32_probabilities_lose_nothing() -> None:
    probabilities, labels = drawn(n=200, k=8, dtype=np.float32)
    expected = -np.mean([np.log(float(p[y])) for p, y in zip(probabilities, labels, strict=True)])
    np.testing.assert_allclose(log_loss(probabilities, labels), expected, **EXACT)


def test_an_impossible_image_has_a_finite_loss() -> None:
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(log_loss(probabilities, np.array([0, 1])), -np.log(LOG_CLIP) / 2, **EXACT)
    assert str(log_loss(probabilities, np.array([0, 0]))) == "0.0"


def test_a_class_without_images_has_no_recall_and_does_not_count() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    found = measure(probabilities, np.array([0, 1, 1]), names(3))
    absent = found.classes[2]
    assert (absent.n, absent.recall, absent.recall_ci, absent.precision, absent.f1) == (
        0,
        None,
        (0.0, 1.0),
        None,
        None,
    )
    np.testing.assert_allclose(found.balanced_accuracy, (1 + 0.5) / 2, **EXACT)


def test_a_class_never_answered_has_no_precision_but_an_f1() -> None:
    found = measure(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]), names(2))
    assert (found.classes[1].recall, found.classes[1].precision, found.classes[1].f1) == (0.0, None, 0.0)


def test_the_confusion_has_true_classes_as_rows() -> None:
    cells = confusion_matrix(np.array([0, 0, 2]), np.array([1, 1, 0]), classes=3)
    np.testing.assert_array_equal(cells, [[0, 2, 0], [0, 0, 0], [1, 0, 0]])
    assert cells.dtype == np.int64


@pytest.mark.parametrize("k", [3, 7])
def test_the_record_survives_json(k: int) -> None:
    probabilities, labels = drawn(n=40, k=k)
    found = measure(probabilities, labels, names(k))
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = Metrics.from_dict({**json.loads(text), "split": "val", "epoch": 3})
    assert json.dumps(again.to_dict()) == text
    assert again.classes == found.classes
    assert again.names == names(k)
    np.testing.assert_array_equal(again.confusion, found.confusion)
    assert again.confusion.dtype == np.int64


def damaged(**changes: object) -> dict[str, object]:
    probabilities, labels = drawn(n=40, k=7)
    return {**measure(probabilities, labels, names(7)).to_dict(), **changes}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "not a table of values"),
        ({}, "is missing"),
        (damaged(top1=1.5), "top1 must lie between 0 and 1"),
        (damaged(top1=True), "top1 must lie between 0 and 1"),
        (damaged(top5_ci=[0.1]), "not enough values"),
        (damaged(loss=float("inf")), "loss must be a number"),
        (damaged(n=41), "do not add up"),
        (damaged(confusion=[[1, 2], [3]]), "inhomogeneous"),
        (damaged(confusion=[[1, 2], [3, 4]]), "must be 7 x 7 counts"),
        (damaged(confusion=[[0.5] * 7] * 7), "must be 7 x 7 counts"),
        (damaged(confusion=[[-1] * 7] * 7), "must be 7 x 7 counts"),
        (damaged(classes=[]), "counts"),
        (damaged(classes=["a"] * 7), "string indices"),
    ],
)
def test_a_damaged_record_is_refused(tree: object, message: str) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        Metrics.from_dict(tree)
    assert caught.value.code == "A460"


@pytest.mark.parametrize(
    ("probabilities", "labels", "code", "message"),
    [
        (np.ones((2, 1)), np.zeros(3, dtype=np.int64), "U160", "do not fit"),
        (np.ones((2, 2)) / 2, np.zeros((2, 1), dtype=np.int64), "U160", "do not fit"),
        (np.ones((0, 2)), np.zeros(0, dtype=np.int64), "D205", "no image"),
        (np.ones((1, 2)) / 2, np.zeros(1), "U160", "whole numbers"),
        (np.ones((1, 2)) / 2, np.array([2]), "U160", "between 0 and 1"),
        (np.ones((1, 2)) / 2, np.array([-1]), "U160", "between 0 and 1"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "N620", "not numbers"),
        (np.array([[3.0, 2.0]]), np.array([0]), "U160", "not probabilities"),
        (np.array([[-0.5, 1.5]]), np.array([0]), "U160", "not probabilities"),
    ],
)
def test_input_that_does_not_fit_is_refused(
    probabilities: NDArray, labels: NDArray, code: str, message: str
) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        measure(probabilities, labels, names(probabilities.shape[1]))
    assert caught.value.code == code
