"""The card of ILSVRC-2012: the published sizes, and a warning where they are not met."""

from __future__ import annotations

import pytest

from convworks.data.published_sizes import ILSVRC, card

NAMES = [f"n{number:08d}" for number in range(1000)]
WHOLE = {"train": 1_281_167, "val": 50_000}


def test_the_published_sizes() -> None:
    assert ILSVRC.classes == 1000
    assert dict(ILSVRC.images) == {"train": 1_281_167, "val": 50_000, "test": 100_000}


@pytest.mark.parametrize("images", [WHOLE, {**WHOLE, "test": 100_000}])
def test_the_whole_set_has_no_warning(images: dict[str, int]) -> None:
    found = card(NAMES, images)
    assert found is not None
    assert (found.title, found.warnings) == ("ILSVRC-2012", ())
    assert found.lines[:2] == ("1,000 of 1,000 classes", "train 1,281,167 of 1,281,167 images")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"train": 1_281_166, "val": 50_000}, "train has 1,281,166 images; ILSVRC-2012 has 1,281,167"),
        ({"train": 1_281_167}, "val has 0 images; ILSVRC-2012 has 50,000"),
        ({**WHOLE, "test": 7}, "test has 7 images; ILSVRC-2012 has 100,000"),
    ],
)
def test_a_mismatch_is_warned_of(images: dict[str, int], said: str) -> None:
    found = card(NAMES, images)
    assert found is not None
    assert found.warnings == (said,)


def test_a_part_and_too_much() -> None:
    found = card(NAMES[:100], {"train": 126_689, "val": 5_000})
    assert found is not None
    assert (found.title, found.warnings) == ("part of ILSVRC-2012", ())
    more = card([*NAMES, "n99999999"], {"train": 2_000_000, "val": 50_000})
    assert more is not None
    assert len(more.warnings) == 2


@pytest.mark.parametrize("classes", [[], ["daisy", "rose"], [*NAMES[:999], "rose"], ["n123"]])
def test_other_data_has_no_card(classes: list[str]) -> None:
    assert card(classes, WHOLE) is None
