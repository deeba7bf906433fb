"""Tables of path,label[,split]: comma, semicolon or tab between columns, with or without a header.

A mistake is reported with its row, counted as a spreadsheet counts: the header, if there is one, is row 1.
Paths are relative to the table's folder, or to the folder or archive that the table was given for.
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from convworks.data.container import Container, FileSource
from convworks.data.layout import check_classes, missing_in_splits, split_of
from convworks.data.sources import Entry, Listing, Source, Split, shown
from convworks.errors import ConvworksError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img")
_LABEL_NAMES = ("label", "class", "class_name", "target", "category", "labels", "y")
_SPLIT_NAMES = ("split", "set", "subset", "partition")
_SAMPLE_ROWS = 20


@dataclass(frozen=True, slots=True)
class _Format:
    """How a table is written: the delimiter, the header if there is one, and which column is which."""

    delimiter: str
    header: tuple[str, ...]  # empty where the first row is data already
    path: int
    label: int
    split: int | None

    @property
    def columns(self) -> int:
        return 1 + max(self.path, self.label, self.split or 0)

    def in_words(self, rows: int) -> str:
        words = f"a table of {rows:,} rows, {DELIMITERS[self.delimiter]} between columns"
        if self.header:
            words += f", labels from the column '{shown(self.header[self.label])}'"
        return words + (", no split column" if self.split is None else "")


def open_table(table: Path, container: Container, *, location: str, name: str) -> Source:
    """The images that a table lists, with its labels and splits, in the order of its rows.

    Raises ConvworksError D101 (no such table), D105 and D107 (classes), D180-D188 (a mistake in a row).
    """
    text = _text(table)
    form = _format(text, table, container)
    rows = _Rows(form, table, container)
    for number, row in _parse(text, form.delimiter, table):
        if row and not (number == 1 and form.header):
            rows.add(number, row)
    entries = rows.finish()
    classes, about_names = check_classes(
        {entry.label for entry in entries if entry.label is not None}, location=str(table), folders=False
    )
    listing = Listing(
        layout=form.in_words(len(entries)),
        entries=tuple(entries),
        classes=classes,
        warnings=(*rows.warnings(), *about_names, *missing_in_splits(entries)),
    )
    return FileSource(listing, container, location=location, name=name, kind="csv")


def _text(table: Path) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one; other bytes become surrogate escapes."""
    try:
        content = table.read_bytes()
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise ConvworksError(
            "D101",
            f"cannot read the table of labels '{shown(str(table))}': {reason}",
            why="it is a .csv file of path,label[,split]",
            try_=f"ls {shlex.quote(str(table.parent))}",
        ) from problem
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # what spreadsheets call Unicode text
        return content.decode("utf-16", "replace")
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _parse(text: str, delimiter: str, table: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number, fields). Raises ConvworksError D181 for a field without an end."""
    number = 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        for number, row in enumerate(reader, start=1):
            yield number, row
    except csv.Error as problem:
        raise _error(table, "D181", f"{problem}: is a quotation mark left open?", number + 1) from problem


def _format(text: str, table: Path, container: Container) -> _Format:
    """The delimiter under which the first rows make most sense, and the columns.

    Raises ConvworksError D180 (empty), D182 (one column), D183 (a header without path or label).
    """
    best: tuple[tuple[bool, bool, bool], str, list[str]] | None = None
    for delimiter in DELIMITERS:
        sample = [row for _, row in islice(_parse(text, delimiter, table), _SAMPLE_ROWS) if row]
        if sample and len(sample[0]) > 1:
            exists = _path_of(sample[0][0].strip(), container) is not None
            same = len({len(row) for row in sample}) == 1
            score = (not exists and _names_columns(sample[0]), exists, same)
            if best is None or score > best[0]:
                best = (score, delimiter, sample[0])
    if best is None:
        if not text.strip():
            raise _error(table, "D180", "the table is empty", 1)
        raise _error(table, "D182", "one column, where path and label are expected", 1)
    (header, _, _), delimiter, first = best
    if not header:
        split = 2 if len(first) == 3 and split_of(first[2].strip()) else None
        return _Format(delimiter, (), 0, 1, split)
    names = [field.strip().lower() for field in first]
    places = []
    for kind, known in (("path", _PATH_NAMES), ("label", _LABEL_NAMES)):
        if not set(names).intersection(known):
            have = ", ".join(shown(name) for name in names)
            raise _error(table, "D183", f"there is no column '{kind}' (the columns are {have})", 1)
        places.append(next(names.index(name) for name in known if name in names))
    split = next((names.index(name) for name in _SPLIT_NAMES if name in names), None)
    return _Format(delimiter, tuple(first), places[0], places[1], split)


def _names_columns(row: Sequence[str]) -> bool:
    return not {field.strip().lower() for field in row}.isdisjoint((*_PATH_NAMES, *_LABEL_NAMES))


def _path_of(field: str, container: Container) -> str | None:
    """The relative path of a file that exists; backslashes count as slashes where that finds it."""
    for written in dict.fromkeys((field, field.replace("\\", "/"))):
        path = _inside(written, container)
        if path is not None and container.has(path):
            return path
    return None


def _inside(field: str, container: Container) -> str | None:
    """The clean relative path, or None where it lies outside the container."""
    if os.path.isabs(field) and container.root is not None:
        field = os.path.relpath(field, container.root)
    clean = posixpath.normpath(field)
    return None if not field or clean in (".", "..") or clean.startswith(("../", "/")) else clean


class _Rows:
    """Takes the rows one by one: entries, and the mistakes by kind."""

    def __init__(self, form: _Format, table: Path, container: Container) -> None:
        self._form, self._table, self._container = form, table, container
        self._entries: list[Entry] = []
        self._numbers: list[int] = []  # the row of each entry
        self._known: dict[str, int] = {}  # path -> place in the two lists
        self._labels: dict[str, str] = {}
        self._splits: dict[str, Split | None] = {"": None}
        self._repeated: list[int] = []
        self._problems: list[tuple[int, str, str]] = []  # row, code, what

    def add(self, number: int, row: list[str]) -> None:
        form = self._form
        try:
            written, label = row[form.path], row[form.label].strip()
            split = None if form.split is None else self._split(number, row[form.split].strip())
        except IndexError:
            what = f"{len(row)} column{'s' * (len(row) != 1)}, where {form.columns} are expected"
            self._problems.append((number, "D182", what))
            return
        if label not in self._labels:
            self._check_label(number, label, written.strip())
        path = written if self._container.has(written) and _is_plain(written) else self._find(number, written)
        if path in self._known:
            self._again(number, self._known[path], label, split)
        elif path is not None:
            self._known[path] = len(self._entries)
            self._numbers.append(number)
            self._entries.append(Entry(path, self._labels.get(label, label), split))

    def _split(self, number: int, field: str) -> Split | None:
        if field not in self._splits:
            self._splits[field] = split_of(field)
            if self._splits[field] is None:
                self._problems.append((number, "D188", f"'{shown(field)}' is no split: train, val or test"))
        return self._splits[field]

    def _check_label(self, number: int, label: str, field: str) -> None:
        if label:
            self._labels[label] = label
        else:
            self._problems.append((number, "D184", f"'{shown(field)}' has no label"))
        if not label.isascii() and label != label.encode("utf-8", "replace").decode():
            what = f"the label '{shown(label)}' is not UTF-8: save the table as UTF-8"
            self._problems.append((number, "D184", what))

    def _find(self, number: int, written: str) -> str | None:
        field = written.strip()  # after the whole text: a name may end in a space
        path = _path_of(written, self._container) or _path_of(field, self._container)
        if path is None:
            outside = _inside(field, self._container) is None
            code, what = ("D185", "lies outside the folder") if outside else ("D187", "does not exist")
            self._problems.append((number, code, f"the file '{shown(field)}' {what}"))
        return path

    def _again(self, number: int, place: int, label: str, split: Split | None) -> None:
        before, row = self._entries[place], self._numbers[place]
        if (before.label, before.split) == (label, split):
            self._repeated.append(number)
            return
        here, there = (label, before.label) if before.label != label else (split, before.split)
        what = f"'{shown(before.path)}' is '{shown(here or '')}' here and '{shown(there or '')}' in row {row}"
        self._problems.append((number, "D186", what))

    def finish(self) -> list[Entry]:
        """The entries. Raises the first mistake, with the number of further ones."""
        without = [row for entry, row in zip(self._entries, self._numbers, strict=True) if not entry.split]
        if not self._problems and 0 < len(without) < len(self._entries):
            self._problems = [(row, "D188", "no split, where other rows have one") for row in without]
        if self._problems:
            _, code, what = self._problems[0]
            rows = [number for number, other, _ in self._problems if other == code]
            raise _error(self._table, code, what, *rows)
        if not self._entries:
            raise _error(self._table, "D180", "the table has a header and no rows", 1)
        return self._entries

    def warnings(self) -> list[str]:
        if not self._repeated:
            return []
        count = len(self._repeated)
        return [
            f"{count} row{'s' * (count > 1)} of the table repeated: {_numbers(self._repeated)}, used once"
        ]


def _is_plain(field: str) -> bool:
    """Whether a path that exists is clean as it stands: nearly always, so it is quick to see."""
    return not ("./" in field or "//" in field or field.startswith("/"))


def _numbers(rows: Sequence[int], most: int = 5) -> str:
    """'row 7' or 'rows 7, 8, 9, 10, 11 and 3 more'."""
    more = f" and {len(rows) - most:,} more" if len(rows) > most else ""
    return f"row{'s' * (len(rows) > 1)} {', '.join(str(row) for row in rows[:most])}{more}"


def _error(table: Path, code: str, what: str, *rows: int) -> ConvworksError:
    return ConvworksError(
        code,
        f"{shown(table.name)}, row {rows[0]}: {what}",
        where=f"{shown(str(table))}" + (f", the same in {_numbers(rows)}" if len(rows) > 1 else ""),
        why="a table of labels has the columns path,label[,split], one row for each image",
        try_=f"sed -n {rows[0]}p {shlex.quote(str(table))}",
    )
