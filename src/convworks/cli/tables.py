"""CSV files for spreadsheets and programs: checked before the work, written whole or not at all."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convworks.cli.console import clean
from convworks.durable import write_atomic
from convworks.errors import ConvworksError

SUFFIXES = (".csv", ".txt", "")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: Any) -> str:
    """A value as one cell; text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}"
    text = clean(str(value))
    return "'" + text if text.startswith(FORMULA) else text


def line(values: Iterable[Any]) -> str:
    """One line of CSV, without its end."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([cell(value) for value in values])
    return buffer.getvalue()


def check_writable(path: Path, header: Sequence[str]) -> None:
    """Before the work: raises R503 where the folder refuses, U006 where `path` is or names another kind."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConvworksError(
            "U006",
            f"{path.name} is not the name of a .csv file",
            why="the table is written as comma-separated values; --json prints the whole answer as JSON",
            try_=f"--csv {path.with_suffix('.csv')}",
        )
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as problem:
        raise ConvworksError(
            "R503",
            f"cannot write {path}: {problem.strerror or problem}",
            why="nothing was computed",
            try_=f"--csv {path.name}",
        ) from problem
    if not path.exists():
        return
    if path.is_dir():
        raise ConvworksError("U006", f"{path} is a folder", try_=f"--csv {path / 'table.csv'}")
    with path.open("rb") as file:
        first = file.readline(4096).decode("utf-8", "replace").strip()
    if first and not first.startswith(line(header[:1])):
        raise ConvworksError(
            "U006",
            f"{path} exists and is not a table that convworks wrote",
            why="it would be lost",
            try_=f"--csv {path.with_name('new-' + path.name)}",
        )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write the whole table in one step. Raises R503 where the disk refuses."""
    text = "".join(f"{line(row)}\n" for row in (header, *rows))
    try:
        write_atomic(path, text.encode())
    except OSError as problem:
        raise ConvworksError("R503", f"cannot write {path}: {problem.strerror or problem}") from problem
