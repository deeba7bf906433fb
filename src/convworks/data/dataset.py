"""From a source to data for training or evaluation: pixels, labels, splits, and the manifest that says so."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.data.cache import Record
from convworks.data.manifest import OK, SPLITS, Manifest, Sample
from convworks.data.partition import (
    WHOLE,
    Partition,
    new_splits,
    splits_as_before,
    times_drawn,
    with_new_ones,
)
from convworks.data.preprocess import Geometry
from convworks.data.scan import Scan, scan
from convworks.data.sources import Entry, Ignored, Source, listed, shown
from convworks.data.splits import picture_warnings, split_warnings
from convworks.errors import ConvworksError, unknown_name

MOST_LEFT_OUT = 0.01  # of the images that training leaves out without asking; one image always
LISTED = 5  # files and differences that a message names


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """The readable images of a source, in its order. A row is a number from 0 to N - 1."""

    manifest: Manifest
    images: torch.Tensor  # uint8 (N, Hs, Ws, C), contiguous
    labels: torch.Tensor  # int64 (N,), positions in `classes`
    rows: NDArray[np.int64]  # (N,), positions in manifest.samples
    geometry: Geometry
    storage: str  # "RAM" or "memory-mapped cache"
    notices: tuple[str, ...] = ()  # about this machine, such as a cache folder that is full
    counts: NDArray[np.int64] | None = None  # (N,), how often each row is trained on, where it is not once

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    def split_rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of the images of one split, in source order; empty where there is no such split.

        Those of a bag's train split come as often as they were drawn.
        """
        samples = self.manifest.samples
        rows = np.flatnonzero([samples[index].split == split for index in self.rows]).astype(np.int64)
        return np.repeat(rows, self.counts[rows]) if self.counts is not None and split == "train" else rows

    def path_of(self, row: int) -> str:
        """The path in the source of the image in one row."""
        return self.manifest.samples[int(self.rows[row])].path


def build_dataset(
    source: Source,
    *,
    geometry: Geometry,
    seed: int,
    cache: Path | None,
    val_fraction: float = 0.2,
    partition: Partition = WHOLE,
    threads: int = 2,
    strict: bool = False,
    should_stop: Callable[[], bool] | None = None,
    expected: Manifest | None = None,
    accept_changes: bool = False,
    ram_limit: int | None = None,
) -> Dataset:
    """Read, check, fit and split all images of a source for training.

    Unreadable images are left out and listed, up to 1 % of them. `expected` is the manifest of a run that is
    resumed: its splits are used, and D145 is raised where the data differs; with `accept_changes` images that
    are new are trained on and the others stay. Raises D140-D148, D214-D216, R521, R522, ScanInterrupted.
    """
    for entry in source.entries:
        if entry.label is None:
            raise _no_label(entry, code="D148")
    drawn = None
    if expected is None:  # what can be known before anything is decoded is said before
        drawn = new_splits(source.entries, None, seed, val_fraction, partition)
    found = scan(
        source,
        indices=range(len(source.entries)),
        geometry=geometry,
        cache=cache,
        threads=threads,
        strict=strict,
        should_stop=should_stop,
        ram_limit=ram_limit,
    )
    if expected is None:
        _require_readable(source, found.records)
        splits, rule = new_splits(source.entries, found.records, seed, val_fraction, partition, drawn)
    else:
        seed, rule = expected.seed, expected.split_rule
        splits = splits_as_before(expected, source.entries, partition)
        splits = with_new_ones(splits, found.records) if accept_changes else splits
    samples = samples_of(source.entries, found.records, splits)
    manifest = Manifest(
        name=source.name,
        location=source.location,
        kind=source.kind,
        layout=source.layout,
        classes=tuple(source.classes),
        samples=samples,
        ignored=tuple(source.ignored),
        warnings=(*source.warnings, *split_warnings(samples), *picture_warnings(samples)),
        seed=seed,
        split_rule=rule,
    )
    if expected is not None and not accept_changes:
        expected.require_same(manifest)
    return _bagged(_dataset(manifest, found, geometry), partition.bag, seed)


def _bagged(dataset: Dataset, bag: int | None, seed: int) -> Dataset:
    """The same with the draws of a bag, where the run has one. Raises D216."""
    if bag is None:
        return dataset
    kept = [dataset.manifest.samples[index] for index in dataset.rows]
    return replace(dataset, counts=times_drawn(kept, bag=bag, seed=seed))


def build_evaluation_set(
    source: Source,
    *,
    geometry: Geometry,
    classes: Sequence[str],
    cache: Path | None,
    split: str | None = None,
    ignore_classes: Collection[str] = (),
    skip_unreadable: bool = False,
    threads: int = 2,
    should_stop: Callable[[], bool] | None = None,
    ram_limit: int | None = None,
) -> Dataset:
    """The images of a source to evaluate a model on; labels are positions in the model's `classes`, by name.

    `split` None: test where there is one, else val, else all images; "all" is everything. No image is left
    out without `skip_unreadable`. Raises D149 (unreadable), D201 (a class that the model never saw), D202 (no
    such split), D203 (no image), D204 (no label), U101 (unknown class to ignore), R521, R522 and
    ScanInterrupted.
    """
    chosen, rule = _chosen(source, split)
    for name in ignore_classes:
        if name not in source.classes and name not in classes:
            raise unknown_name("class", shown(name), map(shown, source.classes))
    indices = [index for index in chosen if source.entries[index].label not in ignore_classes]
    entries = [source.entries[index] for index in indices]
    _require_known(source, entries, classes)
    found = scan(
        source,
        indices=indices,
        geometry=geometry,
        cache=cache,
        threads=threads,
        should_stop=should_stop,
        ram_limit=ram_limit,
    )
    if not skip_unreadable:
        _require_all(source, entries, found.records)
    if not len(found.images):
        raise _nothing(source, f"none of {len(entries)} images can be read" if entries else rule)
    samples = samples_of(entries, found.records, [entry.split or "test" for entry in entries])
    labels = Counter(source.entries[index].label for index in chosen)
    skipped = [Ignored(f"class {name}", f"{_images(labels[name])} to ignore") for name in ignore_classes]
    manifest = Manifest(
        name=source.name,
        location=source.location,
        kind=source.kind,
        layout=source.layout,
        classes=tuple(classes),
        samples=samples,
        ignored=(*source.ignored, *skipped),
        warnings=(*source.warnings, *picture_warnings(samples)),
        seed=0,
        split_rule=rule,
    )
    return _dataset(manifest, found, geometry)


def _dataset(manifest: Manifest, found: Scan, geometry: Geometry) -> Dataset:
    rows = [index for index, sample in enumerate(manifest.samples) if sample.verdict == OK]
    number = {name: index for index, name in enumerate(manifest.classes)}
    labels = [number[manifest.samples[row].label or ""] for row in rows]
    return Dataset(
        manifest=manifest,
        images=torch.from_numpy(found.images),
        labels=torch.tensor(labels, dtype=torch.int64),
        rows=np.array(rows, dtype=np.int64),
        geometry=geometry,
        storage="memory-mapped cache" if found.mapped else "RAM",
        notices=found.notices,
    )


def samples_of(
    entries: Sequence[Entry], records: Sequence[Record], splits: Sequence[str]
) -> tuple[Sample, ...]:
    """One sample for each entry, with what reading it found."""
    return tuple(
        Sample(e.path, e.label, s, r.sha256, r.verdict, r.pixels, r.height, r.width, r.channels, r.notes)
        for e, r, s in zip(entries, records, splits, strict=True)
    )


def _named(entries: Sequence[Entry], records: Sequence[Record]) -> tuple[int, str]:
    """How many are unreadable, and the first of them with reasons."""
    bad = [
        f"{shown(entry.path)} ({record.verdict})"
        for entry, record in zip(entries, records, strict=True)
        if record.verdict != OK
    ]
    more = f", and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    return len(bad), ", ".join(bad[:LISTED]) + more


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _check(source: Source) -> str:
    return f"convworks check {shlex.quote(source.location)}"


# Training


def _require_readable(source: Source, records: Sequence[Record]) -> None:
    """D144: no readable image; D141: more than may be left out; D142: less than two left in a class."""
    count, names = _named(source.entries, records)
    if count == len(records):
        what = f"no image of {shown(source.location)} can be read"
        raise ConvworksError("D144", what, where=names or source.layout, try_=_check(source))
    if count > max(1, int(MOST_LEFT_OUT * len(records))):
        share = 100 * count / len(records)
        raise ConvworksError(
            "D141",
            f"{count:,} of {len(records):,} images cannot be read ({share:.2g} %)",
            where=names,
            why="up to 1 % is left out and listed; more means that something is wrong with the data",
            try_=_check(source),
        )
    before = Counter(entry.label for entry in source.entries)
    after = Counter(
        entry.label for entry, record in zip(source.entries, records, strict=True) if record.verdict == OK
    )
    for label, total in before.items():
        left = after[label]
        if left < min(2, total):
            raise ConvworksError(
                "D142",
                f"class '{shown(label or '')}' keeps {left} of {_images(total)}: the rest is unreadable",
                where=names,
                why="a class needs at least two images, one to train on and one to validate with",
                try_=_check(source),
            )


# Evaluation


def _chosen(source: Source, split: str | None) -> tuple[list[int], str]:
    """Indices of the entries to evaluate, and the rule in words."""
    present = [name for name in SPLITS if any(entry.split == name for entry in source.entries)]
    if split is None:
        split = next((name for name in ("test", "val") if name in present), "all")
    if split == "all":
        return list(range(len(source.entries))), "all images"
    if split not in present:
        raise ConvworksError(
            "D202",
            f"{shown(source.location)} has no split '{split}'",
            where=f"it has {', '.join(present)}" if present else f"it has no splits: {source.layout}",
            try_=_evaluate(source, f"--split {present[-1] if present else 'all'}"),
        )
    indices = [i for i, entry in enumerate(source.entries) if entry.split == split]
    return indices, f"the {split} split as given"


def _require_known(source: Source, entries: Sequence[Entry], classes: Sequence[str]) -> None:
    if not entries:
        raise _nothing(source, source.layout)
    counts: Counter[str] = Counter()
    for entry in entries:
        if entry.label is None:
            raise _no_label(entry, code="D204")
        counts[entry.label] += 1
    unseen = {label: count for label, count in counts.items() if label not in classes}
    if not unseen:
        return
    if unseen.keys() == counts.keys():
        raise ConvworksError(
            "D201",
            f"{shown(source.location)} and the model have no class in common",
            where=f"model classes: {listed(classes)}; here: {listed(list(counts))}",
            why="these are other data than the model was made for, or another model",
            try_="convworks list runs",
        )
    names = ", ".join(f"'{shown(label)}' ({_images(count)})" for label, count in unseen.items())
    kind = "a class" if len(unseen) == 1 else f"{len(unseen)} classes"
    missing = [name for name in classes if name not in counts]
    there = f"{'is' if len(missing) == 1 else 'are'} missing in {shown(source.location)}"
    absent = f" ({listed(missing)} {there}: fine, scored as absent)" if missing else ""
    raise ConvworksError(
        "D201",
        f"{shown(source.location)} has {kind} the model never saw: {names}",
        where=f"model classes: {', '.join(map(shown, classes))}{absent}",
        why="the model has no answer for it, so each of these images would count as wrong",
        try_=_evaluate(source, " ".join(f"--ignore-classes {shlex.quote(shown(name))}" for name in unseen)),
    )


def _require_all(source: Source, entries: Sequence[Entry], records: Sequence[Record]) -> None:
    count, names = _named(entries, records)
    if count:
        raise ConvworksError(
            "D149",
            f"{count:,} of {len(records):,} images of {shown(source.location)} cannot be read",
            where=names,
            why="leaving them out unseen would change what is measured",
            try_=_evaluate(source, "--skip-unreadable"),
        )


def _evaluate(source: Source, option: str) -> str:
    return f"convworks eval RUN {shlex.quote(source.location)} {option}"


def _nothing(source: Source, why: str) -> ConvworksError:
    return ConvworksError(
        "D203", f"{shown(source.location)} has no image to evaluate", where=why, try_=_check(source)
    )


def _no_label(entry: Entry, *, code: str) -> ConvworksError:
    return ConvworksError(
        code,
        f"'{shown(entry.path)}' has no label",
        why="training and evaluation need the class of every image",
        try_="--labels labels.csv",
    )
