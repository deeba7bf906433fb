"""Images whose label may be wrong: the network, which never learned them, is sure of another class.

Only images outside training are judged, by the probabilities of the evaluation. An image is a suspect where
another class has at least the probability that the images of that class get on average, and the own class
does not (confident learning: Northcutt, Jiang, Chuang, "Confident learning: estimating uncertainty in dataset
labels", JAIR 2021, section 3.1). The rank is the margin p(label) - p(best other class), the lowest first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.data.manifest import Manifest
from convworks.report.pictures import Picture, Thumbnail, small_copy
from convworks.report.read import Evaluation

MOST = 100
FEWEST = 2  # images of a class, below which its average says nothing


@dataclass(frozen=True, slots=True)
class Suspect:
    path: str
    split: str
    label: str
    other: str  # the class that the network is sure of
    label_probability: float
    other_probability: float
    picture: Picture | None = None

    @property
    def margin(self) -> float:
        return self.label_probability - self.other_probability


@dataclass(frozen=True, slots=True)
class Suspects:
    rows: tuple[Suspect, ...]
    found: int
    judged: int  # images
    splits: tuple[str, ...]


def suspect_rows(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, other classes) of the suspects among (N, K) probabilities, the lowest margin first."""
    p = np.asarray(probabilities, dtype=np.float64)
    n, k = p.shape
    if not n or k < 2:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    usual = np.full(k, np.inf)
    for number in range(k):
        own = p[labels == number, number]
        if len(own) >= FEWEST:
            usual[number] = own.mean()
    at = np.arange(n)
    sure = p >= usual
    others = np.where(sure, p, -1.0)
    others[at, labels] = -1.0
    best = others.argmax(axis=1)
    own = p[at, labels]
    chosen = np.flatnonzero((others[at, best] > own) & ~sure[at, labels])
    margin = own[chosen] - others[chosen, best[chosen]]
    order = chosen[np.argsort(margin, kind="stable")]
    return order, best[order]


def suspects(
    evaluations: tuple[Evaluation, ...],
    manifest: Manifest | None,
    *,
    pictures: int,
    thumbnail: Thumbnail | None,
    most: int = MOST,
) -> Suspects | None:
    """Suspects among all evaluated images outside training; None where their answers were not kept."""
    found: list[tuple[float, str, str, str, str, float, float]] = []
    judged, splits = 0, []
    for each in evaluations:
        if each.probabilities is None or each.labels is None or each.rows is None or manifest is None:
            continue
        if not each.plain or each.split == "train":
            continue
        judged, names = judged + len(each.labels), each.metrics.names
        splits.append(each.split)
        for row, other in zip(*suspect_rows(each.probabilities, each.labels), strict=True):
            p, label = each.probabilities[row], int(each.labels[row])
            own, best = float(p[label]), float(p[other])
            path = manifest.samples[int(each.rows[row])].path
            found.append((own - best, path, each.split, names[label], names[other], own, best))
    if not judged:
        return None
    found.sort(key=lambda row: row[:2])
    rows = tuple(
        Suspect(path, split, label, other, own, best, _picture(thumbnail, path, place < pictures))
        for place, (_, path, split, label, other, own, best) in enumerate(found[:most])
    )
    return Suspects(rows, len(found), judged, tuple(splits))


def _picture(
    thumbnail: Callable[..., NDArray[np.uint8] | None] | None, path: str, wanted: bool
) -> Picture | None:
    return small_copy(thumbnail(path)) if thumbnail is not None and wanted else None
