"""The verdict: hand cases of rounding and cutting, units, sizes, words; no explanation is taken on trust."""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.ledger.cell import (
    DIFFERS,
    ERRATUM,
    EXACT,
    NOT_PRINTED,
    ROUNDED,
    TRUNCATED,
    UNEXPLAINED,
    Cell,
    Value,
    judge,
    read_number,
    round_half_away,
    show,
    verdict,
)


@pytest.mark.parametrize(
    ("printed", "value", "expected"),
    [
        ("13", 13, EXACT),
        ("13", 14, DIFFERS),
        ("143,667,240", 143_667_240, EXACT),
        ("143,667,240", 143_667_241, DIFFERS),
        ("360M", 359_661_568, ROUNDED),
        ("73M", 73_608_192, TRUNCATED),
        ("74M", 73_608_192, ROUNDED),
        ("75M", 73_608_192, DIFFERS),
        ("72M", 73_608_192, DIFFERS),
        ("1.8x10^9", 1_814_073_344, ROUNDED),
        ("1.8×10^9", 1_814_073_344, ROUNDED),
        ("3.6x10^9", 3_663_761_408, TRUNCATED),
        ("3.7x10^9", 3_663_761_408, ROUNDED),
        ("19.6 billion", 19_632_062_464, ROUNDED),
        ("1.5B", 1_499_000_000, ROUNDED),
        ("~50 million", 49_414_144, DIFFERS),
        ("~49 million", 49_414_144, ROUNDED),
        ("86%", Fraction("86.06"), ROUNDED),
        ("12x", Fraction("8.711"), DIFFERS),
        ("0", 0, EXACT),
    ],
)
def test_numbers_are_exact_rounded_truncated_or_different(printed: str, value: int, expected: str) -> None:
    assert judge(printed, value) == expected


@pytest.mark.parametrize(
    ("printed", "value", "expected"),
    [
        ("3", Fraction(5, 2), ROUNDED),  # a half goes up ...
        ("2", Fraction(5, 2), TRUNCATED),  # ... and 2 is 2.5 cut
        ("4", Fraction(7, 2), ROUNDED),
        ("3", Fraction(7, 2), TRUNCATED),
        ("2.4", Fraction("2.35"), ROUNDED),
        ("2.3", Fraction("2.35"), TRUNCATED),
        ("-3", Fraction(-5, 2), ROUNDED),  # away from zero
        ("-2", Fraction(-5, 2), TRUNCATED),  # towards zero
        ("-3.4%", Fraction("-3.4"), EXACT),
        ("-3.45%", Fraction("-3.4"), DIFFERS),
        ("0.5", Fraction("0.4999"), ROUNDED),
        ("1.0", 1, EXACT),
        ("1.0", Fraction("1.04"), ROUNDED),
        ("1", Fraction("1.5"), TRUNCATED),
    ],
)
def test_halves_signs_and_decimals(printed: str, value: Fraction, expected: str) -> None:
    assert judge(printed, value) == expected


def test_k_is_1000_or_1024() -> None:
    assert judge("112K", 114_688, kilo=1024) == EXACT
    assert judge("112K", 114_688, kilo=1000) == DIFFERS  # 114.7
    assert judge("115K", 114_688, kilo=1000) == ROUNDED
    assert judge("159K", 163_328, kilo=1024) == TRUNCATED  # 159.5
    assert judge("35K", 34_848) == ROUNDED
    assert judge("34K", 34_848, kilo=1024) == ROUNDED
    assert judge("34M", 34_019_328, kilo=1024) == ROUNDED  # M stays 10^6


def test_zeros_that_hold_a_place_count_only_where_they_are_said_to() -> None:
    assert judge("650K", 659_272) == DIFFERS
    assert judge("650K", 659_272, digits=2) == TRUNCATED
    assert judge("660K", 659_272, digits=2) == ROUNDED
    assert judge("650,000", 659_272, digits=2) == TRUNCATED
    assert judge("~50 million", 49_414_144, digits=1) == ROUNDED
    assert judge("650K", 640_000, digits=2) == DIFFERS


def test_sizes_and_words() -> None:
    assert judge("[27x27x256]", (27, 27, 256)) == EXACT
    assert judge("[27x27x26]", (27, 27, 256)) == DIFFERS
    assert judge("112×112×64", (112, 112, 64)) == EXACT
    assert judge("11/28", (11, 28)) == EXACT
    assert judge("15/28", (16, 28)) == DIFFERS
    assert judge("[4096]", (4096,)) == EXACT
    assert judge("3×3,  64; 3x3, 64", "3x3, 64; 3x3, 64") == EXACT
    assert judge("conv3-256", "conv1-256") == DIFFERS


@pytest.mark.parametrize("text", ["", "none", "1.2.3", "12 apples", "x"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no number that the ledger can read"):
        read_number(text)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    number=st.decimals(-(10**6), 10**6, places=4, allow_nan=False, allow_infinity=False),
    places=st.integers(0, 3),
    other=st.integers(-3, 3),
)
def test_against_decimal(number: Decimal, places: int, other: int) -> None:
    """The decimal module rounds and cuts; a neighbour that is neither differs."""
    step = Decimal(1).scaleb(-places)
    rounded, cut = number.quantize(step, ROUND_HALF_UP), number.quantize(step, ROUND_DOWN)
    value = Fraction(number)
    for candidate in (rounded, cut, rounded + other * step):
        expected = (
            EXACT
            if candidate == number
            else ROUNDED
            if candidate == rounded
            else TRUNCATED
            if candidate == cut
            else DIFFERS
        )
        assert judge(f"{candidate:f}", value) == expected


@given(st.fractions(-100, 100, max_denominator=64))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_rounding_goes_to_the_nearest_and_halves_go_away_from_zero(number: Fraction) -> None:
    found = round_half_away(number)
    assert abs(found - number) <= Fraction(1, 2)
    if abs(found - number) == Fraction(1, 2):
        assert abs(found) > abs(number)


def cell(printed: str, *, corrected: str = "", erratum: str = "", explanation: str = "") -> Cell:
    return Cell(
        id="test/cell",
        what="a number",
        printed=printed,
        corrected=corrected,
        erratum=erratum,
        explanation=explanation,
        compute=lambda _: 0,
    )


@pytest.mark.parametrize(
    ("made", "value", "expected"),
    [
        (cell("10"), 10, EXACT),
        (cell(""), 10, NOT_PRINTED),
        (cell("12"), 10, UNEXPLAINED),
        (cell("12", explanation="a misprint"), 10, UNEXPLAINED),  # an explanation names the right number
        (cell("12", corrected="10"), 10, UNEXPLAINED),  # and a number has an explanation
        (cell("12", corrected="10", explanation="a misprint"), 10, ERRATUM),
        (cell("12", corrected="10", erratum="D7"), 10, ERRATUM),
        (cell("12", corrected="10", erratum="D7"), 11, UNEXPLAINED),  # the network has changed
        (cell("12", corrected="10", erratum="D7"), 12, UNEXPLAINED),  # the erratum is none
        (cell("12", erratum="D7"), 12, EXACT),
    ],
)
def test_an_erratum_needs_an_explanation_that_still_holds(made: Cell, value: Value, expected: str) -> None:
    assert verdict(made, value) == expected


@pytest.mark.parametrize(
    ("printed", "value", "shown"),
    [
        ("463K", 497_500, "497.5K"),
        ("100K", 100_000, "100K"),
        ("12x", Fraction(871, 100), "8.710x"),
        ("16,063,912", 13_378_280, "13,378,280"),
        ("1027", 1027, "1027"),
        ("1.8x10^9", 1_814_073_344, "1.814x10^9"),
        ("16 million", 16_781_312, "16.78 million"),
        ("-3.45%", Fraction("-3.4"), "-3.40%"),
        ("2.5", 2, "2"),
        ("", 9_760, "9,760"),
        ("", 1_135_256_096, "1.135G"),
        ("", Fraction(15, 14), "1.071"),
        ("[27x27x26]", (27, 27, 256), "[27x27x256]"),
        ("15/28", (16, 28), "16/28"),
        ("", (32, 32, 10), "32x32x10"),
        ("maxpool", "avgpool", "avgpool"),
    ],
)
def test_a_value_is_shown_in_the_printed_unit(printed: str, value: Value, shown: str) -> None:
    assert show(cell(printed), value) == shown
