"""Learning-rate schedules: pure functions of the step that return a multiplier of the top rate.

Only `Plateau` has a memory, because the papers' rule has one (AlexNet 2012, section 5: divide by ten when the
validation error stops improving, three times in all). Its memory is a value and travels in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

Schedule = Callable[[int], float]

TRIANGLE_START = 0.2  # Jordan 2024, the author's program
ONE_CYCLE_START = 1 / 25  # Smith and Topin 2019 start a cycle at the top rate divided by 25


def constant() -> Schedule:
    return lambda step: 1.0


def steps(milestones: Sequence[int], factor: float) -> Schedule:
    """Multiply by `factor` at each milestone, given in steps."""
    return lambda step: factor ** sum(step >= milestone for milestone in milestones)


def cosine(total: int, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 at step 0 to `final` at step `total` (Loshchilov and Hutter 2017, equation 5)."""

    def multiplier(step: int) -> float:
        share = min(step / max(total, 1), 1.0)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))

    return multiplier


def exponential(factor: float, period: float, *, staircase: bool = False) -> Schedule:
    """factor ** (step / period); as a staircase, in jumps at each whole period. `period` is in steps.

    GoogLeNet 2014, section 6, multiplies by 0.96 every 8 epochs.
    """

    def multiplier(step: int) -> float:
        periods = step / period
        return float(factor ** (math.floor(periods + 1e-9) if staircase else periods))

    return multiplier


def cycle_ends(epochs: int, *, cycle: int, growth: float = 1.0) -> tuple[int, ...]:
    """The epochs after which cycles end, as far as `epochs`: (cycle, cycle + round(cycle growth), ...).

    Cycle i has round(cycle * growth^i) epochs (Loshchilov and Hutter 2017, section 3: T_0 and T_mult).
    """
    lengths: list[int] = []
    while sum(lengths) < epochs:
        lengths.append(max(1, round(cycle * growth ** len(lengths))))
    return tuple(end for end in accumulate(lengths) if end <= epochs)


def warm_restarts(
    epochs: int, steps_per_epoch: int, *, cycle: int, growth: float = 1.0, final: float = 0.0
) -> Schedule:
    """final + (1 - final)/2 (1 + cos(pi T_cur / T_i)): from 1 down to `final`, from 1 again in each cycle.

    T_cur counts from the last restart, in steps, and T_i is the cycle's length. A cycle for which the run has
    no time left is begun and cut off. Source: Loshchilov and Hutter, "SGDR", 2017, equation 5.
    """
    ends = cycle_ends(epochs, cycle=cycle, growth=growth)
    begins = [0, *(end * steps_per_epoch for end in ends)]
    lengths = [max(1, round(cycle * growth**i)) * steps_per_epoch for i in range(len(begins))]

    def multiplier(step: int) -> float:
        i = sum(step >= begin for begin in begins[1:])
        share = min((step - begins[i]) / lengths[i], 1.0)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))

    return multiplier


def one_cycle(total: int, rise: float = 0.3, final: float = 0.0) -> Schedule:
    """A linear rise from 1/25 over the first `rise` of the steps, then a cosine down to `final`."""

    def fall(share: float) -> float:
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))

    return _rise_and_fall(total, rise, start=ONE_CYCLE_START, fall=fall)


def triangle(total: int, rise: float = 0.3, final: float = 0.0) -> Schedule:
    """A line from a fifth up to 1 over the first `rise` of the steps, then a line down to `final`.

    Source: Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.1 and appendix A.
    """
    return _rise_and_fall(total, rise, start=TRIANGLE_START, fall=lambda share: 1 + (final - 1) * share)


def _rise_and_fall(total: int, rise: float, *, start: float, fall: Callable[[float], float]) -> Schedule:
    """A line from `start` to 1 over a share of the steps, then `fall` of the share of the others."""
    top = rise * total

    def multiplier(step: int) -> float:
        if step < top:
            return start + (1 - start) * step / top
        return fall(min((step - top) / max(total - top, 1.0), 1.0))

    return multiplier


RISING = {"one-cycle": one_cycle, "triangle": triangle}  # shapes with a warm-up of their own


def scaled_rate(lr: float, *, batch: int, reference_batch: int | None) -> float:
    """lr * batch / reference_batch: linear scaling (Goyal et al. 2017, section 2.1). Without it, lr."""
    return lr if reference_batch is None else lr * batch / reference_batch


def warmed_up(schedule: Schedule, warmup_steps: int) -> Schedule:
    """The same schedule, with its first steps scaled by a line that starts just above zero."""
    if warmup_steps <= 0:
        return schedule
    return lambda step: schedule(step) * min((step + 1) / warmup_steps, 1.0)


def make_schedule(
    name: str,
    *,
    total_steps: int,
    steps_per_epoch: int = 1,
    warmup: float = 0.0,
    milestones: Sequence[float] = (),
    factor: float = 0.1,
    final: float = 0.0,
    every: float = 1.0,
    staircase: bool = False,
    cycle: int = 10,
    cycle_growth: float = 1.0,
) -> Schedule:
    """The schedule of a recipe over `total_steps`; `warmup` and `milestones` are shares of the run, `every`
    and `cycle` epochs of `steps_per_epoch`.

    'plateau' gives a constant here: its drops are decided after each epoch by `Plateau`.
    """
    if name in RISING:
        return RISING[name](total_steps, rise=warmup or 0.3, final=final)
    shape = {
        "constant": constant(),
        "plateau": constant(),
        "step": steps([round(share * total_steps) for share in milestones], factor),
        "exponential": exponential(factor, every * steps_per_epoch, staircase=staircase),
        "cosine": cosine(total_steps, final),
        "warm-restarts": warm_restarts(
            -(-total_steps // steps_per_epoch),
            steps_per_epoch,
            cycle=cycle,
            growth=cycle_growth,
            final=final,
        ),
    }[name]
    return warmed_up(shape, round(warmup * total_steps))


@dataclass(frozen=True, slots=True)
class Plateau:
    """Divide the rate when a score (higher is better) has not improved for `patience` epochs."""

    patience: int
    max_drops: int
    factor: float
    best: float = -math.inf
    waited: int = 0
    drops: int = 0

    @property
    def multiplier(self) -> float:
        return float(self.factor**self.drops)

    def after_epoch(self, score: float) -> Plateau:
        if score > self.best:
            return replace(self, best=score, waited=0)
        if self.waited < self.patience or self.drops >= self.max_drops:
            return replace(self, waited=self.waited + 1)
        return replace(self, waited=0, drops=self.drops + 1)
