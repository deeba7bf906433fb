"""Section 4, where the evidence for a class lies: Grad-CAM over the images of the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.report.activations import network_input, seen_pixels
from convworks.report.pictures import LOSSLESS, Mistake, Thumbnail, encoded

if TYPE_CHECKING:
    from convworks.bundle import Bundle
    from convworks.report.pictures import Picture

PLACES = 16  # of a map at least, or the heat says no more than which corner; where the network has such maps
BUDGET = 80_000_000_000  # multiply-adds of all passes for the heat, a few seconds
FEWEST = 4  # mistakes, however large the network is
TOGETHER = 8  # images in a batch
SIDE = 112  # pixels of the longer side at the most
QUALITY = 80
STRENGTH = 0.55  # of the colour over the grey image
# From no heat to the most: dark to light for every eye, and on grey paper. After "inferno" of Smith and van
# der Walt, in five steps.
COLOURS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


@dataclass(frozen=True, slots=True)
class Heats:
    """What the pictures show."""

    layer: str
    places: str  # "8×8"
    field: str  # of one place in pixels, "" where it is not known
    mistakes: int  # how many of the worst have it


def with_heat(
    wrong: Sequence[Mistake], bundle: Bundle | None, names: Sequence[str], *, thumbnail: Thumbnail | None
) -> tuple[list[Mistake], Heats | None]:
    """The mistakes, the first of them with heat for the answer and for the true class.

    `names` are the classes that the mistakes count by. As many have heat as BUDGET allows. None of them, and
    None, for a network without maps or without these classes, and where there are no pixels.
    """
    pictured = [each for each in wrong if each.picture]
    if bundle is None or thumbnail is None or not pictured:
        return list(wrong), None
    try:
        return _with_heat(list(wrong), pictured, bundle, names, thumbnail)
    except (ConvworksError, RuntimeError, ValueError):  # a page without this is better than none
        return list(wrong), None


def _with_heat(
    wrong: list[Mistake],
    pictured: Sequence[Mistake],
    bundle: Bundle,
    names: Sequence[str],
    thumbnail: Thumbnail,
) -> tuple[list[Mistake], Heats | None]:
    import torch

    from convworks import anatomy
    from convworks.insight.grad_cam import grad_cam, last_maps

    column = [bundle.classes.index(name) for name in names]  # ValueError for a class it does not have
    shape = bundle.info["input"]
    rows = anatomy.trace(bundle.network, (shape["channels"], shape["height"], shape["width"]))
    most = max(FEWEST, BUDGET // max(1, anatomy.totals(rows).macs))
    found = [(each, seen_pixels(bundle, thumbnail(each.path))) for each in pictured[:most]]
    usable = [(each, pixels) for each, pixels in found if pixels is not None]
    if not usable:
        return wrong, None
    first = network_input(bundle, [usable[0][1]])
    try:
        layer = last_maps(bundle.network, first, places=PLACES)
    except ConvworksError:
        layer = last_maps(bundle.network, first)
    heats = {}
    places = ""
    for start in range(0, len(usable), TOGETHER):
        part = usable[start : start + TOGETHER]
        x = network_input(bundle, [pixels for _, pixels in part])
        classes = torch.tensor([[column[each.answer], column[each.true]] for each, _ in part])
        maps = grad_cam(bundle.network, x, classes, layer=layer).double().numpy()  # (N, 2, h, w)
        places = f"{maps.shape[2]}×{maps.shape[3]}"
        for (each, pixels), two in zip(part, maps, strict=True):
            heats[each.path] = tuple(overlay(pixels, heat) if heat.any() else None for heat in two)
    seen = next((row for row in rows if row.name == layer), None)
    field = "×".join(f"{side:,}" for side in seen.field) if seen else ""
    return [
        replace(each, heats=heats[each.path]) if each.path in heats and each.picture else each
        for each in wrong
    ], Heats(layer=layer, places=places, field=field, mistakes=len(heats))


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float64]) -> Picture:
    """The grey image under the colours of the heat (h, w) in [0, 1], enlarged bilinearly to its size.

    `pixels` are uint8 (H, W, 1 or 3). The lightness of the colours rises with the heat.
    """
    from PIL import Image

    image = Image.fromarray(
        np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    ).convert("L")
    small = max(image.size) <= LOSSLESS
    if not small:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    large = Image.fromarray(np.nan_to_num(heat).astype(np.float32)).resize(
        image.size, Image.Resampling.BILINEAR
    )
    # 64 levels: the last bits of the arithmetic do not reach the page
    at = np.round(np.asarray(large, dtype=np.float64).clip(0, 1) * 64) / 64 * (len(COLOURS) - 1)
    steps = np.arange(len(COLOURS))
    colour = np.stack([np.interp(at, steps, band) for band in np.transpose(COLOURS)], axis=-1)
    grey = np.asarray(image, dtype=np.float64)[..., None]
    mixed = ((1 - STRENGTH) * grey + STRENGTH * colour).round().astype(np.uint8)
    return encoded(Image.fromarray(mixed), lossless=small, quality=QUALITY)
