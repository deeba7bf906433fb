"""Folds, bags and fractions: complete, stratified, without leaks, and the same again after a resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convworks.data.cache import Record
from convworks.data.dataset import Dataset, build_dataset
from convworks.data.manifest import OK
from convworks.data.partition import (
    WHOLE,
    Partition,
    assign,
    bag_counts,
    folds,
    new_splits,
    partition_from_dict,
)
from convworks.data.preprocess import Geometry
from convworks.data.sources import Entry, Split, open_source
from convworks.errors import ConvworksError

PICTURES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), min_size=12, max_size=80)


def parted(pictures: list[tuple[str, int]]) -> tuple[list[str], list[object]]:
    """Labels and groups; a picture belongs to one class here, and some come several times."""
    return [label for label, _ in pictures], [(label, number) for label, number in pictures]


@given(PICTURES, st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_folds_are_a_partition_that_keeps_copies_together(pictures: list, count: int, seed: int) -> None:
    labels, groups = parted(pictures)
    found = folds(labels, groups, count=count, seed=seed)
    assert set(found) <= set(range(count))
    place: dict[object, int] = {}
    for group, fold in zip(groups, found, strict=True):
        assert place.setdefault(group, fold) == fold
    assert found == folds(labels, groups, count=count, seed=seed)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_folds_of_single_pictures_are_even_in_every_class(count: int) -> None:
    labels = ["a"] * 53 + ["b"] * 20 + ["c"] * 11
    found = folds(labels, range(len(labels)), count=count, seed=1)
    for label in "abc":
        sizes = Counter(f for f, own in zip(found, labels, strict=True) if own == label)
        each = [sizes[f] for f in range(count)]
        assert max(each) - min(each) <= 1
    assert found != folds(labels, range(len(labels)), count=count, seed=2)


def test_each_image_validates_once_and_the_test_split_is_untouched() -> None:
    labels = ["a", "b"] * 30
    given_ = [None] * 50 + ["test"] * 10
    held: Counter[int] = Counter()
    for number in range(5):
        splits, rule = assign(
            given_, labels, range(60), seed=0, val_fraction=0.2, partition=Partition(fold=(number, 5))
        )
        assert rule == f"test as given, fold {number + 1} of 5 validates, stratified, seed 0"
        assert splits[50:] == ["test"] * 10
        held.update(i for i, split in enumerate(splits) if split == "val")
    assert held == Counter(range(50))


def test_a_given_validation_split_joins_the_folds() -> None:
    labels = ["a", "b"] * 20
    splits, _ = assign(
        ["train"] * 30 + ["val"] * 10,
        labels,
        range(40),
        seed=0,
        val_fraction=0.2,
        partition=Partition(fold=(0, 4)),
    )
    assert Counter(splits) == {"train": 30, "val": 10}
    assert "train" in splits[30:]


@given(PICTURES, st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_bag_draws_as_many_groups_as_there_are(pictures: list, seed: int) -> None:
    labels, groups = parted(pictures)
    counts = bag_counts(labels, groups, seed=seed, bag=0)
    by_group = dict(zip(groups, counts, strict=True))
    for label in set(labels):
        own = [n for (name, _), n in by_group.items() if name == label]
        assert sum(own) == len(own)
    assert all(by_group[group] == n for group, n in zip(groups, counts, strict=True))


def test_a_bag_leaves_out_37_percent() -> None:
    labels = ["a", "b"] * 2_000
    counts = np.array(bag_counts(labels, range(4_000), seed=0, bag=3))
    assert counts.sum() == 4_000
    assert np.mean(counts == 0) == pytest.approx(np.exp(-1), abs=0.02)
    assert np.mean(counts == 2) == pytest.approx(np.exp(-1) / 2, abs=0.02)
    others = np.array(bag_counts(labels, range(4_000), seed=0, bag=4))
    assert np.mean(counts == others) < 0.5


def test_fractions_are_nested_and_keep_every_class() -> None:
    labels = ["a"] * 90 + ["b"] * 30 + ["c"] * 6
    kept: list[set[int]] = []
    val: list[set[int]] = []
    for fraction in (0.1, 0.25, 0.5, 1.0):
        splits, rule = assign(
            [None] * 126, labels, range(126), seed=2, val_fraction=0.2, partition=Partition(fraction=fraction)
        )
        assert rule.startswith(f"{100 * fraction:g} % of the training images; 80/20")
        kept.append({i for i, split in enumerate(splits) if split == "train"})
        val.append({i for i, split in enumerate(splits) if split == "val"})
        counts = Counter(labels[i] for i in kept[-1])
        assert counts["a"] == max(1, round(fraction * 72))
        assert min(counts[label] for label in "abc") >= 1
    assert all(one < two for one, two in pairwise(kept))
    assert all(each == val[0] for each in val)


def test_too_few_pictures() -> None:
    with pytest.raises(ConvworksError, match="class 'b' has one picture") as problem:
        assign(
            [None] * 5, list("aaaab"), range(5), seed=0, val_fraction=0.2, partition=Partition(fold=(0, 2))
        )
    assert problem.value.code == "D214"
    seed = next(s for s in range(50) if all(bag_counts(list("aabb"), range(4), seed=s, bag=0)))
    with pytest.raises(ConvworksError, match="none is left to validate with") as problem:
        assign([None] * 4, list("aabb"), range(4), seed=seed, val_fraction=0.2, partition=Partition(bag=0))
    assert problem.value.code == "D215"


@pytest.mark.parametrize(
    "partition",
    [WHOLE, Partition(seed=3), Partition(fold=(1, 5)), Partition(seed=0, bag=2), Partition(fraction=0.5)],
)
def test_a_partition_travels(partition: Partition) -> None:
    assert partition_from_dict(partition.to_dict()) == partition


@pytest.mark.parametrize(
    "tree",
    [
        3,
        {"fold": [5, 5]},
        {"fold": [0]},
        {"bag": -1},
        {"fraction": 0},
        {"fraction": 1.5},
        {"seed": "x"},
        {"x": 1},
    ],
)
def test_a_damaged_partition(tree: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        partition_from_dict(tree)


GEOMETRY = Geometry(8, 8, 3, "crop", 8, 8)


def folder(path: Path, *, each: int = 12, copies: bool = False) -> Path:
    for label in ("a", "b"):
        for i in range(each):
            target = path / label / f"{i}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([ord(label), i // 2 if copies else i]).integers(0, 255, (8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(target)
    return path


def built(path: Path, partition: Partition, **options: object) -> Dataset:
    with open_source(str(path), cache=None) as source:
        return build_dataset(source, geometry=GEOMETRY, seed=0, cache=None, partition=partition, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("partition", [Partition(fold=(0, 3)), Partition(bag=1), Partition(fraction=0.5)])
def test_a_resumed_run_parts_the_images_in_the_same_way(tmp_path: Path, partition: Partition) -> None:
    path = folder(tmp_path / "photos", copies=True)
    first = built(path, partition)
    again = built(path, partition, expected=first.manifest)
    assert again.manifest.sha256 == first.manifest.sha256
    for split in ("train", "val", ""):
        np.testing.assert_array_equal(first.split_rows(split), again.split_rows(split))
    pictures = {split: set() for split in ("train", "val")}  # type: ignore[var-annotated]
    for sample in first.manifest.samples:
        if sample.split in pictures:
            pictures[sample.split].add(sample.pixels)
    assert not pictures["train"] & pictures["val"]


def test_folds_over_given_splits_resume_too(tmp_path: Path) -> None:
    """The source says train and val, the run says otherwise, and the run is right."""
    for split, each in (("train", 10), ("val", 4), ("test", 3)):
        folder(tmp_path / "photos" / split, each=each)
    for n, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(file)
    for partition in (Partition(fold=(1, 4)), Partition(bag=0), Partition(fraction=0.4)):
        first = built(tmp_path / "photos", partition)
        again = built(tmp_path / "photos", partition, expected=first.manifest)
        assert again.manifest.sha256 == first.manifest.sha256
        assert len(first.split_rows("test")) == 6


def test_a_bags_rows_come_as_often_as_drawn(tmp_path: Path) -> None:
    path = folder(tmp_path / "photos", each=20)
    data = built(path, Partition(bag=0))
    train, val = data.split_rows("train"), data.split_rows("val")
    assert data.counts is not None
    assert len(train) == 40  # stratified: as many as there are
    assert len(set(train.tolist())) + len(val) == 40
    assert not set(train.tolist()) & set(val.tolist())


def test_a_bag_of_changed_images_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "photos", each=20)
    first = built(path, Partition(bag=0))
    new = np.random.default_rng(99).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    for i in range(5):
        Image.fromarray(new + i).save(path / "a" / f"{i}.png")
        (path / "b" / f"{i}.png").unlink()
    with pytest.raises(ConvworksError, match="have changed since") as problem:
        built(path, Partition(bag=0), expected=first.manifest, accept_changes=True)
    assert problem.value.code == "D216"


# What is known before anything is read


PARTITIONS = (
    WHOLE,
    Partition(seed=3),
    Partition(fold=(1, 3)),
    Partition(fraction=0.4),
    Partition(bag=2),
)


def _record(pixels: str, verdict: str = OK) -> Record:
    return Record("", verdict, pixels, 8, 8, 1, ())


def _entries(named: Sequence[Split | None]) -> list[Entry]:
    return [Entry(f"{i}.png", "ab"[i % 2], named[i % len(named)]) for i in range(60)]


@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
@pytest.mark.parametrize("named", [(None,), ("train", "train", "test"), ("train", "val", "train")], ids=str)
def test_splits_drawn_before_reading_are_kept_where_all_pictures_differ(
    partition: Partition, named: Sequence[Split | None]
) -> None:
    entries, records = _entries(named), [_record(f"{i:x}") for i in range(60)]
    before = new_splits(entries, None, 7, 0.2, partition)
    afresh = new_splits(entries, records, 7, 0.2, partition)
    again = new_splits(entries, records, 7, 0.2, partition, before)
    assert again == afresh
    assert (again is before) is (partition.bag is None)  # a bag draws among pictures


@pytest.mark.parametrize("partition", PARTITIONS, ids=str)
def test_they_are_drawn_again_where_two_are_one_picture_or_one_is_unreadable(partition: Partition) -> None:
    entries, records = _entries((None,)), [_record(f"{i:x}") for i in range(60)]
    before = new_splits(entries, None, 7, 0.2, partition)
    for index, other in ((2, records[40]), (5, _record("", "truncated"))):
        changed = [*records[:index], other, *records[index + 1 :]]
        afresh = new_splits(entries, changed, 7, 0.2, partition)
        assert new_splits(entries, changed, 7, 0.2, partition, before) == afresh
    assert afresh[0][5] == "" != before[0][5]
