"""Thresholds on the page: the suggestion, the table and the points of the slider, against plain counting."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from convworks.evaluation.selective import coverage_curve
from convworks.report.charts import READ_OFF
from convworks.report.read import Evaluation, RunRecord, read_run
from convworks.report.sureness import POINTS, WANTED, rows, suggestion, sureness
from tests.report.helpers import fake_run


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return read_run(fake_run(tmp_path_factory.mktemp("runs")))


def answered(confidence: NDArray[np.float64], right: NDArray[np.bool_], threshold: float) -> tuple[int, int]:
    """(answers, wrong answers) from a threshold on, counted one by one."""
    given = [bool(r) for c, r in zip(confidence, right, strict=True) if c >= threshold]
    return len(given), given.count(False)


def numbers(evaluation: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    assert evaluation.probabilities is not None
    p = evaluation.probabilities.astype(np.float64)
    return p.max(axis=1), p.argmax(axis=1) == evaluation.labels


def test_table_slider_and_suggestion_are_counts(record: RunRecord) -> None:
    evaluation = record.evaluations[0]
    confidence, right = numbers(evaluation)
    found = sureness(record, evaluation)
    assert found is not None
    assert 5 <= len(found.table) <= 8
    assert found.table[0].coverage == 1
    for row in found.table:
        assert answered(confidence, right, row.point.threshold) == (row.point.answered, row.point.wrong)
        assert row.coverage == row.point.answered / len(right)
    points = [each.split(":") for each in found.points.split(" ")]
    assert len(points) <= POINTS + 1
    for threshold, n, wrong, low, high in points:
        exact = min(confidence, key=lambda each: abs(each - float(threshold)))
        assert answered(confidence, right, exact) == (int(n), int(wrong))
        assert float(low) <= int(wrong) / int(n) <= float(high) or wrong == "0"
    assert found.suggested is not None
    assert found.suggested.wanted == 0.05
    assert found.suggested.point.error <= 0.05
    better = [t for t in confidence if t < found.suggested.point.threshold]
    for threshold in better:  # every lower one errs more
        n, wrong = answered(confidence, right, threshold)
        assert wrong / n > 0.05
    start = points[found.start]
    assert int(start[1]) == found.suggested.point.answered


def test_the_line_has_a_vertex_for_each_point(record: RunRecord) -> None:
    found = sureness(record, record.evaluations[0])
    assert found is not None
    (group,) = re.findall(rf'<g class="{READ_OFF}"><path d="([^"]*)"', found.charts[1].svg)
    assert len(re.findall(r"[ML]", group)) == len(found.points.split(" "))
    assert "suggested: from 0." in found.charts[1].svg


def test_no_threshold_where_none_is_needed_or_none_helps() -> None:
    perfect = coverage_curve(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 0]))
    assert suggestion(perfect) is None
    hopeless = coverage_curve(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([1, 0]))
    assert hopeless.points[0].error > WANTED[0]
    assert suggestion(hopeless) is None  # the surest answer is wrong
    p = np.linspace(0.6, 0.9, 100)
    good = coverage_curve(
        np.stack([p, 1 - p], axis=1), np.array([1] * 3 + [0] * 97)
    )  # 3 %, at the unsure end
    found = suggestion(good)
    assert found is not None
    assert (found.wanted, found.point.answered) == (0.02, 98)


def test_equal_confidences_make_few_rows() -> None:
    p = np.array([[0.9, 0.1]] * 7 + [[0.6, 0.4]] * 3)
    curve = coverage_curve(p, np.array([0] * 8 + [1] * 2))
    assert [(row.coverage, row.point.threshold) for row in rows(curve)] == [(1.0, 0.6), (0.7, 0.9)]
    alone = coverage_curve(p[:3], np.array([0, 1, 0]))
    assert [row.coverage for row in rows(alone)] == [1.0]


def test_the_words_of_the_page(record: RunRecord) -> None:
    from convworks.report.page import render

    text = render(record)
    assert "Suggested: answer from 0." in text
    assert "5 %, suggested</th>" in text
    evaluation = record.evaluations[0]
    assert evaluation.labels is not None
    sure = np.eye(len(evaluation.metrics.classes), dtype=np.float32)[evaluation.labels]
    without = replace(record, evaluations=(replace(evaluation, probabilities=sure),))
    assert "No threshold is suggested: answering all images, the error is 0.00 %." in render(without)
    wrong = np.roll(sure, 1, axis=1)
    hopeless = replace(record, evaluations=(replace(evaluation, probabilities=wrong),))
    assert "No threshold brings the error from 100.00 % to 5 % or less" in render(hopeless)
