"""The page of `convworks check`: what is in the data and what is wrong with it, with pictures.

One file that asks for nothing from any network and runs no script. Pictures are small copies encoded anew, so
that no metadata of a file is in them; each stands beside its path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from convworks.data.doctor import Diagnosis, Item, Problem
from convworks.data.image_statistics import class_colours
from convworks.data.likeness import register, sample
from convworks.data.manifest import SPLITS
from convworks.data.near_duplicates import LUMA, SAME, NearPair
from convworks.data.preprocess import Geometry
from convworks.report.check_charts import histogram, size_scatter
from convworks.report.check_facts import Facts
from convworks.report.check_words import EXPLANATIONS, NEXT
from convworks.report.page import LARGEST, templates
from convworks.report.pictures import Picture, small_copy
from convworks.report.text import count

SIDE = 132  # pixels of the longer side of a small copy
DIFFERENCE = 128  # pixels of the side at which two pictures are compared
REGISTERED = 64  # places of a side that are compared to lay one over the other
GAIN = 4.0  # how much a difference is strengthened
AMOUNTS = (
    (18, 18),
    (10, 10),
    (6, 6),
    (0, 0),
)  # (single pictures, pairs) of a section, until the page is small
MOST_ROWS = 200  # of a list
MOST_CLASSES = 200
MOST_PATHS = 6
LISTS = frozenset({"unreadable", "too-large", "few", "empty", "imbalance"})  # sections without pictures

Pixels = NDArray[np.uint8]
Look = Callable[[int], Pixels | None]


@dataclass(frozen=True, slots=True)
class Card:
    """One picture with its words, or two with the difference between them."""

    pictures: tuple[Picture | None, ...]
    alts: tuple[str, ...]
    paths: tuple[str, ...]
    more_paths: int
    labels: tuple[str, ...]
    note: str
    difference: Picture | None = None


@dataclass(frozen=True, slots=True)
class Section:
    kind: str
    title: str
    count: int
    look: bool
    action: str
    text: str
    next: tuple[str, str] | None
    cards: tuple[Card, ...]  # with pictures
    rows: tuple[tuple[str, str], ...]  # the rest as (path or name, words)
    unlisted: int


def render(facts: Facts, diagnosis: Diagnosis, look: Look) -> str:
    """The page as text, with as many pictures as fit into LARGEST bytes. `look` decodes one entry."""
    template = templates().get_template("check.html")
    album = _Album(diagnosis, look)
    context = _context(facts, diagnosis)
    page = ""
    for amount in AMOUNTS:
        sections = [_section(problem, diagnosis, album, *amount) for problem in _ordered(facts, diagnosis)]
        page = template.render(**context, sections=sections)
        if len(page.encode("utf-8")) <= LARGEST:
            break
    return page


def _ordered(facts: Facts, diagnosis: Diagnosis) -> list[Problem]:
    """Problems as sections: what asks for a look comes first, the harmless last."""
    problems = list(diagnosis.problems)
    if facts.suspects:
        items = tuple(Item((entry,), reason) for entry, reason in facts.suspects)
        problems.append(
            Problem("label-suspect", "label probably wrong", "please look", items, len(items), look=True)
        )
    order = {kind: place for place, kind in enumerate(EXPLANATIONS)}
    return sorted(problems, key=lambda problem: order[problem.kind])


def _context(facts: Facts, diagnosis: Diagnosis) -> dict[str, Any]:
    records = [diagnosis.records[i] for i in diagnosis.readable]
    looks = diagnosis.statistics
    drawn = [
        ("Brightness: mean grey level, 0 is black and 255 white", "brightness", looks.brightness, 255),
        ("Contrast: standard deviation of the grey levels", "contrast", looks.contrast, 128),
        ("Colour: mean distance from grey, in levels", "colour", looks.colour, 64),
    ]
    charts = [(text, histogram(values, name=name, low=0, high=high)) for text, name, values, high in drawn]
    return {
        "facts": facts,
        "lead": [
            f"{len(diagnosis.readable):,} of {count(len(diagnosis.entries), 'image')} readable",
            count(len(diagnosis.classes), "class", "classes"),
        ],
        "classes": _class_rows(diagnosis),
        "splits": _splits(diagnosis),
        "hidden_classes": max(0, len(diagnosis.classes) - MOST_CLASSES),
        "scatter": Markup(size_scatter([(r.height, r.width) for r in records])),
        "sizes": _size_words([(r.height, r.width) for r in records]),
        "charts": [(title, Markup(svg)) for title, svg in charts if svg],
        "near_searched": diagnosis.near_searched,
        "same": SAME,
    }


def _splits(diagnosis: Diagnosis) -> list[str]:
    present = {entry.split for entry in diagnosis.entries}
    return [split for split in SPLITS if split in present]


def _class_rows(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """Name, images by split and in all, the length of the bar, and the mean colour of each class."""
    splits = _splits(diagnosis)
    entries = [diagnosis.entries[i] for i in diagnosis.readable]
    counts: dict[str, dict[str, int]] = {name: dict.fromkeys(["", *splits], 0) for name in diagnosis.classes}
    for entry in entries:
        if entry.label in counts:
            counts[entry.label][entry.split or ""] += 1
    colours = class_colours(diagnosis.statistics, [entry.label for entry in entries], diagnosis.classes)
    most = max((sum(row.values()) for row in counts.values()), default=0) or 1
    return [
        {
            "name": name,
            "counts": [counts[name][split] for split in splits],
            "total": sum(counts[name].values()),
            "percent": 100 * sum(counts[name].values()) / most,
            "colour": _hex(colours[name]) if name in colours else "",
        }
        for name in diagnosis.classes[:MOST_CLASSES]
    ]


def _hex(mean: NDArray[np.float64]) -> str:
    values = [round(float(value)) for value in (mean if len(mean) == 3 else np.repeat(mean, 3))]
    return "#{:02x}{:02x}{:02x}".format(*values)


def _size_words(sizes: list[tuple[int, int]]) -> str:
    if not sizes:
        return "No picture could be read."
    if len(set(sizes)) == 1:
        return f"All pictures have {sizes[0][1]:,} × {sizes[0][0]:,} pixels."
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    low, middle, high = (f"{w:,} × {h:,}" for h, w in (by_area[0], by_area[len(by_area) // 2], by_area[-1]))
    ratios = np.array([w / h for h, w in sizes])
    return (
        f"From {low} to {high} pixels, in the middle {middle}. Width over height goes from "
        f"{ratios.min():.2f} to {ratios.max():.2f}, in the middle {np.median(ratios):.2f}; "
        f"{len(set(sizes)):,} different sizes."
    )


# Sections


def _section(problem: Problem, diagnosis: Diagnosis, album: _Album, singles: int, pairs: int) -> Section:
    paired = bool(problem.items) and len(problem.items[0].images) > 1
    items = _varied(problem.items, diagnosis) if paired else problem.items
    shown = 0 if problem.kind in LISTS else min(len(items), pairs if paired else singles)
    rest = items[shown:]
    return Section(
        kind=problem.kind,
        title=problem.title,
        count=problem.count,
        look=problem.look,
        action=problem.action,
        text=EXPLANATIONS[problem.kind],
        next=NEXT.get(problem.kind),
        cards=tuple(
            album.card(item, same=problem.kind in ("exact", "leak", "conflict")) for item in items[:shown]
        ),
        rows=tuple(_row(item, diagnosis) for item in rest[:MOST_ROWS]),
        unlisted=max(0, len(rest) - MOST_ROWS),
    )


def _varied(items: Sequence[Item], diagnosis: Diagnosis) -> tuple[Item, ...]:
    """One case of every group of copies first, so that a group of many does not hide the others."""
    met: Counter[int] = Counter()
    turns = []
    for item in items:
        group = int(diagnosis.groups[item.images[0]])
        turns.append(met[group])
        met[group] += 1
    return tuple(items[i] for i in sorted(range(len(items)), key=turns.__getitem__))


def _row(item: Item, diagnosis: Diagnosis) -> tuple[str, str]:
    if not item.images:
        return item.note, ""
    return (" and ".join(diagnosis.entries[i].path for i in item.images[:MOST_PATHS]), item.note)


class _Album:
    """Small copies by entry, each decoded once."""

    def __init__(self, diagnosis: Diagnosis, look: Look) -> None:
        self._diagnosis, self._look = diagnosis, look
        self._copies: dict[int, Picture | None] = {}
        self._differences: dict[tuple[int, int], Picture | None] = {}

    def card(self, item: Item, *, same: bool) -> Card:
        """`same` pictures are shown once, with every path."""
        entries = [self._diagnosis.entries[i] for i in item.images]
        shown = item.images[:1] if same or len(item.images) == 1 else item.images[:2]
        return Card(
            pictures=tuple(self._copy(i) for i in shown),
            alts=tuple(
                f"{self._diagnosis.entries[i].label or 'picture'}, {self._diagnosis.entries[i].path}"
                for i in shown
            ),
            paths=tuple(entry.path for entry in entries[:MOST_PATHS]),
            more_paths=max(0, len(entries) - MOST_PATHS),
            labels=tuple(entry.label or "" for entry in entries[:MOST_PATHS]),
            note=item.note,
            difference=self._difference(item.near) if item.near is not None else None,
        )

    def _copy(self, index: int) -> Picture | None:
        if index not in self._copies:
            pixels = self._look(index)
            self._copies[index] = None if pixels is None else small_copy(reduced(pixels, SIDE))
        return self._copies[index]

    def _difference(self, near: NearPair) -> Picture | None:
        key = (near.one, near.two)
        if key not in self._differences:
            one, two = self._look(near.one), self._look(near.two)
            shown = None if one is None or two is None else small_copy(difference(one, two, near))
            self._differences[key] = shown
        return self._differences[key]


def reduced(pixels: Pixels, side: int) -> Pixels:
    """(H, W, C) with the longer side of at most `side`."""
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    found = np.array(image)
    return found.reshape(*found.shape[:2], -1)


def difference(one: Pixels, two: Pixels, near: NearPair) -> Pixels:
    """(S, S, 1): where two near copies differ once they lie on each other; white is no difference.

    Gain and offset between them are taken out, as they are when copies are found.
    """
    square = Geometry(DIFFERENCE, DIFFERENCE, 3, "crop", DIFFERENCE, DIFFERENCE)
    a, b = (square.fitted(pixels).astype(np.float32) @ LUMA for pixels in (one, two))
    if near.mirrored:
        b = b[:, ::-1]
    start = np.array([near.offset]), np.array([near.scale])
    found = register(
        a[None], b[None], *start, grid=REGISTERED, steps=4
    )  # the store may have had another border
    places = (np.arange(DIFFERENCE) + 0.5) / DIFFERENCE
    offset, scale = found.offset[0], found.scale[0]
    mapped = offset[:, None] + scale[:, None] * places
    laid = sample(b[None], mapped[None, 0], mapped[None, 1])[0]
    inside = np.logical_and.outer(*((axis >= 0) & (axis <= 1) for axis in mapped))
    gain, shift = np.polyfit(laid[inside].ravel(), a[inside].ravel(), 1)
    apart = np.abs(a - gain * laid - shift) * GAIN
    return np.where(inside, 255 - np.clip(apart, 0, 255), 255).astype(np.uint8)[..., None]
