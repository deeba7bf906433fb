"""Label-preserving changes of training images: random crop, shift, flip, rotation, scale and shear.

Every draw is a function of (seed, epoch, index of the sample), and every operation treats each image by
itself: what becomes of a sample does not depend on its batch, on the loader's threads or on torch's.

Random crops and flips: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural
networks", NIPS 2012, Section 4.1. Affine changes: Simard, Steinkraus, Platt, "Best practices for
convolutional neural networks applied to visual document analysis", ICDAR 2003.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from torch.nn import functional as F

from convworks.data.preprocess import SERIAL, blocks
from convworks.errors import ConvworksError
from convworks.randomness import uniform

# Largest values that still leave something of the image.
LIMITS = {"shift": 1024, "rotate": 180.0, "scale": 0.9, "shear": 60.0}
WANTED = {
    "shift": "a whole number of pixels from 0 to {}",
    "rotate": "degrees from 0 to {}",
    "scale": "a fraction from 0 to {}",
    "shear": "degrees from 0 to {}",
}
DRAWS = 6  # for one sample: top, left, flip, angle, scale, shear


@dataclass(frozen=True, slots=True)
class Augment:
    """How far a training image may be changed. The default changes nothing.

    - the window that the network sees lies at a uniformly random position in the stored image, and may reach
      out of it by `shift` pixels on each side. Stored 256, input 224, shift 0: 33 x 33 positions (with flips
      2,178 views; the paper counts 32 x 32 x 2 = 2,048). Stored size equal to the input: both axes move by
      whole pixels from -shift to +shift;
    - `rotate`, `shear` (degrees) and `scale` (a fraction): uniform in [-value, +value], about the centre of
      the window, bilinear. A scale of s magnifies by 1 + s; positive angles turn counter-clockwise;
    - `flip`: left and right are exchanged with probability 1/2, after everything else.

    What lies outside the stored image is `fill`. Raises ConvworksError U170 for a value out of range.
    """

    shift: int = 0
    flip: bool = False
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, limit = getattr(self, field.name), LIMITS.get(field.name)
            if limit is None:
                good, wanted = isinstance(value, bool), "true or false"
            else:
                kinds = (int,) if field.name == "shift" else (int, float)
                good = type(value) in kinds and 0 <= value <= limit  # false for NaN
                wanted = WANTED[field.name].format(limit)
            if not good:
                what = f"the augmentation {field.name} = {value!r} cannot be used"
                raise ConvworksError("U170", what, why=f"it must be {wanted}")

    @property
    def enabled(self) -> bool:
        """False for the policy that changes nothing but the place of a crop."""
        return self.flip or self.shift > 0 or self.affine

    @property
    def affine(self) -> bool:
        return self.rotate > 0 or self.scale > 0 or self.shear > 0

    def require_fits(self, *, height: int, width: int) -> None:
        """Raises ConvworksError U171 where a shift could move the whole image out of the window."""
        if self.shift >= min(height, width):
            raise ConvworksError(
                "U171",
                f"a shift of {self.shift} pixels is too large for images of {height}x{width}",
                why="nothing would be left of an image that is moved out of the window",
                try_=f"--set augment.shift={max(1, min(height, width) // 8)}",
            )


def augment(
    images: torch.Tensor,
    policy: Augment,
    *,
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    height: int,
    width: int,
    fill: int,
) -> torch.Tensor:
    """uint8 (B, Hs, Ws, C) on the CPU -> uint8 (B, height, width, C); `indices` (B,) name the samples.

    A policy that is not enabled leaves images of that very size as they are. Raises ConvworksError U171.
    """
    source = images.numpy()
    if not policy.enabled and source.shape[1:3] == (height, width):
        return images
    policy.require_fits(height=height, width=width)
    # The first draws are the same however many are made.
    draws = uniform(seed, "augment", epoch, indices, DRAWS if policy.affine else 3)
    reach = np.array(source.shape[1:3]) - (height, width) + 2 * policy.shift + 1  # positions on each axis
    top, left = (np.floor(draws[:, :2] * reach).astype(np.int64) - policy.shift).T
    if policy.affine:
        angle, scale, shear = (2.0 * draws[:, 3:6] - 1.0).T * [
            [policy.rotate],
            [policy.scale],
            [policy.shear],
        ]
        inverse = inverse_affine(angle=angle, scale=scale, shear=shear)
        result = sample_affine(source, inverse, top=top, left=left, height=height, width=width, fill=fill)
    else:
        result = windows(
            source, top=top, left=left, height=height, width=width, margin=policy.shift, fill=fill
        )
    if policy.flip:
        flip_columns(result, np.flatnonzero(draws[:, 2] < 0.5))
    return torch.from_numpy(result)


def windows(
    source: NDArray[np.uint8],
    *,
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    height: int,
    width: int,
    margin: int,
    fill: int,
) -> NDArray[np.uint8]:
    """(B, Hs, Ws, C) -> (B, height, width, C): the window of each image at its own (top, left).

    Positions start at -margin. One padded copy and one gather of whole pixel rows, no loop.
    """
    B, Hs, Ws, C = source.shape
    padded = np.ascontiguousarray(source)
    if margin:
        padded = np.full((B, Hs + 2 * margin, Ws + 2 * margin, C), fill, dtype=np.uint8)
        padded[:, margin : margin + Hs, margin : margin + Ws] = source
    image, row, pixel, _ = padded.strides
    shape = (B, padded.shape[1] - height + 1, padded.shape[2] - width + 1, height, width * C)
    every = as_strided(padded, shape, (image, row, pixel, row, 1), writeable=False)
    return every[np.arange(B), top + margin, left + margin].reshape(B, height, width, C)


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
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    height: int,
    width: int,
    fill: int,
) -> NDArray[np.uint8]:
    """(B, Hs, Ws, C) -> (B, height, width, C): windows at (top, left), turned about their centres.

    Bilinear; where the four neighbours lie partly outside, `fill` takes their place.
    """
    B, Hs, Ws, C = source.shape
    result = np.empty((B, height, width, C), dtype=np.uint8)
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    # Pixel centres 0 .. n - 1 become (-1, 1), with the edges of the stored image at -1 and 1.
    across = inverse[:, 0, :, None, None] * np.float32(2 / Ws)  # (B, 2, 1, 1)
    down = inverse[:, 1, :, None, None] * np.float32(2 / Hs)
    centre_x = ((left + width / 2) * (2 / Ws) - 1).astype(np.float32)[:, None, None]
    centre_y = ((top + height / 2) * (2 / Hs) - 1).astype(np.float32)[:, None, None]
    # torch samples so few images in the calling thread, and each by itself.
    count = max(1, SERIAL // (4 * height * width))
    for part in blocks(B, count):
        grid = np.empty((len(source[part]), height, width, 2), dtype=np.float32)
        grid[..., 0] = across[part, 0] * x + across[part, 1] * y + centre_x[part]
        grid[..., 1] = down[part, 0] * x + down[part, 1] * y + centre_y[part]
        pixels = source[part].astype(np.float32)
        pixels -= fill  # outside is zero, which is what torch fills with
        values = F.grid_sample(
            torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(grid), align_corners=False
        ).numpy()
        values += fill + 0.5
        result[part] = values.transpose(0, 2, 3, 1)  # the conversion rounds towards zero
    return result
