"""Schedules against closed forms and hand-computed values."""

from __future__ import annotations

import math

import pytest

from convworks.training.schedule import Plateau, make_schedule


def test_constant() -> None:
    assert [make_schedule("constant", total_steps=10)(step) for step in (0, 5, 9)] == [1, 1, 1]


def test_step_drops_at_each_milestone() -> None:
    schedule = make_schedule("step", total_steps=64_000, milestones=(0.5, 0.75), factor=0.1)
    values = [schedule(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])  # He et al. 2015: 32k and 48k of 64k


def test_cosine_is_half_a_cosine() -> None:
    schedule = make_schedule("cosine", total_steps=100, final=0.2)
    for step in range(101):
        assert schedule(step) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * step / 100)) / 2)


def test_one_cycle_rises_from_a_25th_then_falls() -> None:
    schedule = make_schedule("one-cycle", total_steps=100, warmup=0.3)
    assert schedule(0) == pytest.approx(1 / 25)
    assert schedule(15) == pytest.approx((1 / 25 + 1) / 2)
    assert schedule(30) == pytest.approx(1)
    assert schedule(65) == pytest.approx(0.5)
    assert schedule(100) == pytest.approx(0)
    values = [schedule(step) for step in range(101)]
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)


def test_warmup_is_a_line_from_zero() -> None:
    schedule = make_schedule("constant", total_steps=100, warmup=0.1)
    assert [schedule(step) for step in (0, 4, 9, 10, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])


def test_schedules_are_pure_functions_of_the_step() -> None:
    for name in ("constant", "step", "cosine", "one-cycle"):
        schedule = make_schedule(name, total_steps=50, warmup=0.2, milestones=(0.5,))
        forward = [schedule(step) for step in range(50)]
        backward = [schedule(step) for step in reversed(range(50))]
        assert forward == backward[::-1]


def test_plateau_drops_three_times_at_the_most() -> None:
    plateau = Plateau(patience=1, max_drops=3, factor=0.1)
    multipliers = []
    for score in [0.5, 0.6, 0.6, 0.6, 0.7, *[0.7] * 20]:
        plateau = plateau.after_epoch(score)
        multipliers.append(plateau.multiplier)
    # 0.6 is waited for once, then the rate drops; 0.7 is an improvement; then two more drops and no fourth.
    assert multipliers[:9] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001])
    assert multipliers[-1] == pytest.approx(0.001)
