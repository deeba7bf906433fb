"""Accuracy on parts of the evaluated images: by size, shape, brightness and folder, each with its interval.

Thirds are cut at the data's own thirds, so that they hold about as many images each. A slice of all images
alone is left out, and so is every property that is not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from convworks.data.manifest import Manifest, Sample
from convworks.evaluation.metrics import Interval, predict, wilson
from convworks.report.pictures import Thumbnail
from convworks.report.read import Evaluation

MOST_FOLDERS = 12
MOST_LOOKED_AT = 2000  # images whose brightness is measured
SQUARE = 1.05  # longer side by shorter side
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Slice:
    name: str
    n: int
    accuracy: float
    interval: Interval
    apart: bool  # its interval does not hold the accuracy of all images


@dataclass(frozen=True, slots=True)
class Dimension:
    name: str
    slices: tuple[Slice, ...]
    note: str = ""


def slices(
    evaluation: Evaluation, manifest: Manifest | None, *, thumbnail: Thumbnail | None
) -> list[Dimension]:
    """The properties in which the evaluated images differ."""
    probabilities, labels, rows = evaluation.probabilities, evaluation.labels, evaluation.rows
    if probabilities is None or labels is None or rows is None or manifest is None or not len(rows):
        return []
    right = np.asarray(predict(probabilities) == labels)
    samples = [manifest.samples[int(row)] for row in rows]
    areas = np.array([each.width * each.height for each in samples], dtype=np.float64)
    found = [
        Dimension("Size", _cut(_thirds(np.sqrt(areas), "{:.0f}", " pixels (root of the area)"), right)),
        Dimension("Shape", _cut([_shape(each) for each in samples], right)),
        _brightness(samples, right, thumbnail),
        Dimension("Folder", _cut(_folders(samples), right)),
    ]
    return [each for each in found if len(each.slices) > 1]


def _cut(names: Sequence[str], right: NDArray[np.bool_]) -> tuple[Slice, ...]:
    """One slice for each name, in the order of the names."""
    whole = float(right.mean()) if len(right) else 0.0
    found = []
    keys = np.array(names, dtype=object)
    for name in sorted(set(names)):
        own = right[keys == name]
        low, high = wilson(int(own.sum()), len(own))
        apart = not low <= whole <= high
        found.append(Slice(name.partition("\t")[2] or name, len(own), float(own.mean()), (low, high), apart))
    return tuple(found)


def _thirds(values: NDArray[np.float64], form: str, unit: str) -> list[str]:
    """A name for each value; 'number<tab>words', so that names sort as the values do."""
    values = values.round()  # what reads as one number is in one part
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    part = np.where(values <= low, 0, np.where(values <= high, 1, 2))
    names = {}
    for number in (0, 1, 2):
        own = values[part == number]
        if len(own):
            ends = [form.format(own.min()), form.format(own.max())]
            names[number] = f"{number}\t{' to '.join(dict.fromkeys(ends))}{unit}"
    return [names[int(each)] for each in part]


def _shape(sample: Sample) -> str:
    if max(sample.width, sample.height) <= SQUARE * min(sample.width, sample.height):
        return "1\tsquare"
    return "0\tupright" if sample.height > sample.width else "2\tlengthwise"


def _brightness(
    samples: Sequence[Sample], right: NDArray[np.bool_], thumbnail: Thumbnail | None
) -> Dimension:
    """Thirds of the mean grey level, as prepared for the network."""
    if thumbnail is None:
        return Dimension("Brightness", ())
    at = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), MOST_LOOKED_AT)).round().astype(int))
    levels, seen = [], []
    for place in at:
        pixels = thumbnail(samples[place].path)
        if pixels is not None:
            mean = pixels.reshape(-1, pixels.shape[2]).mean(axis=0, dtype=np.float64)
            levels.append(float(mean @ LUMA) if len(mean) > 1 else float(mean[0]))
            seen.append(int(place))
    if len(seen) < 3:
        return Dimension("Brightness", ())
    note = "" if len(seen) == len(samples) else f"Of {len(seen):,} images, evenly taken from all."
    cut = _cut(_thirds(np.array(levels), "{:.0f}", " of 255, mean grey level"), right[seen])
    return Dimension("Brightness", cut, note)


def _folders(samples: Sequence[Sample]) -> list[str]:
    """The folder of each image without its class: the source, the session, the camera."""
    names = []
    for each in samples:
        parts = [part for part in PurePosixPath(each.path).parts[:-1] if part != each.label]
        names.append("/".join(parts) or "top folder")
    common = {name for name, _ in Counter(names).most_common(MOST_FOLDERS)}
    return [name if name in common else f"all {len(set(names)) - len(common)} others" for name in names]
