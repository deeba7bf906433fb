"""`convworks exercise`: each action from words to lines, files and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convworks.exercises import PROBLEM_SETS, names
from tests.cli.helpers import run

Capture = pytest.CaptureFixture[str]
POOL = (
    "def forward(x, size, stride):\n"
    "    return [max(x[i:i + size]) for i in range(0, len(x) - size + 1, stride)]\n"
    "def backward(dy, x, size, stride):\n"
    "    print('hello')\n"
    "    dx = [0.0] * len(x)\n"
    "    for t, g in enumerate(dy):\n"
    "        window = list(x[t * stride:t * stride + size])\n"
    "        dx[t * stride + window.index(max(window))] += g\n"
    "    return dx\n"
)


def test_the_list_has_every_exercise(capsys: Capture) -> None:
    ran = run(capsys, "exercise", "list")
    firsts = [line.split()[0] for line in ran.out.splitlines() if line]
    assert ran.status == 0
    assert set(names()) | set(PROBLEM_SETS) <= set(firsts)
    document = json.loads(run(capsys, "exercise", "list", "--json").out)
    assert [row["name"] for row in document["exercises"]] == list(names())
    assert document["problem_sets"][0]["functions"] == ["forward", "backward_input", "backward_weights"]


def test_show_asks_and_answers_only_when_told(capsys: Capture) -> None:
    ran = run(capsys, "exercise", "show", "conv-volume")
    assert ran.status == 0
    assert "Input volume 32x32x3; 10 filters of 5x5, stride 1, padding 2." in ran.out
    assert "760" not in ran.out
    assert ran.out.splitlines()[-1] == 'next       convworks exercise check conv-volume --answer "..."'
    told = run(capsys, "exercise", "show", "conv-volume", "--answer")
    assert "output volume  32x32x10" in told.out
    assert "parameters     760" in told.out
    assert "10 of them have 760" in told.out.replace("\n", " ")


def test_a_seed_gives_other_numbers_and_the_same_again(capsys: Capture) -> None:
    first = run(capsys, "exercise", "show", "strides", "--seed", "3").out
    assert first == run(capsys, "exercise", "show", "strides", "--seed", "3").out
    assert first != run(capsys, "exercise", "show", "strides").out
    assert first.startswith("strides, seed 3: ")


def test_show_as_json(capsys: Capture) -> None:
    document = json.loads(run(capsys, "exercise", "show", "strides", "--json").out)
    assert "answers" not in document
    assert document["asked"][2] == "stride 3, padding 0"
    document = json.loads(run(capsys, "exercise", "show", "strides", "--json", "--answer").out)
    assert list(document["answers"].values()) == [5, 3, "no", 7]


def test_show_explains_a_problem_set(capsys: Capture) -> None:
    ran = run(capsys, "exercise", "show", "convolution")
    assert "CONVENTION says which operation yours is" in ran.out
    assert ran.out.splitlines()[-1] == "next       convworks exercise template convolution --out student.py"


@pytest.mark.parametrize(
    "words", [("--answer", "32x32x10 760"), ("32x32x10", "760"), ("--answer", "10@32x32, 760")]
)
def test_a_right_answer_is_0(words: tuple[str, ...], capsys: Capture) -> None:
    ran = run(capsys, "exercise", "check", "conv-volume", *words)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines()[-1] == "all right"


def test_a_wrong_answer_is_2_and_no_crash(capsys: Capture) -> None:
    ran = run(capsys, "exercise", "check", "conv-volume", "--answer", "32x32x10 750")
    assert ran.status == 2
    assert ran.out.splitlines() == [
        "right  output volume  32x32x10",
        "wrong  parameters     750       that is without the biases",
    ]
    assert (
        ran.err
        == "error[U145]: 1 of 2 answers right\n  try:   convworks exercise show conv-volume --answer\n"
    )
    ran = run(capsys, "exercise", "check", "conv-volume", "--answer", "32x32x10 750", "--json")
    document = json.loads(ran.out)
    assert (ran.status, document["right"], document["of"]) == (2, 1, 2)
    assert document["parts"][1]["remark"] == "that is without the biases"


def test_a_sheet_on_screen_in_a_file_and_as_json(capsys: Capture) -> None:
    shown = run(capsys, "exercise", "new", "--seed", "4", "--count", "3").out
    assert shown.count("\n## ") == 3
    ran = run(capsys, "exercise", "new", "--seed", "4", "--count", "3", "--out", "sheet.md")
    assert ran.out == "wrote sheet.md: 3 exercises\n"
    assert Path("sheet.md").read_text() == shown
    again = run(capsys, "exercise", "new", "--seed", "4", "--out", "sheet.md")
    assert again.status == 2
    assert again.err.splitlines()[0] == "error[U143]: sheet.md is there already"
    assert again.err.splitlines()[-1].endswith("convworks exercise new --seed 4 --out sheet-2.md")
    assert Path("sheet.md").read_text() == shown
    run(capsys, "exercise", "new", "--seed", "4", "--count", "3", "--answer", "--out", "key.md")
    assert Path("key.md").read_text().startswith(shown.rstrip())
    document = json.loads(run(capsys, "exercise", "new", "--seed", "4", "--answer", "--json").out)
    assert len(document["exercises"]) == 6
    assert all(each["answers"] for each in document["exercises"])
    assert run(capsys, "exercise", "new", "--seed", "4", "--out", "no/sheet.md").status == 5


def test_from_template_to_grade(capsys: Capture) -> None:
    ran = run(capsys, "exercise", "template", "max-pool", "--out", "student.py")
    assert ran.out.splitlines()[-1] == "next       convworks exercise grade max-pool student.py"
    assert run(capsys, "exercise", "template", "max-pool", "--out", "student.py").status == 2
    assert run(capsys, "exercise", "template", "max-pool").out == Path("student.py").read_text()
    ran = run(capsys, "exercise", "grade", "max-pool", "student.py")
    assert ran.status == 2
    assert "error[U145]: 0 of 22 cases right" in ran.err
    assert ran.out.splitlines()[0].endswith("it is not filled in yet")
    Path("student.py").write_text(POOL)
    ran = run(capsys, "exercise", "grade", "max-pool", "student.py")
    assert ran.status == 0
    assert ran.out.splitlines()[-1] == "all 22 cases right"
    assert ran.err == "note: backward printed 11 lines, not shown; the first: hello\n"


def test_what_was_not_run_is_one_line(capsys: Capture) -> None:
    Path("loop.py").write_text("def forward(x, size, stride):\n    while True: pass\nbackward = forward\n")
    ran = run(capsys, "exercise", "grade", "max-pool", "loop.py", "--limit", "1", "--json")
    document = json.loads(ran.out)
    assert [case["status"] for case in document["cases"][:2]] == ["failed", "not run"]
    assert "not run forward: 10 cases after that" in ran.err
    assert "still running after 1 s" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), "U004", "exercise needs ACTION"),
        (("shw",), "U003", "did you mean  show"),
        (("show",), "U004", "exercise show needs the NAME of an exercise"),
        (("show", "conv-volum"), "U141", "did you mean 'conv-volume'?"),
        (("show", "strides", "padding"), "U005", "unexpected argument 'padding'"),
        (("list", "x"), "U005", "unexpected argument 'x'"),
        (("new",), "U004", "exercise new needs --seed"),
        (("check",), "U004", "needs the NAME of an exercise and your answers"),
        (("check", "strides"), "U004", "needs your answers: stride 1, padding 0, stride 2"),
        (("check", "conv-volume", "1"), "U142", "2 answers are asked for, and 1 given"),
        (("check", "conv-volume", "a b"), "U142", "'a' is not an answer for 'output volume'"),
        (("grade",), "U004", "needs a problem set, convolution or max-pool"),
        (("grade", "max-pool"), "U004", "needs the file to grade"),
        (("grade", "student.py"), "U004", "needs the problem set before the file"),
        (("grade", "max-pool", "none.py"), "U144", "the file to grade is not there"),
        (("template", "pool"), "U141", "there is no problem set called 'pool'"),
        (("show", "strides", "--seed", "-1"), "U003", "--seed cannot be '-1'"),
    ],
)
def test_mistakes_are_answered(words: tuple[str, ...], code: str, text: str, capsys: Capture) -> None:
    ran = run(capsys, "exercise", *words)
    assert ran.status == 2
    assert f"error[{code}]" in ran.err
    assert text in ran.err
    assert "  try:   convworks " in ran.err or code == "U142"
    assert json.loads(run(capsys, "exercise", *words, "--json").out)["code"] == code
