"""Streams: who gets what, plain text outside terminals, readers that go away, disks that are full."""

from __future__ import annotations

import errno
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convworks.cli.console import Console, clean, plain
from convworks.errors import ConvworksError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream that fails as a pipe without a reader, or a full disk, does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "cannot write")


def made(**options: Any) -> tuple[Console, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Console(out=out, err=err, **options), out, err


def test_the_answer_goes_to_stdout_and_narration_to_stderr() -> None:
    console, out, err = made()
    console.say("working")
    console.answer("42")
    console.warn("careful")
    console.document({"answer": 42})
    assert out.getvalue() == "42\n"
    assert err.getvalue() == "working\nwarning: careful\n"


def test_with_json_stdout_is_one_document_and_people_read_stderr() -> None:
    console, out, err = made(json_output=True)
    console.answer("42")
    console.document({"answer": 42})
    assert json.loads(out.getvalue()) == {"answer": 42}
    assert err.getvalue() == "42\n"


def test_quiet_leaves_the_answer_and_warnings() -> None:
    console, out, err = made(quiet=True)
    console.say("working")
    console.detail("more")
    console.answer("42")
    console.warn("careful")
    assert (out.getvalue(), err.getvalue()) == ("42\n", "warning: careful\n")


def test_detail_is_for_verbose() -> None:
    console, _, err = made(verbose=True)
    console.detail("more")
    assert err.getvalue() == "more\n"


def test_an_error_has_four_lines_and_a_json_record() -> None:
    console, out, err = made(json_output=True)
    console.error(ConvworksError("D101", "no folder", where="here\nand there", why="because", try_="do this"))
    assert err.getvalue().splitlines() == [
        "error[D101]: no folder",
        "  where: here",
        "         and there",
        "  why:   because",
        "  try:   do this",
    ]
    record = json.loads(out.getvalue())
    assert (record["event"], record["code"], record["exit"]) == ("error", "D101", 3)


def test_control_characters_of_names_are_escaped() -> None:
    console, out, _ = made()
    console.answer("a\x1b[31mred\x07\r\u202egpj.exe\u2028")
    assert out.getvalue() == "a\\x1b[31mred\\x07\\r\\u202egpj.exe\\u2028\n"


def test_names_that_no_encoding_holds_are_escaped() -> None:
    assert clean("caf\udce9\n\ud800") == "caf\\xe9\\n\\ud800"
    assert clean("Größe · 5 ± 1", "ascii") == "Gr\\xf6\\xdfe - 5 +- 1"
    assert clean("Größe · 5 ± 1", "utf-8") == "Größe · 5 ± 1"


def test_colour_and_the_live_line_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    err = Terminal()
    console = Console(out=io.StringIO(), err=err)
    console.live("halfway")
    console.warn("careful")
    text = err.getvalue()
    assert text.startswith("\rhalfway\r       \r")
    assert "\x1b[" in text
    monkeypatch.setenv("NO_COLOR", "1")
    err = Terminal()
    Console(out=io.StringIO(), err=err).warn("careful")
    assert err.getvalue() == "warning: careful\n"


def test_a_shorter_live_line_covers_a_longer_one() -> None:
    err = Terminal()
    console = Console(out=io.StringIO(), err=err)
    console.live("abcdef")
    console.live("xy")
    assert err.getvalue() == "\rabcdef\rxy    "


def test_outside_a_terminal_there_is_no_live_line() -> None:
    console, _, err = made()
    console.live("halfway")
    assert err.getvalue() == ""


def test_a_reader_that_went_away_is_no_failure() -> None:
    console = Console(out=Broken(errno.EPIPE), err=io.StringIO())
    console.answer("42")
    console.answer("43")
    assert console.reader_gone
    assert console.failure is None


def test_a_full_disk_under_stdout_is_remembered() -> None:
    console = Console(out=Broken(errno.ENOSPC), err=io.StringIO())
    console.answer("42")
    assert console.failure is not None
    assert console.failure.errno == errno.ENOSPC


def test_values_become_json() -> None:
    @dataclass
    class Record:
        path: Path
        score: float
        pair: tuple[int, int]

    value = {"a": Record(Path("x/y"), float("nan"), (1, 2)), "b": np.arange(2), "c": np.float64(0.5), 3: None}
    assert plain(value) == {
        "a": {"path": "x/y", "score": None, "pair": [1, 2]},
        "b": [0, 1],
        "c": 0.5,
        "3": None,
    }
