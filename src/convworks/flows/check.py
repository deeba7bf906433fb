"""Look at data as training would, say what was understood and what is wrong, and change nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.data.cache import Record
from convworks.data.decode import decode
from convworks.data.doctor import Diagnosis, Item, Problem, Scanned, diagnose
from convworks.data.manifest import OK
from convworks.data.quarantine import (
    counts_of,
    leak_free_splits,
    quarantine_rows,
    quarantine_text,
    split_text,
)
from convworks.data.scan import scan
from convworks.data.sources import Entry, Source
from convworks.data.splits import assign_splits
from convworks.data.store import probe
from convworks.errors import ConvworksError
from convworks.flows.check_files import Targets, require_targets, write_target
from convworks.flows.check_labels import Doubts, doubted_labels
from convworks.flows.prepare import DataRequest, choose_geometry
from convworks.flows.session import StopRequest
from convworks.recipes.defaults import recipe_for
from convworks.recipes.recipe import Recipe
from convworks.report.check_facts import Facts
from convworks.training.planner import usable_cpus

EXAMPLES = 3  # files named with each finding


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What to look for beyond the files themselves, and what to write.

    models: runs whose probabilities of images they never trained on tell doubtful labels.
    near: look for near duplicates too.
    seed: of the split file.
    """

    models: tuple[Path, ...] = ()
    near: bool = True
    seed: int = 0
    targets: Targets = field(default_factory=Targets)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the data that training would deal with, or that the user should look at."""

    problem: str
    count: int
    action: str
    examples: tuple[str, ...]
    look: bool = False  # asks for the user's eyes
    kind: str = ""  # a word that stays the same, for programs


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the split file could not be written, as an error says it; everything else of the check stands."""

    code: str
    what: str
    where: str
    why: str
    try_: str

    def error(self) -> ConvworksError:
        return ConvworksError(self.code, self.what, where=self.where, why=self.why, try_=self.try_)


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
    labels: Doubts | None = None  # where a model was given
    written: dict[str, str] | None = None  # "page", "quarantine", "splits" -> path
    written_notes: tuple[str, ...] = ()  # about what was written, or why it was not
    refused: Refusal | None = None  # where a split file was asked for and cannot be

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(
    request: DataRequest,
    *,
    should_stop: StopRequest = lambda: False,
    options: CheckOptions | None = None,
) -> CheckReport:
    """Read every image of a source, and write what `options` ask for.

    What was decoded is kept in the cache folder, so that training afterwards begins at once. Raises D1xx for
    a layout that cannot be understood, D220-D225 for what cannot be written or asked, ScanInterrupted.
    """
    start = time.perf_counter()
    chosen = options or CheckOptions()
    _, recipe = recipe_for("fastnet")
    with request.open() as source:
        targets = require_targets(chosen.targets, source, request)
        found = scan(
            source,
            indices=range(len(source.entries)),
            geometry=choose_geometry(recipe, probe(source)),
            cache=request.cache,
            threads=usable_cpus(),
            strict=request.strict,
            should_stop=should_stop,
        )
        scanned = Scanned(
            entries=source.entries,
            classes=tuple(source.classes),
            records=found.records,
            images=found.images,
            encoded=source.encoded,
        )
        look = _pictures(source)
        diagnosis = diagnose(scanned, picture=look, near=chosen.near, should_stop=should_stop)
        doubts = (
            doubted_labels(chosen.models, source, diagnosis, request, should_stop) if chosen.models else None
        )
        report = _report(source, found.records, diagnosis, recipe, found.notices, doubts)
        report = replace(report, seconds=time.perf_counter() - start)
        written, notes = _write(targets, report, diagnosis, look)
        refused = None
        if targets.splits is not None:
            said, refused = _write_splits(targets.splits, diagnosis, chosen, recipe)
            notes += said
            written |= {} if refused else {"splits": str(targets.splits)}
        return replace(
            report,
            written=written,
            written_notes=(*targets.notes, *notes),
            refused=refused,
            seconds=time.perf_counter() - start,
        )


def _pictures(source: Source) -> Callable[[int], NDArray[np.uint8] | None]:
    """The whole picture of one entry, (H, W, 1 or 3); None where it is unreadable by now."""

    def picture(index: int) -> NDArray[np.uint8] | None:
        try:
            if not source.encoded:
                return source.pixels(index)
            return decode(source.read(index), name=source.entries[index].path).pixels
        except (ConvworksError, OSError):
            return None

    return picture


def _report(
    source: Source,
    records: Sequence[Record],
    diagnosis: Diagnosis,
    recipe: Recipe,
    notices: Sequence[str],
    doubts: Doubts | None,
) -> CheckReport:
    entries = source.entries
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
        findings=(*(_finding(each, entries) for each in diagnosis.problems), *problems, *_doubt(doubts)),
        warnings=(*source.warnings, *notices),
        left_out=tuple((e.path, r.verdict) for e, r in zip(entries, records, strict=True) if r.verdict != OK),
        seconds=0.0,
        labels=doubts,
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
        action = problem.try_ or "training would stop"
        return "", [Finding(problem.what, 1, action, (), look=True, kind="no-split")]
    return rule, []


def _finding(problem: Problem, entries: Sequence[Entry]) -> Finding:
    examples = tuple(example(item, entries) for item in problem.items[:EXAMPLES])
    return Finding(problem.title, problem.count, problem.action, examples, problem.look, problem.kind)


def example(item: Item, entries: Sequence[Entry]) -> str:
    """'a/1.png = b/2.png', 'a/1.png ~ b/2.png', 'a/1.jpg (cut off)', or the words of what has no file."""
    paths = [entries[i].path for i in item.images[:2]]
    if not paths:
        return item.note
    if len(paths) > 1:
        return (" ~ " if item.near else " = ").join(paths)
    return f"{paths[0]} ({item.note})" if item.note else paths[0]


def _doubt(doubts: Doubts | None) -> list[Finding]:
    if doubts is None or not doubts.suspects:
        return []
    worst = tuple(
        f"{each.path} ({each.label}, looks like {each.answer})" for each in doubts.suspects[:EXAMPLES]
    )
    return [
        Finding("label probably wrong", len(doubts.suspects), "please look", worst, True, "label-suspect")
    ]


def _sizes(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    by_area = sorted((r.height * r.width, r.height, r.width) for r in records)
    if not by_area:
        return {}
    picks = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]}
    return {name: (height, width) for name, (_, height, width) in picks.items()}


def _facts(report: CheckReport) -> Facts:
    """What the page says beside the pictures."""
    labels = report.labels
    return Facts(
        name=report.name,
        location=report.location,
        layout=report.layout,
        split_rule=report.split_rule,
        seconds=report.seconds,
        ignored=report.ignored,
        warnings=report.warnings,
        suspects=[(each.entry, each.reason) for each in labels.suspects] if labels else (),
        label_notes=labels.notes if labels else (),
        no_split=next((each.problem for each in report.findings if each.kind == "no-split"), ""),
    )


def _write(
    targets: Targets,
    report: CheckReport,
    diagnosis: Diagnosis,
    picture: Callable[[int], NDArray[np.uint8] | None],
) -> tuple[dict[str, str], list[str]]:
    """Write the list and the page; returns what was written where, and what to say about it."""
    written: dict[str, str] = {}
    notes: list[str] = []
    suspects = report.labels.suspects if report.labels is not None else ()
    if targets.quarantine is not None:
        rows = quarantine_rows(diagnosis, [(each.entry, each.reason) for each in suspects])
        write_target(targets.quarantine, quarantine_text(rows))
        written["quarantine"] = str(targets.quarantine)
        notes.append(f"{len({row[0] for row in rows}):,} images in the list, {len(rows):,} reasons")
    if targets.page is not None:
        from convworks.report.check_page import render  # jinja2 is loaded only for a page

        page = render(_facts(report), diagnosis, picture)
        write_target(targets.page, page.encode("utf-8"))
        written["page"] = str(targets.page)
    return written, notes


def _write_splits(
    path: Path, diagnosis: Diagnosis, options: CheckOptions, recipe: Recipe
) -> tuple[list[str], Refusal | None]:
    """What to say about the split file, or why these images cannot be split; the rest of the check stands."""
    try:
        table = leak_free_splits(diagnosis, seed=options.seed, val_fraction=recipe.val_fraction)
    except ConvworksError as problem:
        return [], Refusal(problem.code, problem.what, problem.where, problem.why, problem.try_)
    write_target(path, split_text(table))
    counts = ", ".join(f"{name} {number:,}" for name, number in counts_of(table).items())
    moved = f"; {table.moved:,} images moved to where their copies are" if table.moved else ""
    return [f"split: {counts} ({table.rule}){moved}", *table.notes], None
