"""Schedules against closed forms and hand-computed values."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from convworks.training.schedule import Plateau, cycle_ends, make_schedule, scaled_rate


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


def test_triangle_is_two_lines() -> None:
    schedule = make_schedule("triangle", total_steps=200, warmup=0.25, final=0.07)
    assert schedule(0) == pytest.approx(0.2)
    assert schedule(25) == pytest.approx(0.6)
    assert schedule(50) == pytest.approx(1)
    assert schedule(125) == pytest.approx((1 + 0.07) / 2)
    assert schedule(200) == pytest.approx(0.07)
    values = [schedule(step) for step in range(201)]
    for part in (values[:51], values[50:]):  # no corner but at the top
        slopes = [after - before for before, after in pairwise(part)]
        assert max(slopes) - min(slopes) < 1e-12


def test_warmup_is_a_line_from_zero() -> None:
    schedule = make_schedule("constant", total_steps=100, warmup=0.1)
    assert [schedule(step) for step in (0, 4, 9, 10, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])


def test_schedules_are_pure_functions_of_the_step() -> None:
    for name in (
        "constant",
        "step",
        "cosine",
        "one-cycle",
        "exponential",
        "warm-restarts",
        "plateau",
        "triangle",
    ):
        schedule = make_schedule(
            name, total_steps=50, steps_per_epoch=5, warmup=0.2, milestones=(0.5,), cycle=3, cycle_growth=1.5
        )
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


def test_googlenet_falls_by_four_per_cent_every_eight_epochs() -> None:
    steps = 7
    schedule = make_schedule(
        "exponential",
        total_steps=40 * steps,
        steps_per_epoch=steps,
        factor=0.96,
        every=8,
        staircase=True,
    )
    expected, rate = [], 1.0
    for epoch in range(40):
        if epoch and epoch % 8 == 0:
            rate *= 0.96
        expected += [rate] * steps
    assert [schedule(step) for step in range(40 * steps)] == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == 5


def test_exponential_reaches_its_factor_once_in_every_period() -> None:
    schedule = make_schedule("exponential", total_steps=100, steps_per_epoch=10, factor=0.5, every=2.5)
    for step in range(100):
        assert schedule(step) == pytest.approx(math.exp(math.log(0.5) * step / 25))
    stairs = make_schedule(
        "exponential", total_steps=100, steps_per_epoch=10, factor=0.5, every=0.1, staircase=True
    )
    assert [stairs(step) for step in range(4)] == pytest.approx([1, 0.5, 0.25, 0.125])


@pytest.mark.parametrize(("cycle", "growth", "final"), [(10, 1.0, 0.0), (1, 2.0, 0.0), (3, 1.5, 0.05)])
def test_warm_restarts_by_a_plain_loop(cycle: int, growth: float, final: float) -> None:
    """Equation 5: T_cur counts up from every restart and T_i grows by T_mult."""
    epochs, per_epoch = 40, 6
    schedule = make_schedule(
        "warm-restarts",
        total_steps=epochs * per_epoch,
        steps_per_epoch=per_epoch,
        cycle=cycle,
        cycle_growth=growth,
        final=final,
    )
    t_cur, number, restarts = 0, 0, []
    for step in range(epochs * per_epoch):
        length = round(cycle * growth**number) * per_epoch
        if t_cur == length:
            t_cur, number = 0, number + 1
            length = round(cycle * growth**number) * per_epoch
            restarts.append(step // per_epoch)
        expected = final + 0.5 * (1 - final) * (1 + math.cos(math.pi * t_cur / length))
        assert schedule(step) == pytest.approx(expected, abs=1e-12)
        t_cur += 1
    ends = cycle_ends(epochs, cycle=cycle, growth=growth)
    assert [end for end in ends if end < epochs] == restarts


def test_cycles_that_fit() -> None:
    assert cycle_ends(40, cycle=10) == (10, 20, 30, 40)
    assert cycle_ends(39, cycle=10) == (10, 20, 30)
    assert cycle_ends(31, cycle=1, growth=2.0) == (1, 3, 7, 15, 31)
    assert cycle_ends(5, cycle=10) == ()
    assert cycle_ends(0, cycle=10) == ()


def test_linear_scaling() -> None:
    assert scaled_rate(0.1, batch=1024, reference_batch=256) == pytest.approx(0.4)  # Goyal et al. 2017
    assert scaled_rate(0.1, batch=32, reference_batch=128) == pytest.approx(0.025)
    assert scaled_rate(0.1, batch=1024, reference_batch=None) == 0.1


def test_alexnets_rate_ends_at_a_thousandth() -> None:
    """0.01, divided by ten three times before the end: 1e-5."""
    plateau = Plateau(patience=3, max_drops=3, factor=0.1)
    for _ in range(90):
        plateau = plateau.after_epoch(0.4)
    assert 0.01 * plateau.multiplier == pytest.approx(1e-5)
