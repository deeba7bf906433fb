"""The four parts of a message, the exit status of a code, and the answer to an unknown name."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.errors import EXIT_STATUS, MOST_NAMES, ConvworksError, closest, unknown_name


def test_a_message_has_its_four_parts_in_order() -> None:
    error = ConvworksError(
        "D101", "no images in photos", where="/home/a/photos", why="nothing can be learned", try_="ls photos"
    )
    assert str(error) == (
        "error[D101]: no images in photos\n"
        "  where: /home/a/photos\n"
        "  why:   nothing can be learned\n"
        "  try:   ls photos"
    )
    assert str(error) == error.format()
    assert (error.code, error.what, error.where, error.why) == (
        "D101",
        "no images in photos",
        "/home/a/photos",
        "nothing can be learned",
    )
    assert error.try_ == error.hint == "ls photos"


def test_parts_that_are_not_given_leave_no_line() -> None:
    assert str(ConvworksError("U102", "what")) == "error[U102]: what"
    assert str(ConvworksError("U102", "what", try_="this")) == "error[U102]: what\n  try:   this"


@pytest.mark.parametrize(("letter", "status"), [("U", 2), ("D", 3), ("A", 4), ("R", 5), ("N", 6)])
def test_the_letter_decides_the_exit_status(letter: str, status: int) -> None:
    assert ConvworksError(f"{letter}101", "what").exit_status == status
    assert EXIT_STATUS[letter] == status


@pytest.mark.parametrize("code", ["", "X101", "d101", "101"])
def test_a_code_of_no_group_is_our_own_mistake(code: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"error code {code!r} must start with one of U, D, A, R, N")
    ):
        ConvworksError(code, "what")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet43", "resnet34"), ("LeNet", "lenet5"), ("lenet5", "lenet5"), ("transformer", None), ("", None)],
)
def test_closest(name: str, expected: str | None) -> None:
    assert closest(name, ["alexnet", "lenet5", "resnet34"]) == expected


def test_closest_gives_the_name_as_it_is_written() -> None:
    assert closest("imagenet", ["ImageNet", "CIFAR"]) == "ImageNet"


def test_an_unknown_name_with_a_near_one() -> None:
    error = unknown_name("model", "lenet", ["lenet5", "alexnet"], try_="convworks show {near}")
    assert str(error) == (
        "error[U101]: there is no model called 'lenet'\n"
        "  where: did you mean 'lenet5'?\n"
        "  try:   convworks show lenet5"
    )
    assert error.exit_status == 2


def test_an_unknown_name_with_none_near_lists_what_there_is() -> None:
    error = unknown_name("model", "qqqq", {"b", "a", "c"}, code="A410", try_="convworks show {near}")
    assert str(error) == (
        "error[A410]: there is no model called 'qqqq'\n  where: known: a, b, c\n  try:   convworks show a"
    )


@settings(deadline=None, database=None, max_examples=50)
@given(st.text(), st.lists(st.text(min_size=1), max_size=5, unique=True))
def test_any_name_gives_a_message_that_holds_it(name: str, known: list[str]) -> None:
    error = unknown_name("model", name, known)
    assert f"'{name}'" in str(error)
    near = closest(name, known)
    assert near is None or near in known


def test_an_exact_name_in_another_case_is_near() -> None:
    assert closest("ALEXNET", ["alexnet", "vgg_a"]) == "alexnet"


def test_errors_are_read_without_torch() -> None:
    code = "import sys, convworks.errors, convworks.durable; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_of_many_names_the_nearest_are_listed() -> None:
    names = [f"network{i}" for i in range(40)]
    text = str(unknown_name("model", "qqq", names))
    assert text.count("network") == MOST_NAMES
    assert "and 28 more" in text


def test_a_placeholder_in_what_to_try_gets_the_real_name() -> None:
    error = ConvworksError(
        "D149", "an image cannot be read", where="a.png", why="it is empty", try_="eval RUN x"
    )
    told = error.trying("eval RUN ", "eval 'my runs/a' ")
    assert (told.code, told.what, told.where, told.why) == (error.code, error.what, error.where, error.why)
    assert told.try_ == "eval 'my runs/a' x"
    assert str(told).endswith("try:   eval 'my runs/a' x")
    assert error.trying("resume RUN", "resume a") is error
