"""Two tables that a check can write: images to look at, and a split in which no picture has a copy elsewhere.

The quarantine list is for people and spreadsheets: path, reason, action. The split file is for training
(`convworks train DATA --labels FILE`): path, label, split, group, with paths exactly as they are.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from convworks.data.dataset import samples_of
from convworks.data.doctor import Diagnosis, Item, Problem
from convworks.data.manifest import SPLITS
from convworks.data.sources import Split, shown
from convworks.data.splits import assign_splits, split_warnings
from convworks.data.suspects import Suspect
from convworks.errors import ConvworksError

QUARANTINE_HEADER = ("path", "reason", "action")
SPLIT_HEADER = ("path", "label", "split", "group")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so
TAKEN_OFF = (" ", "\xa0", "\n", "\x0b", "\x0c")  # and a reader of tables takes these off the beginning


@dataclass(frozen=True, slots=True)
class SplitTable:
    """The split of every readable image, the rule in words, and what a reader must know about it."""

    rows: tuple[tuple[str, str, str, str], ...]
    rule: str
    moved: int  # images whose given split had to be changed
    notes: tuple[str, ...]


def quarantine_rows(
    diagnosis: Diagnosis, suspects: Sequence[tuple[int, str]] = ()
) -> list[tuple[str, str, str]]:
    """(path, reason, action) of every image that a problem asks to look at, in the order of the data.

    `suspects` are entries with the reason why their label is doubted.
    """
    rows: list[tuple[int, str, str]] = []
    for problem in diagnosis.problems:
        if problem.advice:
            for item in problem.items:
                rows += _case(diagnosis, problem, item)
    rows += [(entry, reason, "look: is the label right?") for entry, reason in suspects]
    rows.sort(key=lambda row: row[0])
    return [(diagnosis.entries[i].path, reason, action) for i, reason, action in rows]


def _case(diagnosis: Diagnosis, problem: Problem, item: Item) -> list[tuple[int, str, str]]:
    """Rows of one case: a single image, the copies of the first one of a group, or both of a pair."""
    if len(item.images) == 1:
        return [
            (item.images[0], f"{problem.title}: {item.note}" if item.note else problem.title, problem.advice)
        ]
    paths = [shown(diagnosis.entries[i].path) for i in item.images]
    if problem.kind == "exact":
        return [(i, f"{problem.title}: of {paths[0]}", problem.advice) for i in item.images[1:]]
    note = f" ({item.note})" if item.note else ""
    return [
        (item.images[0], f"{problem.title}: {paths[1]}{note}", problem.advice),
        (item.images[1], f"{problem.title}: {paths[0]}{note}", problem.advice),
    ]


def suspect_reason(suspect: Suspect, classes: Sequence[str]) -> str:
    """'label suspect: rose, looks like tulip (0.97 to 0.01)'."""
    label, answer = shown(classes[suspect.label]), shown(classes[suspect.answer])
    return (
        f"label suspect: {label}, looks like {answer} "
        f"({suspect.answer_probability:.2f} to {suspect.label_probability:.2f})"
    )


def leak_free_splits(diagnosis: Diagnosis, *, seed: int, val_fraction: float) -> SplitTable:
    """A stratified split in which all exact and near copies of a picture stand together.

    Splits that the data has are kept, but a group that stands in several counts as train as a whole, so
    that nothing is measured on pictures that were trained on; val is then drawn from train where the data has
    none. Raises D143, D146 and D147 as
    training does, and D225.
    """
    ready = diagnosis.readable.tolist()
    entries = [diagnosis.entries[i] for i in ready]
    _require_text({entry.label or "" for entry in entries})
    groups = [int(diagnosis.groups[i]) for i in ready]
    places: dict[int, set[Split | None]] = {}
    for entry, group in zip(entries, groups, strict=True):
        places.setdefault(group, set()).add(entry.split)
    torn = {group for group, splits in places.items() if len(splits) > 1}
    given = ["train" if g in torn else e.split for e, g in zip(entries, groups, strict=True)]
    moved = sum(g in torn and e.split not in (None, "train") for e, g in zip(entries, groups, strict=True))
    splits, rule = assign_splits(
        given, [entry.label or "" for entry in entries], groups, seed=seed, val_fraction=val_fraction
    )
    number = {group: str(place) for place, group in enumerate(dict.fromkeys(groups))}
    rows = tuple(
        (entry.path, entry.label or "", split, number[group])
        for entry, split, group in zip(entries, splits, groups, strict=True)
    )
    records = [diagnosis.records[i] for i in ready]
    notes = list(split_warnings(samples_of(entries, records, splits)))
    largest = max(Counter(groups).values(), default=0)
    if largest > len(entries) // 5:
        notes.append(f"one group of copies holds {largest:,} of {len(entries):,} images")
    return SplitTable(rows, f"{rule}, copies and near copies together", moved, tuple(notes))


def _require_text(labels: set[str]) -> None:
    for label in labels:
        if label != label.encode("utf-8", "replace").decode():
            raise ConvworksError(
                "D225",
                f"the class name '{shown(label)}' is not UTF-8, so no table of labels can hold it",
                why="a split file is read back as text",
                try_="rename the folder of that class",
            )


def counts_of(table: SplitTable) -> dict[str, int]:
    """Images of each split, in the usual order."""
    found = {name: sum(row[2] == name for row in table.rows) for name in SPLITS}
    return {name: number for name, number in found.items() if number}


def quarantine_text(rows: Iterable[tuple[str, str, str]]) -> bytes:
    """CSV in UTF-8; control characters are escaped and no cell begins like a formula."""
    return _csv(QUARANTINE_HEADER, ([_safe(shown(cell)) for cell in row] for row in rows))


def split_text(table: SplitTable) -> bytes:
    """CSV with the exact bytes of paths. One that begins like a formula gets './' in front: the same path."""
    odd = (*FORMULA, *TAKEN_OFF)
    return _csv(
        SPLIT_HEADER,
        ((f"./{path}" if path.startswith(odd) else path, *rest) for path, *rest in table.rows),
    )


def _safe(cell: str) -> str:
    return "'" + cell if cell.startswith(FORMULA) else cell


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogateescape")
