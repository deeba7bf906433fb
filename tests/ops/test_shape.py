"""Sizes, padding and costs against counted windows, torch's own shapes, and the numbers of the lectures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.ops.arguments import BadArgument
from convworks.ops.shape import (
    PADDING_MODES,
    fit,
    output_size,
    pooled_size,
    resolve_padding,
    solve_padding,
    transposed_size,
)

fast = settings(deadline=None, max_examples=40, derandomize=True)
sizes, kernels, strides = st.integers(1, 12), st.integers(1, 5), st.integers(1, 4)
paddings, dilations = st.integers(0, 4), st.integers(1, 3)


def windows(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> list[int]:
    """First cells of the windows that lie inside the padded input, found by looking."""
    cells = set(range(-before, size + after))
    starts = range(-before, size + after, stride)
    return [s for s in starts if all(s + t * dilation in cells for t in range(kernel))]


@fast
@given(sizes, kernels, strides, paddings, dilations)
def test_output_size_counts_windows(n: int, f: int, s: int, p: int, d: int) -> None:
    found = windows(n, f, s, p, p, d)
    if not found:
        with pytest.raises(BadArgument, match="larger .*than the padded input"):
            output_size(n, f, stride=s, padding=p, dilation=d)
        return
    assert output_size(n, f, stride=s, padding=p, dilation=d) == len(found)
    row = fit(n, f, stride=s, padding=p, dilation=d)
    last = found[-1] + (f - 1) * d
    assert (row.output, row.remainder) == (len(found), n + p - 1 - last)
    assert row.exact is (row.remainder == 0)
    assert row.quotient == pytest.approx((n + 2 * p - (d * (f - 1) + 1)) / s + 1)


@fast
@given(st.tuples(sizes, sizes), st.tuples(kernels, kernels), st.tuples(strides, strides), paddings)
def test_dimensions_are_apart_as_in_torch(
    n: tuple[int, int], f: tuple[int, int], s: tuple[int, int], p: int
) -> None:
    if any(a + 2 * p < b for a, b in zip(n, f, strict=True)):
        return
    y = F.conv2d(torch.zeros(1, 1, *n), torch.zeros(1, 1, *f), stride=s, padding=p)
    assert output_size(n, f, stride=s, padding=p) == tuple(y.shape[2:])


@pytest.mark.parametrize(("mode", "size"), [("full", 32), ("same", 28), ("valid", 24)])
def test_full_same_valid_are_those_of_numpy(mode: Any, size: int) -> None:
    assert output_size(28, 5, padding=mode) == size
    assert len(np.convolve(np.zeros(28), np.zeros(5), mode)) == size


@fast
@given(sizes, st.integers(1, 7), strides, dilations)
def test_modes_keep_their_promises(n: int, f: int, s: int, d: int) -> None:
    def pair(mode: str) -> tuple[int, int]:
        (found,) = resolve_padding(mode, size=n, kernel=f, stride=s, dilation=d)
        return found

    reach = d * (f - 1)
    assert pair("valid") == (0, 0)
    assert pair("full") == (reach, reach)
    assert pair("causal") == (reach, 0)
    assert output_size(n, f, stride=1, padding="causal", dilation=d) == n
    assert output_size(n, f, stride=s, padding="tf_same", dilation=d) == -(-n // s)
    before, after = pair("tf_same")
    assert after - before in (0, 1)
    if reach % 2:
        with pytest.raises(BadArgument, match="kernel_size = .* is even"):
            pair("same")
    else:
        assert pair("same") == (reach // 2, reach // 2)
        assert output_size(n, f, padding="same", dilation=d) == n


def test_tf_same_puts_the_odd_cell_behind() -> None:
    # TensorFlow's documentation of SAME: 5 wide, stride 2, kernel 2 -> total 1, all of it after.
    assert resolve_padding("tf_same", size=5, kernel=2, stride=2) == ((0, 1),)
    assert resolve_padding("tf_same", size=(224, 7), kernel=(7, 3), stride=2) == ((2, 3), (1, 1))
    assert resolve_padding("tf_same", size=4, kernel=1, stride=2) == ((0, 0),)


def test_numbers_of_the_lectures() -> None:
    assert [output_size(7, 3, stride=s) for s in (1, 2, 3)] == [5, 3, 2]
    assert output_size(7, 3, padding=1) == 7
    assert output_size(32, 5) == 28
    assert output_size(227, 11, stride=4) == 55
    assert output_size((32, 32), 5, padding=2) == (32, 32)
    assert [resolve_padding("same", size=9, kernel=f)[0][0] for f in (3, 5, 7)] == [1, 2, 3]
    assert fit(7, 3, stride=3).quotient == pytest.approx(2.33, abs=0.004)
    assert fit(224, 11, stride=4).quotient == 54.25
    assert pooled_size((55, 55), 3, stride=2) == (27, 27)
    assert pooled_size((27, 13), 3, stride=2) == (13, 6)
    assert pooled_size((4, 4), 2) == (2, 2)


def test_numeric_padding_in_all_its_forms() -> None:
    assert resolve_padding(2, size=(9, 9), kernel=3) == ((2, 2), (2, 2))
    assert resolve_padding((1, 2), size=(9, 9), kernel=3) == ((1, 1), (2, 2))
    assert resolve_padding(((1, 2), (0, 3)), size=(9, 9), kernel=3) == ((1, 2), (0, 3))
    assert output_size((9,), 3, padding=((0, 1),)) == (8,)


MESSAGES: list[tuple[dict[str, Any], str, str]] = [
    ({"size": 7, "kernel": 3, "stride": 3, "strict": True}, "stride = 3", r"2\.33, remainder 1"),
    ({"size": 224, "kernel": 11, "stride": 4, "strict": True}, "stride = 4", r"54\.25, remainder 1"),
    ({"size": 5, "kernel": 9}, "kernel_size = 9", "9 is larger than the padded input, 5 = 5 . 0 . 0"),
    ({"size": (9, 5), "kernel": (3, 7)}, "kernel_size = (3, 7)", "along dimension 1, 7 is larger"),
    ({"size": 4, "kernel": 3, "dilation": 4}, "kernel_size = 3", "it spans 9"),
    ({"size": 9, "kernel": 4, "padding": "same"}, "kernel_size = 4", "4 is even"),
    (
        {"size": 9, "kernel": 4, "padding": "same", "dilation": 3},
        "kernel_size = 4",
        "a span of 10 with dilation 3",
    ),
    (
        {"size": 9, "kernel": 3, "padding": "smae"},
        "padding = 'smae'",
        "one of full, same, valid, causal, tf_same",
    ),
    ({"size": 9, "kernel": 2.5}, "kernel_size = 2.5", "whole number"),
    ({"size": 9, "kernel": "3"}, "kernel_size = '3'", "whole number"),
    ({"size": 9, "kernel": True}, "kernel_size = True", "whole"),
    ({"size": 9, "kernel": 3, "stride": 0}, "stride = 0", "at least 1"),
    ({"size": 9, "kernel": 3, "padding": -1}, "padding = -1", "at least 0"),
    ({"size": 9, "kernel": 3, "padding": (1, 2)}, "padding = (1, 2)", "it is for one dimension"),
    (
        {"size": (9, 9), "kernel": 3, "padding": ((1, 2), 3)},
        "padding = ((1, 2), 3)",
        "3 is no .before, after.",
    ),
    ({"size": (9, 9), "kernel": 3, "padding": ((1, 2),)}, "padding = ((1, 2),)", "it has 1 parts"),
    ({"size": (9, 9), "kernel": (3, 3, 3)}, "kernel_size = (3, 3, 3)", "it is for 2 dimensions"),
]


@pytest.mark.parametrize(("arguments", "name", "why"), MESSAGES)
def test_a_message_names_the_argument_its_value_and_what_fits(
    arguments: dict[str, Any], name: str, why: str
) -> None:
    with pytest.raises(BadArgument, match=why) as caught:
        output_size(**arguments)
    assert caught.value.what.startswith(f"{name} does not fit: ")
    assert caught.value.try_
    assert isinstance(caught.value, ValueError)


@fast
@given(sizes, kernels, strides, paddings)
def test_what_a_message_says_fits_does(n: int, f: int, s: int, p: int) -> None:
    try:
        output_size(n, f, stride=s, padding=p, strict=True)
    except BadArgument as problem:
        if problem.what.startswith("kernel_size"):
            largest, least = (int(part.split()[0].split("=")[1]) for part in problem.try_.split(", or "))
            assert output_size(n, largest, padding=p) >= 1
            assert output_size(n, f, padding=least) >= 1
            with pytest.raises(BadArgument):
                output_size(n, f, padding=least - 1)
        else:
            better = problem.try_.split(",")[0].removeprefix("stride=").split(" or ")
            assert {fit(n, f, stride=int(s), padding=p).exact for s in better} == {True}


def test_the_padding_solver_on_the_lectures_question() -> None:
    table = solve_padding(32, 5, 2)
    assert table.exact == ()
    assert [(r.padding, r.output, r.remainder) for r in table.rows[1:3]] == [(1, 15, 1), (2, 16, 1)]
    assert table.verdict.startswith("no whole P fits exactly: 32 - 5 + 2P is odd and the stride even")
    assert "1 before and 2 after gives 16" in table.verdict
    assert output_size((32,), 5, stride=2, padding=((1, 2),), strict=True) == (16,)
    fits = solve_padding(33, 5, 2)
    assert [(r.padding, r.output, r.remainder) for r in fits.rows if r.padding in (0, 2)] == [
        (0, 15, 0),
        (2, 17, 0),
    ]
    assert fits.verdict.startswith("fits exactly: P = 0 gives 15, ")


@fast
@given(sizes, kernels, strides, dilations)
def test_the_padding_solver_is_right_about_every_padding(n: int, f: int, s: int, d: int) -> None:
    table = solve_padding(n, f, s, d)
    reach = d * (f - 1) + 1
    expected = {}
    for p in range(reach):
        found = windows(n, f, s, p, p, d)
        if found:
            expected[p] = (len(found), n + p - 1 - (found[-1] + reach - 1))
    assert {row.padding: (row.output, row.remainder) for row in table.rows} == expected
    exact = [p for p, (_, remainder) in expected.items() if remainder == 0]
    assert [row.padding for row in table.exact] == exact
    assert table.verdict.startswith("fits exactly") is bool(exact)
    if "no whole P" in table.verdict:
        assert not any((n + 2 * p - reach) % s == 0 for p in range(reach, 200))
        words = table.verdict.rsplit("; ")[1].split()
        before, after, output = int(words[0]), int(words[3]), int(words[-1])
        assert output_size((n,), f, stride=s, padding=((before, after),), dilation=d, strict=True) == (
            output,
        )


@fast
@given(st.tuples(sizes, sizes), st.integers(1, 4), strides, st.booleans(), st.data())
def test_pooled_sizes_are_torchs(n: tuple[int, int], f: int, s: int, ceil: bool, data: st.DataObject) -> None:
    p = data.draw(st.integers(0, f // 2))
    if min(n) + 2 * p < f:
        return
    y = F.max_pool2d(torch.zeros(1, 1, *n), f, s, p, ceil_mode=ceil)
    assert pooled_size(n, f, stride=s, padding=p, ceil_mode=ceil) == tuple(y.shape[2:])


def test_a_window_of_ceil_mode_begins_inside() -> None:
    assert F.max_pool2d(torch.zeros(1, 1, 2, 4), 1, 2, ceil_mode=True).shape[2:] == (1, 2)
    assert pooled_size((2, 4), 1, stride=2, ceil_mode=True) == (1, 2)


@fast
@given(st.tuples(sizes, sizes), kernels, strides, paddings, dilations, st.data())
def test_transposed_sizes_are_torchs_and_undo(
    n: tuple[int, int], f: int, s: int, p: int, d: int, data: st.DataObject
) -> None:
    extra = data.draw(st.integers(0, max(s, d) - 1))
    given_ = {"stride": s, "padding": p, "output_padding": extra, "dilation": d}
    if min(s * (a - 1) + d * (f - 1) + 1 - 2 * p + extra for a in n) < 1:
        with pytest.raises(BadArgument, match="padding"):
            transposed_size(n, f, **given_)  # type: ignore[arg-type]
        return
    found = transposed_size(n, f, **given_)  # type: ignore[arg-type]
    y = F.conv_transpose2d(torch.zeros(1, 1, *n), torch.zeros(1, 1, f, f), **given_)  # type: ignore[arg-type]
    assert found == tuple(y.shape[2:])
    if extra < s:
        assert output_size(found, f, stride=s, padding=p, dilation=d) == n


def test_transposed_sizes_refuse_what_has_no_meaning() -> None:
    with pytest.raises(BadArgument, match="output_padding = 2 .* less than the stride 2"):
        transposed_size((4,), 3, stride=2, output_padding=2)
    with pytest.raises(BadArgument, match="depends on the size"):
        transposed_size((4,), 3, padding="tf_same")
    assert transposed_size((4,), 3, padding="same") == (4,)


def test_padding_modes_are_five() -> None:
    assert PADDING_MODES == ("full", "same", "valid", "causal", "tf_same")
