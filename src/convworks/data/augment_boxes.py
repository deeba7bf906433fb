"""Crops of another size than the network's input, cut out and resized in one pass over the stored pixels.

- scale jitter: Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition",
  ICLR 2015, section 3.1 (shorter side S in [256, 512]); He et al., "Deep residual learning for image
  recognition", CVPR 2016, section 3.4 ([256, 480]);
- area and aspect: Szegedy et al., "Going deeper with convolutions", CVPR 2015, section 6 (8 % to 100 % of the
  area, aspect ratio from 3/4 to 4/3); with ten tries and then the centre, as published implementations do.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convworks.randomness import uniform

TRIES = 10  # of an area and an aspect ratio, before the largest crop in the middle is taken


def scaled_sizes(shorter: NDArray[np.int64], stored: tuple[int, int]) -> NDArray[np.int64]:
    """(B,) lengths of the shorter side -> (B, 2): height and width; the longer is rounded down."""
    Hs, Ws = stored
    least = min(Hs, Ws)
    return np.stack([shorter * Hs // least, shorter * Ws // least], axis=1)


def jitter_boxes(
    shorter: NDArray[np.int64],
    place: NDArray[np.float64],
    *,
    stored: tuple[int, int],
    size: tuple[int, int],
    shift: int,
) -> NDArray[np.float64]:
    """(B, 4): top, left, height, width in stored pixels of a window in the image whose shorter side is S.

    `shorter` (B,) are the S, `place` (B, 2) numbers in [0, 1). The window lies at a uniformly random whole
    pixel of the scaled image, which it may leave by `shift` pixels.
    """
    scaled = scaled_sizes(shorter, stored)
    reach = scaled - np.array(size) + 2 * shift + 1
    corner = np.floor(place * reach) - shift
    factor = np.array(stored) / scaled  # stored pixels for one of the scaled image
    return np.concatenate([corner * factor, np.array(size) * factor], axis=1)


def area_boxes(
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    *,
    stored: tuple[int, int],
    area: tuple[float, float],
    aspect: float,
) -> NDArray[np.float64]:
    """(B, 4): whole top, left, height, width of a crop with a random share of the area and aspect ratio.

    The share is uniform in `area`, the ratio width : height uniform in its logarithm from 1 / aspect to
    aspect. The first of ten tries that fits is taken, else the largest crop in the middle whose ratio is
    within the bounds.
    """
    Hs, Ws = stored
    u = uniform(seed, "area", epoch, indices, 2 * TRIES + 2)
    share = area[0] + (area[1] - area[0]) * u[:, :TRIES]
    logs = ((2.0 * u[:, TRIES : 2 * TRIES] - 1.0) * math.log(aspect)).ravel().tolist()
    # Numbers of Python: a vectorised exponential may depend on the place in the array.
    ratio = np.array([math.exp(each) for each in logs]).reshape(share.shape)
    height = np.floor(np.sqrt(Hs * Ws * share / ratio) + 0.5)
    width = np.floor(np.sqrt(Hs * Ws * share * ratio) + 0.5)
    fits = (height >= 1) & (height <= Hs) & (width >= 1) & (width <= Ws)
    first = np.argmax(fits, axis=1)[:, None]
    wanted = np.concatenate(
        [np.take_along_axis(height, first, axis=1), np.take_along_axis(width, first, axis=1)], axis=1
    )
    corner = np.floor(u[:, 2 * TRIES :] * (np.array(stored) - wanted + 1))
    boxes = np.concatenate([corner, wanted], axis=1)
    none = ~fits.any(axis=1)
    middle = (min(Hs, math.floor(Ws * aspect + 0.5)), min(Ws, math.floor(Hs * aspect + 0.5)))
    boxes[none] = ((Hs - middle[0]) // 2, (Ws - middle[1]) // 2, *middle)
    return boxes


def moved(
    boxes: NDArray[np.float64], draws: NDArray[np.float64], *, size: tuple[int, int], shift: int
) -> NDArray[np.float64]:
    """Boxes moved by a whole number of the result's pixels from -shift to shift; `draws` (B, 2) in [0, 1)."""
    steps = np.floor(draws * (2 * shift + 1)) - shift
    result = boxes.copy()
    result[:, :2] += np.floor(steps * boxes[:, 2:] / np.array(size) + 0.5)  # whole stored pixels
    return result


def resample(
    source: NDArray[np.uint8], boxes: NDArray[np.float64], *, height: int, width: int, fill: int, bleed: bool
) -> NDArray[np.uint8]:
    """(B, Hs, Ws, C) -> (B, height, width, C): each box resized, bilinear, antialiased where it gets smaller.

    With `bleed` the pixels around a box take part at its edges, as if the whole image had been resized and
    then cut; boxes may then lie between pixels. Without, boxes are whole and are cut first. What lies outside
    of the stored image is `fill`.
    """
    B, Hs, Ws, C = source.shape
    result = np.empty((B, height, width, C), dtype=np.uint8)
    for i, (y, x, high, wide) in enumerate(boxes.tolist()):
        top, bottom = _edges(y, high)
        left, right = _edges(x, wide)
        y0, y1 = _reach(top, bottom, height, Hs, bleed)
        x0, x1 = _reach(left, right, width, Ws, bleed)
        region = _region(source[i], y0, y1, x0, x1, fill)
        picture = Image.fromarray(region if C == 3 else region[:, :, 0])
        box = (left - x0, top - y0, right - x0, bottom - y0)
        small = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        result[i] = np.asarray(small).reshape(height, width, C)
    return result


def _edges(begin: float, length: float) -> tuple[float, float]:
    """Begin and end of a box on one axis; what is an edge of a pixel but for rounding is made one."""
    first, last = (float(round(v)) if abs(v - round(v)) < 1e-6 else v for v in (begin, begin + length))
    return first, last


def _reach(begin: float, end: float, size: int, stored: int, bleed: bool) -> tuple[int, int]:
    """Which pixels of one axis are needed: the box, and what the triangle of the filter reaches around it.

    At the border of the image the filter ends, unless the box itself goes on.
    """
    first, last = math.floor(begin), math.ceil(end)
    around = math.ceil(max(1.0, (end - begin) / size)) + 1 if bleed else 0
    return max(first - around, min(0, first)), min(last + around, max(stored, last))


def _region(image: NDArray[np.uint8], y0: int, y1: int, x0: int, x1: int, fill: int) -> NDArray[np.uint8]:
    """Rows y0 to y1 and columns x0 to x1 of (Hs, Ws, C), which may lie outside of it; contiguous."""
    Hs, Ws, C = image.shape
    if y0 >= 0 and x0 >= 0 and y1 <= Hs and x1 <= Ws:
        return np.ascontiguousarray(image[y0:y1, x0:x1])
    region = np.full((y1 - y0, x1 - x0, C), fill, dtype=np.uint8)
    ya, yb, xa, xb = max(y0, 0), min(y1, Hs), max(x0, 0), min(x1, Ws)
    if yb > ya and xb > xa:
        region[ya - y0 : yb - y0, xa - x0 : xb - x0] = image[ya:yb, xa:xb]
    return region
