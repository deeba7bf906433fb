"""A run folder as one checked value: what the report is made from.

Only recipe.json must be there. Any other file may be missing, as in a run that has just begun; a file that is
there and does not fit is refused, because a report must not show numbers from a damaged folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from convworks.data.manifest import Manifest
from convworks.durable import JSON_CAP, read_json
from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Metrics
from convworks.runs import open_run

Tree = Mapping[str, Any]
LARGEST = sys.float_info.max
_FIRST = ("test", "val")  # the order in which evaluations count


@dataclass(frozen=True, slots=True)
class StepRecord:
    step: int
    loss: float | None
    lr: float | None
    gradient_norm: float | None


@dataclass(frozen=True, slots=True)
class EpochRecord:
    epoch: int  # as recorded
    step: int  # optimizer steps made by its end; rises from record to record
    train_loss: float | None
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    lr: float | None
    best: bool  # the best one until then


@dataclass(frozen=True, slots=True)
class Timing:
    """The wall clock: how long a run took, in the sessions between its stops."""

    seconds: float  # from the start of each session to its last finished epoch or its stop
    sessions: int
    resumed_at: tuple[int, ...]  # steps after which the run was taken up again
    epochs: tuple[tuple[int, float, float], ...] = ()  # (step at its end, its seconds, seconds of the run)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The scores of one split, and the answer for every image where it was kept."""

    split: str
    metrics: Metrics
    weights: str
    epoch: int | None
    probabilities: NDArray[np.floating] | None  # (N, K)
    labels: NDArray[np.int64] | None  # (N,)
    rows: NDArray[np.int64] | None  # (N,) numbers of the manifest's samples
    protocol: str = "centre"  # how an image was looked at
    definition: str = ""  # of the protocol, in words

    @property
    def plain(self) -> bool:
        """One view of each image, as in training: what the page is about."""
        return self.protocol == "centre"


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    path: Path
    recipe: Tree
    sources: Tree  # dotted key -> where its value came from
    overrides: tuple[str, ...]  # what was changed in the middle of the run
    command: tuple[str, ...]
    environment: Tree
    plan: Tree
    manifest: Manifest | None
    steps: tuple[StepRecord, ...]
    epochs: tuple[EpochRecord, ...]
    timing: Timing | None
    evaluations: tuple[Evaluation, ...]  # test before val before others
    compliance: str = ""  # what the settings have to do with the named recipe
    recipe_name: str = ""
    model: Tree = field(default_factory=dict)  # model.json

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def kept_epoch(self) -> int | None:
        """Place, from 0, of the epoch whose weights were kept: the evaluated one, or the last best one."""
        evaluated = self.evaluations[0].epoch if self.evaluations else None
        places: Sequence[int] = range(len(self.epochs))
        if evaluated is not None:
            places = [place for place in places if self.epochs[place].epoch == evaluated]
        elif self.recipe.get("keep") != "last":
            places = [place for place in places if self.epochs[place].best]
        return places[-1] if places else None


def read_run(path: Path) -> RunRecord:
    """Read and check a run folder.

    Raises A410 where there is none, A401 and A440-A442 where a file cannot be read, A460 for a damaged
    evaluation, A462 for a damaged line of a log and A463 where an evaluation does not fit the manifest.
    """
    run = open_run(path)
    record = _tree(read_json(run.recipe_file), run.recipe_file)
    manifest = Manifest.load(run.manifest_file) if run.manifest_file.is_file() else None
    logged = list(records(run.metrics_file))
    described = run.model / "model.json"
    return RunRecord(
        path=run.path,
        recipe=_part(record, "recipe", run.recipe_file),
        sources=_part(record, "provenance", run.recipe_file),
        overrides=tuple(str(each) for each in record.get("overrides") or ()),
        command=tuple(str(each) for each in record.get("command") or ()),
        environment=_part(record, "environment", run.recipe_file),
        plan=_tree(read_json(run.plan_file), run.plan_file) if run.plan_file.is_file() else {},
        manifest=manifest,
        steps=tuple(_step(each) for each in logged if each.tree.get("kind") == "step"),
        epochs=_epochs([each for each in logged if each.tree.get("kind") == "epoch"]),
        timing=_timing(run.timing_file),
        evaluations=_evaluations(run.evaluation, manifest),
        compliance=str(record.get("compliance") or ""),
        recipe_name=str(record.get("recipe_name") or ""),
        model=_tree(read_json(described), described) if described.is_file() else {},
    )


def _tree(value: Any, path: Path) -> Tree:
    if not isinstance(value, dict):
        raise ConvworksError("A401", f"{path.name} is not a table of values", where=str(path))
    return value


def _part(record: Tree, key: str, path: Path) -> Tree:
    return _tree(record.get(key) or {}, path)


@dataclass(frozen=True, slots=True)
class _Line:
    """One record of a JSON-lines log, with its place for messages."""

    path: Path
    number: int
    tree: Tree

    def real(self, key: str) -> float | None:
        value = self.tree.get(key)
        if value is None:
            return None
        if type(value) not in {int, float} or not abs(value) <= LARGEST:
            raise _bad_line(self.path, self.number, f"{key} is {str(value)[:60]!r}, not a number")
        return float(value)

    def whole(self, key: str) -> int | None:
        value = self.real(key)
        return None if value is None else int(value)

    def text(self, key: str) -> str:
        value = self.tree.get(key, "")
        if not isinstance(value, str):
            raise _bad_line(self.path, self.number, f"{key} is {str(value)[:60]!r}, not a text")
        return value

    def counter(self, key: str) -> int:
        value = self.whole(key)
        if value is None:
            raise _bad_line(self.path, self.number, f"{key} is missing")
        return value


def _bad_line(path: Path, number: int, problem: object) -> ConvworksError:
    return ConvworksError(
        "A462",
        f"line {number} of {path.name} is damaged: {problem}",
        where=str(path),
        why="the curves would not be those of the run",
    )


def records(path: Path) -> Iterator[_Line]:
    """The lines of a log; a last line without its end, cut off by a crash, is left out."""
    if not path.is_file():
        return
    if path.stat().st_size > JSON_CAP:
        raise ConvworksError("A401", f"{path.name} is larger than {JSON_CAP:,} bytes", where=str(path))
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            tree = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise _bad_line(path, number, problem) from problem
        if not isinstance(tree, dict):
            raise _bad_line(path, number, "it is not a table of values")
        yield _Line(path, number, tree)


def _step(line: _Line) -> StepRecord:
    return StepRecord(line.counter("step"), line.real("loss"), line.real("lr"), line.real("gradient_norm"))


def _epochs(lines: list[_Line]) -> tuple[EpochRecord, ...]:
    done = 0
    for line in lines:
        if line.counter("step") <= done:
            raise _bad_line(line.path, line.number, "its step does not follow the epoch before it")
        done = line.counter("step")
    return tuple(_epoch(line) for line in lines)


def _epoch(line: _Line) -> EpochRecord:
    return EpochRecord(
        epoch=line.counter("epoch"),
        step=line.counter("step"),
        train_loss=line.real("train_loss"),
        train_accuracy=line.real("train_accuracy"),
        val_loss=line.real("val_loss"),
        val_accuracy=line.real("val_accuracy"),
        val_balanced_accuracy=line.real("val_balanced_accuracy"),
        lr=line.real("lr"),
        best=line.tree.get("best") is True,
    )


def _timing(path: Path) -> Timing | None:
    sessions: list[list[float]] = []  # the times of the records of each
    resumed: list[int] = []
    epochs: dict[int, tuple[float, float]] = {}  # step -> seconds of the epoch, seconds of the run
    for line in records(path):
        event, at = line.tree.get("event"), line.real("at") or 0.0
        if event in {"start", "resume"}:
            sessions.append([])
        if event == "resume":
            resumed.append(line.counter("step"))
        if sessions and event != "finish":  # which comes after the report
            sessions[-1].append(at)
        own = line.real("wall_seconds")
        if event == "epoch" and sessions and own is not None and line.tree.get("step") is not None:
            epochs[line.counter("step")] = own, _worked(sessions)
    if not sessions:
        return None
    return Timing(
        _worked(sessions),
        len(sessions),
        tuple(dict.fromkeys(resumed)),
        tuple((step, own, whole) for step, (own, whole) in sorted(epochs.items())),
    )


def _worked(sessions: Sequence[Sequence[float]]) -> float:
    return sum(max(0.0, times[-1] - times[0]) for times in sessions)


def _evaluations(folder: Path, manifest: Manifest | None) -> tuple[Evaluation, ...]:
    found = [_evaluation(path, manifest) for path in sorted(folder.glob("*.json"))]
    order = {name: place for place, name in enumerate(_FIRST)}
    return tuple(
        sorted(found, key=lambda each: (not each.plain, order.get(each.split, len(order)), each.split))
    )


def _evaluation(path: Path, manifest: Manifest | None) -> Evaluation:
    tree = _tree(read_json(path), path)
    metrics = Metrics.from_dict(tree)
    epoch = tree.get("epoch")
    arrays = _arrays(path.with_suffix(".safetensors"), metrics, manifest)
    return Evaluation(
        split=str(tree.get("split") or path.stem),
        protocol=str(tree.get("protocol") or "centre"),
        definition=str(tree.get("definition") or ""),
        metrics=metrics,
        weights=str(tree.get("weights") or ""),
        epoch=epoch if type(epoch) is int else None,
        probabilities=arrays.get("probabilities"),
        labels=arrays.get("labels"),
        rows=arrays.get("rows"),
    )


def _arrays(path: Path, metrics: Metrics, manifest: Manifest | None) -> dict[str, NDArray[Any]]:
    """probabilities, labels and rows of an evaluation; empty where they were not kept."""
    if not path.is_file():
        return {}
    try:
        tensors = load_file(path)
        probabilities, labels, rows = (tensors[key] for key in ("probabilities", "labels", "rows"))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as problem:
        raise ConvworksError("A463", f"cannot read {path.name}: {problem}", where=str(path)) from problem
    n, k = metrics.n, len(metrics.classes)
    samples = len(manifest.samples) if manifest else None
    fits = (
        probabilities.shape == (n, k)
        and np.issubdtype(probabilities.dtype, np.floating)
        and np.isfinite(probabilities).all()
        and all(each.shape == (n,) and np.issubdtype(each.dtype, np.integer) for each in (labels, rows))
        and (n == 0 or (labels.min() >= 0 and labels.max() < k and rows.min() >= 0))
        and (samples is None or n == 0 or rows.max() < samples)
    )
    if not fits:
        raise ConvworksError(
            "A463",
            f"{path.name} does not fit {path.stem}.json and the manifest",
            where=str(path),
            why="the pictures would carry the wrong names",
            try_="evaluate the model again to write both files",
        )
    return {
        "probabilities": probabilities,
        "labels": labels.astype(np.int64),
        "rows": rows.astype(np.int64),
    }
