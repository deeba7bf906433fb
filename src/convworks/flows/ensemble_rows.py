"""Which images an ensemble is fitted on and which it is reported on: never the same ones.

In the order of preference, it is reported on a test split, on images that no member has met, on images that
validated the members (which chose their best epochs), and, for folds and bags, on every image by the members
that did not learn it. Whatever is fitted, and the best single member, is chosen on other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.data.partition import folds
from convworks.errors import ConvworksError
from convworks.flows.ensemble_parts import Answers

FEWEST = 10  # images to fit anything on
HALVES = 7_919  # seed of the two halves: another one than that of the members' own folds
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Roles:
    """Rows to report on and rows to choose on, with what they are in words."""

    report: Rows
    fit: Rows  # may be empty
    split: str  # of the report, in a word
    reported_on: str
    fitted_on: str
    whole: bool  # every member may answer every reported image: the ensemble is measured as it will be used
    notes: tuple[str, ...]


def choose_rows(
    looked: Answers,
    groups: Sequence[Sequence[int]],
    *,
    fitted: bool,
    split: str | None,
    fit: str | None,
) -> Roles:
    """The rows of an ensemble. `fitted`: something is fitted, so that rows for it must be found.

    `split` and `fit` are the wishes of the user: a split's name or "all". Raises A478 where no image is left,
    D202 for a split that is not there. Images that a member has learnt are refused later, when they are used.
    """
    clean: Mask = np.all([~looked.learnt[list(group)].all(axis=0) for group in groups], axis=0)
    free: Mask = ~np.any(looked.learnt, axis=0)
    used: Mask = np.any(looked.validated, axis=0)
    report, name, words = _reported(looked, clean, free, used, split)
    if fit is not None:
        chosen, fit_words = _of_split(looked, fit), f"the images of '{fit}'"
        report = np.setdiff1d(report, chosen) if split is None else report
        if np.intersect1d(report, chosen).size:
            raise ConvworksError(
                "A478",
                f"'{split}' and '{fit}' share images: what is reported on must not be fitted on",
                try_="--split test --fit val",
            )
    else:
        chosen = np.setdiff1d(np.flatnonzero(clean), report)
        fit_words = "the other images that the members had not learnt"
        if len(chosen) < FEWEST and fitted:
            chosen, report = _halves(looked, report)
            fit_words, words = f"one half of {words}", f"the other half of {words}"
    if not len(report) or (fitted and len(chosen) < FEWEST):
        raise _nothing(looked, fitted)
    whole = bool(free[report].all())
    return Roles(report, chosen, name, words, fit_words, whole, tuple(_notes(looked, report, whole)))


def _reported(
    looked: Answers,
    clean: Mask,
    free: Mask,
    used: Mask,
    split: str | None,
) -> tuple[Rows, str, str]:
    if split is not None:
        return _of_split(looked, split), split, f"the images of '{split}'"
    tested = np.array([each == "test" for each in looked.own]) & free
    untouched = free & ~used
    enough = free if 2 * free.sum() >= clean.sum() else np.zeros_like(free)  # bags share few images
    for mask, name, words in (
        (tested, "test", "the test images"),
        (untouched, "new", "images that no member has met"),
        (enough, "val", "images that validated the members"),
        (clean, "out-of-fold", "images, each answered by the members that did not learn it"),
    ):
        if mask.sum() >= FEWEST:
            return np.flatnonzero(mask), name, words
    raise _nothing(looked, False)


def _of_split(looked: Answers, name: str) -> Rows:
    """Rows of a split as the source names it, else as the members drew it."""
    if name == "all":
        return np.arange(len(looked.labels))
    if any(looked.own):
        found = np.flatnonzero([each == name for each in looked.own])
        if len(found):
            return found
    by_members = {"train": looked.learnt.any(axis=0), "val": looked.validated.any(axis=0)}
    found = np.flatnonzero(by_members.get(name, np.zeros(len(looked.labels), dtype=bool)))
    if not len(found):
        there = sorted({each for each in looked.own if each} | {k for k, v in by_members.items() if v.any()})
        raise ConvworksError(
            "D202",
            f"there are no images of the split '{name}'",
            where=f"there are {', '.join(there)}" if there else "the images have no splits",
            try_=f"--split {there[-1] if there else 'all'}",
        )
    return found


def _halves(looked: Answers, rows: Rows) -> tuple[Rows, Rows]:
    """Two halves of some rows, stratified, copies of a picture together."""
    if len(rows) < 2 * FEWEST:
        return rows[:0], rows
    labels = [str(looked.labels[row]) for row in rows]
    pictures = [looked.pixels[int(row)] for row in rows]
    half = np.array(folds(labels, pictures, count=2, seed=HALVES))
    return rows[half == 0], rows[half == 1]


def _notes(looked: Answers, report: Rows, whole: bool) -> list[str]:
    found = []
    if looked.chose[:, report].any():
        found.append(
            "these images chose something of the members, such as the best epoch: figures lean to the good "
            "side"
        )
    if not whole:
        found.append(
            "each image is answered by the members that did not learn it only: the whole ensemble, which has "
            "more members for a new image, is not measured"
        )
    if looked.left_out:
        found.append(f"{looked.left_out} unreadable images are left out")
    return found


def _nothing(looked: Answers, fitted: bool) -> ConvworksError:
    learnt = looked.learnt.any(axis=0).sum()
    more = "to fit weights on and to report on" if fitted else "to report on"
    return ConvworksError(
        "A478",
        f"too few images are left {more}: members have learnt {learnt:,} of {len(looked.labels):,}",
        why="members that were trained on different parts of the data leave no image that is new to all; "
        "`train --seeds` and `train --folds` keep them apart",
        try_="--data with images that no member was trained on",
    )
