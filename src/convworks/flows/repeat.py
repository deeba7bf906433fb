"""One training several times: with other seeds, on the folds of a cross-validation, or on bags.

    runs/NAME-s0 ... -s4   committee of seeds: the same split, another beginning and order
    runs/NAME-f0 ... -f4   k-fold: each fold validates once; the same seed
    runs/NAME-b0 ... -b4   bagging: trained on images drawn with replacement, validated on the others
    runs/NAME/group.json   what was asked for; summary.json and out-of-fold.safetensors when all are finished

Every member is an ordinary run. The same command continues where one of them was stopped.
"""

from __future__ import annotations

import glob
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from convworks.data.partition import Partition
from convworks.durable import read_json, to_json, write_atomic
from convworks.errors import ConvworksError
from convworks.evaluation.comparison import spread
from convworks.evaluation.metrics import Metrics, measure
from convworks.flows.events import Event, Note, Stopped
from convworks.flows.session import StopRequest
from convworks.flows.train import TrainRequest, announce_download, train
from convworks.recipes.recipe import SAFE_KEYS
from convworks.recipes.resolve import Resolved, differences, from_dict, to_dict
from convworks.report.read import RunRecord, read_run
from convworks.runs import Run, name_taken, next_name

Kind = Literal["seeds", "folds", "bags"]
LETTER: Mapping[Kind, str] = {"seeds": "s", "folds": "f", "bags": "b"}
SEED_LIMIT = 2**63
FEWEST, MOST = 2, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatRequest:
    """A training, and how often and in which way it is repeated."""

    base: TrainRequest
    kind: Kind
    count: int


@dataclass(frozen=True, slots=True)
class Member:
    """One run of several."""

    suffix: str
    title: str
    request: TrainRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What came out of all runs together."""

    kind: str
    runs: tuple[Path, ...]
    folder: Path
    scores: Mapping[str, tuple[Metrics, ...]]  # split -> the metrics of every run that has it
    together: Metrics | None  # folds and bags: every image answered by the runs that did not learn it
    notes: tuple[str, ...]

    @property
    def split(self) -> str:
        """The split that counts: test where there is one."""
        return "test" if "test" in self.scores else "val"

    def accuracy(self, split: str) -> tuple[float, float | None]:
        """Mean and standard deviation over the runs."""
        return spread([each.top1 for each in self.scores[split]])

    def to_dict(self) -> dict[str, Any]:
        rows = {}
        for split, found in self.scores.items():
            mean, deviation = self.accuracy(split)
            rows[split] = {
                "accuracy": [each.top1 for each in found],
                "mean": mean,
                "standard_deviation": deviation,
                "loss": [each.loss for each in found],
                "images": [each.n for each in found],
            }
        return {
            "kind": self.kind,
            "runs": [str(each) for each in self.runs],
            "scores": rows,
            "out_of_fold": None if self.together is None else self.together.to_dict(),
            "notes": list(self.notes),
        }


def repeat(
    request: RepeatRequest, *, should_stop: StopRequest = lambda: False
) -> Generator[Event, None, Repeated | None]:
    """Train every member; returns what came out, or None where it was asked to stop.

    Raises U267 (how often), U268 (a name that is a run's), and the errors of `train`.
    """
    _require_count(request)
    yield from announce_download(request.base.data)
    wanted = asked(request.base, kind=request.kind, count=request.count)
    folder = group_folder(request.base, wanted)
    members = list(members_of(request))
    begin_group(folder, wanted)
    runs = yield from train_members(members, folder, should_stop=should_stop)
    if runs is None:
        return None
    found = summarise(request, runs, folder)
    write_atomic(folder / "summary.json", to_json(found.to_dict()))
    return found


def members_of(request: RepeatRequest) -> Iterator[Member]:
    """The single trainings. Members of a committee share the split of the base seed."""
    base, seed = request.base, request.base.resolved.recipe.seed
    for number in range(request.count):
        resolved, part, title = base.resolved, Partition(seed=seed), f"seed {seed + number}"
        if request.kind == "seeds":
            recipe = replace(resolved.recipe, seed=seed + number)
            resolved = replace(resolved, recipe=recipe)
        elif request.kind == "folds":
            part, title = Partition(seed=seed, fold=(number, request.count)), f"fold {number + 1}"
            resolved = _keeping_the_last(resolved)
        else:
            part, title = Partition(seed=seed, bag=number), f"bag {number + 1}"
            resolved = _keeping_the_last(resolved)
        made = replace(base, resolved=resolved, data=replace(base.data, partition=part))
        yield Member(f"{LETTER[request.kind]}{number}", title, made)


def _keeping_the_last(resolved: Resolved) -> Resolved:
    """The last epoch's weights, where nobody asked otherwise: the validating images then choose nothing."""
    if not resolved.sources["keep"].startswith(("default", "recipe")):
        return resolved
    sources = {**resolved.sources, "keep": "auto, so that the validating images choose nothing"}
    return replace(resolved, recipe=replace(resolved.recipe, keep="last"), sources=sources)


def train_members(
    members: Sequence[Member], folder: Path, *, should_stop: StopRequest
) -> Generator[Event, None, list[Path] | None]:
    """Train one after the other into FOLDER-SUFFIX; finished ones are kept. None where asked to stop."""
    runs = []
    for number, member in enumerate(members, start=1):
        path = folder.with_name(f"{folder.name}-{member.suffix}")
        runs.append(path)
        run = Run(path)
        if run.finished:
            _require_same(run, member)
            yield Note(f"{member.title}: {path} is finished already")
            continue
        yield Note(f"{member.title}: run {number} of {len(members)}, {path}")
        request = replace(member.request, out=path.parent, name=path.name, fresh=False)
        for event in train(request, should_stop=should_stop):
            yield event
            if isinstance(event, Stopped):
                return None
        if should_stop() and number < len(members):
            yield Stopped(path, 0, 0, 0, 0.0)
            return None
    return runs


def _require_same(run: Run, member: Member) -> None:
    """Raises U131 where a finished run of that name was trained in another way."""
    record = run.record()
    wanted, sources = member.request.resolved.recipe, member.request.resolved.sources
    changed = [
        (key, was, now)
        for key, was, now in differences(from_dict(record["recipe"]), wanted)
        if key not in SAFE_KEYS and not _settled_later(record, sources, key)
    ]
    if not changed and record["data"] == member.request.data.to_dict():
        return
    listed = "; ".join(f"{key} was {was}, is {now}" for key, was, now in changed[:5])
    raise ConvworksError(
        "U131",
        f"the run {run.name} was trained with other settings: {listed or 'other data'}",
        where=str(run.path),
        why="runs that are to be averaged or compared must differ in one thing only",
        try_="another --name",
    )


def _settled_later(record: Mapping[str, Any], sources: Mapping[str, str], key: str) -> bool:
    """Whether a value was left to the training, which found it out from the data or the files."""
    given = sources.get(key, "default").startswith(("default", "recipe"))
    return (given and str(record["provenance"].get(key, "")).startswith("auto")) or key in {
        "pretrained",
        "init",
    }


# --- the folder of the group ------------------------------------------------------------------------------


def asked(base: TrainRequest, **further: Any) -> dict[str, Any]:
    """What makes a group the same one again, as JSON values."""
    return {
        "format": 1,
        "recipe": to_dict(base.resolved.recipe),
        "data": base.data.to_dict(),
        **further,
    }


def group_folder(base: TrainRequest, wanted: Mapping[str, Any], *, tail: str = "") -> Path:
    """OUT/NAME, or the newest unfinished group of the same request, or the next free DATA-MODEL-NN.

    Raises U268 where NAME is that of a single run, U130 where a fresh group is to have the name of
    another.
    """
    if base.name is not None:
        folder = base.out / base.name
        if (folder / "recipe.json").is_file():
            raise ConvworksError(
                "U268",
                f"'{base.name}' is the name of a single run",
                where=str(folder),
                why="the runs of a group lie beside a folder of the group's own name",
                try_=f"--name {base.name}-group",
            )
        if base.fresh and (folder / "group.json").is_file():
            raise name_taken(base.out, base.name, kind="group of runs")
        return folder
    with base.data.open() as source:
        stem = f"{source.name}-{base.resolved.recipe.model}{tail}"
    if not base.fresh:
        for file in sorted(base.out.glob(f"{glob.escape(stem)}-[0-9]*/group.json"), reverse=True):
            if not (file.parent / "summary.json").is_file() and _same(file, wanted):
                return file.parent
    first = int(next_name(base.out, stem).rpartition("-")[2])
    names = (f"{stem}-{number:02d}" for number in count(first))
    return base.out / next(name for name in names if not list(base.out.glob(f"{glob.escape(name)}*")))


def begin_group(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Make the group's folder and note what was asked for. Raises R503 where the place refuses."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "group.json", to_json(dict(wanted)))
    except OSError as problem:
        raise ConvworksError(
            "R503",
            f"cannot write to {folder}: {problem.strerror or problem}",
            why="nothing was computed",
            try_="--out with a folder of your own, for example --out ~/runs",
        ) from problem


def _same(file: Path, wanted: Mapping[str, Any]) -> bool:
    try:
        return bool(read_json(file) == wanted)
    except ConvworksError:  # a damaged record is not the same request
        return False


def _require_count(request: RepeatRequest) -> None:
    if not FEWEST <= request.count <= MOST:
        raise ConvworksError(
            "U267",
            f"--{request.kind} {request.count} makes no sense: from {FEWEST} to {MOST}",
            try_=f"--{request.kind} 5",
        )
    if request.base.resolved.recipe.seed + request.count > SEED_LIMIT:
        raise ConvworksError("U267", "the last seed would be above the limit of 2^63", try_="--seed 0")


# --- the result -------------------------------------------------------------------------------------------


def summarise(request: RepeatRequest, runs: Sequence[Path], folder: Path) -> Repeated:
    """Scores by split, and for folds and bags the out-of-fold answers, which are kept in a file."""
    records = [read_run(path) for path in runs]
    scores: dict[str, list[Metrics]] = {}
    for record in records:
        for each in record.evaluations:
            if each.split in {"val", "test"}:
                scores.setdefault(each.split, []).append(each.metrics)
    together = None if request.kind == "seeds" else _out_of_fold(request.kind, records, folder)
    return Repeated(
        kind=request.kind,
        runs=tuple(runs),
        folder=folder,
        scores={split: tuple(found) for split, found in scores.items()},
        together=together,
        notes=tuple(_notes(request)),
    )


def _out_of_fold(kind: Kind, records: Sequence[RunRecord], folder: Path) -> Metrics:
    """Each image's mean over the runs that validated with it, written to out-of-fold.safetensors."""
    total: dict[int, Any] = {}
    times: dict[int, int] = {}
    truth: dict[int, int] = {}
    classes: tuple[str, ...] = ()
    for record in records:
        val = next(each for each in record.evaluations if each.split == "val")
        assert val.rows is not None
        assert val.labels is not None
        assert val.probabilities is not None
        classes = val.metrics.names
        for row, label, p in zip(val.rows.tolist(), val.labels.tolist(), val.probabilities, strict=True):
            total[row] = total.get(row, 0.0) + p.astype(np.float64)
            times[row] = times.get(row, 0) + 1
            truth[row] = label
    rows = sorted(total)
    means = np.stack([total[row] / times[row] for row in rows])
    labels = np.array([truth[row] for row in rows], dtype=np.int64)
    tensors: dict[str, NDArray[Any]] = {
        "probabilities": means.astype(np.float32),
        "labels": labels,
        "rows": np.array(rows, dtype=np.int64),  # positions in the manifest of each run
        "runs": np.array([times[row] for row in rows], dtype=np.int64),  # that answered
    }
    write_atomic(folder / "out-of-fold.safetensors", save_tensors(tensors, {"kind": kind}))
    return measure(means, labels, classes)


def _notes(request: RepeatRequest) -> list[str]:
    recipe, found = request.base.resolved.recipe, []
    if request.kind != "seeds":
        chosen = ["early_stopping"] if recipe.early_stopping is not None else []
        chosen += ["schedule.name=plateau"] if recipe.schedule.name == "plateau" else []
        asked = not request.base.resolved.sources["keep"].startswith(("default", "recipe"))
        chosen += ["keep=best"] if recipe.keep == "best" and asked else []
        if chosen:
            found.append(
                f"the validating images decided something ({', '.join(chosen)}), so their figure leans to "
                "the good side"
            )
    elif recipe.keep == "best":
        found.append("val chose the best epoch of every run, so its figure leans to the good side")
    return found
