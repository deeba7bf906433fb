"""Label-preserving changes of training images: the policy, its draws and its effect on a batch of bytes.

Every draw is a function of (seed, epoch, index of the sample), and every operation treats each image by
itself: what becomes of a sample does not depend on its batch, on the loader's threads or on torch's.

Random crops and flips: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural
networks", NIPS 2012, Section 4.1. The other changes name their sources in their own files.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from convworks.data.augment_boxes import resample
from convworks.data.augment_colour import Lighting, recoloured
from convworks.data.augment_draws import DRAWS, Draws, draw
from convworks.data.augment_geometry import (
    Field,
    elastic_fields,
    flip_columns,
    inverse_affine,
    sample_affine,
    windows,
)
from convworks.data.augment_mix import fill_rectangles
from convworks.data.augment_policy import Augment
from convworks.data.randaugment import apply_operations

__all__ = ["DRAWS", "Augment", "Lighting", "augment", "inverse_affine", "sample_affine", "windows"]


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
    lighting: Lighting | None = None,
    blank: NDArray[np.uint8] | None = None,
) -> torch.Tensor:
    """uint8 (B, Hs, Ws, C) on the CPU -> uint8 (B, height, width, C); `indices` (B,) name the samples.

    All of a policy but mixup and CutMix, which need other images: see data/loader.py. `lighting` are the
    principal components of the training images' colours, and `blank` (C,) is the colour of a cutout, else
    `fill`. A policy that is not enabled leaves images of that very size as they are. Raises ConvworksError
    U171, U200, U202 and U203 where the policy does not fit the images.
    """
    source = images.numpy()
    if not policy.enabled and source.shape[1:3] == (height, width):
        return images
    stored, channels = (source.shape[1], source.shape[2]), source.shape[3]
    policy.require_fits(height=height, width=width, stored=stored, channels=channels)
    draws = draw(policy, seed=seed, epoch=epoch, indices=indices, stored=stored, size=(height, width))
    field = partial(_fields, policy, seed, epoch, indices, height, width) if policy.elastic > 0 else None
    result = _placed(source, policy, draws, height, width, fill, field)
    if policy.flip:
        flip_columns(result, np.flatnonzero(draws.flipped))
    if policy.randaugment:
        result = apply_operations(result, draws.operations, draws.strengths, fill)
    if policy.recolours:
        if policy.lighting > 0 and lighting is None:
            raise ValueError("augment.lighting needs the principal components of the training images")
        offsets = (
            lighting.offsets(draws.alphas) if lighting is not None else np.zeros((len(result), channels))
        )
        result = recoloured(
            result,
            brightness=draws.brightness,
            contrast=draws.contrast,
            saturation=draws.saturation,
            hue=draws.hue,
            offsets=offsets,
        )
    if policy.cutout:
        colour = np.full(channels, fill, dtype=np.uint8) if blank is None else blank
        fill_rectangles(result, draws.hidden, colour)
    return torch.from_numpy(result)


def _placed(
    source: NDArray[np.uint8],
    policy: Augment,
    draws: Draws,
    height: int,
    width: int,
    fill: int,
    field: Field | None,
) -> NDArray[np.uint8]:
    """Every pixel fetched from where it comes from, in one pass."""
    top, left, high, wide = draws.boxes.T
    if policy.affine or field is not None:
        inverse = inverse_affine(angle=draws.angle, scale=draws.scale, shear=draws.shear)
        return sample_affine(
            source,
            inverse,
            top=top,
            left=left,
            height=height,
            width=width,
            fill=fill,
            box_height=high,
            box_width=wide,
            field=field,
        )
    if policy.resizes:
        bleed = policy.scale_jitter is not None
        return resample(source, draws.boxes, height=height, width=width, fill=fill, bleed=bleed)
    return windows(
        source,
        top=top.astype(np.int64),
        left=left.astype(np.int64),
        height=height,
        width=width,
        margin=policy.shift,
        fill=fill,
        mirrored=policy.border == "mirror",
    )


def _fields(
    policy: Augment,
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    height: int,
    width: int,
    numbers: NDArray[np.int64],
) -> NDArray[np.float32]:
    """The elastic fields of some images of the batch."""
    return elastic_fields(
        seed,
        epoch,
        indices[numbers],
        height=height,
        width=width,
        alpha=policy.elastic,
        sigma=policy.elastic_sigma,
    )
