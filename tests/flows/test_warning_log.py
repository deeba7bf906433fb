"""The log of warnings: each as it was printed, with its code; also of sessions that end with an error."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from convworks.errors import ConvworksError
from convworks.flows import warning_log
from convworks.flows.events import Event, Found, Note
from convworks.flows.warning_log import logged
from convworks.runs import Run
from tests.flows.helpers import fingerprint, resume_all, train_all, train_until, write_images


def found(*warnings: str) -> Found:
    return Found("a", "a/", "folders", 2, ("x",), {}, "", {}, (), 0, warnings, "0", 0.1)


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.warnings_file.read_text().splitlines()]


def told(run: Run) -> list[tuple[str, str, str, str]]:
    return [(each["from"], each["level"], each["code"], each["text"]) for each in lines(run)]


def test_each_warning_in_order_and_nothing_else(tmp_path: Path) -> None:
    run, closed = Run(tmp_path), []
    bad = b"caf\xe9".decode("utf-8", "surrogateescape")

    def events() -> Generator[Event]:
        try:
            yield Note("only a note")
            yield found("two labels", f"odd {bad}\n\x1b")
            yield Note("disk full", level="warning")
            yield Note("set aside", level="warning", code="A403")
        finally:
            closed.append(True)

    passed = list(logged(run, events()))
    assert [type(each) for each in passed] == [Note, Found, Note, Note]
    assert told(run) == [
        ("data", "warning", "", "two labels"),
        ("data", "warning", "", f"odd {bad}\n\x1b"),
        ("training", "warning", "", "disk full"),
        ("training", "warning", "A403", "set aside"),
    ]
    assert closed == [True]
    list(logged(run, events()))
    assert len(lines(run)) == 8, "a second session adds to the first"


def test_it_is_written_before_it_is_passed_on(tmp_path: Path) -> None:
    def events() -> Generator[Event]:
        yield Note("disk full", level="warning")
        raise AssertionError("never asked for")

    running = logged(Run(tmp_path), events())
    next(running)
    assert [each["text"] for each in lines(Run(tmp_path))] == ["disk full"]
    running.close()  # type: ignore[attr-defined]


def test_no_warning_leaves_an_empty_file(tmp_path: Path) -> None:
    def none() -> Generator[Event]:
        yield from ()

    assert list(logged(Run(tmp_path), none())) == []
    assert Run(tmp_path).warnings_file.read_bytes() == b""


def test_the_error_that_ends_a_session_is_written_too(tmp_path: Path) -> None:
    def events() -> Generator[Event]:
        yield Note("x")
        raise ConvworksError("N601", "the loss is not finite")

    with pytest.raises(ConvworksError, match="N601"):
        list(logged(Run(tmp_path), events()))
    assert told(Run(tmp_path)) == [("training", "error", "N601", "the loss is not finite")]


def test_very_many_and_very_long_ones_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warning_log, "MOST", 3)

    def events() -> Generator[Event]:
        yield found("x" * 10_000, "b", "c", "d", "e")

    list(logged(Run(tmp_path), events()))
    assert [each["text"][:20] for each in lines(Run(tmp_path))] == ["x" * 20, "b", "c", "and 2 more"]
    assert len(lines(Run(tmp_path))[0]["text"]) == warning_log.LONGEST


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    def events() -> Generator[Event]:
        yield Note("a", level="warning")

    assert len(list(logged(Run(tmp_path / "gone"), events()))) == 1


def test_a_stopped_run_shares_all_but_its_log_and_its_times(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data" / "colours")
    train_all(tmp_path / "whole", data)
    train_until(tmp_path / "parts", data, 3)
    resume_all(tmp_path / "parts")
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")
    for work in ("whole", "parts"):
        run = Run(tmp_path / work / "runs" / "run")
        assert json.loads(run.latency_file.read_text())["shape"] == [3, 28, 28]
        assert run.warnings_file.is_file()


def test_a_damaged_checkpoint_is_in_the_log_with_its_code(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data" / "colours")
    train_until(tmp_path, data, 8, epochs=3)
    run = Run(tmp_path / "runs" / "run")
    newest = max(run.checkpoints.glob("step-*"))
    content = (newest / "network.safetensors").read_bytes()
    (newest / "network.safetensors").write_bytes(content[:-1])
    resume_all(tmp_path)
    ((source, level, code, text),) = told(run)
    assert (source, level, code) == ("training", "warning", "A403")
    assert f"the checkpoint {newest.name} is damaged" in text
