"""Weights against scipy's constrained minimiser, alignment by name, and a planted leak."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from convworks.errors import ConvworksError
from convworks.evaluation.ensemble import (
    aligned,
    fit_weights,
    greedy_weights,
    group_average,
    groups_of,
    mean_of,
    out_of_fold,
    uniform,
)
from convworks.evaluation.metrics import log_loss


def members(
    strengths: list[float], *, n: int = 300, k: int = 4, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Members whose answers lean to the truth as strongly as given, with errors of their own."""
    random = np.random.default_rng(seed)
    labels = random.integers(k, size=n)
    eye = np.eye(k)[labels]
    sources = [
        softmax(random.normal(size=(n, k)) * 1.5 + s * eye, axis=1).astype(np.float32) for s in strengths
    ]
    return sources, labels


def loss_of(sources: list[np.ndarray], labels: np.ndarray, w: np.ndarray) -> float:
    return log_loss(mean_of(sources, w), labels)


@pytest.mark.parametrize("strengths", [[2.0, 2.0], [3.0, 0.5, 1.0], [1.0, 1.0, 1.0, 4.0, 0.0], [2.5]])
def test_fitted_weights_are_scipys_minimum(strengths: list[float]) -> None:
    sources, labels = members(strengths)
    P = np.stack([p.astype(np.float64)[np.arange(300), labels] for p in sources], axis=1)
    found = fit_weights(sources, labels)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-12)
    expected = minimize(
        lambda w: -np.log(P @ w).mean(),
        uniform(len(strengths)),
        jac=lambda w: -(P / (P @ w)[:, None]).mean(axis=0),
        bounds=[(0, 1)] * len(strengths),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert -np.log(P @ found).mean() <= expected.fun + 1e-9
    np.testing.assert_allclose(found, expected.x, atol=2e-4)


@given(st.lists(st.floats(-1, 5), min_size=1, max_size=6), st.integers(0, 1000), st.integers(1, 60))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_fitted_weights_are_never_worse_than_uniform(strengths: list[float], seed: int, n: int) -> None:
    sources, labels = members(strengths, n=n, seed=seed)
    found = fit_weights(sources, labels)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert loss_of(sources, labels, found) <= loss_of(sources, labels, uniform(len(sources)))


def test_a_useless_member_gets_no_weight_and_equal_ones_share() -> None:
    sources, labels = members([3.0, 0.0])
    assert fit_weights(sources, labels)[1] < 0.05
    twice = [sources[0], sources[0]]
    assert loss_of(twice, labels, fit_weights(twice, labels)) == pytest.approx(log_loss(sources[0], labels))


def test_members_that_are_sure_and_wrong_do_not_break_the_fit() -> None:
    labels = np.array([0, 1, 0, 1])
    sure = np.eye(2)[labels]
    wrong = np.eye(2)[1 - labels]
    np.testing.assert_allclose(fit_weights([wrong, sure], labels), [0, 1], atol=1e-9)


def test_greedy_selection_is_the_loop() -> None:
    sources, labels = members([2.0, 1.8, 1.0, 2.2], seed=4)
    counts, best, kept = [0] * 4, np.inf, [0] * 4
    for number in range(1, 31):
        losses = []
        for g in range(4):
            tried = np.array([c + (i == g) for i, c in enumerate(counts)]) / number
            losses.append(loss_of(sources, labels, tried))
        g = int(np.argmin(losses))
        counts[g] += 1
        if losses[g] < best - 1e-15:
            best, kept = losses[g], list(counts)
    np.testing.assert_allclose(greedy_weights(sources, labels), np.array(kept) / sum(kept))
    assert best <= min(log_loss(p, labels) for p in sources)


def test_nothing_to_fit_to() -> None:
    sources, labels = members([1.0, 2.0])
    for bad, y in (([], labels), (sources, labels[:0]), ([sources[0][:5], sources[1]], labels)):
        with pytest.raises(ConvworksError, match="cannot be fitted") as problem:
            fit_weights(bad, y)
        assert problem.value.code == "U264"


def test_a_hundred_permutations_of_the_classes_shift_no_label() -> None:
    random = np.random.default_rng(0)
    names = tuple(f"class {i}" for i in range(7))
    p = softmax(random.normal(size=(20, 7)), axis=1)
    for _ in range(100):
        order = random.permutation(7)
        shuffled = tuple(names[i] for i in order)
        np.testing.assert_array_equal(aligned(p[:, order], shuffled, names), p)


def test_other_classes_are_refused_by_name() -> None:
    with pytest.raises(ConvworksError, match="lacks rose; a member adds lily") as problem:
        aligned(np.eye(2), ("daisy", "lily"), ("daisy", "rose"))
    assert problem.value.code == "U263"


def test_folds_answer_only_what_they_did_not_learn() -> None:
    """Five folds: the out-of-fold prediction of an image is that of its fold's member, row by row."""
    n, folds = 40, 5
    random = np.random.default_rng(0)
    sources = [softmax(random.normal(size=(n, 3)), axis=1) for _ in range(folds)]
    held = np.arange(n) % folds
    learnt = np.array([held != f for f in range(folds)])
    (found,) = out_of_fold(sources, learnt, [range(folds)])
    for i, f in enumerate(held):
        np.testing.assert_allclose(found[i], sources[f][i])
    (mean,) = group_average(sources, [range(folds)])
    np.testing.assert_allclose(mean, np.mean(sources, axis=0), rtol=1e-6)


def test_bags_answer_as_the_mean_of_those_that_did_not_draw_the_image() -> None:
    random = np.random.default_rng(1)
    sources = [softmax(random.normal(size=(9, 3)), axis=1) for _ in range(4)]
    learnt = random.uniform(size=(4, 9)) < 0.6
    learnt[0, learnt.all(axis=0)] = False
    (found,) = out_of_fold(sources, learnt, [range(4)])
    for i in range(9):
        np.testing.assert_allclose(
            found[i], np.mean([sources[m][i] for m in range(4) if not learnt[m, i]], axis=0)
        )


def test_a_planted_leak_is_refused() -> None:
    sources, _ = members([2.0, 2.0])
    learnt = np.zeros((2, 300), dtype=bool)
    learnt[1, :30] = True
    with pytest.raises(ConvworksError, match="member 2 was trained on 30 of 300 images") as problem:
        out_of_fold(sources, learnt, [[0], [1]])
    assert problem.value.code == "A477"


def test_groups_follow_their_keys() -> None:
    assert groups_of(["a", "b", "a", "c", "b"]) == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_members_decides_nothing(order: tuple[int, ...]) -> None:
    sources, labels = members([2.0, 1.0, 3.0])
    found = fit_weights([sources[i] for i in order], labels)
    np.testing.assert_allclose(found, fit_weights(sources, labels)[list(order)], atol=1e-4)
