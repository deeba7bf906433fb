"""The card of a data set whose published sizes are known: what it has beside what it should have.

ImageNet's classes are folders named after WordNet, such as n01440764. Sizes of ILSVRC-2012: Russakovsky et
al., "ImageNet large scale visual recognition challenge", IJCV 2015, table 2; lectures: 1.3 M, 50 k and 100 k
images of 1,000 classes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

WORDNET = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class Published:
    """Sizes as published."""

    title: str
    classes: int
    images: Mapping[str, int]  # of each split


ILSVRC = Published("ILSVRC-2012", 1000, {"train": 1_281_167, "val": 50_000, "test": 100_000})


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about a data set, one line for each fact, and what does not fit."""

    title: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def card(classes: Collection[str], images: Mapping[str, int]) -> Card | None:
    """The card of a data set with these class names and images in each split; None for one that is unknown.

    A data set is taken for ILSVRC-2012 if all its classes are WordNet numbers. Fewer classes are a subset,
    whose number of images says nothing. A test split without labels is usually not there and is not missed.
    """
    known = ILSVRC
    if not classes or not all(WORDNET.fullmatch(name) for name in classes):
        return None
    whole = len(classes) == known.classes
    lines = [f"{len(classes):,} of {known.classes:,} classes"]
    warnings = []
    if len(classes) > known.classes:
        warnings.append(f"{len(classes):,} classes are more than the {known.classes:,} of {known.title}")
    for split, published in known.images.items():
        found = images.get(split, 0)
        lines.append(f"{split} {found:,} of {published:,} images")
        missed = found != published and not (split == "test" and found == 0)
        if (whole and missed) or found > published:
            warnings.append(f"{split} has {found:,} images; {known.title} has {published:,}")
    return Card(known.title if whole else f"part of {known.title}", tuple(lines), tuple(warnings))
