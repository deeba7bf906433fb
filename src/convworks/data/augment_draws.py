"""What happens to each image of a batch, as numbers: drawn first, then applied, and shown in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks.data.augment_boxes import area_boxes, jitter_boxes, moved
from convworks.data.augment_colour import normals
from convworks.data.augment_mix import squares
from convworks.data.augment_policy import Augment
from convworks.data.randaugment import OPERATIONS, draw_operations
from convworks.randomness import uniform

DRAWS = 6  # for one sample: top, left, flip, angle, scale, shear

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """(B,) or (B, k) numbers, one row for each image; those of a change that is off do nothing."""

    boxes: Numbers  # (B, 4): top, left, height, width in the stored image
    shorter: NDArray[np.int64] | None  # S of a scale jitter
    flipped: NDArray[np.bool_]
    angle: Numbers  # degrees
    scale: Numbers
    shear: Numbers  # degrees
    operations: NDArray[np.int64]  # (B, n) of RandAugment
    strengths: Numbers  # (B, n)
    brightness: Numbers  # factors
    contrast: Numbers
    saturation: Numbers
    hue: Numbers  # turns of the circle
    alphas: Numbers  # (B, 3) of the PCA colour shift
    hidden: NDArray[np.int64]  # (B, 4): top, left, bottom, right of the cutout


def draw(
    policy: Augment,
    *,
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    stored: tuple[int, int],
    size: tuple[int, int],
) -> Draws:
    """A function of (seed, epoch, index) of each sample; turning one change on leaves the others' draws."""
    count = len(indices)
    # The first draws are the same however many are made.
    u = uniform(seed, "augment", epoch, indices, DRAWS if policy.affine else 3)
    boxes, shorter = _boxes(policy, u, seed=seed, epoch=epoch, indices=indices, stored=stored, size=size)
    turns = 2.0 * u[:, 3:6] - 1.0 if policy.affine else np.zeros((count, 3))
    operations, strengths = draw_operations(
        seed, epoch, indices, count=policy.randaugment, magnitude=policy.magnitude
    )
    colour = np.zeros((count, 4))
    if max(policy.brightness, policy.contrast, policy.saturation, policy.hue) > 0:
        colour = 2.0 * uniform(seed, "colour", epoch, indices, 4) - 1.0
    alphas = np.zeros((count, 3))
    if policy.lighting > 0:
        alphas = policy.lighting * normals(uniform(seed, "lighting", epoch, indices, 4))[:, :3]
    hidden = np.zeros((count, 4), dtype=np.int64)
    if policy.cutout > 0:
        place = uniform(seed, "cutout", epoch, indices, 2)
        hidden = squares(place, side=policy.cutout, height=size[0], width=size[1])
    return Draws(
        boxes=boxes,
        shorter=shorter,
        flipped=_flipped(policy, u[:, 2], seed=seed, epoch=epoch, indices=indices),
        angle=policy.rotate * turns[:, 0],
        scale=policy.scale * turns[:, 1],
        shear=policy.shear * turns[:, 2],
        operations=operations,
        strengths=strengths,
        brightness=1.0 + policy.brightness * colour[:, 0],
        contrast=1.0 + policy.contrast * colour[:, 1],
        saturation=1.0 + policy.saturation * colour[:, 2],
        hue=policy.hue * colour[:, 3],
        alphas=alphas,
        hidden=hidden,
    )


def _flipped(
    policy: Augment, u: Numbers, *, seed: int, epoch: int, indices: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(B,) which images are mirrored."""
    if not policy.flip:
        return np.zeros(len(u), dtype=np.bool_)
    if policy.flip_alternates:
        first = uniform(seed, "first flip", 0, indices, 1)[:, 0] < 0.5
        return first ^ bool(epoch % 2)
    return u < 0.5


def _boxes(
    policy: Augment,
    u: Numbers,
    *,
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    stored: tuple[int, int],
    size: tuple[int, int],
) -> tuple[Numbers, NDArray[np.int64] | None]:
    """(B, 4), and the S of a scale jitter."""
    if policy.scale_jitter is not None:
        low, high = policy.scale_jitter
        share = uniform(seed, "scale", epoch, indices, 1)[:, 0]
        shorter = low + np.floor(share * (high - low + 1)).astype(np.int64)
        return jitter_boxes(shorter, u[:, :2], stored=stored, size=size, shift=policy.shift), shorter
    if policy.area is not None:
        boxes = area_boxes(seed, epoch, indices, stored=stored, area=policy.area, aspect=policy.aspect)
        return (moved(boxes, u[:, :2], size=size, shift=policy.shift) if policy.shift else boxes), None
    reach = np.array(stored) - size + 2 * policy.shift + 1  # positions on each axis
    corner = np.floor(u[:, :2] * reach) - policy.shift
    return np.concatenate(
        [corner, np.broadcast_to(np.array(size, dtype=np.float64), corner.shape)], axis=1
    ), None


def in_words(policy: Augment, draws: Draws, number: int, *, stored: tuple[int, int]) -> tuple[str, ...]:
    """What happened to one image of the batch, one phrase for each change that is on."""
    drawn = zip(draws.operations[number], draws.strengths[number].tolist(), strict=True)
    operations = [OPERATIONS[operation].in_words(strength) for operation, strength in drawn]
    y0, x0, y1, x1 = draws.hidden[number].tolist()
    said = {
        _window_in_words(policy, draws, number, stored): True,
        "mirrored": bool(draws.flipped[number]),
        f"turned {draws.angle[number]:+.1f} deg": policy.rotate,
        f"zoomed {100 * draws.scale[number]:+.0f} %": policy.scale,
        f"sheared {draws.shear[number]:+.1f} deg": policy.shear,
        f"elastic {policy.elastic:g}": policy.elastic,
        ", ".join(operations): policy.randaugment,
        f"brightness x{draws.brightness[number]:.2f}": policy.brightness,
        f"contrast x{draws.contrast[number]:.2f}": policy.contrast,
        f"saturation x{draws.saturation[number]:.2f}": policy.saturation,
        f"hue {draws.hue[number]:+.2f}": policy.hue,
        "PCA " + " ".join(f"{alpha:+.2f}" for alpha in draws.alphas[number]): policy.lighting,
        f"hidden {y1 - y0}x{x1 - x0} at {y0},{x0}": policy.cutout,
    }
    return tuple(text for text, on in said.items() if text and on)


def _window_in_words(policy: Augment, draws: Draws, number: int, stored: tuple[int, int]) -> str:
    top, left, height, width = draws.boxes[number].tolist()
    if draws.shorter is not None:
        return f"S={draws.shorter[number]}, {height:.0f}x{width:.0f} from {top:.0f},{left:.0f}"
    if policy.area is not None:
        share = 100 * height * width / (stored[0] * stored[1])
        return f"{share:.0f} % of the area, {height:.0f}x{width:.0f} from {top:.0f},{left:.0f}"
    moving = policy.shift or (height, width) != stored
    return f"window from {top:.0f},{left:.0f}" if moving else ""
