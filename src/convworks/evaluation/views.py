"""The views of one image under a protocol: uint8 crops, in a fixed order, each under a name.

Everything here is bytes and positions; `inference.py` runs networks on them. An image comes from `decode` and
is resized once for each scale, with the antialiased filter of training. For a square input of s pixels "scale
S" is a shorter side of S; in general the image just covers a box of the input's proportions. The longer side
is rounded down, as in training.

- `fit="crop"` (photographs): views come from the whole image, of which training's fit keeps the middle. An
  image of more than four times the proportions of the input is cut to that first, as in training.
- `fit="squash"` and "pad": views come from the image as training fits it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convworks.data.augment_geometry import framed, inverse_affine, sample_affine
from convworks.data.preprocess import PANORAMA, Geometry, centre_crop, luma, resized
from convworks.evaluation.protocols import CENTRE, TURN, ZOOM, Layout, Protocol, scaled, shift

Pixels = NDArray[np.uint8]
MIRROR = " mirrored"


class Place(NamedTuple):
    """A crop: its name, its top left corner and its size; `shrunk` where it is resized to the input."""

    name: str
    top: int
    left: int
    height: int
    width: int
    shrunk: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Views of one size: `pixels` (V, h, w, C), and a name for each."""

    names: tuple[str, ...]
    pixels: Pixels


def views_of(pixels: Pixels, protocol: Protocol, geometry: Geometry) -> Iterator[Stack]:
    """The views of one decoded image (H, W, 1 or 3), scale after scale.

    Every view stands behind the one that it mirrors. Raises ValueError for a mean of protocols, which has no
    views of its own.
    """
    if protocol.parts:
        raise ValueError(f"{protocol.name} is a mean of {', '.join(protocol.parts)}")
    if protocol.layout in AS_FITTED:
        parts = AS_FITTED[protocol.layout](geometry.fitted(pixels), geometry)
        yield _stack(parts, mirrored=protocol.mirrored)
        return
    image = base_image(pixels, geometry)
    for scale in protocol.scales:
        box = box_of(scale, geometry)
        covering = resized(image, *covering_size(image.shape[:2], box))
        size = (geometry.height, geometry.width)
        if protocol.layout == "whole":
            crops = [(f"{scale}", covering)]
        else:
            places = positions(protocol, covering.shape[:2], box=box, crop=size)
            crops = [(f"{scale} {place.name}", cut(covering, place, size)) for place in places]
        yield _stack(crops, mirrored=protocol.mirrored)


def base_image(pixels: Pixels, geometry: Geometry) -> Pixels:
    """The image that scales are made of, in the network's number of channels."""
    if geometry.fit != "crop":
        return geometry.fitted(pixels)
    h, w, channels = pixels.shape
    H, W = geometry.height, geometry.width
    pixels = centre_crop(pixels, min(h, -(-PANORAMA * H * w // W)), min(w, -(-PANORAMA * W * h // H)))
    if channels == 3 and geometry.channels == 1:
        pixels = luma(np.ascontiguousarray(pixels))
    if channels == 1 and geometry.channels == 3:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def box_of(scale: int, geometry: Geometry) -> tuple[int, int]:
    """Height and width that an image just covers at a scale written for 224."""
    return scaled(scale, geometry.height), scaled(scale, geometry.width)


def covering_size(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The size at which an image just covers a box; the longer side is rounded down."""
    (h, w), (H, W) = size, box
    return (H, w * H // h) if w * H >= h * W else (h * W // w, W)


def positions(
    protocol: Protocol, size: tuple[int, int], *, box: tuple[int, int], crop: tuple[int, int]
) -> list[Place]:
    """The crops of an image of `size` that covers `box`.

    - "five": corners and centre of the middle box, as of AlexNet's 256 x 256 images;
    - "squares": of the boxes at both ends and in the middle (left, centre, right, or top, centre, bottom)
      corners, centre, and the box itself, resized to the input;
    - "grid": 5 x 5 corners at equal distances over the whole image, from edge to edge.
    """
    h, w = size
    if protocol.layout == "grid":
        tops, lefts = ([(n - c) * i // 4 for i in range(5)] for n, c in zip(size, crop, strict=True))
        return [Place(f"{y}{x}", tops[y], lefts[x], *crop) for y in range(5) for x in range(5)]
    (H, W), found = box, []
    squares = {"": 1} if protocol.layout == "five" else {"first ": 0, "middle ": 1, "last ": 2}
    for square, number in squares.items():
        top, left = (h - H) * number // 2, (w - W) * number // 2
        for name, dy, dx in _five(box, crop):
            found.append(Place(f"{square}{name}", top + dy, left + dx, *crop))
        if protocol.layout == "squares":
            found.append(Place(f"{square}whole", top, left, H, W, shrunk=True))
    return found


def _five(box: tuple[int, int], crop: tuple[int, int]) -> list[tuple[str, int, int]]:
    """Corners and centre of a box: name, rows down, columns right."""
    down, right = box[0] - crop[0], box[1] - crop[1]
    return [
        ("top left", 0, 0),
        ("top right", 0, right),
        ("bottom left", down, 0),
        ("bottom right", down, right),
        ("centre", down // 2, right // 2),
    ]


def cut(image: Pixels, place: Place, size: tuple[int, int]) -> Pixels:
    """One crop of the network's size; a box that is larger is resized to it."""
    part = image[place.top : place.top + place.height, place.left : place.left + place.width]
    return resized(np.ascontiguousarray(part), *size) if place.shrunk else part


def central(stored: Pixels, geometry: Geometry) -> list[tuple[str, Pixels]]:
    """The centre alone."""
    return [(CENTRE, centre_crop(stored, geometry.height, geometry.width))]


def shifted(stored: Pixels, geometry: Geometry) -> list[tuple[str, Pixels]]:
    """The centre, and the same window moved by d pixels to eight sides; d is `shift` of the side.

    Beyond the border of the stored image is what training's shifts put there: grey level `fill`.
    """
    dy, dx = (shift("shifts", side) for side in (geometry.height, geometry.width))
    canvas = framed(stored[None], dy, dx, fill=geometry.fill, mirrored=False)[0]
    sides = (0, -1, 1)
    return [(f"{y:+d}{x:+d}", _moved(canvas, y * dy, x * dx, geometry)) for y in sides for x in sides]


def diagonal(stored: Pixels, geometry: Geometry) -> list[tuple[str, Pixels]]:
    """The centre, and the same window moved by d pixels up left and down right; d is `shift` of the side.

    Beyond the border of the stored image lies the image mirrored at its edge (Jordan 2024, section 3.5).
    """
    sides = (geometry.height, geometry.width)
    dy, dx = (min(shift("diagonal", side), side - 1) for side in sides)  # one pixel has no mirror image
    canvas = framed(stored[None], dy, dx, fill=geometry.fill, mirrored=True)[0]
    places = {CENTRE: 0, "up left": -1, "down right": 1}
    return [(name, _moved(canvas, way * dy, way * dx, geometry)) for name, way in places.items()]


def turned(stored: Pixels, geometry: Geometry) -> list[tuple[str, Pixels]]:
    """The centre, and the same window turned about its own by TURN degrees and zoomed by ZOOM, both ways.

    Each is sampled as training's `rotate` and `scale` do it, with grey level `fill` beyond the stored image.
    """
    H, W = geometry.height, geometry.width
    ways = [(angle, zoom) for angle in (-TURN, TURN) for zoom in (-ZOOM, ZOOM)]
    angle, zoom = np.array(ways).T
    corner = [np.full(len(ways), (n - side) // 2) for n, side in zip(stored.shape[:2], (H, W), strict=True)]
    views = sample_affine(
        np.repeat(stored[None], len(ways), axis=0),
        inverse_affine(angle=angle, scale=zoom, shear=np.zeros(len(ways))),
        top=corner[0],
        left=corner[1],
        height=H,
        width=W,
        fill=geometry.fill,
    )
    names = [f"turned {a:+g}, {'larger' if z > 0 else 'smaller'}" for a, z in ways]
    return central(stored, geometry) + list(zip(names, views, strict=True))


def _moved(canvas: Pixels, down: int, right: int, geometry: Geometry) -> Pixels:
    """The central window of a canvas, moved."""
    top, left = (canvas.shape[0] - geometry.height) // 2, (canvas.shape[1] - geometry.width) // 2
    return canvas[top + down : top + down + geometry.height, left + right : left + right + geometry.width]


# The views of the image as training fits it.
AS_FITTED: dict[Layout, Callable[[Pixels, Geometry], list[tuple[str, Pixels]]]] = {
    "stored": central,
    "shifts": shifted,
    "diagonal": diagonal,
    "turns": turned,
}


def _stack(parts: list[tuple[str, Pixels]], *, mirrored: bool) -> Stack:
    if not mirrored:
        return Stack(tuple(name for name, _ in parts), np.stack([pixels for _, pixels in parts]))
    names = tuple(each for name, _ in parts for each in (name, name + MIRROR))
    return Stack(names, np.stack([each for _, pixels in parts for each in (pixels, pixels[:, ::-1])]))
