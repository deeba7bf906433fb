"""Section 10 lists what was warned of: each once, with its code, in the order first said, and escaped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convworks.errors import ConvworksError
from convworks.report import warned as module
from convworks.report.page import write_report
from convworks.report.read import read_run
from convworks.report.warned import Warned, warned
from tests.report.helpers import fake_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_run(tmp_path)


def log(run: Path, *records: dict[str, Any]) -> None:
    (run / "warnings.jsonl").write_text("".join(json.dumps({"at": 1.5, **each}) + "\n" for each in records))


def said(text: str, *, source: str = "training", level: str = "warning", code: str = "") -> dict[str, str]:
    return {"from": source, "level": level, "code": code, "text": text}


def test_each_once_with_its_code_and_how_often(run: Path) -> None:
    two = said("two labels", source="data")
    log(run, two, said("set aside", code="A403"), two, said("not finite", level="error", code="N601"))
    found = warned(read_run(run))
    assert found is not None
    assert found.shown == (
        Warned("data", "warning", "", "two labels", 2),
        Warned("training", "warning", "A403", "set aside", 1),
        Warned("training", "error", "N601", "not finite", 1),
    )
    text = write_report(run).read_text()
    rows = re.findall(r"<tr><td>(?:data|training).*?</tr>", text)
    assert [re.findall(r"[^<>]+(?=</)", row) for row in rows] == [
        ["data", "-", "two labels", "2"],
        ["training", "A403", "set aside", "1"],
        ["training, error", "N601", "not finite", "1"],
    ]
    assert "<caption>Warnings, as they were printed</caption>" in text


def test_an_empty_log_and_none_at_all(run: Path) -> None:
    assert warned(read_run(run)) is None
    assert "1 warning of the data: see" in write_report(run).read_text()
    log(run)
    text = write_report(run).read_text()
    assert "No warning was printed, by no session of the run." in text
    assert "1 warning of the data: see" not in text


def test_hostile_texts_do_nothing(run: Path) -> None:
    log(run, said("<img src=x onerror=alert(1)>\x1b[31m \u202e \udcff", code="<b>"))
    text = write_report(run).read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;\\x1b[31m \\u202e" in text
    assert "<code>&lt;b&gt;</code>" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)


def test_many_are_folded_away_and_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN", 12)
    log(run, *(said(f"number {i}") for i in range(30)))
    text = write_report(run).read_text()
    assert "<summary>30 warnings</summary>" in text
    assert "number 11<" in text
    assert "number 12<" not in text
    assert "18 more warnings in warnings.jsonl." in text


@pytest.mark.parametrize("line", ["{", "[]", '{"text": 3}', '{"text": "a", "code": null}'])
def test_a_damaged_line_is_named(run: Path, line: str) -> None:
    log(run, said("a"))
    with (run / "warnings.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConvworksError, match=r"A462.*line 2 of warnings\.jsonl"):
        warned(read_run(run))


def test_a_line_that_a_crash_cut_off_is_left_out(run: Path) -> None:
    log(run, said("a"))
    with (run / "warnings.jsonl").open("a") as file:
        file.write('{"at": 1, "te')
    found = warned(read_run(run))
    assert found is not None
    assert [each.text for each in found.shown] == ["a"]
