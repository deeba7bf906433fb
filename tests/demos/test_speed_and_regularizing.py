"""The demonstrations on the speed of learning and on regularisation, in their short form."""

from __future__ import annotations

import statistics
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from convworks.demos.experiment import Examples, digits
from convworks.demos.registry import demo
from convworks.demos.regularizing import Changed, shares
from convworks.demos.result import Result
from convworks.demos.speed import CAFFENET128, STUDENT, four_layers, interval, steps_to_training_error


@cache
def ran(name: str) -> Result:
    return demo(name).run(seed=0, quick=True)


def rows(name: str) -> dict[Any, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in ran(name).rows}


def test_rectifiers_need_no_standardised_pixels() -> None:
    """On raw pixels tanh saturates and stays behind; on standardised ones the two are alike."""
    found = rows("relu")
    assert found["raw"][0] is not None
    assert found["raw"][1] is None
    assert found["standardised"][0] is not None
    assert found["standardised"][2] is not None
    assert "raw pixels: tanh takes more than" in ran("relu").found


def test_batch_norm_reaches_the_accuracy_in_far_fewer_steps() -> None:
    plain, normed, ratio = rows("batch_norm")["50 %"]
    assert ratio == plain / normed
    assert ratio > 5
    assert all(row[1] is not None for row in rows("batch_norm").values())


def test_the_numbers_of_caffenet_stand_beside_ours() -> None:
    found = rows("norm_order")
    assert {name: row[:2] for name, row in found.items()} == {
        "before": (0.474, 2.35),
        "before, scale and bias": (0.478, 2.33),
        "after": (0.499, 2.21),
        "after, scale and bias": (0.493, 2.24),
    }
    assert len(CAFFENET128) == 4
    assert all(0.5 < row[2] <= 1 and row[3] > 0 for row in found.values())


def test_l2_makes_weights_small_and_sparsity_makes_units_quiet() -> None:
    found = rows("regularization")
    squares, activity = found["sum of w^2"], found["mean activation"]
    assert squares[1] < 0.5 * squares[0]
    assert activity[2] < 0.5 * activity[1]
    for begin in ("share of |w|", "share of activations"):
        columns = zip(*(row for name, row in found.items() if name.startswith(begin)), strict=True)
        assert [sum(column) for column in columns] == pytest.approx([1, 1, 1])


def test_the_ablation_compares_with_nothing() -> None:
    found = rows("ablation")
    assert found["nothing"][1:3] == (None, None)
    for name in ("dropout 0.5", "shifts by a pixel", "mixup 0.3", "all three"):
        assert found[name][1] == pytest.approx(found[name][0] - found["nothing"][0])


# --- their parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", STUDENT)
def test_intervals_are_students(count: int) -> None:
    values = np.random.default_rng(count).random(count).tolist()
    mean, reach = interval(values)
    low, high = stats.t.interval(0.95, count - 1, loc=statistics.mean(values), scale=stats.sem(values))
    assert (mean - reach, mean + reach) == pytest.approx((low, high), rel=1e-3)


def test_shares_are_a_histogram() -> None:
    values = torch.tensor([0.0, 0.1, 0.15, 0.3, 0.99, 1.0])
    edges = (0.0, 0.1, 0.3, 1.0)
    counts = np.histogram(values.numpy().astype(float), bins=edges)[0]
    assert shares(values.double(), edges) == pytest.approx(list(counts / 6), abs=0.17)
    assert shares(values.double(), edges) == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=0.17)
    assert sum(shares(values, edges)) == pytest.approx(1)


def test_batches_are_moved_by_a_pixel_and_mixed_by_a_function_of_the_seed() -> None:
    x = torch.zeros(6, 1, 8, 8)
    x[:, 0, 4, 4] = 1
    examples = Examples(x, torch.arange(6))
    (moved,) = Changed(examples, 6, 0, shift=True).epoch(3)
    places = [tuple(np.argwhere(image[0].numpy() == 1)[0].tolist()) for image in moved.x]
    assert len(set(places)) > 1
    assert all(abs(r - 4) <= 1 and abs(c - 4) <= 1 for r, c in places)
    (mixed,) = Changed(examples, 6, 0, mixup=0.3).epoch(3)
    (again,) = Changed(examples, 6, 0, mixup=0.3).epoch(3)
    (other,) = Changed(examples, 6, 1, mixup=0.3).epoch(3)
    assert mixed.mixed is not None
    assert other.mixed is not None
    assert torch.equal(mixed.x, again.x)
    assert not torch.equal(mixed.mixed.share, other.mixed.share)
    plain = {int(y): x[int(y)] for y in examples.y}
    for image, y, mate, share in zip(mixed.x, mixed.y, mixed.mixed.other, mixed.mixed.share, strict=True):
        expected = share * plain[int(y)] + (1 - share) * plain[int(mate)]
        torch.testing.assert_close(image, expected)


def test_training_error_is_that_of_the_last_epoch_as_met() -> None:
    train, _ = digits(seed=0, train=200)
    network = four_layers(torch.nn.ReLU, channels=1, side=8)
    found = steps_to_training_error(1.0, network, train, std=0.05, lr=0.01, most=50, seed=0)
    assert found == 4  # an error of 100 % is reached with the first whole epoch
    assert steps_to_training_error(0.0, network, train, std=0.0, lr=1e-6, most=6, seed=0) is None
