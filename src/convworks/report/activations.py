"""Section 8, what the layers make of images: strips of maps, the images of a unit, the health of the maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convworks.data.preprocess import centre_crop
from convworks.report.pictures import LOSSLESS, Picture, Thumbnail, encoded
from convworks.report.read import Evaluation, RunRecord

if TYPE_CHECKING:
    import torch

    from convworks.bundle import Bundle
    from convworks.insight.activations import Activations, MapHealth

BUDGET = 120_000_000_000  # multiply-adds of the pass, a few seconds
IMAGES = 256  # looked at, at the most
FEWEST = 8  # however large the network is
TOGETHER = 8  # images in a batch
LAYERS = 6  # with a strip
EXAMPLES = 3  # rows of a strip
CHANNELS = 12  # maps of a row
UNITS = (4, 4, 8)  # units of each layer that is shown, from the first to the last
TOP = 9  # images of a unit
TILE = 64  # pixels of a map in a strip, and of a patch
CHART_UNITS, CHART_IMAGES = 96, 160  # rows and columns of the picture of units by images
OUTSIDE = 128  # grey level beyond the edge of an image
PAPER = 255


@dataclass(frozen=True, slots=True)
class Strip:
    """The first maps of a layer for the example images, a row for each."""

    name: str
    shown: int
    maps: int
    size: str  # "16×16"
    picture: Picture


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One unit and the patches that excite it most."""

    unit: int
    patches: int
    paths: tuple[str, ...]  # of their images
    most: str  # the commonest class of these images
    of_it: int  # how many are of that class
    picture: Picture


@dataclass(frozen=True, slots=True)
class UnitLayer:
    name: str
    maps: int
    live: int  # units that do not give the same for every image
    field: str  # "35×35", "" where it is not known
    whole: bool  # the field holds the whole image
    units: tuple[UnitRow, ...]


@dataclass(frozen=True, slots=True)
class Looks:
    """What the maps do over some evaluated images."""

    images: int
    examples: tuple[str, ...]  # classes of the example images
    example_paths: tuple[str, ...]
    strips: tuple[Strip, ...]
    all_layers: int
    units: tuple[UnitLayer, ...]
    health: tuple[tuple[str, MapHealth], ...] = ()  # by layer
    chart: Picture | None = None  # units by images
    chart_of: str = ""
    chart_units: int = 0
    chart_images: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Evaluated images as the network sees them, with the names of their classes and files."""

    pixels: list[NDArray[np.uint8]] = field(default_factory=list)  # (H, W, 1 or 3) each
    classes: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def picked(self, order: Sequence[int]) -> Seen:
        """These images in that order."""
        return Seen(
            [self.pixels[at] for at in order],
            [self.classes[at] for at in order],
            [self.paths[at] for at in order],
        )


def seen_pixels(bundle: Bundle, pixels: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """The part of a stored image that the network sees; None for pixels that are not of its size."""
    g = bundle.preprocess.geometry
    if pixels is None or pixels.shape not in {g.stored_shape, (g.height, g.width, g.channels)}:
        return None
    return np.ascontiguousarray(centre_crop(pixels, g.height, g.width))


def network_input(bundle: Bundle, pixels: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """(N, C, H, W) for pixels of `seen_pixels`."""
    import torch

    return bundle.preprocess.to_input(
        torch.from_numpy(np.stack(pixels)),
        dtype=torch.float32,
        memory_format=torch.contiguous_format,
        device="cpu",
    )


def look_at(
    bundle: Bundle, run: RunRecord, evaluation: Evaluation | None, *, thumbnail: Thumbnail | None, most: int
) -> Seen:
    """At most `most` evaluated images at equal distances; none without pixels."""
    from convworks.insight.activations import evenly

    seen = Seen()
    if thumbnail is None or evaluation is None or evaluation.rows is None or run.manifest is None:
        return seen
    names = evaluation.metrics.names
    for place in evenly(len(evaluation.rows), most):
        path = run.manifest.samples[int(evaluation.rows[place])].path
        pixels = seen_pixels(bundle, thumbnail(path))
        if pixels is not None:
            seen.pixels.append(pixels)
            seen.paths.append(path)
            seen.classes.append(names[int(evaluation.labels[place])] if evaluation.labels is not None else "")
    return seen


def images_for(macs: int) -> int:
    """How many images the pass may take for a network of so many multiply-adds an image."""
    return min(IMAGES, max(FEWEST, BUDGET // max(1, macs)))


def looks(bundle: Bundle, seen: Seen) -> Looks | None:
    """None without images, and for a network without maps."""
    from convworks.insight.activations import evenly, live_units, map_health, map_layers, record_maps

    shape = bundle.info["input"]
    layers = map_layers(bundle.network, (shape["channels"], shape["height"], shape["width"]))
    if not layers or not seen.pixels:
        return None
    chosen = [layers[at] for at in evenly(len(layers), LAYERS)]
    order = _examples_first(len(seen.pixels))
    seen = seen.picked(order)
    pixels = seen.pixels
    batches = (
        network_input(bundle, pixels[start : start + TOGETHER]) for start in range(0, len(pixels), TOGETHER)
    )
    found = record_maps(bundle.network, batches, chosen, examples=EXAMPLES, channels=CHANNELS)
    last, live = found[-1], live_units(found[-1])
    chart_units = [live[at] for at in evenly(len(live), CHART_UNITS)]
    chart_images = [order.index(at) for at in evenly(len(order), CHART_IMAGES)]  # as the data has them
    later = found[1:] if len(found) > len(UNITS) else found  # the first layer's fields are its filters' size
    shown = [later[at] for at in evenly(len(later), len(UNITS))]
    return Looks(
        images=len(pixels),
        examples=tuple(seen.classes[:EXAMPLES]),
        example_paths=tuple(seen.paths[:EXAMPLES]),
        strips=tuple(_strip(each, pixels) for each in found),
        all_layers=len(layers),
        units=tuple(
            _units(each, seen, most=most) for each, most in zip(shown, UNITS[-len(shown) :], strict=True)
        ),
        health=tuple((each.layer.name, map_health(each)) for each in found),
        chart=_chart(last, chart_units, chart_images) if len(pixels) > 1 and chart_units else None,
        chart_of=last.layer.name,
        chart_units=len(chart_units),
        chart_images=len(chart_images),
    )


def _examples_first(count: int) -> list[int]:
    """The places of the images, with those of the examples, spread over all, at the front."""
    from convworks.insight.activations import evenly

    first = evenly(count, EXAMPLES)
    return first + [at for at in range(count) if at not in set(first)]


def _strip(found: Activations, pixels: Sequence[NDArray[np.uint8]]) -> Strip:
    """A column of the images, then one for each map: black is its least value or 0, white its largest."""
    maps = found.examples.double().nan_to_num().numpy()  # (E, c, H, W)
    low = np.minimum(maps.min(axis=(0, 2, 3), keepdims=True), 0)
    high = np.maximum(maps.max(axis=(0, 2, 3), keepdims=True), 0)
    levels = (255 * (maps - low) / np.where(high > low, high - low, 1)).round().astype(np.uint8)
    lossless = max(levels.shape[2:]) <= TILE and max(pixels[0].shape[:2]) <= LOSSLESS
    tiles = [
        [_tile(pixels[row], smooth=True), *(_tile(each[..., None]) for each in levels[row])]
        for row in range(len(levels))
    ]
    layer = found.layer
    return Strip(
        name=layer.name,
        shown=maps.shape[1],
        maps=layer.channels,
        size=f"{layer.height}×{layer.width}",
        picture=_sheet(tiles, lossless=lossless),
    )


def _units(found: Activations, seen: Seen, *, most: int) -> UnitLayer:
    """Live units at equal distances, each with the patches that its most exciting images show it."""
    from convworks.insight.activations import evenly, live_units, top_images

    live, layer, pixels = live_units(found), found.layer, seen.pixels
    size = (pixels[0].shape[0], pixels[0].shape[1])
    rows = []
    for unit in [live[at] for at in evenly(len(live), most)]:
        images = top_images(found, unit, count=TOP)
        if not images:  # numbers that are not finite
            continue
        patches = [cut(pixels[image], layer.window(int(found.place[image, unit]), size)) for image in images]
        tiles = [_tile(each, smooth=True) for each in patches]
        tiles += [np.full((TILE, TILE, 3), PAPER, dtype=np.uint8)] * (TOP - len(tiles))
        # of equally common classes the one whose image excites most
        name, of_it = Counter(seen.classes[image] for image in images).most_common(1)[0]
        rows.append(
            UnitRow(
                unit=unit,
                patches=len(images),
                paths=tuple(seen.paths[image] for image in images),
                most=name,
                of_it=of_it,
                picture=_sheet(
                    [tiles[at : at + 3] for at in range(0, TOP, 3)],
                    lossless=max(patches[0].shape[:2]) <= TILE // 2,
                ),
            )
        )
    return UnitLayer(
        name=layer.name,
        maps=layer.channels,
        live=len(live),
        field="×".join(f"{side:,}" for side in layer.field),
        whole=not layer.field or all(seen >= side for seen, side in zip(layer.field, size, strict=True)),
        units=tuple(rows),
    )


def cut(pixels: NDArray[np.uint8], window: tuple[slice, slice]) -> NDArray[np.uint8]:
    """The window of an image (H, W, C), grey where it reaches beyond the edge."""
    rows, columns = window
    height, width = pixels.shape[:2]
    patch = np.full(
        (rows.stop - rows.start, columns.stop - columns.start, pixels.shape[2]), OUTSIDE, dtype=np.uint8
    )
    top, left = max(0, rows.start), max(0, columns.start)
    bottom, right = min(height, rows.stop), min(width, columns.stop)
    if bottom > top and right > left:
        patch[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = pixels[
            top:bottom, left:right
        ]
    return patch


def _chart(found: Activations, units: Sequence[int], images: Sequence[int]) -> Picture:
    """A row for each unit, a column for each image; white is the unit's largest response."""
    from PIL import Image

    response = found.response.double().nan_to_num().numpy()[np.ix_(images, units)].T  # (units, images)
    largest = response.max(axis=1, keepdims=True)
    levels = (255 * response / np.where(largest > 0, largest, 1)).round().astype(np.uint8)
    return encoded(Image.fromarray(levels), lossless=True)


def _tile(pixels: NDArray[np.uint8], side: int = TILE, *, smooth: bool = False) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) in a square (side, side, 3): enlarged by a whole number, or shrunk; paper around it.

    A `smooth` one that has no room twice fills the square nevertheless.
    """
    from PIL import Image

    image = Image.fromarray(
        np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    ).convert("RGB")
    longest = max(image.size)
    if smooth and side / 2 < longest < side:
        scale = side / longest
        image = image.resize(
            (max(1, round(scale * image.width)), max(1, round(scale * image.height))),
            Image.Resampling.BICUBIC,
        )
    elif longest > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    else:
        times = side // longest
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    tile = np.full((side, side, 3), PAPER, dtype=np.uint8)
    top, left = (side - image.height) // 2, (side - image.width) // 2
    tile[top : top + image.height, left : left + image.width] = np.asarray(image)
    return tile


def _sheet(tiles: Sequence[Sequence[NDArray[np.uint8]]], *, lossless: bool) -> Picture:
    """Square tiles in rows, two pixels of paper between."""
    from PIL import Image

    side = tiles[0][0].shape[0]
    sheet = np.full((len(tiles) * (side + 2) - 2, len(tiles[0]) * (side + 2) - 2, 3), PAPER, dtype=np.uint8)
    for row, line in enumerate(tiles):
        for column, tile in enumerate(line):
            top, left = row * (side + 2), column * (side + 2)
            sheet[top : top + side, left : left + side] = tile
    return encoded(Image.fromarray(sheet), lossless=lossless)
