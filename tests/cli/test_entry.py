"""Exit statuses, the crash file, and what happens to surprises."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from convworks.cli import entry
from convworks.cli.console import Console
from convworks.cli.crash import version, write_crash_file
from convworks.cli.flags import OutputFlags, Verb
from convworks.errors import ConvworksError


@dataclass(frozen=True, kw_only=True)
class NoFlags(OutputFlags):
    pass


def run_with(outcome: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """main() with a verb that returns or raises the outcome."""

    def work(args: Any, console: Console) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        console.answer("an answer")
        return int(outcome)

    verb = Verb(name="doctor", flags=NoFlags, main=(), examples=("a", "b"), run=work)
    monkeypatch.setattr(entry, "find_verb", lambda words: verb)
    return entry.main(["doctor", *words])


@pytest.mark.parametrize("status", [0, 75])
def test_the_status_of_the_verb_is_that_of_the_command(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_with(status, monkeypatch) == status


@pytest.mark.parametrize(
    ("code", "status"), [("U101", 2), ("D101", 3), ("A410", 4), ("R503", 5), ("N601", 6)]
)
def test_the_letter_of_an_error_is_its_status(
    code: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(ConvworksError(code, "this", try_="that"), monkeypatch) == status
    assert capsys.readouterr().err == f"error[{code}]: this\n  try:   that\n"


def test_an_error_without_advice_gets_some(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(ConvworksError("U112", "this"), monkeypatch)
    assert capsys.readouterr().err == "error[U112]: this\n  try:   convworks doctor --help-all\n"


def test_an_interrupt_outside_the_flows_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_with(KeyboardInterrupt(), monkeypatch) == 130


def test_a_surprise_leaves_a_crash_file_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(KeyError("surprise"), monkeypatch) == 1
    err = capsys.readouterr().err
    (crash,) = tmp_path.glob("convworks-crash-*.txt")
    assert "Traceback" not in err
    assert "KeyError: 'surprise'" in err
    assert crash.name in err
    text = crash.read_text()
    assert "Traceback" in text
    assert version() in text
    assert "['doctor']" in text


def test_verbose_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(KeyError("surprise"), monkeypatch, "--verbose") == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_crash_file_goes_elsewhere_from_a_folder_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    write = Path.write_text

    def refuse(path: Path, *args: Any, **options: Any) -> int:
        if path.parent == Path():
            raise PermissionError(errno.EACCES, "denied", str(path))
        return write(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", refuse)
    path = write_crash_file(ValueError("x"), [])
    assert path is not None
    assert path.parent == elsewhere


@pytest.mark.parametrize(
    ("problem", "code", "named"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "here/x.json"), "R591", "here/x.json"),
        (MemoryError(), "R592", "memory"),
    ],
)
def test_what_the_system_refuses_is_a_message(
    problem: Exception,
    code: str,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_with(problem, monkeypatch) == 5
    err = capsys.readouterr().err
    assert err.startswith(f"error[{code}]")
    assert named in err


def test_an_answer_that_cannot_be_written_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    assert run_with(0, monkeypatch) == 5
    assert "error[R590]" in capsys.readouterr().err


def test_errors_are_json_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["train", "photos/", "--epoch", "5", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["code"] == "U002"
    assert err.startswith("error[U002]")


VERB_MISTAKES = [
    (["trian", "photos/"], "did you mean  train", "convworks train photos/"),
    (["--seed", "3", "train", "photos/"], "the verb comes first", "convworks train --seed 3 photos/"),
    (["xyzzy"], "unknown verb 'xyzzy'", "convworks --help"),
]


@pytest.mark.parametrize(("words", "named", "right"), VERB_MISTAKES)
def test_an_unknown_verb(
    words: list[str], named: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error[U001]")
    assert named in err
    assert f"try:   {right}\n" in err


def test_data_in_the_place_of_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    assert entry.main(["photos", "--epochs", "3"]) == 2
    assert "try:   convworks train photos --epochs 3\n" in capsys.readouterr().err


def test_a_reader_that_goes_away_ends_quietly(tmp_path: Path) -> None:
    program = "import sys; from convworks.cli import main; sys.exit(main(['train', '--help-all']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_any_encoding_can_show_any_name(encoding: str, tmp_path: Path) -> None:
    program = (
        "import sys; from convworks.cli import main; sys.exit(main(['tr\\xe4in\\u2028\\x1b[31m\\udcff']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        cwd=tmp_path,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"},
    )
    assert done.returncode == 2
    text = done.stderr.decode(encoding)
    assert text.startswith("error[U001]")
    assert not any(c < " " for c in text.replace("\n", ""))


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["--version"]) == 0
    assert capsys.readouterr().out == f"convworks {version()}\n"
