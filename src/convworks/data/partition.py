"""Other ways to part the images of a source than one split: folds, bags and fractions.

A partition is a value that travels with the request for the data and is kept in the run's record, so that a
run that is resumed parts the images in the same way. The test split, where the source has one, is never
touched. Copies of one picture stay together, classes keep their shares, and every draw follows from the seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convworks import randomness
from convworks.data.cache import Record
from convworks.data.manifest import OK, Manifest, Sample, by_path
from convworks.data.sources import Entry, shown
from convworks.data.splits import assign_splits
from convworks.errors import ConvworksError


@dataclass(frozen=True, slots=True)
class Partition:
    """What is trained on and what validates; without a value, the one split of `assign_splits`.

    seed: of the split, where it is not the recipe's; members of a committee share it.
    fold: (number from 0, how many): that fold validates, the others are trained on.
    bag: the images to train on are drawn with replacement, and those that are never drawn validate.
    fraction: share of the training images that is used; the rest belongs to no split.
    """

    seed: int | None = None
    fold: tuple[int, int] | None = None
    bag: int | None = None
    fraction: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the splits are those of `assign_splits`, with whatever seed."""
        return self.fold is None and self.bag is None and self.fraction is None

    def to_dict(self) -> dict[str, Any]:
        """The values that are set, as JSON."""
        tree = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}


WHOLE = Partition()


def partition_from_dict(tree: Any) -> Partition:
    """The partition of a run's record. Raises ValueError or TypeError in words where it is none."""
    if not isinstance(tree, dict):
        raise ValueError("partition is not a table")
    values = dict(tree)
    if "fold" in values:
        number, of = values["fold"]
        values["fold"] = (number, of)
        if type(number) is not int or type(of) is not int or not 0 <= number < of:
            raise ValueError(f"there is no fold {number} of {of}")
    found = Partition(**values)
    if any(type(each) is not int or each < 0 for each in (found.seed, found.bag) if each is not None):
        raise ValueError("a seed or a bag is a whole number")
    if found.fraction is not None and not (isinstance(found.fraction, float) and 0 < found.fraction <= 1):
        raise ValueError(f"a fraction lies between 0 and 1, not {found.fraction}")
    return found


def assign(
    given: Sequence[str | None],
    labels: Sequence[str],
    groups: Sequence[Hashable],
    *,
    seed: int,
    val_fraction: float,
    partition: Partition = WHOLE,
) -> tuple[list[str], str]:
    """The split of every sample, "" for those that are not used, and the rule in words.

    Images that share a group are copies of one picture. Raises the errors of `assign_splits`, D214 for a
    class with too few pictures for folds or bags, and D215 where every image is drawn into a bag.
    """
    if partition.plain:
        return assign_splits(given, labels, groups, seed=seed, val_fraction=val_fraction)
    if partition.fraction is not None:
        splits, rule = assign_splits(given, labels, groups, seed=seed, val_fraction=val_fraction)
        return _thinned(splits, labels, groups, partition.fraction, seed), (
            f"{100 * partition.fraction:g} % of the training images; {rule}"
        )
    pool = [index for index, split in enumerate(given) if split != "test"]
    ours, theirs = [labels[i] for i in pool], [groups[i] for i in pool]
    _require_pictures(ours, theirs)
    if partition.fold is not None:
        number, of = partition.fold
        held = [fold == number for fold in folds(ours, theirs, count=of, seed=seed)]
        rule = f"fold {number + 1} of {of} validates, stratified, seed {seed}"
    else:
        assert partition.bag is not None
        held = [n == 0 for n in bag_counts(ours, theirs, seed=seed, bag=partition.bag)]
        rule = f"bag {partition.bag + 1}: drawn with replacement, the others validate, seed {seed}"
        if not any(held):
            raise ConvworksError(
                "D215",
                f"each of {len(pool)} images is in bag {partition.bag + 1}, so none is left to validate with",
                try_="convworks train DATA --folds 2",
            )
    splits = ["test"] * len(given)
    for index, validates in zip(pool, held, strict=True):
        splits[index] = "val" if validates else "train"
    return splits, rule if len(pool) == len(given) else f"test as given, {rule}"


def folds(labels: Sequence[str], groups: Sequence[Hashable], *, count: int, seed: int) -> list[int]:
    """The fold of each sample, from 0 to count - 1: whole groups, each class spread as evenly as they allow.

    Rare classes come first; a group goes where its class has fewest images, then where fewest are at all.
    """
    members = _members(groups)
    place: dict[Hashable, int] = {}
    held: Counter[tuple[int, str]] = Counter()
    sizes: Counter[int] = Counter()
    by_class: dict[str, list[Hashable]] = {}
    for group, inside in members.items():
        for label in dict.fromkeys(labels[i] for i in inside):
            by_class.setdefault(label, []).append(group)
    for label in sorted(by_class, key=lambda name: (len(by_class[name]), name)):
        for group in _shuffled(by_class[label], f"fold/{_purpose(label)}", seed):
            if group in place:
                continue
            fold = min(range(count), key=lambda f: (held[f, label], sizes[f], f))
            place[group] = fold
            for index in members[group]:
                held[fold, labels[index]] += 1
            sizes[fold] += len(members[group])
    return [place[group] for group in groups]


def bag_counts(labels: Sequence[str], groups: Sequence[Hashable], *, seed: int, bag: int) -> list[int]:
    """How often each sample stands in a bag: within each class as many groups are drawn as there are.

    About e^-1 = 37 % of the groups are not drawn (Breiman 1996, "Bagging predictors").
    """
    members = _members(groups)
    by_class: dict[str, list[Hashable]] = {}
    for group, inside in members.items():
        by_class.setdefault(labels[inside[0]], []).append(group)
    times: Counter[Hashable] = Counter()
    for label, candidates in by_class.items():
        n = len(candidates)
        drawn = randomness.words(seed, f"bag/{bag}/{_purpose(label)}", 0, np.arange(n, dtype=np.int64), 1)
        for place in ((drawn[:, 0] * np.uint64(n)) >> np.uint64(32)).tolist():
            times[candidates[place]] += 1
    return [times[group] for group in groups]


def times_drawn(samples: Sequence[Sample], *, bag: int, seed: int) -> NDArray[np.int64]:
    """(N,) how often each readable sample is trained on in a bag: once outside of it, as in the test split.

    Raises D216 where the splits of the samples are not those of these draws.
    """
    pool = [row for row, sample in enumerate(samples) if sample.split != "test"]
    labels, pictures = [samples[i].label or "" for i in pool], [samples[i].pixels for i in pool]
    counts = np.ones(len(samples), dtype=np.int64)
    counts[pool] = bag_counts(labels, pictures, seed=seed, bag=bag)
    if any((counts[row] > 0) != (samples[row].split == "train") for row in pool):
        raise ConvworksError(
            "D216",
            "the images that this bag was drawn from have changed since the run began",
            why="the draws follow from all of them: others would give another bag",
            try_="train again with --fresh",
        )
    return counts


def _thinned(
    splits: Sequence[str], labels: Sequence[str], groups: Sequence[Hashable], fraction: float, seed: int
) -> list[str]:
    """The first groups of each class in an order that does not depend on the fraction: sets are nested."""
    train = [index for index, split in enumerate(splits) if split == "train"]
    members = _members([groups[index] for index in train])
    by_class: dict[str, list[Hashable]] = {}
    for group, inside in members.items():
        by_class.setdefault(labels[train[inside[0]]], []).append(group)
    kept: set[Hashable] = set()
    for label, candidates in by_class.items():
        wanted = max(1, int(fraction * sum(len(members[group]) for group in candidates) + 0.5))
        taken = 0
        for group in _shuffled(candidates, f"fraction/{_purpose(label)}", seed):
            if taken >= wanted:
                break
            kept.add(group)
            taken += len(members[group])
    chosen = {train[i] for group in kept for i in members[group]}
    return [split if split != "train" or i in chosen else "" for i, split in enumerate(splits)]


def _members(groups: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group, []).append(index)
    return found


def _shuffled(items: Sequence[Hashable], purpose: str, seed: int) -> list[Hashable]:
    return [items[i] for i in randomness.permutation(seed, purpose, 0, len(items)).tolist()]


def _purpose(label: str) -> str:
    return hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()


def _require_pictures(labels: Sequence[str], groups: Sequence[Hashable]) -> None:
    """Raises D214 for a class with one picture: it would be either trained on or validated, never both."""
    pictures: dict[str, set[Hashable]] = {}
    for label, group in zip(labels, groups, strict=True):
        pictures.setdefault(label, set()).add(group)
    poor = [label for label, found in pictures.items() if len(found) < 2]
    if poor:
        raise ConvworksError(
            "D214",
            f"class '{shown(poor[0])}' has one picture, too few for folds or bags"
            + (f" (and {len(poor) - 1} more classes)" if len(poor) > 1 else ""),
            why="each part needs pictures to train on that it does not validate with",
            try_=f"add pictures of '{shown(poor[0])}', or move the class out of the data",
        )


# The splits of a source


def new_splits(
    entries: Sequence[Entry],
    records: Sequence[Record] | None,
    seed: int,
    val_fraction: float,
    partition: Partition,
    without_records: tuple[list[str], str] | None = None,
) -> tuple[list[str], str]:
    """The split of every entry, "" for the unreadable ones of a source without splits; and the rule.

    Without records all images are taken to be readable and different. What that gave is the answer where they
    are, so that nothing is placed twice.
    """
    if records is None and partition.bag is not None:
        partition = WHOLE  # a bag's draws depend on which pictures are copies
    if records is not None and without_records is not None and partition.bag is None and _all_differ(records):
        return without_records
    ready = [i for i in range(len(entries)) if records is None or records[i].verdict == OK]
    assigned, rule = assign(
        [entries[index].split for index in ready],
        [entries[index].label or "" for index in ready],
        [index if records is None else records[index].pixels for index in ready],
        seed=seed,
        val_fraction=val_fraction,
        partition=partition,
    )
    splits: list[str] = [entry.split or "" for entry in entries]
    for index, split in zip(ready, assigned, strict=True):
        splits[index] = split
    return splits, rule


def with_new_ones(splits: Sequence[str], records: Sequence[Record]) -> list[str]:
    """Readable images that the earlier run did not know are trained on."""
    new = ["train" if record.verdict == OK else "" for record in records]
    return [split or other for split, other in zip(splits, new, strict=True)]


def splits_as_before(expected: Manifest, entries: Sequence[Entry], partition: Partition) -> list[str]:
    """The splits of an earlier run, by path; where the source now contradicts one, what the source says.

    A run with folds or bags parted train and val in its own way: the source contradicts a test split only.
    """
    before = by_path(expected.samples)
    splits = []
    for key, entry in by_path(entries).items():
        was = before[key].split if key in before else (entry.split or "")
        drawn = was == "val" and entry.split == "train"  # val was taken from train
        drawn |= not partition.plain and key in before and "test" not in (was, entry.split)
        splits.append(was if entry.split in (None, was) or drawn else entry.split)
    return splits


def _all_differ(records: Sequence[Record]) -> bool:
    """Whether all images are readable, and none is a copy of another."""
    pictures = {record.pixels for record in records if record.verdict == OK}
    return len(pictures) == len(records)
