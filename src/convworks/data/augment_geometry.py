"""Where the pixels of a training image come from: windows, flips, affine changes and elastic fields.

Source: Simard, Steinkraus, Platt, "Best practices for convolutional neural networks applied to visual
document analysis", ICDAR 2003, section 2 (affine and elastic distortions).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch.nn import functional as F

from convworks.data.preprocess import SERIAL, blocks
from convworks.randomness import words

# Numbers of some images of the batch -> (b, height, width, 2): x and y, in pixels of the result.
Field = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def windows(
    source: NDArray[np.uint8],
    *,
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    height: int,
    width: int,
    margin: int,
    fill: int,
    mirrored: bool = False,
) -> NDArray[np.uint8]:
    """(B, Hs, Ws, C) -> (B, height, width, C): the window of each image at its own (top, left).

    Positions start at -margin; beyond the border lies `fill`, or the picture mirrored at its edge. One padded
    copy and one gather of whole pixel rows, no loop.
    """
    B, _, _, C = source.shape
    padded = framed(source, margin, margin, fill=fill, mirrored=mirrored)
    image, row, pixel, _ = padded.strides
    shape = (B, padded.shape[1] - height + 1, padded.shape[2] - width + 1, height, width * C)
    every = as_strided(padded, shape, (image, row, pixel, row, 1), writeable=False)
    return every[np.arange(B), top + margin, left + margin].reshape(B, height, width, C)


def framed(
    source: NDArray[np.uint8], rows: int, columns: int, *, fill: int, mirrored: bool
) -> NDArray[np.uint8]:
    """(B, H, W, C) -> (B, H + 2 rows, W + 2 columns, C): a frame of `fill` or of the mirrored picture.

    The edge itself is not repeated, as in the convolutions' padding "reflect": the frame is thinner than the
    picture.
    """
    if not rows and not columns:
        return np.ascontiguousarray(source)
    B, H, W, C = source.shape
    canvas = np.empty((B, H + 2 * rows, W + 2 * columns, C), dtype=np.uint8)
    canvas[:, rows : rows + H, columns : columns + W] = source
    if not mirrored:
        canvas[:, :rows], canvas[:, rows + H :] = fill, fill
        canvas[:, rows : rows + H, :columns], canvas[:, rows : rows + H, columns + W :] = fill, fill
        return canvas
    inner = canvas[:, rows : rows + H]
    for k in range(1, columns + 1):
        inner[:, :, columns - k] = inner[:, :, columns + k]
        inner[:, :, columns + W - 1 + k] = inner[:, :, columns + W - 1 - k]
    for k in range(1, rows + 1):
        canvas[:, rows - k] = canvas[:, rows + k]
        canvas[:, rows + H - 1 + k] = canvas[:, rows + H - 1 - k]
    return canvas


def flip_columns(images: NDArray[np.uint8], chosen: NDArray[np.int64]) -> None:
    """Exchange left and right of the chosen images of (B, H, W, C), in place."""
    before = images[chosen]
    after = np.empty_like(before)
    for channel in range(images.shape[3]):  # runs of single bytes are faster than of 3
        after[..., channel] = before[..., ::-1, channel]
    images[chosen] = after


def inverse_affine(
    *, angle: NDArray[np.float64], scale: NDArray[np.float64], shear: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(B,) each, in degrees and fractions -> (B, 2, 2): where an output pixel (x, y) comes from.

    Forward, about the centre with y downwards: scale, then shear x += tan(shear) y, then rotate.
    """
    matrices = np.empty((len(angle), 2, 2), dtype=np.float32)
    # Numbers of Python: a vectorised sine may depend on the place in the array.
    for i, (a, s, h) in enumerate(zip(angle.tolist(), scale.tolist(), shear.tolist(), strict=True)):
        cosine, sine = math.cos(math.radians(a)), math.sin(math.radians(a))
        slope, factor = math.tan(math.radians(h)), 1.0 + s
        matrices[i, 0] = (cosine - slope * sine) / factor, (-sine - slope * cosine) / factor
        matrices[i, 1] = sine / factor, cosine / factor
    return matrices


def sample_affine(
    source: NDArray[np.uint8],
    inverse: NDArray[np.float32],
    *,
    top: NDArray[Any],
    left: NDArray[Any],
    height: int,
    width: int,
    fill: int,
    box_height: NDArray[np.float64] | None = None,
    box_width: NDArray[np.float64] | None = None,
    field: Field | None = None,
) -> NDArray[np.uint8]:
    """(B, Hs, Ws, C) -> (B, height, width, C): boxes at (top, left), turned about their centres.

    Without `box_height` and `box_width` (B,) a box has the size of the result. `field` gives what is added
    to where each pixel comes from, in pixels of the result. Bilinear; where the four neighbours lie partly
    outside, `fill` takes their place. A box that is n times larger than the result, rounded up, is sampled at
    n x n points for each pixel, of which the mean is taken, so that nothing between them is skipped.
    """
    B, Hs, Ws, C = source.shape
    result = np.empty((B, height, width, C), dtype=np.uint8)
    high = np.full(B, height, dtype=np.float64) if box_height is None else box_height
    wide = np.full(B, width, dtype=np.float64) if box_width is None else box_width
    grow = np.stack([wide / width, high / height], axis=1)  # (B, 2)
    matrix = inverse * grow[:, :, None].astype(np.float32)
    # Pixel centres 0 .. n - 1 become (-1, 1), with the edges of the stored image at -1 and 1.
    units = np.array([2 / Ws, 2 / Hs], dtype=np.float32)
    centre = np.stack([(left + wide / 2) * (2 / Ws) - 1, (top + high / 2) * (2 / Hs) - 1], axis=1)
    matrix, centre = matrix * units[:, None], centre.astype(np.float32)
    points = np.ceil(grow.max(axis=1, initial=1.0) - 1e-9).astype(np.int64)  # n of each image
    # torch samples so few images in the calling thread, and each by itself.
    count = max(1, SERIAL // (4 * height * width))
    for n in np.unique(points).tolist():
        chosen = np.flatnonzero(points == n)
        for part in blocks(len(chosen), count):
            some = chosen[part]
            grid = _grid(matrix[some], centre[some], height * n, width * n, n)
            if field is not None:
                moved = field(some) * (grow[some].astype(np.float32) * units)[:, None, None]
                grid += moved.repeat(n, axis=1).repeat(n, axis=2)
            result[some] = _sampled(source[some], grid, n, fill)
    return result


def _grid(
    matrix: NDArray[np.float32], centre: NDArray[np.float32], height: int, width: int, n: int
) -> NDArray[np.float32]:
    """(b, height, width, 2): where each of the n x n points of each pixel comes from."""
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / n
    y = ((np.arange(height, dtype=np.float32) - (height - 1) / 2) / n)[:, None]
    grid = np.empty((len(matrix), height, width, 2), dtype=np.float32)
    for axis in range(2):
        across, down = matrix[:, axis, 0, None, None], matrix[:, axis, 1, None, None]
        grid[..., axis] = across * x + down * y + centre[:, axis, None, None]
    return grid


def _sampled(source: NDArray[np.uint8], grid: NDArray[np.float32], n: int, fill: int) -> NDArray[np.float32]:
    """(b, height, width, C), half a grey level too high: the conversion to bytes rounds towards zero."""
    pixels = source.astype(np.float32)
    pixels -= fill  # outside is zero, which is what torch fills with
    values = F.grid_sample(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(grid), align_corners=False
    ).numpy()
    if n > 1:
        b, C, height, width = values.shape
        values = values.reshape(b, C, height // n, n, width // n, n).mean(axis=(3, 5))
    values += fill + 0.5
    return values.transpose(0, 2, 3, 1)


def elastic_fields(
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    *,
    height: int,
    width: int,
    alpha: float,
    sigma: float,
) -> NDArray[np.float32]:
    """(B, height, width, 2): Simard's displacement field of each image, x and y in pixels.

    Every value is drawn uniformly from [-1, 1] (256 levels), the two fields are smoothed with a Gaussian of
    standard deviation `sigma` whose sum is one, and multiplied by `alpha`. The field is periodic: it is as
    strong at the border as in the middle. For large sigma its standard deviation is about
    0.163 alpha / sigma, 1.4 pixels for the paper's alpha = 34, sigma = 4.
    """
    B, count = len(indices), height * width
    drawn = words(seed, "elastic", epoch, indices, -(-count // 2)).astype("<u4")
    levels = drawn.view(np.uint8)[:, : 2 * count].astype(np.float32)
    field: NDArray[np.complex64] = ((levels - 127.5) / 127.5).view(np.complex64).reshape(B, height, width)
    smooth = np.fft.ifft2(np.fft.fft2(field) * _gaussian(height, width, sigma))
    values = np.ascontiguousarray(smooth, dtype=np.complex64).view(np.float32)
    return values.reshape(B, height, width, 2) * np.float32(alpha)


@lru_cache(maxsize=8)
def _gaussian(height: int, width: int, sigma: float) -> NDArray[np.float32]:
    """(height, width): the Fourier transform of a Gaussian, exp(-2 pi^2 sigma^2 f^2)."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    return np.exp(-2 * (math.pi * sigma) ** 2 * (y * y + x * x)).astype(np.float32)
