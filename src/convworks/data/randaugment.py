"""RandAugment: some operations of a fixed list, all of one strength, drawn for each image.

Cubuk, Zoph, Shlens, Le, "RandAugment: practical automated data augmentation with a reduced search space",
2020, section 3: N operations are drawn uniformly and with replacement from 14. Their ranges are those of
Cubuk et al., "AutoAugment: learning augmentation strategies from data", CVPR 2019, table 6; colour, contrast,
brightness and sharpness move away from 1 to either side, as in torchvision, so that magnitude 0 leaves an
image as it is (but for autocontrast and equalize, which have no strength).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.data.augment_colour import recoloured
from convworks.data.augment_geometry import inverse_affine, sample_affine
from convworks.randomness import uniform

Bytes = NDArray[np.uint8]
Strength = NDArray[np.float64]
Change = Callable[[Bytes, Strength, int], Bytes]
WEAKEST, STRONGEST = 0, 10


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table: what is done at magnitude 10, and whether the sign is drawn too."""

    name: str
    change: Change  # (images (B, H, W, C), strength (B,), fill) -> images
    largest: float
    signed: bool
    unit: str  # of the strength

    def in_words(self, strength: float) -> str:
        """'rotate -27 degrees', 'posterize 4 bits', 'equalize'."""
        if self.largest == 0:
            return self.name
        return f"{self.name} {f'{strength:+.2g}' if self.signed else round(strength)} {self.unit}".rstrip()


def draw_operations(
    seed: int, epoch: int, indices: NDArray[np.int64], *, count: int, magnitude: float
) -> tuple[NDArray[np.int64], Strength]:
    """(B, count) numbers of operations and (B, count) strengths, with their signs."""
    u = uniform(seed, "randaugment", epoch, indices, 2 * count)
    chosen = np.floor(u[:, :count] * len(OPERATIONS)).astype(np.int64)
    largest = np.array([each.largest for each in OPERATIONS])[chosen]
    signed = np.array([each.signed for each in OPERATIONS])[chosen]
    sign = np.where(signed & (u[:, count:] < 0.5), -1.0, 1.0)
    return chosen, sign * largest * (magnitude / STRONGEST)


def apply_operations(images: Bytes, chosen: NDArray[np.int64], strengths: Strength, fill: int) -> Bytes:
    """(B, H, W, C): the operations of each image, one after the other; those of one kind together."""
    result = images.copy()
    for turn in range(chosen.shape[1]):
        for number in np.unique(chosen[:, turn]).tolist():
            some = np.flatnonzero(chosen[:, turn] == number)
            result[some] = OPERATIONS[number].change(result[some], strengths[some, turn], fill)
    return result


def identity(images: Bytes, strength: Strength, fill: int) -> Bytes:
    return images


def _histograms(images: Bytes) -> NDArray[np.int64]:
    """(B, C, 256)"""
    B, C = len(images), images.shape[3]
    counts = np.empty((B, C, 256), dtype=np.int64)
    for i in range(B):
        for c in range(C):
            counts[i, c] = np.bincount(images[i, :, :, c].ravel(), minlength=256)
    return counts


def _looked_up(images: Bytes, tables: NDArray[np.integer]) -> Bytes:
    """Each byte replaced by that of the image's and channel's table (B, C, 256)."""
    result, tables = np.empty_like(images), tables.astype(np.uint8)
    for i in range(len(images)):
        for c in range(images.shape[3]):
            result[i, :, :, c] = tables[i, c][images[i, :, :, c]]
    return result


def autocontrast(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """The darkest value of each channel becomes 0, the brightest 255."""
    low = images.min(axis=(1, 2)).astype(np.int64)[:, :, None]  # (B, C, 1)
    high = images.max(axis=(1, 2)).astype(np.int64)[:, :, None]
    levels = np.arange(256)
    stretched = np.clip((levels - low) * 255 // np.maximum(high - low, 1), 0, 255)
    return _looked_up(images, np.where(high > low, stretched, levels))


def equalize(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Values of each channel spread so that all are about equally frequent, as Pillow's ImageOps does it."""
    counts = _histograms(images)
    total = counts.sum(axis=2, keepdims=True)
    brightest = 255 - np.argmax(counts[:, :, ::-1] > 0, axis=2)[:, :, None]
    step = (total - np.take_along_axis(counts, brightest, axis=2)) // 255
    below = np.cumsum(counts, axis=2) - counts
    spread = np.minimum((below + step // 2) // np.maximum(step, 1), 255)
    return _looked_up(images, np.where(step > 0, spread, np.arange(256)))


def rotate(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """By `strength` degrees, counter-clockwise."""
    zero = np.zeros_like(strength)
    return _warped(images, inverse_affine(angle=strength, scale=zero, shear=zero), fill)


def shear_x(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Rows move by `strength` pixels for each row below the centre."""
    return _warped(images, _sheared(strength, 0), fill)


def shear_y(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Columns move by `strength` pixels for each column right of the centre."""
    return _warped(images, _sheared(strength, 1), fill)


def _sheared(strength: Strength, axis: int) -> NDArray[np.float32]:
    matrix = np.tile(np.eye(2, dtype=np.float32), (len(strength), 1, 1))
    matrix[:, axis, 1 - axis] = -strength
    return matrix


def translate_x(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """To the right by the share `strength` of the width."""
    return _moved(images, 0 * strength, strength * images.shape[2], fill)


def translate_y(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Down by the share `strength` of the height."""
    return _moved(images, strength * images.shape[1], 0 * strength, fill)


def _moved(images: Bytes, down: Strength, right: Strength, fill: int) -> Bytes:
    matrix = np.tile(np.eye(2, dtype=np.float32), (len(images), 1, 1))
    return _warped(images, matrix, fill, top=-np.rint(down), left=-np.rint(right))


def _warped(
    images: Bytes,
    inverse: NDArray[np.float32],
    fill: int,
    top: Strength | None = None,
    left: Strength | None = None,
) -> Bytes:
    zero = np.zeros(len(images))
    return sample_affine(
        images,
        inverse,
        top=zero if top is None else top,
        left=zero if left is None else left,
        height=images.shape[1],
        width=images.shape[2],
        fill=fill,
    )


def solarize(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Values of at least 256 - `strength` are inverted."""
    threshold = 256.0 - strength[:, None, None, None]
    return np.where(images >= threshold, 255 - images, images)


def posterize(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """`strength` bits, rounded, are taken away from each value."""
    bits = np.rint(strength).astype(np.uint8)[:, None, None, None]
    return (images >> bits) << bits


def colour(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Saturation 1 + `strength`; grey images have none and stay."""
    if images.shape[3] == 1:
        return images
    return _recoloured(images, saturation=1.0 + strength)


def contrast(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Contrast 1 + `strength`."""
    return _recoloured(images, contrast=1.0 + strength)


def brightness(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """Brightness 1 + `strength`."""
    return _recoloured(images, brightness=1.0 + strength)


def _recoloured(images: Bytes, **factors: Strength) -> Bytes:
    one, zero = np.ones(len(images)), np.zeros(len(images))
    values = {"brightness": one, "contrast": one, "saturation": one, **factors}
    return recoloured(images, **values, hue=zero, offsets=np.zeros((len(images), images.shape[3])))


def sharpness(images: Bytes, strength: Strength, fill: int) -> Bytes:
    """x + `strength` (x - blurred x), with the mean of 3 x 3 pixels in which the middle counts 5 of 13.

    The outermost pixels stay, as in Pillow.
    """
    result = images.copy()
    if min(images.shape[1:3]) < 3:
        return result
    x = images.astype(np.int32)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    middle = x[:, 1:-1, 1:-1]
    blurred = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * middle) / np.float32(13)
    factor = strength.astype(np.float32)[:, None, None, None]
    sharp = middle + factor * (middle - blurred) + np.float32(0.5)
    result[:, 1:-1, 1:-1] = np.clip(sharp, 0, 255)  # the conversion rounds towards zero
    return result


# fmt: off
OPERATIONS = (
    #         name            change        at 10      signed unit
    Operation("identity",     identity,     0.0,       False, ""),
    Operation("autocontrast", autocontrast, 0.0,       False, ""),
    Operation("equalize",     equalize,     0.0,       False, ""),
    Operation("rotate",       rotate,       30.0,      True,  "degrees"),
    Operation("solarize",     solarize,     256.0,     False, "levels"),
    Operation("posterize",    posterize,    4.0,       False, "bits"),
    Operation("colour",       colour,       0.9,       True,  ""),
    Operation("contrast",     contrast,     0.9,       True,  ""),
    Operation("brightness",   brightness,   0.9,       True,  ""),
    Operation("sharpness",    sharpness,    0.9,       True,  ""),
    Operation("shear-x",      shear_x,      0.3,       True,  ""),
    Operation("shear-y",      shear_y,      0.3,       True,  ""),
    Operation("translate-x",  translate_x,  150 / 331, True,  "of the width"),
    Operation("translate-y",  translate_y,  150 / 331, True,  "of the height"),
)
# fmt: on
