"""The sentences, word by word."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from convworks.evaluation.metrics import Metrics, measure
from convworks.report.text import count, interval, listing, printable, share, taken_for, verdict, weakest

CLASSES = ("daisy", "rose", "tulip")


def from_confusion(cells: list[list[int]], names: tuple[str, ...] = CLASSES) -> Metrics:
    """Metrics of answers given with probability 0.7, with these counts."""
    labels, answers = [], []
    for true, row in enumerate(cells):
        for answer, n in enumerate(row):
            labels += [true] * n
            answers += [answer] * n
    k = len(names)
    probabilities = np.full((len(labels), k), 0.3 / (k - 1))
    probabilities[np.arange(len(labels)), answers] = 0.7
    return measure(probabilities, np.array(labels), names)


def test_the_verdict_in_three_sentences() -> None:
    assert verdict(from_confusion([[90, 5, 5], [8, 90, 2], [1, 4, 7]])) == [
        "accuracy 0.882 (95 % 0.832-0.919, n = 212)",
        "balanced accuracy 0.794, loss 0.538",
        "weakest tulip 0.58 recall (12 images), often taken for rose",
    ]


def test_top5_is_said_where_there_are_more_than_five_classes() -> None:
    many = from_confusion((np.eye(6, dtype=int) * 3).tolist(), tuple("abcdef"))
    assert verdict(many)[1] == "balanced accuracy 1.000, loss 0.357, top-5 accuracy 1.000"
    assert verdict(many)[2] == "no mistake in 18 images"


@pytest.mark.parametrize(
    ("cells", "end"),
    [
        ([[9, 0, 0], [0, 9, 0], [0, 1, 8]], "weakest tulip 0.89 recall (9 images), once taken for rose"),
        (
            [[9, 0, 0], [0, 9, 0], [1, 1, 7]],
            "weakest tulip 0.78 recall (9 images), taken for several other classes",
        ),
        ([[9, 0, 0], [0, 0, 1], [0, 0, 8]], "weakest rose 0.00 recall (1 image), once taken for tulip"),
    ],
)
def test_what_the_weakest_class_is_taken_for(cells: list[list[int]], end: str) -> None:
    assert verdict(from_confusion(cells))[2] == end


def test_of_equally_weak_classes_the_larger_one_is_named() -> None:
    worst = weakest(from_confusion([[1, 1, 0], [2, 4, 2], [0, 0, 5]]))
    assert worst is not None
    assert worst.name == "rose"


def test_taken_for_is_none_without_mistakes() -> None:
    metrics = from_confusion([[3, 0, 0], [0, 1, 2], [0, 0, 1]])
    assert taken_for(metrics, "daisy") is None
    assert taken_for(metrics, "rose") == ("tulip", 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.000"),
        (1, "1.000"),
        (0.8284, "0.828"),
        (0.9996, "0.9996"),
        (0.99996, "0.99996"),
        (0.0004, "0.0004"),
    ],
)
def test_a_share_is_never_rounded_to_a_certainty(value: float, text: str) -> None:
    assert share(value) == text


def test_an_interval_has_a_plain_hyphen() -> None:
    assert interval((0.7761, 0.8712)) == "0.776-0.871"


def test_counts_have_their_plural() -> None:
    assert (count(1, "image"), count(1204, "image"), count(2, "class", "classes")) == (
        "1 image",
        "1,204 images",
        "2 classes",
    )


def test_a_long_list_is_cut_short() -> None:
    assert listing(["a", "b", "c"]) == "a, b, c"
    assert listing(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain name é 花", "plain name é 花"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
        ("left\u202eright", "left\\u202eright"),
    ],
)
def test_names_are_shown_with_escapes(name: str, text: str) -> None:
    assert printable(name) == text
    printable(name).encode("utf-8")


def test_a_long_name_loses_its_middle() -> None:
    shown = printable("folder/" + "x" * 400 + ".jpg", limit=40)
    assert len(shown) <= 40
    assert shown.startswith("folder/")
    assert shown.endswith(".jpg")


def test_sentences_need_no_heavy_library() -> None:
    heavy = {"torch", "matplotlib", "jinja2", "sklearn"}
    code = f"import sys, convworks.report.text; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
