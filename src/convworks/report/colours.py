"""Section 2: mean and deviation of each channel, for every split and every class.

Over the pixels of the images as they are stored for the network, each image with the same weight, as
`convworks check` takes the mean colour of a class. Sums are of whole numbers, so the order does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.data.manifest import OK, SPLITS, Manifest, Sample
from convworks.report.pictures import Thumbnail
from convworks.report.tables import MOST_CLASSES

MOST = 500  # images that are looked at
LEVELS = np.arange(256, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Colour:
    """One row, in grey levels from 0 to 255; `swatch` is the mean as a CSS colour."""

    name: str
    n: int  # images looked at
    mean: tuple[float, ...]  # (C,)
    deviation: tuple[float, ...]  # (C,)
    swatch: str


@dataclass(frozen=True, slots=True)
class Colours:
    channels: tuple[str, ...]
    splits: tuple[Colour, ...]
    classes: tuple[Colour, ...]
    looked: int
    images: int

    @property
    def note(self) -> str:
        """Whether this is a sample, and of which size."""
        if self.looked == self.images:
            return f"Of all {self.images:,} images."
        return f"A sample: {self.looked:,} of {self.images:,} images, the same share of each split and class."


def colours(manifest: Manifest, thumbnail: Thumbnail | None) -> Colours | None:
    """None where there are no pixels to look at."""
    if thumbnail is None:
        return None
    good = [each for each in manifest.samples if each.verdict == OK and each.split in SPLITS]
    sums: dict[tuple[str, str], list[NDArray[np.float64]]] = defaultdict(list)
    channels = 0
    for sample in _sample(good):
        pixels = thumbnail(sample.path)
        if pixels is None or not pixels.size or pixels.shape[2] != (channels or pixels.shape[2]):
            continue
        channels = pixels.shape[2]
        sums["split", sample.split].append(moments := _moments(pixels))
        sums["class", sample.label or ""].append(moments)
    if not channels:
        return None
    splits = [_row(name, sums["split", name]) for name in SPLITS if ("split", name) in sums]
    names = [name for name in manifest.classes if ("class", name) in sums]
    return Colours(
        channels=("red", "green", "blue") if channels == 3 else ("grey",),
        splits=tuple(splits),
        classes=tuple(_row(name, sums["class", name]) for name in names[:MOST_CLASSES]),
        looked=sum(each.n for each in splits),
        images=len(good),
    )


def _sample(samples: list[Sample]) -> list[Sample]:
    """At most MOST, evenly taken from the samples by split and class."""
    place = {name: number for number, name in enumerate(SPLITS)}
    order = sorted(range(len(samples)), key=lambda i: (place[samples[i].split], samples[i].label or "", i))
    at = np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST)).round().astype(int)) if order else ()
    return [samples[order[i]] for i in at]


def _moments(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(2, C): the mean of an image and the mean of its squares, from counts of the 256 levels."""
    counts = np.stack(
        [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(pixels.shape[2])], axis=1
    )
    n = pixels.shape[0] * pixels.shape[1]
    moments: NDArray[np.float64] = np.stack([LEVELS @ counts, LEVELS**2 @ counts]) / n
    return moments


def _row(name: str, moments: list[NDArray[np.float64]]) -> Colour:
    mean, square = np.mean(moments, axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    levels = [round(float(each)) for each in mean]
    return Colour(
        name=name,
        n=len(moments),
        mean=tuple(float(each) for each in mean),
        deviation=tuple(float(each) for each in deviation),
        swatch="#" + "".join(f"{each:02x}" for each in (levels if len(levels) == 3 else levels * 3)),
    )
