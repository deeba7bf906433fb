"""The CSV files in the links: the numbers of the run, line by line."""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from convworks.report import exports
from convworks.report.exports import downloads
from convworks.report.read import read_run
from tests.report.helpers import fake_run


def rows(uri: str) -> list[dict[str, str]]:
    kind, _, data = uri.partition(",")
    assert kind == "data:text/csv;base64"
    return list(csv.DictReader(io.StringIO(base64.b64decode(data).decode(), newline="")))


def test_epochs_and_steps(tmp_path: Path) -> None:
    record = read_run(fake_run(tmp_path))
    (_, name, first), (words, _, second) = downloads(record)
    assert name == "epochs.csv"
    assert [float(row["val_loss"]) for row in rows(first)] == [each.val_loss for each in record.epochs]
    assert float(rows(first)[0]["minutes"]) == pytest.approx(10 / 60, abs=1e-3)
    assert [int(row["step"]) for row in rows(second)] == [each.step for each in record.steps]
    assert words == "steps as CSV"
    assert downloads(replace(record, epochs=(), steps=())) == []
    without = rows(downloads(replace(record, timing=None))[0][2])
    assert {row["minutes"] for row in without} == {""}


def test_many_steps_are_thinned_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MOST_STEPS", 100)
    record = read_run(fake_run(tmp_path))
    words, _, uri = downloads(record)[1]
    assert words == "steps as CSV, one of 3"
    assert len(rows(uri)) == 80
