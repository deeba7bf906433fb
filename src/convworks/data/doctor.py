"""What is wrong, odd or worth knowing in a scanned source: every kind of problem with the images it concerns.

Nothing is decided here and nothing is changed: a problem says what training would do, or asks for a look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from convworks.data.cache import Record
from convworks.data.image_statistics import (
    ImageStatistics,
    is_nearly_one_colour,
    is_one_colour,
    measure,
    unusual,
)
from convworks.data.manifest import OK
from convworks.data.near_duplicates import SMALLEST, NearPair, near_duplicates
from convworks.data.sources import Entry

TINY = 8  # pixels of the shorter side
LONG = 4.0  # longer side over shorter, beyond which the ends are cut off
HUGE = 20_000_000  # pixels from which a picture may be far larger than the others
ODD_SIZE = 8.0  # robust standard deviations of the logarithm of the area
IMBALANCED = 3.0  # largest class over smallest, from which it is said
FEW = 10  # images of a class
TOO_LARGE = "too large"  # how the reason begins where a limit refused the file
NOTES = {
    "exif-rotated": ("rotated by EXIF", "rotate to what you see"),
    "16-bit": ("16-bit", "scale to 8 bits"),
    "cmyk": ("CMYK", "convert to RGB"),
    "alpha": ("transparent", "put on white"),
    "palette": ("palette", "convert to RGB"),
    "1-bit": ("1-bit", "black and white as 0 and 255"),
    "animated": ("several frames", "use the first frame"),
    "wrong-extension": ("extension does not fit the content", "go by the content"),
}
Picture = Callable[[int], NDArray[np.uint8] | None]


@dataclass(frozen=True, slots=True)
class Item:
    """One case of a problem: its entries, a few words, and how near copies lie on each other."""

    images: tuple[int, ...]
    note: str = ""
    near: NearPair | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem. `advice` is for the quarantine list; '' where its images need not stand there."""

    kind: str
    title: str
    action: str
    items: tuple[Item, ...]
    count: int
    look: bool = False  # asks for the user's eyes
    advice: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """All that was found. Arrays belong to `readable`, positions of the entries that could be read."""

    entries: Sequence[Entry]
    records: Sequence[Record]
    classes: tuple[str, ...]
    problems: tuple[Problem, ...]
    readable: NDArray[np.int64]
    statistics: ImageStatistics
    groups: NDArray[np.int64]  # of every entry: the lowest entry among its exact and near copies
    near_searched: bool

    def problem(self, kind: str) -> Problem | None:
        return next((each for each in self.problems if each.kind == kind), None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scanned:
    """A source after a scan: `images` holds the readable ones of `records`, in order."""

    entries: Sequence[Entry]
    classes: tuple[str, ...]
    records: Sequence[Record]
    images: NDArray[np.uint8]
    encoded: bool


def diagnose(
    scanned: Scanned, *, picture: Picture, near: bool = True, should_stop: Callable[[], bool] = lambda: False
) -> Diagnosis:
    """Look for every kind of problem. `picture` decodes an entry once more, for the few that need it.

    Raises ScanInterrupted.
    """
    entries, records = scanned.entries, scanned.records
    readable = np.array([i for i, record in enumerate(records) if record.verdict == OK], dtype=np.int64)
    statistics = measure(scanned.images)
    exact = _exact_groups(records)
    pairs = _near_pairs(scanned, readable, exact, should_stop) if near else []
    problems = [
        *_unreadable(records),
        *_conversions(records),
        *_contents(statistics, readable, picture, scanned.encoded),
        *(_sizes(records, readable) if scanned.encoded else ()),
        *_exact_copies(entries, exact),
        *_near_copies(entries, pairs, files=scanned.encoded),
        *_classes(entries, records, scanned.classes),
    ]
    return Diagnosis(
        entries=entries,
        records=records,
        classes=scanned.classes,
        problems=tuple(problem for problem in problems if problem.count),
        readable=readable,
        statistics=statistics,
        groups=_groups(len(entries), exact, pairs),
        near_searched=near,
    )


def _of(kind: str, title: str, action: str, items: list[Item], **more: object) -> Problem:
    return Problem(kind, title, action, tuple(items), len(items), **more)  # type: ignore[arg-type]


# Single files


def _unreadable(records: Sequence[Record]) -> list[Problem]:
    bad = [Item((i,), record.verdict) for i, record in enumerate(records) if record.verdict != OK]
    large = [item for item in bad if item.note.startswith(TOO_LARGE)]
    rest = [item for item in bad if not item.note.startswith(TOO_LARGE)]
    advice = "replace or remove"
    return [
        _of("unreadable", "unreadable", "leave out", rest, advice=advice),
        _of("too-large", "too large to be read", "leave out", large, advice="make it smaller or remove"),
    ]


def _conversions(records: Sequence[Record]) -> list[Problem]:
    return [
        _of(note, title, action, [Item((i,)) for i, record in enumerate(records) if note in record.notes])
        for note, (title, action) in NOTES.items()
    ]


def _contents(
    statistics: ImageStatistics, readable: NDArray[np.int64], picture: Picture, encoded: bool
) -> list[Problem]:
    """Pictures of one colour, and those unlike the others. Flat ones are decoded to be sure."""
    one, nearly = [], []
    for row in np.flatnonzero(statistics.flat):
        entry = int(readable[row])
        pixels = picture(entry)
        if pixels is not None and is_one_colour(pixels):
            one.append(Item((entry,)))
        elif pixels is not None and is_nearly_one_colour(pixels):
            nearly.append(Item((entry,)))
    blank = {item.images[0] for item in (*one, *nearly)}

    def others(flags: NDArray[np.bool_]) -> list[Item]:
        return [Item((int(i),)) for i in readable[flags] if int(i) not in blank]

    grey = others(statistics.grey) if encoded else []
    return [
        _of("blank", "one colour only", "please look", one, look=True, advice="remove: it shows nothing"),
        _of(
            "near-blank",
            "nearly one colour",
            "please look",
            nearly,
            look=True,
            advice="look: it shows little",
        ),
        _of("dark", "far darker than the rest", "use as it is", others(statistics.dark), advice="look"),
        _of("bright", "far brighter than the rest", "use as it is", others(statistics.bright), advice="look"),
        _of("grey", "grey among pictures in colour", "use as it is", grey),
    ]


def _sizes(records: Sequence[Record], readable: NDArray[np.int64]) -> list[Problem]:
    height = np.array([records[i].height for i in readable], dtype=np.float64)
    width = np.array([records[i].width for i in readable], dtype=np.float64)
    area, shorter = height * width, np.minimum(height, width)

    def items(flags: NDArray[np.bool_]) -> list[Item]:
        return [Item((int(i),), f"{records[i].width}x{records[i].height}") for i in readable[flags]]

    far = unusual(np.log(np.maximum(area, 1))) > ODD_SIZE
    return [
        _of(
            "tiny", f"smaller than {TINY} pixels", "enlarge", items(shorter < TINY), advice="look: too small"
        ),
        _of(
            "long",
            f"longer than {LONG:g} : 1",
            "cut the ends off",
            items(np.maximum(height, width) > LONG * shorter),
        ),
        _of("huge", "far larger than the rest", "shrink", items((area > HUGE) & far)),
    ]


# Copies


def _exact_groups(records: Sequence[Record]) -> list[list[int]]:
    """Entries that are one picture, pixel for pixel, in groups of two and more."""
    same: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if record.verdict == OK:
            same.setdefault(record.pixels, []).append(index)
    return [group for group in same.values() if len(group) > 1]


def _near_pairs(
    scanned: Scanned, readable: NDArray[np.int64], exact: list[list[int]], should_stop: Callable[[], bool]
) -> list[NearPair]:
    """Pairs of entries; of exact copies only the first one is compared with other pictures."""
    copies = {index for group in exact for index in group[1:]}
    rows = [
        row
        for row, i in enumerate(readable.tolist())
        if i not in copies and min(scanned.records[i].height, scanned.records[i].width) >= SMALLEST
    ]
    if len(rows) < 2:
        return []
    found = near_duplicates(scanned.images, rows=rows, should_stop=should_stop)
    return [replace(pair, one=int(readable[pair.one]), two=int(readable[pair.two])) for pair in found]


def _exact_copies(entries: Sequence[Entry], groups: list[list[int]]) -> list[Problem]:
    extra = sum(len(group) - 1 for group in groups)
    leaks = [Item(pair, _splits(entries, pair)) for g in groups for pair in _firsts(entries, g, "split")]
    torn = [Item(pair, _labels(entries, pair)) for g in groups for pair in _firsts(entries, g, "label")]
    inside = [Item(tuple(group)) for group in groups]
    return [
        Problem(
            "exact", "exact duplicates", "keep in the same split", tuple(inside), extra,
            advice="remove the copy",
        ),
        _of(
            "leak", "same picture in two splits", "please look: a leak", leaks, look=True,
            advice="take it out of one split",
        ),
        _of(
            "conflict", "same picture, two labels", "please look", torn, look=True, advice="keep one label",
        ),
    ]  # fmt: skip


def _firsts(entries: Sequence[Entry], group: Sequence[int], what: str) -> list[tuple[int, int]]:
    """Pairs of entries of a group, one for each pair of different splits or labels in it."""
    first: dict[str, int] = {}
    for index in group:
        first.setdefault(getattr(entries[index], what) or "", index)
    return list(combinations(first.values(), 2))


def _near_copies(entries: Sequence[Entry], pairs: Sequence[NearPair], *, files: bool) -> list[Problem]:
    def items(unlike: str) -> list[Item]:
        found = []
        for pair in pairs:
            both = (pair.one, pair.two)
            if not unlike or len({getattr(entries[i], unlike) for i in both}) == 2:
                said = {"split": _splits, "label": _labels}.get(unlike)
                words = f"{said(entries, both)}, {near_words(pair)}" if said else near_words(pair)
                found.append(Item(both, words, pair))
        return found

    action = "keep in one split: --splits FILE" if files else "use as they are"
    return [
        _of("near", "near duplicates", action, items(""), advice="look: nearly a copy"),
        _of(
            "near-leak", "nearly the same picture in two splits", "please look: a leak", items("split"),
            look=True, advice="take it out of one split",
        ),
        _of(
            "near-conflict", "nearly the same picture, two labels", "please look", items("label"),
            look=True, advice="look: which label is right?",
        ),
    ]  # fmt: skip


def near_words(pair: NearPair) -> str:
    """'99.2 % alike, mirrored, cropped'."""
    words = [f"{100 * pair.likeness:.1f} % alike"]
    if pair.mirrored:
        words.append("mirrored")
    if max(abs(pair.offset[k]) + abs(pair.scale[k] - 1) for k in (0, 1)) > 0.03:
        words.append("another crop")
    return ", ".join(words)


def _splits(entries: Sequence[Entry], both: tuple[int, ...]) -> str:
    return " and ".join(entries[i].split or "no split" for i in both)


def _labels(entries: Sequence[Entry], both: tuple[int, ...]) -> str:
    return " and ".join(entries[i].label or "no label" for i in both)


def _groups(count: int, exact: list[list[int]], pairs: Sequence[NearPair]) -> NDArray[np.int64]:
    """Connected components of "is a copy of", each named by its lowest entry (union by path halving)."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    links = [(group[0], other) for group in exact for other in group[1:]]
    for one, two in (*links, *((pair.one, pair.two) for pair in pairs)):
        a, b = root(one), root(two)
        parent[max(a, b)] = min(a, b)
    return np.array([root(i) for i in range(count)], dtype=np.int64)


# Classes


def _classes(entries: Sequence[Entry], records: Sequence[Record], classes: Sequence[str]) -> list[Problem]:
    counts = Counter(e.label for e, r in zip(entries, records, strict=True) if r.verdict == OK)
    held = {name: counts[name] for name in classes if counts[name]}
    few = [name for name, n in held.items() if n < FEW]
    empty = [name for name in classes if not counts[name]]
    found = [
        Problem(
            "few",
            f"classes with fewer than {FEW} images",
            "train on them all the same",
            _named(few),
            len(few),
        ),
        Problem(
            "empty", "classes without an image", "never answer them", _named(empty), len(empty), look=True
        ),
    ]
    if len(held) > 1 and (ratio := max(held.values()) / min(held.values())) >= IMBALANCED:
        smallest = min(held, key=lambda name: held[name])
        title, action = f"class imbalance {ratio:.1f} : 1", "balanced accuracy will be reported too"
        item = Item((), f"smallest class: {smallest}")
        found.append(Problem("imbalance", title, action, (item,), held[smallest]))
    return found


def _named(names: Sequence[str]) -> tuple[Item, ...]:
    return tuple(Item((), name) for name in names)
