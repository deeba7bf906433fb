"""Colours of training images: PCA lighting, brightness, contrast, saturation and hue, in one pass.

- PCA lighting: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural
  networks", NIPS 2012, section 4.1;
- brightness, contrast, colour: Howard, "Some improvements on deep convolutional neural network based image
  classification", ICLR 2014, section 2; definitions as in Pillow's ImageEnhance, hue in HSV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.data.preprocess import BLOCK, blocks

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
MOST_PIXELS = 2**26  # of which the covariance is taken; of more, images in equal distances
_CHUNK = 2**18  # pixels


@dataclass(frozen=True, slots=True, eq=False)
class Lighting:
    """Principal components of the colours of the training images, in units of u8 / 255.

    The covariance matrix of the values of a pixel (3 x 3 for colour, 1 x 1 for grey) has the `values` (C,),
    largest first, and the columns of `vectors` (C, C), each with its largest component positive. To every
    pixel of an image sum_i p_i alpha_i lambda_i is added, p_i a vector and lambda_i its value, with alpha_i
    normal with mean zero, drawn anew for each image and epoch. An eigenvalue has the square of the pixels'
    unit; only with values from 0 to 1 is the paper's standard deviation of 0.1 a small change, 4 to 7 of 255
    levels on photographs.
    """

    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @classmethod
    def fit(cls, images: torch.Tensor, rows: NDArray[np.int64]) -> Self:
        """Of all pixels of `rows` (the training rows) of uint8 (N, Hs, Ws, C).

        Of more than 2^26 pixels, images in equal distances are taken. Sums are exact integers, so the order
        of the rows does not matter. Without rows everything is zero.
        """
        _, Hs, Ws, C = images.shape
        step = -(-len(rows) * Hs * Ws // MOST_PIXELS)
        chosen = np.sort(np.asarray(rows, dtype=np.int64))[:: max(1, step)]
        total, products = np.zeros(C), np.zeros((C, C))
        source = images.numpy()
        for part in blocks(len(chosen), max(1, _CHUNK // (Hs * Ws))):
            pixels = np.take(source, chosen[part], axis=0).reshape(-1, C).astype(np.float64)
            # Whole numbers below 2^53: these sums are exact in any order.
            total += pixels.sum(axis=0)
            products += pixels.T @ pixels
        count = len(chosen) * Hs * Ws
        if count == 0:
            return cls(np.zeros(C), np.eye(C))
        exact = [[int(p) * count - int(a) * int(b) for p, b in zip(row, total, strict=True)]
                 for row, a in zip(products, total, strict=True)]  # fmt: skip
        return cls.of(np.array([[each / (255 * count) ** 2 for each in row] for row in exact]))

    @classmethod
    def of(cls, covariance: NDArray[np.float64]) -> Self:
        """From a covariance matrix."""
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        largest = np.argmax(np.abs(vectors) > np.abs(vectors).max(axis=0) - 1e-9, axis=0)
        signs = np.sign(vectors[largest, np.arange(len(values))])
        return cls(values.copy(), np.ascontiguousarray(vectors * signs))

    def offsets(self, alphas: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B, C) of alpha -> (B, C): what is added to the bytes of each channel."""
        weighted = alphas[:, : len(self.values)] * self.values  # (B, C)
        # Not a matrix product: its sums could depend on the number of images.
        shift: NDArray[np.float64] = 255.0 * (weighted[:, None, :] * self.vectors).sum(axis=2)
        return shift


def normals(uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B, 2n) in [0, 1) -> (B, 2n) standard normal numbers (Box and Muller, 1958)."""
    result = np.empty_like(uniforms)
    for row, values in enumerate(uniforms.tolist()):
        for i in range(0, len(values), 2):
            radius = math.sqrt(-2.0 * math.log(1.0 - values[i]))
            angle = 2.0 * math.pi * values[i + 1]
            result[row, i : i + 2] = radius * math.cos(angle), radius * math.sin(angle)
    return result


def recoloured(
    images: NDArray[np.uint8],
    *,
    brightness: NDArray[np.float64],
    contrast: NDArray[np.float64],
    saturation: NDArray[np.float64],
    hue: NDArray[np.float64],
    offsets: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """(B, H, W, C) -> the same; brightness b, contrast c, saturation s are factors (B,), hue in turns.

    b x, c x + (1 - c) m and s x + (1 - s) g, with g the luma of a pixel and m its mean over the image, are
    linear and commute, so they are one map b (c (s x + (1 - s) g) + (1 - c) m). Where hue turns it is applied
    to the values clipped to 0 .. 255; `offsets` (B, C) come last. Values are clipped and rounded once.
    Grey images have no saturation and hue: theirs must be 1 and 0.
    """
    C = images.shape[3]
    result = np.empty_like(images)
    size = max(1, BLOCK // max(1, images[0].size)) if len(images) else 1
    for part in blocks(len(images), size):
        some = images[part]
        x = np.ascontiguousarray(some.transpose(3, 0, 1, 2), dtype=np.float32)  # (C, b, H, W)
        b, c, s = brightness[part], contrast[part], saturation[part]
        keep, base = _wide(b * c * s), _wide(b * (1 - c) * _mean_luma(some))
        if C == 3 and (s != 1).any():
            grey = np.float32(LUMA[0]) * x[0] + np.float32(LUMA[1]) * x[1] + np.float32(LUMA[2]) * x[2]
            x *= keep
            x += _wide(b * c * (1 - s)) * grey + base
        else:
            x *= keep
            x += base
        if (hue[part] != 0).any():
            np.clip(x, 0, 255, out=x)
            turn_hue(x, hue[part])
        x += offsets[part].T[:, :, None, None].astype(np.float32) + np.float32(0.5)
        np.clip(x, 0, 255, out=x)
        for channel in range(C):  # the conversion rounds towards zero
            result[part, :, :, channel] = x[channel]
    return result


def _mean_luma(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(b,) from sums of whole numbers, which are exact."""
    weights = LUMA if images.shape[3] == 3 else (1.0,)
    mean: NDArray[np.float64] = np.zeros(len(images))
    for channel, weight in enumerate(weights):
        mean += weight * images[..., channel].sum(axis=(1, 2), dtype=np.int64)
    mean /= images.shape[1] * images.shape[2]
    return mean


def _wide(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float32)[:, None, None]


def turn_hue(x: NDArray[np.float32], turns: NDArray[np.float64]) -> None:
    """(3, b, H, W) with values from 0 to 255: hue in HSV moved by `turns` (b,) of the circle, in place."""
    red, green, blue = x
    value = x.max(axis=0)
    chroma = value - x.min(axis=0)
    safe = np.where(chroma > 0, chroma, np.float32(1))
    hue = np.where(
        value == red,
        (green - blue) / safe,
        np.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )  # in sixths of the circle, from -1 to 5
    hue += _wide(6 * turns)
    for channel, n in enumerate((5, 3, 1)):
        k = hue + np.float32(n)
        k -= 6 * np.floor(k / 6)
        np.minimum(k, 4 - k, out=k)
        np.clip(k, 0, 1, out=k)
        x[channel] = value - chroma * k
