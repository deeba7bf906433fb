"""Changes that hide a part of an image or mix two: cutout, mixup, CutMix.

- cutout: DeVries, Taylor, "Improved regularization of convolutional neural networks with cutout", 2017;
- mixup: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: beyond empirical risk minimization", ICLR 2018;
  x = lambda x_i + (1 - lambda) x_j with lambda ~ Beta(alpha, alpha). Lectures, regularisation, name lambda
  = 0.2 to 0.4; in the paper those are good values of alpha on ImageNet;
- CutMix: Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features",
  ICCV 2019, with a rectangle of the share 1 - lambda before it is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.data.preprocess import BLOCK, blocks
from convworks.randomness import uniform


def squares(place: NDArray[np.float64], *, side: int, height: int, width: int) -> NDArray[np.int64]:
    """(B, 4): top, left, bottom, right of a square around a random pixel, as far as it is in the image.

    `place` is (B, 2) in [0, 1).
    """
    first = np.floor(place * (height, width)).astype(np.int64) - side // 2
    return _clipped(first, first + side, height, width)


def _clipped(first: NDArray[np.int64], last: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    limit = np.array([height, width])
    return np.concatenate([np.clip(first, 0, limit), np.clip(last, 0, limit)], axis=1)


def fill_rectangles(
    images: NDArray[np.uint8], rectangles: NDArray[np.int64], colour: NDArray[np.uint8]
) -> None:
    """(B, H, W, C): every image's rectangle gets the colour (C,), in place."""
    for image, (top, left, bottom, right) in zip(images, rectangles.tolist(), strict=True):
        image[top:bottom, left:right] = colour


def paste_rectangles(
    images: NDArray[np.uint8], others: NDArray[np.uint8], rectangles: NDArray[np.int64]
) -> None:
    """(B, H, W, C): every image's rectangle comes from the other image, in place."""
    for image, other, (top, left, bottom, right) in zip(images, others, rectangles.tolist(), strict=True):
        image[top:bottom, left:right] = other[top:bottom, left:right]


def symmetric_beta(alpha: float, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) numbers of Beta(alpha, alpha) from two uniform ones each, for every alpha > 0, without rejection.

    With q = U^(-1/alpha) - 1 and c = cos(2 pi V), (1 + c sqrt(q / (1 + q c^2))) / 2 has that distribution
    (Devroye, "Random variate generation in one line of code", 1996; after Bailey's polar Student variate).
    """
    result = np.empty(len(u))
    for i, (a, b) in enumerate(zip(u.tolist(), v.tolist(), strict=True)):
        # Numbers of Python: vectorised functions may depend on the place in the array.
        q = math.expm1(min(-math.log(1.0 - a) / alpha, 500.0))
        cosine = math.cos(2.0 * math.pi * b)
        result[i] = 0.5 * (1.0 + cosine * math.sqrt(q / (1.0 + q * cosine * cosine)))
    return np.clip(result, 0.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """For each of B images: the other one, what is taken of it, and the share of its own label."""

    partner: NDArray[np.int64]  # (B,) rows of the data set
    share: NDArray[np.float32]  # (B,) of its own label: lambda, or the part outside of the rectangle
    blended: NDArray[np.bool_]  # (B,) mixup; else CutMix
    rectangles: NDArray[np.int64]  # (B, 4) top, left, bottom, right; empty with mixup


def draw_mix(
    *,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    rows: NDArray[np.int64],
    height: int,
    width: int,
) -> Mix:
    """The partner is any of the training `rows`, so that a mixture does not depend on the batch.

    With both alphas above zero, each image is blended or cut with probability 1/2.
    """
    u = uniform(seed, "mix", epoch, indices, 6)
    partner = rows[np.floor(u[:, 0] * len(rows)).astype(np.int64)]
    blended = u[:, 1] < 0.5 if mixup > 0 and cutmix > 0 else np.full(len(indices), mixup > 0)
    share = np.empty(len(indices))
    for alpha, chosen in ((mixup, blended), (cutmix, ~blended)):
        if alpha > 0:
            share[chosen] = symmetric_beta(alpha, u[chosen, 2], u[chosen, 3])
    limit = np.array([height, width])
    sides = np.floor(limit * np.sqrt(1.0 - share)[:, None]).astype(np.int64)
    centre = np.floor(u[:, 4:6] * limit).astype(np.int64)
    # From centre - half to centre + half, as the authors' code does: an odd side loses a pixel.
    rectangles = _clipped(centre - sides // 2, centre + sides // 2, height, width)
    rectangles[blended] = 0
    outside = 1.0 - np.prod(rectangles[:, 2:] - rectangles[:, :2], axis=1) / (height * width)
    return Mix(partner, np.where(blended, share, outside).astype(np.float32), blended, rectangles)


def blend(x: NDArray[np.float32], other: NDArray[np.float32], share: NDArray[np.float32]) -> None:
    """(B, ...) normalised: x becomes share x + (1 - share) other, in place.

    Normalisation subtracts and divides by the same everywhere, so mixing before it is the same but for
    rounding. No thread but the calling one takes part.
    """
    for part in blocks(len(x), max(1, BLOCK // max(1, x[0].size)) if len(x) else 1):
        own = share[part].reshape(-1, *[1] * (x.ndim - 1))
        x[part] *= own
        x[part] += (1 - own) * other[part]
