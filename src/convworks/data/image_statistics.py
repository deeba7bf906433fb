"""What a set of pictures looks like in numbers: brightness, contrast and colour of each, and of each class.

Measured on the pixel store, so on the part of the picture that training sees, at its size there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.data.near_duplicates import LUMA

AT_ONCE = 128
FLAT = 3.0  # grey levels of standard deviation; below it a picture may hold nothing
GREYEST = 1.5  # mean distance of a pixel from grey, in levels
DARK, BRIGHT = 20.0, 235.0  # mean grey level beyond which a picture may be of no use
ODD = 4.0  # robust standard deviations from the others
FEWEST = 30  # pictures from which the others say what is usual

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ImageStatistics:
    """One number for each of N pictures, in grey levels from 0 to 255; `mean` is (N, C) by channel."""

    brightness: Doubles  # mean
    contrast: Doubles  # standard deviation
    colour: Doubles  # mean over the pixels of the distance of a channel from grey
    mean: Doubles

    @property
    def flat(self) -> Flags:
        """Hardly any contrast; the whole picture has to be looked at before this is said of it."""
        return self.contrast < FLAT

    @property
    def dark(self) -> Flags:
        """Very dark, where that is not what all of them are."""
        return (self.brightness < DARK) & (unusual(self.brightness) < -ODD)

    @property
    def bright(self) -> Flags:
        return (self.brightness > BRIGHT) & (unusual(self.brightness) > ODD)

    @property
    def grey(self) -> Flags:
        """Without colour, where most of the others have some; none where grey is nothing unusual."""
        grey = self.colour < GREYEST
        return grey if 0 < grey.sum() < 0.1 * len(grey) else np.zeros(len(grey), dtype=bool)


def measure(images: NDArray[np.uint8]) -> ImageStatistics:
    """Statistics of images (N, H, W, 1 or 3), in blocks so that a mapped file is read once."""
    count, channels = len(images), images.shape[-1]
    brightness, contrast, colour = (np.zeros(count) for _ in range(3))
    mean = np.zeros((count, channels))
    for start in range(0, count, AT_ONCE):
        place = slice(start, start + AT_ONCE)
        block = images[place].astype(np.float32)
        grey = block[..., 0] if channels == 1 else block @ LUMA
        brightness[place] = grey.mean(axis=(1, 2))
        contrast[place] = grey.std(axis=(1, 2))
        mean[place] = block.mean(axis=(1, 2))
        if channels == 3:
            colour[place] = np.abs(block - grey[..., None]).mean(axis=(1, 2, 3))
    return ImageStatistics(brightness, contrast, colour, mean)


def unusual(values: Doubles) -> Doubles:
    """Distance from the median in robust standard deviations (1.4826 median absolute deviations).

    0 for all where there are fewer than FEWEST values, or most are equal: then nothing is usual.
    """
    if len(values) < FEWEST:
        return np.zeros(len(values))
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return (values - middle) / spread if spread > 0 else np.zeros(len(values))


def is_one_colour(pixels: NDArray[np.uint8], *, tolerance: int = 4) -> bool:
    """Whether a whole picture (H, W, C) holds one colour, up to the noise of a compression."""
    low, high = pixels.min(axis=(0, 1)).astype(int), pixels.max(axis=(0, 1)).astype(int)
    return bool((high - low <= tolerance).all())


def is_nearly_one_colour(pixels: NDArray[np.uint8]) -> bool:
    """Whether hardly anything differs in a whole picture: no channel has a deviation of FLAT."""
    return bool((pixels.reshape(-1, pixels.shape[2]).std(axis=0) < FLAT).all())


def class_colours(
    statistics: ImageStatistics, labels: Sequence[str | None], classes: Sequence[str]
) -> dict[str, Doubles]:
    """The mean colour (C,) of each class that has a picture."""
    names = np.array([label or "" for label in labels], dtype=object)
    found = {}
    for name in classes:
        rows = names == name
        if rows.any():
            found[name] = statistics.mean[rows].mean(axis=0)
    return found
