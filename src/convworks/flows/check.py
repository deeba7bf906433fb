"""Look at data as training would, say what was understood and what is wrong, and change nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convworks.data.cache import Record
from convworks.data.dataset import samples_of
from convworks.data.manifest import OK, Sample
from convworks.data.scan import scan
from convworks.data.sources import Entry, Source
from convworks.data.splits import assign_splits, duplicate_groups, label_conflicts, leaks
from convworks.data.store import probe
from convworks.errors import ConvworksError
from convworks.flows.prepare import DataRequest, choose_geometry
from convworks.flows.session import StopRequest
from convworks.recipes.defaults import recipe_for
from convworks.recipes.recipe import Recipe
from convworks.training.planner import usable_cpus

EXAMPLES = 3  # files named with each finding
IMBALANCED = 3.0  # largest class over smallest, from which it is said
TINY = 8  # pixels of the shorter side
ACTIONS = {
    "exif-rotated": ("rotated by EXIF", "rotate to what you see"),
    "16-bit": ("16-bit", "scale to 8 bits"),
    "cmyk": ("CMYK", "convert to RGB"),
    "alpha": ("transparent", "put on white"),
    "palette": ("palette", "convert to RGB"),
    "1-bit": ("1-bit", "black and white as 0 and 255"),
    "animated": ("several frames", "use the first frame"),
    "wrong-extension": ("extension does not fit the content", "go by the content"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the data that training would deal with, or that the user should look at."""

    problem: str
    count: int
    action: str
    examples: tuple[str, ...]
    look: bool = False  # asks for the user's eyes


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a look at the data gave."""

    name: str
    location: str
    layout: str
    split_rule: str
    classes: dict[str, int]  # readable images of each class
    files: int
    readable: int
    ignored: tuple[tuple[str, str], ...]
    sizes: dict[str, tuple[int, int]]  # "smallest", "median", "largest": (height, width)
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(request: DataRequest, *, should_stop: StopRequest = lambda: False) -> CheckReport:
    """Read every image of a source. Raises D1xx for a layout that cannot be understood, ScanInterrupted.

    What was decoded is kept in the cache folder, so that training afterwards begins at once.
    """
    start = time.perf_counter()
    _, recipe = recipe_for("fastnet")
    with request.open() as source:
        found = scan(
            source,
            indices=range(len(source.entries)),
            geometry=choose_geometry(recipe, probe(source)),
            cache=request.cache,
            threads=usable_cpus(),
            strict=request.strict,
            should_stop=should_stop,
        )
        records, entries = found.records, source.entries
        good = [(e, r) for e, r in zip(entries, records, strict=True) if r.verdict == OK]
        counts = Counter(entry.label for entry, _ in good)
        rule, problems = _split_rule(good, recipe)
        return CheckReport(
            name=source.name,
            location=source.location,
            layout=source.layout,
            split_rule=rule,
            classes={name: counts[name] for name in source.classes},
            files=len(records),
            readable=len(good),
            ignored=tuple((each.path, each.reason) for each in source.ignored),
            sizes=_sizes([record for _, record in good]),
            findings=(*_findings(source, records), *problems),
            warnings=(*source.warnings, *found.notices),
            left_out=tuple(
                (e.path, r.verdict) for e, r in zip(entries, records, strict=True) if r.verdict != OK
            ),
            seconds=time.perf_counter() - start,
        )


def _split_rule(good: Sequence[tuple[Entry, Record]], recipe: Recipe) -> tuple[str, list[Finding]]:
    """How training would split the images, or why it could not."""
    try:
        _, rule = assign_splits(
            [entry.split for entry, _ in good],
            [entry.label or "" for entry, _ in good],
            [record.pixels for _, record in good],
            seed=recipe.seed,
            val_fraction=recipe.val_fraction,
        )
    except ConvworksError as problem:
        return "", [Finding(problem.what, 1, problem.try_ or "training would stop", (), look=True)]
    return rule, []


def _findings(source: Source, records: Sequence[Record]) -> list[Finding]:
    entries = source.entries
    found: list[Finding] = []
    unreadable = [f"{e.path} ({r.verdict})" for e, r in zip(entries, records, strict=True) if r.verdict != OK]
    if unreadable:
        found.append(Finding("unreadable", len(unreadable), "leave out", tuple(unreadable[:EXAMPLES])))
    for note, (words, action) in ACTIONS.items():
        paths = [e.path for e, r in zip(entries, records, strict=True) if note in r.notes]
        if paths:
            found.append(Finding(words, len(paths), action, tuple(paths[:EXAMPLES])))
    tiny = [
        e.path
        for e, r in zip(entries, records, strict=True)
        if r.verdict == OK and min(r.height, r.width) < TINY
    ]
    if source.encoded and tiny:
        found.append(Finding(f"smaller than {TINY} pixels", len(tiny), "enlarge", tuple(tiny[:EXAMPLES])))
    samples = samples_of(entries, records, [entry.split or "" for entry in entries])
    return [*found, *_duplicates(samples), *_imbalance(entries, records)]


def _duplicates(samples: Sequence[Sample]) -> list[Finding]:
    """The same pixels twice: harmless in one split, a leak across splits, an error under two labels."""

    def finding(problem: str, action: str, pairs: Sequence[Sequence[int]], count: int, look: bool) -> Finding:
        named = tuple(" = ".join(samples[i].path for i in pair[:2]) for pair in pairs[:EXAMPLES])
        return Finding(problem, count, action, named, look)

    groups = duplicate_groups(samples)
    crossing, torn = leaks(samples), label_conflicts(samples)
    extra = sum(len(group) - 1 for group in groups)
    rows = [
        finding("exact duplicates", "keep in the same split", groups, extra, look=False),
        finding("same picture in two splits", "please look: a leak", crossing, len(crossing), look=True),
        finding("same picture, two labels", "please look", torn, len(torn), look=True),
    ]
    return [row for row in rows if row.count]


def _imbalance(entries: Sequence[Entry], records: Sequence[Record]) -> list[Finding]:
    counts = Counter(e.label for e, r in zip(entries, records, strict=True) if r.verdict == OK)
    if len(counts) < 2:
        return []
    ratio = max(counts.values()) / min(counts.values())
    if ratio < IMBALANCED:
        return []
    smallest = min(counts, key=lambda name: counts[name])
    return [
        Finding(
            f"class imbalance {ratio:.1f} : 1",
            counts[smallest],
            "balanced accuracy will be reported too",
            (f"smallest class: {smallest}",),
        )
    ]


def _sizes(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    by_area = sorted((r.height * r.width, r.height, r.width) for r in records)
    if not by_area:
        return {}
    picks = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}
    return {name: (height, width) for name, (_, height, width) in picks.items()}
