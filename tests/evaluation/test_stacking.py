"""The meta-model against scipy's minimum of the same loss, and a leak that it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from convworks.errors import ConvworksError
from convworks.evaluation.ensemble import uniform
from convworks.evaluation.metrics import log_loss
from convworks.evaluation.stacking import FLOOR, Stacking, fit_stacking
from tests.evaluation.test_ensemble import members


def fitted(sources: list[np.ndarray], labels: np.ndarray, **options: float) -> Stacking:
    learnt = np.zeros((len(sources), len(labels)), dtype=bool)
    return fit_stacking(sources, labels, learnt=learnt, groups=[[m] for m in range(len(sources))], **options)


def test_the_fit_is_scipys_minimum() -> None:
    sources, labels = members([2.0, 1.0], n=120, k=3)
    logs = [np.log(np.maximum(p.astype(np.float64), FLOOR)) for p in sources]
    X, offset = np.hstack(logs), (logs[0] + logs[1]) / 2

    def loss(v: np.ndarray) -> float:
        D, b = v[:18].reshape(6, 3), v[18:]
        rows = log_softmax(offset + X @ D + b, axis=1)[np.arange(120), labels]
        return -rows.sum() + (v @ v) / 2

    best = minimize(loss, np.zeros(21), method="BFGS", options={"gtol": 1e-7})
    found = fitted(sources, labels, strength=1.0)
    mine = np.concatenate([found.weight.ravel(), found.bias])
    assert loss(mine) <= best.fun + 1e-8
    np.testing.assert_allclose(mine, best.x, atol=1e-4)
    expected = softmax(offset + X @ found.weight + found.bias, axis=1)
    np.testing.assert_allclose(found.combine(sources), expected, rtol=1e-12)


def test_it_learns_what_an_average_cannot() -> None:
    """A member that mixes up two classes without fail is worth as much as a good one."""
    sources, labels = members([2.5, 2.5], n=1_500, k=3)
    swapped = [sources[0], sources[1][:, [1, 0, 2]]]
    half = slice(0, 750), slice(750, None)
    found = fitted([p[half[0]] for p in swapped], labels[half[0]])
    rest = [p[half[1]] for p in swapped]
    mean = (rest[0] + rest[1]) / 2
    assert log_loss(found.combine(rest), labels[half[1]]) < 0.7 * log_loss(mean, labels[half[1]])


def test_members_of_one_kind_are_not_made_worse_than_their_average() -> None:
    """Where an average is right already, the chosen strength keeps the meta-model near it."""
    sources, labels = members([2.5, 2.5, 2.5], n=1_000)
    fit, new = [p[:400] for p in sources], [p[400:] for p in sources]
    geometric = softmax(np.mean([np.log(p) for p in new], axis=0), axis=1)
    chosen = log_loss(fitted(fit, labels[:400]).combine(new), labels[400:])
    loose = log_loss(fitted(fit, labels[:400], strength=1e-3).combine(new), labels[400:])
    assert chosen <= 1.02 * log_loss(geometric, labels[400:])
    assert chosen < loose


def test_few_images_fall_back_to_the_geometric_mean() -> None:
    sources, labels = members([2.0, 2.0], n=3)
    found = fitted(sources, labels, strength=1e6)
    geometric = softmax((np.log(sources[0]) + np.log(sources[1])) / 2, axis=1)
    np.testing.assert_allclose(found.combine(sources), geometric, atol=1e-3)


def test_a_planted_leak_is_refused_and_would_have_mattered() -> None:
    """A member that knows its training images by heart: stacking would trust it, and be wrong on new ones."""
    sources, labels = members([1.5, 1.5], n=400)
    parrot = sources[1].copy()
    parrot[:200] = 0.97 * np.eye(4)[labels[:200]] + 0.0075
    leaky = [sources[0], parrot]
    learnt = np.zeros((2, 200), dtype=bool)
    learnt[1] = True
    fit = [p[:200] for p in leaky]
    with pytest.raises(ConvworksError, match="member 2 was trained on 200 of 200 images") as problem:
        fit_stacking(fit, labels[:200], learnt=learnt, groups=[[0], [1]])
    assert problem.value.code == "A477"
    trusted = fitted(fit, labels[:200])  # with the check deceived
    new = [p[200:] for p in leaky]
    honest = fitted([p[:200] for p in sources], labels[:200])
    assert log_loss(trusted.combine(new), labels[200:]) > 1.1 * log_loss(honest.combine(new), labels[200:])
    assert uniform(2).sum() == 1


def test_nothing_and_too_much() -> None:
    with pytest.raises(ConvworksError, match="no image") as problem:
        fitted([np.empty((0, 3))], np.empty(0, dtype=np.int64))
    assert problem.value.code == "U264"
    wide = np.full((2, 4_000), 1 / 4_000)
    with pytest.raises(ConvworksError, match="takes 16,000,000 numbers") as problem:
        fitted([wide], np.array([0, 1]))
    assert problem.value.code == "U265"
