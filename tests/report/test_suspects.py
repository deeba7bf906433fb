"""Planted wrong labels come first; hard images with right labels do not; the rule by a plain loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from convworks.report.read import read_run
from convworks.report.suspects import suspect_rows, suspects
from tests.report.helpers import fake_run, painter


def answers(n: int = 400, k: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, k, size=n)
    return softmax(3 * np.eye(k)[labels] + random.normal(size=(n, k)), axis=1), labels


def test_planted_labels_are_found_and_ranked_by_margin() -> None:
    p, labels = answers()
    wrong = np.arange(0, 400, 40)
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 5
    rows, others = suspect_rows(p, given)
    assert len(set(wrong.tolist()) & set(rows.tolist())) >= 7
    assert len(rows) < 30
    margins = p[rows, given[rows]] - p[rows, others]
    assert np.all(np.diff(margins) >= 0)
    assert np.all(margins < 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_by_a_loop(seed: int) -> None:
    p, labels = answers(120, 4, seed)
    labels = np.roll(labels, 1) if seed == 3 else labels
    usual = [np.mean([row[c] for row, y in zip(p, labels, strict=True) if y == c]) for c in range(4)]
    expected = []
    for i, (row, y) in enumerate(zip(p, labels, strict=True)):
        sure = [(row[c], -c) for c in range(4) if c != y and row[c] >= usual[c]]
        if sure and row[y] < usual[y] and max(sure)[0] > row[y]:
            expected.append((row[y] - max(sure)[0], i, -max(sure)[1]))
    rows, others = suspect_rows(p, labels)
    assert [(i, c) for _, i, c in sorted(expected)] == list(zip(rows.tolist(), others.tolist(), strict=True))


@pytest.mark.parametrize("shape", [(0, 3), (5, 1), (1, 2)])
def test_nothing_to_judge(shape: tuple[int, int]) -> None:
    rows, _ = suspect_rows(np.full(shape, 1 / shape[1]), np.zeros(shape[0], dtype=np.int64))
    assert len(rows) == 0


def test_training_images_are_never_judged(tmp_path: Path) -> None:
    record = read_run(fake_run(tmp_path))
    val = record.evaluations[0]
    found = suspects((val,), record.manifest, pictures=2, thumbnail=painter())
    assert found is not None
    assert found.judged == 131
    assert [row.picture is not None for row in found.rows] == [n < 2 for n in range(len(found.rows))]
    assert all(row.margin < 0 for row in found.rows)
    train = replace(val, split="train")
    assert suspects((train,), record.manifest, pictures=0, thumbnail=None) is None
    views = replace(val, protocol="ten-crop")
    assert suspects((views,), record.manifest, pictures=0, thumbnail=None) is None
    assert suspects((val,), None, pictures=0, thumbnail=None) is None
