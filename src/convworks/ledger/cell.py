"""A printed number beside the one that the network gives, and the verdict on the pair.

The verdict is computed, never stored. With p the printed number, c the computed one in the printed unit, and
s the unit of the last printed digit:

    exact        c = p
    rounded      c rounded to a multiple of s is p (a half goes away from zero)
    truncated    c cut to a multiple of s is p
    erratum      none of these; the cell has an explanation and a corrected number with which c agrees
    unexplained  none of these, and no such explanation: a fault of the network or of the ledger

Sizes and words are exact or differ. K is 1000, or 1024 where a cell says so (`kilo`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import TypeAlias

from convworks.ledger.errata import ERRATA
from convworks.ledger.networks import Networks

Value: TypeAlias = int | Fraction | tuple[int, ...] | str
Compute: TypeAlias = Callable[[Networks], Value]

EXACT, ROUNDED, TRUNCATED = "exact", "rounded", "truncated"
ERRATUM, UNEXPLAINED, NOT_PRINTED = "erratum", "unexplained", "not printed"
DIFFERS = "differs"  # what `judge` says before an explanation is looked for
VERDICTS = (EXACT, ROUNDED, TRUNCATED, ERRATUM, UNEXPLAINED, NOT_PRINTED)

# fmt: off
SCALES = {
    "": 1, "%": 1, "x": 1, "C^2": 1,
    "M": 10**6, "B": 10**9, "G": 10**9, "million": 10**6, "billion": 10**9, "x10^9": 10**9,
}
# fmt: on
NUMBER = re.compile(
    r"~?\s*([+-]?[\d,]*\d(?:\.(\d+))?)\s*(K|" + "|".join(map(re.escape, filter(None, SCALES))) + ")?"
)
GROUPED = 10**4  # from here on digits are grouped even where the printed ones are not
GIGA = 10**9  # from here on a number that is not printed is shown in G
DIGITS_SHOWN = 4  # significant digits of a computed number that is not exactly the printed one


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One printed number, where it stands, and how it is computed from the network itself."""

    id: str  # "googlenet/4c/params"
    what: str
    compute: Compute
    printed: str = ""  # as in the source; empty where no source prints it
    unit: str = ""  # what is counted: "parameters", "multiply-adds", "cells"
    source: str = ""
    kilo: int = 1000  # what K means
    digits: int | None = None  # significant digits, where zeros at the end only hold the place: 650K has 2
    erratum: str = ""  # row of ERRATA
    corrected: str = ""  # what should be printed, for a number that is wrong
    explanation: str = ""  # in addition to that of the erratum

    @property
    def why(self) -> str:
        """The explanation: the cell's own, or that of its erratum."""
        return self.explanation or (ERRATA[self.erratum].remark if self.erratum else "")


@dataclass(frozen=True, slots=True)
class Printed:
    """A printed number as `mantissa` times `scale`; its last digit is worth `step` times `scale`."""

    mantissa: Fraction
    step: Fraction
    scale: int
    suffix: str


def read_number(text: str, *, kilo: int = 1000, digits: int | None = None) -> Printed:
    """ "2.7K" as 2.7 times 1000, in steps of 0.1. Raises ValueError for what is no number."""
    plain = text.replace("×", "x").replace("−", "-").strip()
    match = NUMBER.fullmatch(plain)
    if match is None:
        raise ValueError(f"'{text}' is no number that the ledger can read")
    number, suffix = match[1].replace(",", ""), match[3] or ""
    step = Fraction(1, 10 ** len(match[2] or ""))
    if digits is not None:
        step = Fraction(10 ** (len(number.lstrip("+-").split(".")[0]) - digits))
    return Printed(Fraction(number), step, kilo if suffix == "K" else SCALES[suffix], suffix)


def judge(printed: str, value: Value, *, kilo: int = 1000, digits: int | None = None) -> str:
    """EXACT, ROUNDED, TRUNCATED or DIFFERS: how a printed text and a computed value agree.

    ("360M", 359_661_568) is rounded, ("3.6x10^9", 3_663_761_408) truncated, ("86%", Fraction("86.06"))
    rounded. ("650K", 659_272) differs, and with two significant digits it is truncated.
    """
    if isinstance(value, str):
        return EXACT if _plain(printed) == _plain(value) else DIFFERS
    if isinstance(value, tuple):
        return EXACT if _sizes(printed) == value else DIFFERS
    p = read_number(printed, kilo=kilo, digits=digits)
    c = Fraction(value) / p.scale
    if c == p.mantissa:
        return EXACT
    if round_half_away(c / p.step) * p.step == p.mantissa:
        return ROUNDED
    cut = floor(abs(c) / p.step) * p.step
    return TRUNCATED if (cut if c >= 0 else -cut) == p.mantissa else DIFFERS


def round_half_away(number: Fraction) -> int:
    """The nearest whole number; 2.5 is 3 and -2.5 is -3, as at school."""
    away = floor(abs(number) + Fraction(1, 2))
    return away if number >= 0 else -away


def verdict(cell: Cell, value: Value) -> str:
    """One of VERDICTS. A corrected number that the printed one agrees with, after all, is unexplained too."""
    if not cell.printed:
        return NOT_PRINTED
    found = judge(cell.printed, value, kilo=cell.kilo, digits=cell.digits)
    if found != DIFFERS:
        return UNEXPLAINED if cell.corrected else found
    if not (cell.corrected and cell.why):
        return UNEXPLAINED
    return UNEXPLAINED if judge(cell.corrected, value, kilo=cell.kilo) == DIFFERS else ERRATUM


def show(cell: Cell, value: Value) -> str:
    """A computed value in the unit of the printed one: 497.5K beside 463K, 13,378,280 beside 16,063,912."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return _show_sizes(cell.printed, value)
    if not cell.printed:
        whole = f"{float(value):,.0f}" if value < GIGA else f"{float(value) / GIGA:.3f}G"
        return whole if isinstance(value, int) else _significant(value)
    p = read_number(cell.printed, kilo=cell.kilo)
    c = Fraction(value) / p.scale
    sign = "+" if cell.printed.startswith("+") and c > 0 else ""
    if (c / p.step).denominator == 1 and (
        p.scale == 1 or judge(cell.printed, value, kilo=cell.kilo) == EXACT
    ):
        decimals = 0 if isinstance(value, int) and p.scale == 1 else len(str(1 / p.step)) - 1
        grouped = "," if "," in cell.printed or abs(c) >= GROUPED else ""
        return f"{sign}{float(c):{grouped}.{decimals}f}{_suffix(p)}"
    return f"{sign}{_significant(c)}{_suffix(p)}"


def _show_sizes(printed: str, value: tuple[int, ...]) -> str:
    """As the printed sizes are written, where there are as many; else 55x55x96."""
    if len(_sizes(printed)) != len(value):
        return "x".join(map(str, value))
    numbers = iter(value)
    return re.sub(r"\d+", lambda _: str(next(numbers)), printed)


def _suffix(p: Printed) -> str:
    return f" {p.suffix}" if p.suffix.isalpha() and len(p.suffix) > 1 else p.suffix


def _significant(number: Fraction) -> str:
    """Four significant digits, or all digits before the point where there are more: 1.814, 497.5, 12,346."""
    before = len(str(int(abs(number)))) if abs(number) >= 1 else 0
    grouped = "," if abs(number) >= GROUPED else ""
    return f"{float(number):{grouped}.{max(0, DIGITS_SHOWN - before)}f}"


def _plain(text: str) -> str:
    return " ".join(text.replace("×", "x").replace("–", "-").split())


def _sizes(text: str) -> tuple[int, ...]:
    """ "[27x27x256]", "112×112×64", "11/28" and "[9, 7, 9, 8]" as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", text))
