"""Splits: stratified, seeded, never between two copies of one picture, and every class in every part."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.data.splits import (
    assign_splits,
    duplicate_groups,
    label_conflicts,
    leaks,
    picture_warnings,
    split_samples,
    split_warnings,
)
from convworks.errors import ConvworksError
from tests.data.test_manifest import sample


@st.composite
def classes_of_groups(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Labels and groups, mixed in order: each class has two and more groups of one to four copies."""
    pairs = []
    for label in range(draw(st.integers(1, 5))):
        for group in range(draw(st.integers(2, 30))):
            pairs += [(f"class {label}", f"{label}-{group}")] * draw(st.sampled_from([1, 1, 1, 2, 4]))
    pairs = draw(st.permutations(pairs))
    return [label for label, _ in pairs], [group for _, group in pairs]


@settings(max_examples=150, deadline=None)
@given(data=classes_of_groups(), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**63))
def test_every_class_in_every_part_and_no_group_in_two(
    data: tuple[list[str], list[str]], fraction: float, seed: int
) -> None:
    labels, groups = data
    parts = split_samples(labels, groups, fractions={"val": fraction}, seed=seed)
    assert len(parts) == len(labels)
    assert {*zip(labels, parts, strict=True)} == {(c, p) for c in set(labels) for p in ("train", "val")}
    assert len({*zip(groups, parts, strict=True)}) == len(set(groups))
    sizes, count = Counter(groups), Counter(labels)
    held = Counter(label for label, part in zip(labels, parts, strict=True) if part == "val")
    for label, total in count.items():
        largest = max(sizes[group] for group, of in zip(groups, labels, strict=True) if of == label)
        target = max(1, int(fraction * total + 0.5))
        assert held[label] <= max(target, largest)  # more only where every group is larger than the target
        # Short of the target by less than a group, or one group was kept for training.
        assert held[label] > target - largest or held[label] >= total - 2 * largest
    assert parts == split_samples(labels, groups, fractions={"val": fraction}, seed=seed)


@settings(max_examples=150, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=2, max_size=60),
    seed=st.integers(0, 9),
)
def test_pictures_under_several_labels_stay_together(pairs: list[tuple[str, int]], seed: int) -> None:
    labels, groups = [label for label, _ in pairs], [group for _, group in pairs]
    try:
        parts = split_samples(labels, groups, fractions={"val": 0.3}, seed=seed)
    except ConvworksError as problem:
        assert problem.code == "D143"  # noqa: PT017  # what is allowed to happen, not what must
        pictures = {label: {g for of, g in pairs if of == label} for label in labels}
        shared = any(len({of for of, g in pairs if g == group}) > 1 for group in groups)
        assert shared or min(map(len, pictures.values())) < 2
        return
    assert len({*zip(groups, parts, strict=True)}) == len(set(groups))
    assert {*zip(labels, parts, strict=True)} == {(c, p) for c in set(labels) for p in ("train", "val")}


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(3, 40), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_three_parts(counts: list[int], seed: int) -> None:
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    parts = split_samples(labels, range(len(labels)), fractions={"val": 0.2, "test": 0.2}, seed=seed)
    assert {*zip(labels, parts, strict=True)} == {(c, p) for c in labels for p in ("train", "val", "test")}
    for label, count in enumerate(counts):
        expected = max(1, int(0.2 * count + 0.5))
        got = Counter(part for of, part in zip(labels, parts, strict=True) if of == str(label))
        assert got == {"val": expected, "test": expected, "train": count - 2 * expected}


def test_exact_share_and_a_frozen_draw() -> None:
    """Another draw would change the data of every run that is repeated, so it is frozen here."""
    labels = ["a"] * 10 + ["b"] * 5
    parts = split_samples(labels, range(15), fractions={"val": 0.2}, seed=0)
    assert [index for index, part in enumerate(parts) if part == "val"] == [5, 8, 13]
    assert split_samples(labels, range(15), fractions={"val": 0.2}, seed=1) != parts


def test_a_class_does_not_move_the_images_of_another() -> None:
    with_b = split_samples(["b"] * 7 + ["a"] * 20, range(27), fractions={"val": 0.2}, seed=3)
    without = split_samples(["a"] * 20, range(20), fractions={"val": 0.2}, seed=3)
    assert with_b[7:] == without


def test_names_that_are_not_utf8_can_be_split() -> None:
    parts = split_samples(["caf\udce9", "\ud800"] * 4, range(8), fractions={"val": 0.25}, seed=0)
    assert Counter(parts) == {"train": 6, "val": 2}


@pytest.mark.parametrize(
    ("labels", "groups", "what"),
    [
        ("aab", [1, 2, 3], "class 'b' has 1 image: too few to split"),
        ("aabbb", [1, 2, 3, 3, 3], "class 'b' has 3 images of 1 different picture: too few to split"),
        ("abcc", [1, 2, 3, 4], "class 'a' has 1 image: too few to split (and 1 more classes have too few)"),
    ],
)
def test_a_class_that_cannot_be_split_is_named(labels: str, groups: list[int], what: str) -> None:
    with pytest.raises(ConvworksError) as caught:
        split_samples(list(labels), groups, fractions={"val": 0.2}, seed=0)
    assert caught.value.code == "D143"
    assert caught.value.what == what
    assert caught.value.try_


def test_classes_that_share_all_pictures() -> None:
    """Three pictures, each two of them a class: two parts cannot hold one of each class."""
    with pytest.raises(ConvworksError, match="its pictures also stand in other classes") as caught:
        split_samples(list("aabbcc"), [1, 2, 2, 3, 3, 1], fractions={"val": 0.4}, seed=0)
    assert caught.value.code == "D143"


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fractions_that_leave_nothing(fraction: float) -> None:
    with pytest.raises(ConvworksError, match="cannot split by these fractions: val") as caught:
        split_samples(["a", "a"], [1, 2], fractions={"val": fraction}, seed=0)
    assert caught.value.code == "U150"


def rule_of(given_splits: list[str | None], *, val_fraction: float = 0.2) -> tuple[Counter[str], str]:
    labels = ["a", "b"] * (len(given_splits) // 2)
    splits, rule = assign_splits(given_splits, labels, range(len(labels)), seed=5, val_fraction=val_fraction)
    for was, now in zip(given_splits, splits, strict=True):
        assert was in (None, now) or (was, now) == ("train", "val")
    return Counter(splits), rule


def test_the_rule_for_each_layout() -> None:
    train, val, test = ["train"] * 40, ["val"] * 10, ["test"] * 10
    assert rule_of([None] * 40) == ({"train": 32, "val": 8}, "80/20 train/val, stratified, seed 5")
    assert rule_of([*train]) == (
        {"train": 32, "val": 8},
        "80/20 train/val of the train images, stratified, seed 5",
    )
    assert rule_of([*train, *test]) == (
        {"train": 36, "val": 4, "test": 10},
        "test as given, 90/10 train/val of the train images, stratified, seed 5",
    )
    assert rule_of([*train, *val]) == ({"train": 40, "val": 10}, "train and val as given")
    assert rule_of([*train, *val, *test])[1] == "train and val and test as given"
    assert rule_of([None] * 40 + test)[0] == {"train": 36, "val": 4, "test": 10}
    assert rule_of([None] * 40 + val)[0] == {"train": 40, "val": 10}
    assert rule_of([None] * 40, val_fraction=0.3)[1] == "70/30 train/val, stratified, seed 5"
    assert rule_of([*train, *test], val_fraction=0.3)[0] == {"train": 34, "val": 6, "test": 10}


@pytest.mark.parametrize(
    ("given_splits", "what"),
    [
        (["val"] * 4, "there are val images, but none to train on"),
        (["test", "val"] * 2, "there are test and val images, but none to train on"),
    ],
)
def test_nothing_to_train_on(given_splits: list[str | None], what: str) -> None:
    with pytest.raises(ConvworksError, match=what) as caught:
        rule_of(given_splits)
    assert caught.value.code == "D146"


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_class_without_training_images(other: str) -> None:
    with pytest.raises(ConvworksError, match="no training image of class 'b'") as caught:
        assign_splits(
            ["train", "train", other, other], ["a", "a", "a", "b"], range(4), seed=0, val_fraction=0.2
        )
    assert caught.value.code == "D147"


def test_copies_are_found_with_their_splits_and_labels() -> None:
    samples = [
        sample("0", pixels="p", split="train", label="cat"),
        sample("1", pixels="q", split="train", label="cat"),
        sample("2", pixels="p", split="test", label="dog"),
        sample("3", pixels="p", split="test", label="cat"),
        sample("4", pixels="q", split="train", label="cat"),
        sample("5", pixels="", split="", verdict="cut off"),
        sample("6", pixels="", split="", verdict="cut off"),
        sample("7", pixels="r", split="val", label="dog"),
    ]
    assert duplicate_groups(samples) == [[0, 2, 3], [1, 4]]
    assert label_conflicts(samples) == [(0, 2)]
    assert leaks(samples) == [(0, 2)]
    assert picture_warnings(samples) == [
        "same picture, two labels: 0 = 2",
        "leak: the same picture in two splits: 0 = 2",
    ]
    assert picture_warnings(samples[1:2]) == []
    assert split_warnings(samples) == ["no train image of class 'dog'", "no val image of class 'cat'"]


def test_long_lists_of_pairs_are_counted() -> None:
    samples = [sample(f"{n}\n", pixels=str(n % 7), split="val" if n < 7 else "train") for n in range(14)]
    (warning,) = picture_warnings(samples)
    assert warning.startswith("leak: the same picture in two splits: 0\\n = 7\\n, 1\\n = 8\\n, ")
    assert warning.endswith("4\\n = 11\\n, ... (7 pairs)")
