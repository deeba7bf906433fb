"""Runs side by side: what was set differently, what came out, and whether the difference is chance.

Two runs are compared on the images that both evaluated, found by the hash of their pixels, in pairs. Runs
that differ in the seed alone are repetitions of one setting: several of them are needed before a difference
between settings says something about the settings and not about two draws.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks.data.manifest import Manifest, Sample
from convworks.errors import ConvworksError
from convworks.evaluation.comparison import (
    Disagreement,
    PairedDifference,
    disagreement,
    paired_difference,
    spread,
    welch,
)
from convworks.evaluation.ensemble import groups_of
from convworks.evaluation.metrics import Metrics
from convworks.recipes.recipe import SAFE_KEYS
from convworks.recipes.resolve import flatten
from convworks.report.read import Evaluation, RunRecord, read_run

FEWEST_SEEDS = 5  # that the note asks for
MOST_PAIRS = 45  # of ten runs


@dataclass(frozen=True, slots=True)
class Row:
    """One run: its scores on the split that all runs have."""

    name: str
    metrics: Metrics
    seconds: float | None
    epochs: int
    setting: int  # number of the setting that it repeats


@dataclass(frozen=True, slots=True)
class Pair:
    """Two runs on the images that both evaluated: accuracy of `b` minus that of `a`."""

    a: str
    b: str
    images: int
    difference: PairedDifference
    counts: Disagreement  # of a and b
    same_answer: int


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs that differ in the seed alone."""

    names: tuple[str, ...]
    mean: float
    deviation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything, in the order in which it should be read."""

    changes: Mapping[str, tuple[Any, ...]]  # dotted setting -> the value of every run, where they differ
    rows: tuple[Row, ...]
    split: str
    pairs: tuple[Pair, ...]
    settings: tuple[Setting, ...]
    between: tuple[tuple[int, int, float, float, float], ...]  # settings i, j: j minus i, low, high (Welch)
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "changes": {key: list(values) for key, values in self.changes.items()},
            "split": self.split,
            "runs": [
                {
                    "name": row.name,
                    "accuracy": row.metrics.top1,
                    "ci": list(row.metrics.top1_ci),
                    "top5": row.metrics.top5,
                    "balanced_accuracy": row.metrics.balanced_accuracy,
                    "macro_f1": row.metrics.macro_f1,
                    "loss": row.metrics.loss,
                    "brier": row.metrics.brier,
                    "ece": row.metrics.ece,
                    "images": row.metrics.n,
                    "epochs": row.epochs,
                    "seconds": row.seconds,
                    "setting": row.setting,
                }
                for row in self.rows
            ],
            "pairs": [
                {
                    "a": pair.a,
                    "b": pair.b,
                    "images": pair.images,
                    **pair.difference._asdict(),
                    "both_right": pair.counts.both,
                    "only_a_right": pair.counts.only_a,
                    "only_b_right": pair.counts.only_b,
                    "both_wrong": pair.counts.neither,
                    "same_answer": pair.same_answer,
                }
                for pair in self.pairs
            ],
            "settings": [
                {"runs": list(each.names), "mean": each.mean, "standard_deviation": each.deviation}
                for each in self.settings
            ],
            "between_settings": [
                {"a": i, "b": j, "difference": d, "low": low, "high": high}
                for i, j, d, low, high in self.between
                if np.isfinite(low)
            ],
            "notes": list(self.notes),
        }


def compare_runs(paths: Sequence[Path], *, split: str | None = None) -> Comparison:
    """Two finished runs or more. The split is test where all have it, else val.

    Raises U273 for one run, A411 for one without an evaluation, D202 for a split that not all have, U276 for
    two runs without a common image, and those of `report.read.read_run`.
    """
    if len(paths) < 2:
        raise ConvworksError(
            "U273",
            f"a comparison of {len(paths)} run is none",
            why="it needs two runs or more",
            try_="convworks list runs",
        )
    records = [read_run(path) for path in paths]
    names = _names(records)
    chosen = split or _common_split(records)
    found = [_evaluation(record, chosen) for record in records]
    groups = groups_of([_setting_key(record) for record in records])
    number = {run: g for g, group in enumerate(groups) for run in group}
    rows = tuple(
        Row(
            names[i],
            found[i].metrics,
            None if record.timing is None else record.timing.seconds,
            len(record.epochs),
            number[i],
        )
        for i, record in enumerate(records)
    )
    settings = tuple(
        Setting(tuple(names[i] for i in group), *spread([found[i].metrics.top1 for i in group]))
        for group in groups
    )
    scores = [[found[i].metrics.top1 for i in group] for group in groups]
    between = tuple((i, j, *welch(scores[j], scores[i])) for i, j in combinations(range(len(groups)), 2))
    pairs = [
        _pair(names[i], names[j], (records[i], found[i]), (records[j], found[j]))
        for i, j in _wanted_pairs(records, number)
    ]
    return Comparison(
        changes=_changes(records),
        rows=rows,
        split=chosen,
        pairs=tuple(pairs),
        settings=settings,
        between=between,
        notes=tuple(_notes(records, groups, pairs, chosen)),
    )


def _names(records: Sequence[RunRecord]) -> list[str]:
    """Folder names; the whole path where two are equal."""
    short = [record.name for record in records]
    return [str(r.path) if short.count(name) > 1 else name for r, name in zip(records, short, strict=True)]


def _common_split(records: Sequence[RunRecord]) -> str:
    have = [{each.split for each in record.evaluations} for record in records]
    return "test" if all("test" in each for each in have) else "val"


def _evaluation(record: RunRecord, split: str) -> Evaluation:
    for each in record.evaluations:
        if each.split == split:
            return each
    if not record.evaluations:
        raise ConvworksError(
            "A411",
            f"the run {record.name} has no evaluation yet: its training has not finished",
            where=str(record.path),
            try_=f"convworks resume {record.path}",
        )
    raise ConvworksError(
        "D202",
        f"the run {record.name} has no evaluation on '{split}'",
        where=f"it has {', '.join(each.split for each in record.evaluations)}",
        try_=f"--split {record.evaluations[0].split}",
    )


def _settings(record: RunRecord) -> dict[str, Any]:
    """Every setting and where the data is, as dotted keys; what never changes a result is left out."""
    recipe = {key: value for key, value in flatten(record.recipe).items() if key not in SAFE_KEYS}
    manifest = record.manifest
    recipe["data"] = None if manifest is None else manifest.name
    recipe["data.manifest"] = None if manifest is None else manifest.sha256[:12]
    recipe["data.split"] = None if manifest is None else manifest.split_rule
    for key in ("precision", "threads", "memory_format", "device"):
        if key in record.plan:
            recipe[f"plan.{key}"] = record.plan[key]
    if record.plan:
        for key in ("winograd", "amx"):
            names = record.plan.get(key)  # none in plans from before there was a choice
            recipe[f"plan.{key}"] = len(names) if isinstance(names, list) else 0
    if record.overrides:
        recipe["changed on the way"] = ", ".join(record.overrides)
    return recipe


def _setting_key(record: RunRecord) -> str:
    """Equal for runs that differ in the seed alone; the split may follow the seed, and folds are such."""
    settings = {
        key: value
        for key, value in _settings(record).items()
        if key != "seed" and not key.startswith(("plan.", "data.split", "data.manifest"))
    }
    if record.manifest is not None:
        rule, part, _ = record.manifest.split_rule.partition(" % of the training images")
        settings["fraction"] = rule if part else ""
        rows = [[each.path, each.label, each.sha256] for each in record.manifest.samples]
        settings["images"] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return json.dumps(settings, sort_keys=True, default=str)


def _wanted_pairs(records: Sequence[RunRecord], number: Mapping[int, int]) -> list[tuple[int, int]]:
    """Runs of different settings, seed by seed where both have several; all runs of a single setting."""
    pairs = list(combinations(range(len(records)), 2))
    across = [(i, j) for i, j in pairs if number[i] != number[j]]
    seeds = [record.recipe.get("seed") for record in records]
    matched = [(i, j) for i, j in across if seeds[i] == seeds[j]]
    several = {g for g in number.values() if list(number.values()).count(g) > 1}
    kept = [
        (i, j) for i, j in across if (i, j) in matched or number[i] not in several or number[j] not in several
    ]
    return (kept or across or pairs)[:MOST_PAIRS]


def _changes(records: Sequence[RunRecord]) -> dict[str, tuple[Any, ...]]:
    tables = [_settings(record) for record in records]
    keys = dict.fromkeys(key for each in tables for key in each)
    found = {key: tuple(each.get(key) for each in tables) for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _pair(a: str, b: str, first: tuple[RunRecord, Evaluation], second: tuple[RunRecord, Evaluation]) -> Pair:
    one, two = _answers(*first), _answers(*second)
    common = [key for key in one if key in two]
    if not common:
        raise ConvworksError(
            "U276",
            f"{a} and {b} were not evaluated on any common image",
            why="only the same images can be compared in pairs",
            try_="train both with `--seeds`, or evaluate both on one data set: convworks eval RUN DATA",
        )
    right_a = np.array([one[key][0] for key in common])
    right_b = np.array([two[key][0] for key in common])
    same = sum(one[key][1] == two[key][1] for key in common)
    difference = paired_difference(right_b, right_a)
    return Pair(a, b, len(common), difference, disagreement(right_a, right_b), same)


def _answers(record: RunRecord, found: Evaluation) -> dict[tuple[str, str, int], tuple[bool, str]]:
    """(pixels, label, number among copies) -> (right, the answer's name), for the images of an evaluation."""
    if found.probabilities is None or found.labels is None or found.rows is None or record.manifest is None:
        raise ConvworksError(
            "A463",
            f"the answers of {record.name} for single images were not kept",
            where=str(record.path),
            try_="train it again, or compare runs that have them",
        )
    names: NDArray[np.str_] = np.array(found.metrics.names)
    predicted = found.probabilities.argmax(axis=1)
    answers: dict[tuple[str, str, int], tuple[bool, str]] = {}
    for sample, label, answer in zip(
        _samples(record.manifest, found.rows), found.labels, predicted, strict=True
    ):
        number = 0
        while (key := (sample.pixels, str(names[label]), number)) in answers:
            number += 1
        answers[key] = bool(label == answer), str(names[answer])
    return answers


def _samples(manifest: Manifest, rows: NDArray[np.int64]) -> list[Sample]:
    return [manifest.samples[int(row)] for row in rows]


def _notes(
    records: Sequence[RunRecord], groups: Sequence[Sequence[int]], pairs: Sequence[Pair], split: str
) -> list[str]:
    found = []
    single = [len(group) for group in groups]
    if len(groups) > 1 and min(single) < FEWEST_SEEDS:
        fewest = min(single)
        found.append(
            f"{fewest} seed{'s' * (fewest > 1)} each: not evidence; use --seeds {FEWEST_SEEDS}. The "
            "intervals are about these networks on new images, not about the settings"
        )
    if split == "val":
        found.append("val chose the best epochs, so its figures lean to the good side")
    sizes = [_evaluation(record, split).metrics.n for record in records]
    if any(pair.images < min(sizes) for pair in pairs):
        found.append("pairs are compared on their common images only, which are fewer than each has")
    if len(pairs) > 1:
        found.append(
            f"{len(pairs)} pairs: by chance alone one in twenty has p < 0.05; for all together ask for "
            f"p < {0.05 / len(pairs):.4f}"
        )
    return found
