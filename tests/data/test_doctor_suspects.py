"""Label suspects against the definition of the paper, written as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convworks.data.suspects import class_thresholds, label_suspects, margins_of


def loops(chances: NDArray[np.float64], labels: NDArray[np.int64]) -> list[tuple[float, int, int]]:
    """(margin, row, answer) of every suspect, by the words of the paper."""
    count, classes = chances.shape
    thresholds = []
    for k in range(classes):
        own = [chances[i, k] for i in range(count) if labels[i] == k]
        thresholds.append(sum(own) / len(own) if own else float("inf"))
    found = []
    for i in range(count):
        best, answer = -1.0, -1
        for k in range(classes):
            if chances[i, k] >= thresholds[k] and chances[i, k] > best:
                best, answer = chances[i, k], k
        if answer not in (-1, labels[i]):
            others = max(chances[i, k] for k in range(classes) if k != labels[i])
            found.append((float(chances[i, labels[i]] - others), i, answer))
    return sorted(found, key=lambda each: each[0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 6))
def test_it_is_the_definition(seed: int, count: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    chances = random.dirichlet(np.full(classes, 0.4), count)
    labels = random.integers(0, classes, count)
    found = [(each.margin, each.row, each.answer) for each in label_suspects(chances, labels)]
    wanted = loops(chances, labels)
    assert [each[1:] for each in found] == [each[1:] for each in wanted]
    np.testing.assert_allclose([each[0] for each in found], [each[0] for each in wanted])
    assert [each[0] for each in found] == sorted(each[0] for each in found)


def test_planted_mistakes_come_first() -> None:
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 400)
    chances = 0.1 * random.dirichlet(np.ones(4), 400) + 0.9 * np.eye(4)[true] * random.uniform(
        0.7, 1, (400, 1)
    )
    chances /= chances.sum(axis=1, keepdims=True)
    labels = true.copy()
    wrong = random.permutation(400)[:20]
    labels[wrong] = (labels[wrong] + 1) % 4
    found = label_suspects(chances, labels)
    assert {each.row for each in found} <= set(wrong.tolist())
    assert len(found) >= 15  # the others get less probability than their class usually gets
    assert all(each.answer == true[each.row] and each.margin < 0 for each in found)


def test_nothing_and_what_does_not_fit() -> None:
    assert label_suspects(np.zeros((0, 3)), np.zeros(0, int)) == []
    with pytest.raises(ValueError, match="do not fit"):
        label_suspects(np.ones((2, 3)), np.array([0, 3]))
    with pytest.raises(ValueError, match="do not fit"):
        label_suspects(np.ones((2, 3)), np.array([0]))
    thresholds = class_thresholds(np.array([[0.5, 0.5, 0.0]]), np.array([0]))
    np.testing.assert_array_equal(thresholds, [0.5, np.inf, np.inf])
    np.testing.assert_allclose(margins_of(np.array([[0.2, 0.7, 0.1]]), np.array([0])), [-0.5])
