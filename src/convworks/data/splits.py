"""Which image goes into which split, and which pictures occur more than once.

A split is stratified by class, drawn from the seed alone, and never parts two copies of one picture: copies
have the same hash of decoded pixels and form a group, and groups are placed as a whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from convworks import randomness
from convworks.data.manifest import OK, SPLITS, Sample
from convworks.data.sources import listed, shown
from convworks.errors import ConvworksError

PAIRS_SHOWN = 5


@dataclass(slots=True)
class _Board:
    """Where each group stands, and how many images of each class stand in each part."""

    sizes: list[Mapping[str, int]]  # of each group: images by class; more than one where labels conflict
    by_class: dict[str, list[int]]  # groups that hold an image of the class, in source order
    place: list[str]  # part of each group; "" for none yet
    held: Counter[tuple[str, str]] = field(default_factory=Counter)  # (part, class) -> images

    def put(self, group: int, part: str) -> None:
        before, self.place[group] = self.place[group], part
        for label, size in self.sizes[group].items():
            self.held[part, label] += size
            if before:
                self.held[before, label] -= size

    def put_single(self, groups: Sequence[int], label: str, part: str) -> None:
        """The same for many groups of one image of that class each, which stand nowhere yet."""
        for group in groups:
            self.place[group] = part
        self.held[part, label] += len(groups)

    def can_leave(self, group: int) -> bool:
        """Whether every class of the group keeps an image in the part that the group stands in."""
        part = self.place[group]
        return all(self.held[part, label] > size for label, size in self.sizes[group].items())


def split_samples(
    labels: Sequence[str], groups: Sequence[Hashable], *, fractions: Mapping[str, float], seed: int
) -> list[str]:
    """The part of each sample: a key of `fractions`, or "train" for the rest.

    Every class has at least one image in every part. Within a class the order is a permutation that depends
    on the seed and the name of the class only. Raises D143 for a class with too few different pictures and
    U150 for a fraction that leaves nothing.
    """
    if not (0 < sum(fractions.values()) < 1 and all(value > 0 for value in fractions.values())):
        given = ", ".join(f"{part} {value:g}" for part, value in fractions.items())
        raise ConvworksError(
            "U150",
            f"cannot split by these fractions: {given}",
            why="each must be above 0 and together they must leave a part of 1 for training",
            try_="--set val_fraction=0.2",
        )
    numbers: dict[Hashable, int] = {}
    numbered = [numbers.setdefault(group, len(numbers)) for group in groups]
    board = _board(labels, numbered)
    _require_enough(board, parts=len(fractions) + 1)
    for label in sorted(board.by_class, key=lambda name: (len(board.by_class[name]), name)):
        _place_class(board, label, fractions=fractions, seed=seed)
    for label in board.by_class:
        for part in (*fractions, "train"):
            _ensure_one(board, label, part)
    return [board.place[number] for number in numbered]


def _board(labels: Sequence[str], numbered: Sequence[int]) -> _Board:
    """`numbered` is the group of each sample, numbers in the order of their first appearance."""
    one = {label: {label: 1} for label in set(labels)}  # shared by all groups of one image
    sizes: list[Mapping[str, int]] = []
    for label, number in zip(labels, numbered, strict=True):
        if number == len(sizes):
            sizes.append(one[label])
        else:
            sizes[number] = {**sizes[number], label: sizes[number].get(label, 0) + 1}
    by_class: dict[str, list[int]] = {label: [] for label in dict.fromkeys(labels)}
    for number, found in enumerate(sizes):
        for label in found:
            by_class[label].append(number)
    return _Board(sizes=sizes, by_class=by_class, place=[""] * len(sizes))


def _place_class(board: _Board, label: str, *, fractions: Mapping[str, float], seed: int) -> None:
    """Fill the parts from the groups of one class that no earlier class has placed; the rest is train."""
    groups = board.by_class[label]
    total = sum(board.sizes[group][label] for group in groups)
    purpose = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()
    order = randomness.permutation(seed, f"split/{purpose}", 0, len(groups)).tolist()
    free = [groups[i] for i in order if not board.place[groups[i]]]
    one = {label: 1}
    single = all(board.sizes[group] == one for group in free)  # nearly always
    for part, fraction in fractions.items():
        room = max(1, int(fraction * total + 0.5)) - board.held[part, label]
        if single:
            room = max(0, room)
            board.put_single(free[:room], label, part)
            free = free[room:]
            continue
        kept = []
        for group in free:
            size = board.sizes[group][label]
            if size <= room:
                board.put(group, part)
                room -= size
            else:
                kept.append(group)
        free = kept
    if single:
        board.put_single(free, label, "train")
    else:
        for group in free:
            board.put(group, "train")


def _ensure_one(board: _Board, label: str, part: str) -> None:
    """Give `part` the smallest group of the class that can be spared, where it has none of the class.

    With as many groups as parts there always is one, unless pictures are shared with other classes.
    """
    if board.held[part, label]:
        return
    for group in sorted(board.by_class[label], key=lambda group: board.sizes[group][label]):
        if board.can_leave(group):
            board.put(group, part)
            return
    raise ConvworksError(
        "D143",
        f"class '{shown(label)}' cannot be split: its pictures also stand in other classes",
        why="copies of one picture stay in one split, and each split needs an image of every class",
        try_=f"leave only one label for each picture of '{shown(label)}'",
    )


def _require_enough(board: _Board, *, parts: int) -> None:
    poor = {}
    for label, groups in board.by_class.items():
        if len(groups) < parts:
            images = sum(board.sizes[group][label] for group in groups)
            copies = f" of {len(groups)} different picture{'s' * (len(groups) > 1)}" * (images > len(groups))
            poor[label] = f"'{shown(label)}' has {images} image{'s' * (images > 1)}{copies}"
    if not poor:
        return
    label, text = next(iter(poor.items()))
    more = f" (and {len(poor) - 1} more classes have too few)" if len(poor) > 1 else ""
    raise ConvworksError(
        "D143",
        f"class {text}: too few to split{more}",
        where="; ".join(list(poor.values())[:PAIRS_SHOWN]) if more else "",
        why=f"each of the {parts} splits needs a picture of every class that the others do not have",
        try_=f"add pictures of '{shown(label)}', or move the class out of the data",
    )


def assign_splits(
    given: Sequence[str | None],
    labels: Sequence[str],
    groups: Sequence[Hashable],
    *,
    seed: int,
    val_fraction: float,
) -> tuple[list[str], str]:
    """The split of every sample, and the rule in words.

    Splits that the source names are kept. Without any, `val_fraction` of the images become val. Beside a
    test split, half of that share of the training images does: 80/20 without, 90/10 with a test split.
    Images without a split beside images with one count as train. Raises D146 where there is nothing to train
    on, D147 for a class without training images, and the errors of `split_samples`.
    """
    named = {split for split in given if split is not None}
    assert named <= set(SPLITS), named
    if named and "train" not in named and None not in given:
        only = " and ".join(sorted(named))
        raise ConvworksError(
            "D146",
            f"there are {only} images, but none to train on",
            why="a model is fitted on the train split only",
            try_="name the folder with the training images 'train'",
        )
    splits = [split or "train" for split in given]
    if "val" in named:
        _require_training(splits, labels)
        return splits, " and ".join(split for split in SPLITS if split in named | {"train"}) + " as given"
    fraction = val_fraction / 2 if "test" in named else val_fraction
    train = [index for index, split in enumerate(splits) if split == "train"]
    _require_training(splits, labels)
    parts = split_samples(
        [labels[i] for i in train], [groups[i] for i in train], fractions={"val": fraction}, seed=seed
    )
    for index, part in zip(train, parts, strict=True):
        splits[index] = part
    shares = f"{100 * (1 - fraction):g}/{100 * fraction:g} train/val"
    of = " of the train images" if named else ""
    kept = "test as given, " if "test" in named else ""
    return splits, f"{kept}{shares}{of}, stratified, seed {seed}"


def _require_training(splits: Sequence[str], labels: Sequence[str]) -> None:
    trained = {label for split, label in zip(splits, labels, strict=True) if split == "train"}
    missing = [label for label in dict.fromkeys(labels) if label not in trained]
    if not missing:
        return
    raise ConvworksError(
        "D147",
        f"no training image of {'class' if len(missing) == 1 else 'classes'} {listed(missing)}",
        where=f"{len(missing)} of {len(set(labels))} classes stand only in the other splits",
        why="the network would never see the class that it is measured on",
        try_=f"add images of '{shown(missing[0])}' to the train split",
    )


# The same picture more than once


def duplicate_groups(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of samples that are one picture, pixel for pixel, in groups of two and more."""
    first: dict[str, int] = {}
    groups: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        if sample.verdict == OK and (earlier := first.setdefault(sample.pixels, index)) != index:
            groups.setdefault(earlier, [earlier]).append(index)
    return list(groups.values())


def label_conflicts(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs of indices: one picture under two labels, each pair of labels once for each picture."""
    return _conflicts(samples, duplicate_groups(samples))


def leaks(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Pairs of indices: one picture in two splits, each pair of splits once for each picture."""
    return _leaks(samples, duplicate_groups(samples))


def _conflicts(samples: Sequence[Sample], groups: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    return _pairs(samples, groups, lambda sample: sample.label or "")


def _leaks(samples: Sequence[Sample], groups: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    return _pairs(samples, groups, lambda sample: sample.split)


def _pairs(
    samples: Sequence[Sample], groups: Iterable[Sequence[int]], value: Callable[[Sample], str]
) -> list[tuple[int, int]]:
    found = []
    for group in groups:
        first: dict[str, int] = {}
        for index in group:
            first.setdefault(value(samples[index]), index)
        found += list(combinations(first.values(), 2))
    return found


def split_warnings(samples: Sequence[Sample]) -> list[str]:
    """Classes that a split does not have."""
    found = []
    labels = dict.fromkeys(sample.label or "" for sample in samples)
    for split in SPLITS:
        has = {sample.label for sample in samples if sample.split == split and sample.verdict == OK}
        missing = [label for label in labels if label not in has]
        if has and missing:
            found.append(f"no {split} image of class {listed(missing)}")
    return found


def picture_warnings(samples: Sequence[Sample]) -> list[str]:
    """What a reader of the results must know about copies: leaks between splits and conflicting labels."""
    found, groups = [], duplicate_groups(samples)
    if pairs := _conflicts(samples, groups):
        found.append(f"same picture, two labels: {_listed(samples, pairs)}")
    if pairs := _leaks(samples, groups):
        found.append(f"leak: the same picture in two splits: {_listed(samples, pairs)}")
    return found


def _listed(samples: Sequence[Sample], pairs: Iterable[tuple[int, int]]) -> str:
    texts = [f"{shown(samples[one].path)} = {shown(samples[two].path)}" for one, two in pairs]
    more = f", ... ({len(texts)} pairs)" if len(texts) > PAIRS_SHOWN else ""
    return ", ".join(texts[:PAIRS_SHOWN]) + more
