"""Exact copies among the images of a run: the same pixels twice, in two splits, or under two labels."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from convworks.data.manifest import OK, Manifest, Sample

MOST_GROUPS = 50


@dataclass(frozen=True, slots=True)
class Copies:
    """Images with equal pixels. Near copies are not known here: `convworks check` looks for them."""

    groups: tuple[tuple[tuple[str, str, str], ...], ...]  # of (path, split, label), the telling ones first
    images: int  # in all groups
    count: int  # groups
    across_splits: int  # groups with an image in training and one outside
    two_labels: int  # groups with two labels
    leaked: dict[str, int]  # split -> its images that are in training too


def copies(manifest: Manifest) -> Copies:
    """Groups of the manifest's readable images with the same pixel hash."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in manifest.samples:
        if sample.verdict == OK and sample.pixels:
            found[sample.pixels].append(sample)
    groups = [group for group in found.values() if len(group) > 1]
    leaked: dict[str, int] = defaultdict(int)
    for group in groups:
        if any(each.split == "train" for each in group):
            for each in group:
                if each.split != "train":
                    leaked[each.split] += 1
    ordered = sorted(groups, key=lambda group: (not _labels_differ(group), not _crosses(group)))
    return Copies(
        groups=tuple(
            tuple((each.path, each.split, each.label or "") for each in group)
            for group in ordered[:MOST_GROUPS]
        ),
        images=sum(len(group) for group in groups),
        count=len(groups),
        across_splits=sum(_crosses(group) for group in groups),
        two_labels=sum(_labels_differ(group) for group in groups),
        leaked=dict(leaked),
    )


def _crosses(group: list[Sample]) -> bool:
    return len({each.split == "train" for each in group}) > 1


def _labels_differ(group: list[Sample]) -> bool:
    return len({each.label for each in group}) > 1
