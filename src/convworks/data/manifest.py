"""The manifest: the frozen list of samples behind a run, kept as JSON lines.

The first line holds what is true of all samples, each further line is one sample as a list in the order of
`COLUMNS`. Classes are names; indices are derived from their order. Names of files that are not UTF-8 are held
with surrogate escapes, which JSON writes in ASCII and gives back unchanged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from convworks import durable
from convworks.data.sources import Entry, Ignored, shown
from convworks.errors import ConvworksError

FORMAT = 1
OK = "ok"
CAP = 2**30  # bytes; a sample takes about 170
COLUMNS = (
    "path", "label", "split", "sha256", "verdict", "pixels", "height", "width", "channels", "notes"
)  # fmt: skip
SPLITS = ("train", "val", "test")
DIFFERENCES_SHOWN = 5
_HEADER = ("name", "location", "kind", "layout", "classes", "ignored", "warnings", "seed", "split_rule")
_HEX = re.compile(r"(?:[0-9a-f]{64})?")


class Sample(NamedTuple):
    """One image: where it lies, what it is called, and what was found when it was read."""

    path: str  # relative, with forward slashes
    label: str | None
    split: str  # "train", "val", "test"; "" where it was left out before the split
    sha256: str  # of the bytes that were read; "" where they could not be
    verdict: str  # "ok", or why it is left out
    pixels: str  # hash of the decoded pixels with their shape; "" where unreadable
    height: int  # as decoded, in pixels
    width: int
    channels: int
    notes: tuple[str, ...] = ()


Item = TypeVar("Item", Sample, Entry)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All samples of a source in its order, with the classes, the split and what was set aside."""

    name: str
    location: str
    kind: str
    layout: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    ignored: tuple[Ignored, ...]
    warnings: tuple[str, ...]
    seed: int
    split_rule: str

    @property
    def sha256(self) -> str:
        """Identity of the data: classes and (path, label, split, sha256, verdict) of every sample."""
        rows = [[s.path, s.label, s.split, s.sha256, s.verdict] for s in self.samples]
        return hashlib.sha256(_encode([list(self.classes), rows]).encode("ascii")).hexdigest()

    @property
    def left_out(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.verdict != OK)

    def count(self, split: str | None = None) -> dict[str, int]:
        """Readable images of each class, in one split or in all."""
        found = dict.fromkeys(self.classes, 0)
        for sample in self.samples:
            if sample.verdict == OK and sample.label is not None and split in (None, sample.split):
                found[sample.label] += 1
        return found

    def save(self, path: Path) -> None:
        """Replace `path` in one step. Raises OSError where the file cannot be written."""
        header = {name: getattr(self, name) for name in _HEADER}
        header["ignored"] = [[item.path, item.reason] for item in self.ignored]
        header |= {"format": FORMAT, "columns": COLUMNS, "samples": len(self.samples)}
        lines = [_encode(header)]
        lines += [
            _encode(
                [
                    s.path,
                    s.label,
                    s.split,
                    s.sha256,
                    s.verdict,
                    s.pixels,
                    s.height,
                    s.width,
                    s.channels,
                    s.notes,
                ]
            )
            for s in self.samples
        ]
        durable.write_atomic(path, ("\n".join(lines) + "\n").encode("ascii"))

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read and check a manifest. Raises A440 (unreadable), A441 (wrong content), A442 (newer format)."""
        lines = _lines(path)
        header = _header(lines[0], path)
        if len(lines) - 1 != header["samples"]:
            raise _wrong(path, f"it has {len(lines) - 1:,} samples, the first line says {header['samples']}")
        classes = frozenset(header["classes"])
        samples = []
        for number, line in enumerate(lines[1:], start=2):
            try:
                samples.append(_sample(json.loads(line), classes))
            except (ValueError, RecursionError) as problem:
                raise _wrong(path, f"line {number}: {problem}") from problem
        values = {name: header[name] for name in _HEADER}
        values["classes"] = tuple(header["classes"])
        values["warnings"] = tuple(header["warnings"])
        values["ignored"] = tuple(Ignored(path=item[0], reason=item[1]) for item in header["ignored"])
        return cls(samples=tuple(samples), **values)

    def difference(self, other: Manifest) -> list[str]:
        """What changed from this manifest to `other`, one line for each change; empty where they agree."""
        lines = _class_changes(self.classes, other.classes)
        before, after = by_path(self.samples), by_path(other.samples)
        for key, sample in before.items():
            lines += _changes(sample, after[key]) if key in after else [f"removed: {shown(sample.path)}"]
        lines += [f"added: {shown(after[key].path)}" for key in after if key not in before]
        return lines

    def require_same(self, found: Manifest) -> None:
        """Raises D145 with the first differences unless `found` is this data in this order."""
        differences = self.difference(found)
        if not differences and self.sha256 != found.sha256:
            differences = ["order: the images come in another order"]
        if not differences:
            return
        count = len(differences)
        more = f"; and {count - DIFFERENCES_SHOWN} more" if count > DIFFERENCES_SHOWN else ""
        raise ConvworksError(
            "D145",
            f"the data changed since the run began: {count} difference{'s' * (count > 1)}",
            where="; ".join(differences[:DIFFERENCES_SHOWN]) + more,
            why="going on with other images would not give the model that the run began",
            try_="convworks resume RUN --accept-data-change",
        )


def _encode(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def by_path(items: Iterable[Item]) -> dict[tuple[str, int], Item]:
    """Samples or entries by path and a number that tells apart those of one path."""
    found: dict[tuple[str, int], Item] = {}
    for item in items:
        number = 0
        while (item.path, number) in found:
            number += 1
        found[item.path, number] = item
    return found


def _class_changes(was: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    lines = [f"class removed: {shown(name)}" for name in was if name not in now]
    lines += [f"class added: {shown(name)}" for name in now if name not in was]
    return lines or (["classes: in another order"] if was != now else [])


def _changes(was: Sample, now: Sample) -> list[str]:
    path = shown(was.path)
    lines = []
    if (was.sha256, was.verdict) != (now.sha256, now.verdict):
        reason = "" if was.verdict == now.verdict else f" (was {was.verdict}, is {now.verdict})"
        lines.append(f"changed: {path}{reason}")
    if was.label != now.label:
        lines.append(f"label: {path} was {shown(was.label or 'none')}, is {shown(now.label or 'none')}")
    if was.split != now.split and was.split and now.split:
        lines.append(f"split: {path} was {was.split}, is {now.split}")
    return lines


# Reading: a manifest is an artifact that others may have written, so every value is checked.


def _wrong(path: Path, why: str) -> ConvworksError:
    return ConvworksError("A441", f"{path.name} is not a manifest of this program: {why}", where=str(path))


def _lines(path: Path) -> list[bytes]:
    try:
        size = path.stat().st_size
        if size > CAP:
            raise ValueError(f"it has {size:,} bytes, more than the limit of {CAP:,}")
        content = path.read_bytes()
    except (OSError, ValueError) as problem:
        raise ConvworksError("A440", f"cannot read {path.name}: {problem}", where=str(path)) from problem
    if not content.endswith(b"\n"):
        raise _wrong(path, "it is cut off" if content else "it is empty")
    return content[:-1].split(b"\n")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _header(line: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as problem:
        raise _wrong(path, f"line 1: {problem}") from problem
    if not isinstance(header, dict) or type(header.get("format")) is not int:
        raise _wrong(path, "line 1 names no format")
    if header["format"] > FORMAT:
        what = f"{path.name} has format {header['format']}; this version reads up to {FORMAT}"
        raise ConvworksError("A442", what, where=str(path), why="it was written by a newer version")
    if header["format"] != FORMAT or set(header) != {"format", "columns", "samples", *_HEADER}:
        raise _wrong(path, "line 1 has other keys than expected")
    texts = (header[name] for name in ("name", "location", "kind", "layout", "split_rule"))
    lists = (header[name] for name in ("classes", "warnings"))
    fine = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists)
        and len(set(header["classes"])) == len(header["classes"])
        and isinstance(header["ignored"], list)
        and all(_is_texts(item) and len(item) == 2 for item in header["ignored"])
        and header["columns"] == list(COLUMNS)
        and type(header["seed"]) is int
        and type(header["samples"]) is int
    )
    if not fine:
        raise _wrong(path, "line 1 holds a value of the wrong kind")
    return header


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _sample(row: Any, classes: frozenset[str]) -> Sample:
    """One line as a sample. Raises ValueError in words."""
    if not isinstance(row, list) or len(row) != len(COLUMNS):
        raise ValueError(f"it is not a list of {len(COLUMNS)} values")
    path, label, split, sha256, verdict, pixels, height, width, channels, notes = row
    if not _is_texts([path, split, sha256, verdict, pixels]) or not _is_texts(notes):
        raise ValueError("a text is missing")
    if label is not None and (not isinstance(label, str) or label not in classes):
        raise ValueError(f"label {label!r} is not a class of line 1")
    if split not in ("", *SPLITS):
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if not _HEX.fullmatch(sha256):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    if not all(type(size) is int and 0 <= size < 2**31 for size in (height, width, channels)):
        raise ValueError("a size is not a whole number")
    return Sample(path, label, split, sha256, verdict, pixels, height, width, channels, tuple(notes))
