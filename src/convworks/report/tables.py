"""The tables of the report as plain values; the templates only lay them out."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convworks.data.manifest import OK, SPLITS, Manifest
from convworks.durable import sha256_file
from convworks.evaluation.metrics import ClassScore, Metrics
from convworks.recipes.recipe import help_lines
from convworks.recipes.resolve import flatten
from convworks.report.read import RunRecord
from convworks.report.text import count, taken_for

MOST_CLASSES = 200  # rows of a table by class
MOST_CELLS = 100  # classes up to which the confusion matrix is drawn
MOST_FILES = 50  # rows of a list of files
MOST_PAIRS = 12
SHADES = (0.05, 0.1, 0.2, 0.4, 0.7)  # share of the row from which the next darker shade is used

CONVERSIONS = {
    "exif-rotated": "turned upright, as their EXIF data says",
    "16-bit": "16 bits a channel, scaled to 8",
    "cmyk": "CMYK, converted to RGB",
    "alpha": "transparent, laid on the background",
    "palette": "palette, converted to RGB",
    "1-bit": "black and white, scaled to 0 and 255",
    "animated": "animated or several pages, the first one used",
    "wrong-extension": "another format than the name says, read by content",
}


@dataclass(frozen=True, slots=True)
class ClassCount:
    name: str
    counts: tuple[int, ...]  # one for each split
    total: int
    percent: float  # of the largest class, the length of its bar


@dataclass(frozen=True, slots=True)
class DataTable:
    """What the run was trained on, from its manifest."""

    manifest: Manifest
    splits: tuple[str, ...]  # those that have images
    rows: tuple[ClassCount, ...]
    totals: tuple[int, ...]
    images: int
    unlisted: int  # classes beyond MOST_CLASSES
    sizes: str
    conversions: tuple[tuple[str, int], ...]
    left_out: tuple[tuple[str, str], ...]  # (path, reason)
    left_out_count: int
    reasons: tuple[tuple[str, int], ...]
    sha256: str


def data_table(manifest: Manifest) -> DataTable:
    """Images of each class and split, sizes, conversions and what was left out."""
    splits = tuple(split for split in SPLITS if any(manifest.count(split).values()))
    columns = [manifest.count(split) for split in splits]
    whole = manifest.count()
    largest = max(whole.values(), default=0) or 1
    rows = tuple(
        ClassCount(name, tuple(column[name] for column in columns), total, 100 * total / largest)
        for name, total in whole.items()
    )
    good = [sample for sample in manifest.samples if sample.verdict == OK]
    left_out = manifest.left_out
    notes = Counter(note for sample in good for note in sample.notes)
    return DataTable(
        manifest=manifest,
        splits=splits,
        rows=rows[:MOST_CLASSES],
        totals=tuple(sum(column.values()) for column in columns),
        images=len(good),
        unlisted=max(0, len(rows) - MOST_CLASSES),
        sizes=_sizes([(sample.width, sample.height) for sample in good]),
        conversions=tuple((CONVERSIONS.get(note, note), n) for note, n in notes.most_common()),
        left_out=tuple((sample.path, sample.verdict) for sample in left_out[:MOST_FILES]),
        left_out_count=len(left_out),
        reasons=tuple(Counter(sample.verdict for sample in left_out).most_common(MOST_PAIRS)),
        sha256=manifest.sha256,
    )


def _sizes(sizes: list[tuple[int, int]]) -> str:
    """'all 28 x 28 pixels', or the smallest, the median and the largest by width times height."""
    if not sizes:
        return ""
    if len(set(sizes)) == 1:
        return f"all {sizes[0][0]}×{sizes[0][1]} pixels"
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    low, middle, high = (f"{w}×{h}" for w, h in (by_area[0], by_area[len(by_area) // 2], by_area[-1]))
    return f"{low} to {high} pixels, in the middle {middle}"


@dataclass(frozen=True, slots=True)
class Cell:
    count: int
    shade: str  # CSS class: r1..r6 for right answers, w1..w6 for wrong ones, "" for none
    anchor: str  # id of the first mistake shown for it, else ""


def confusion_cells(metrics: Metrics, *, anchors: Collection[str]) -> list[list[Cell]]:
    """(K, K) cells shaded by the share of their row; empty where there are too many classes to draw."""
    if len(metrics.classes) > MOST_CELLS:
        return []
    return [
        [
            Cell(int(n), _shade(int(n), int(row.sum()), right=i == j), _anchor(i, j, anchors))
            for j, n in enumerate(row)
        ]
        for i, row in enumerate(metrics.confusion)
    ]


def _shade(n: int, total: int, *, right: bool) -> str:
    if not n:
        return ""
    level = 1 + sum(n / total > limit for limit in SHADES)
    return f"{'r' if right else 'w'}{level}"


def _anchor(true: int, answer: int, anchors: Collection[str]) -> str:
    name = f"cell-{true}-{answer}"
    return name if name in anchors else ""


@dataclass(frozen=True, slots=True)
class Pair:
    true: str
    answer: str
    count: int
    share: float  # of the images of the true class
    anchor: str


def confused_pairs(metrics: Metrics, *, anchors: Collection[str]) -> list[Pair]:
    """The most frequent mistakes; of equally frequent ones, the larger share of its class first."""
    wrong = metrics.confusion.copy()
    np.fill_diagonal(wrong, 0)
    cells = [(int(i), int(j)) for i, j in np.argwhere(wrong)]
    cells.sort(key=lambda cell: (-wrong[cell], metrics.classes[cell[0]].n, cell))
    return [
        Pair(
            true=metrics.names[i],
            answer=metrics.names[j],
            count=int(wrong[i, j]),
            share=int(wrong[i, j]) / metrics.classes[i].n,
            anchor=_anchor(i, j, anchors),
        )
        for i, j in cells[:MOST_PAIRS]
    ]


def class_rows(metrics: Metrics) -> list[tuple[ClassScore, tuple[str, int] | None]]:
    """Every class with its most frequent wrong answer; of very many classes, the weakest ones."""
    rows = list(metrics.classes)
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda each: (each.recall is None, each.recall or 0.0))[:MOST_CLASSES]
    return [(each, taken_for(metrics, each.name)) for each in rows]


@dataclass(frozen=True, slots=True)
class Setting:
    key: str
    value: str
    source: str
    help: str

    @property
    def chosen(self) -> bool:
        """Somebody or something set it: it is not simply the default."""
        return self.source not in {"default", ""}


def settings(run: RunRecord) -> list[Setting]:
    """Every value of the recipe with its source, in the order of the recipe's fields."""
    known = help_lines()
    order = {key: place for place, key in enumerate(known)}
    rows = [
        Setting(key, literal(value), _source(run.sources, key), known.get(key, ("", None))[0])
        for key, value in flatten(run.recipe).items()
    ]
    return sorted(rows, key=lambda row: (order.get(row.key, len(order)), row.key))


def _source(sources: Mapping[str, Any], key: str) -> str:
    """The source of a key, or of the group it belongs to."""
    while key and key not in sources:
        key = key.rpartition(".")[0]
    return str(sources.get(key, ""))


def literal(value: Any) -> str:
    """A value as it is written in --set; 'not set' for none."""
    if value is None or value in ({}, []):
        return "not set"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class PlanTable:
    rows: list[tuple[str, str]]
    reasons: list[str]
    measured: list[tuple[str, float]]  # (candidate, images a second), the fastest first


def plan_table(plan: Mapping[str, Any]) -> PlanTable | None:
    """The stored plan: what was chosen, why, and what was measured. None where no plan is stored."""
    if not plan:
        return None
    reasons, measured = plan.get("reasons"), plan.get("measured")
    rows = [(key, value) for key, value in flatten(plan).items() if key.partition(".")[0] not in _APART]
    rates = measured.items() if isinstance(measured, dict) else ()
    fast = [(str(k), float(v)) for k, v in rates if isinstance(v, (int, float))]
    return PlanTable(
        rows=[(key.replace("_", " "), _chosen(value)) for key, value in rows],
        reasons=[str(each) for each in reasons] if isinstance(reasons, list) else [],
        measured=sorted(fast, key=lambda each: -each[1]),
    )


_APART = frozenset({"reasons", "measured"})


def _chosen(value: Any) -> str:
    """A value of a plan; the layers that compute in a way of their own by name."""
    if isinstance(value, list | tuple):
        return f"{count(len(value), 'layer')}: {', '.join(map(str, value))}" if value else "no layer"
    return _rounded(value)


def _rounded(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else literal(value)


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """What identifies the run and what it took, as (name, value)."""
    rows: list[tuple[str, str]] = []
    if "seed" in run.recipe:
        rows.append(("seed", literal(run.recipe["seed"])))
    if run.manifest is not None:
        rows.append(("data, sha256 of the manifest", run.manifest.sha256))
    weights = run.path / "model" / "weights.safetensors"
    if weights.is_file():
        rows.append((f"model, sha256 of {weights.name}", sha256_file(weights)))
        rows.append(("size of the model", size(weights.stat().st_size)))
    if run.timing is not None:
        sessions = f" in {count(run.timing.sessions, 'session')}" if run.timing.sessions > 1 else ""
        rows.append(("wall clock of the training", duration(run.timing.seconds) + sessions))
    return rows


def size(bytes_: int) -> str:
    """'812 bytes', '7.0 kB', '44.7 MB'."""
    if bytes_ < 1000:
        return count(bytes_, "byte")
    return f"{bytes_ / 1e3:,.1f} kB" if bytes_ < 10**6 else f"{bytes_ / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """'48 s', '24 min 12 s', '3 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def environment(run: RunRecord) -> list[tuple[str, str]]:
    return [(key, literal(value)) for key, value in flatten(run.environment).items()]


def command_line(run: RunRecord) -> str:
    """The command that started the run, quoted for a shell; '' where it is not recorded."""
    return shlex.join(run.command)
