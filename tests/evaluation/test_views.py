"""The views of every protocol against loops over positions, written out here with NumPy and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from convworks.data.preprocess import Geometry
from convworks.evaluation.protocols import PROTOCOLS, resolve
from convworks.evaluation.views import MIRROR, base_image, views_of

Pixels = NDArray[np.uint8]
AT_224 = Geometry(224, 224, 3, "crop", 224, 224)


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> Pixels:
    """A picture that two good resizing filters agree on."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 37 + k) + np.cos(y / 29 - k) for k in range(3)]
    return (127.5 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def all_views(pixels: Pixels, name: str, geometry: Geometry = AT_224) -> dict[str, Pixels]:
    found: dict[str, Pixels] = {}
    for stack in views_of(pixels, resolve(name), geometry):
        for key, view in zip(stack.names, stack.pixels, strict=True):
            assert key not in found
            found[key] = view
    return found


def same_multiset(found: list[Pixels], expected: list[Pixels], *, tolerance: int = 0) -> None:
    """Every view has its partner, in the same order."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(int) - b.astype(int)).max() <= tolerance


# --- loops that know nothing of the package -----------------------------------------------------------------


def pil_resize(image: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def shorter_to(image: Pixels, side: int) -> Pixels:
    h, w = image.shape[:2]
    if min(h, w) == side:
        return image
    return pil_resize(image, side, w * side // h) if h <= w else pil_resize(image, h * side // w, side)


def both(views: list[Pixels]) -> list[Pixels]:
    return [each for view in views for each in (view, np.fliplr(view))]


def corners_and_centre(square: Pixels, crop: int) -> list[Pixels]:
    n = len(square)
    last, middle = n - crop, (n - crop) // 2
    places = [(0, 0), (0, last), (last, 0), (last, last), (middle, middle)]
    return [square[y : y + crop, x : x + crop] for y, x in places]


def loop_10(image: Pixels, side: int = 256, crop: int = 224) -> list[Pixels]:
    image = shorter_to(image, side)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return both(corners_and_centre(image[top : top + side, left : left + side], crop))


def loop_144(image: Pixels, sides: tuple[int, ...] = (256, 288, 320, 352), crop: int = 224) -> list[Pixels]:
    found = []
    for side in sides:
        sized = shorter_to(image, side)
        h, w = sized.shape[:2]
        for part in range(3):  # left, centre, right; of a portrait top, centre, bottom
            top, left = part * (h - side) // 2, part * (w - side) // 2
            square = sized[top : top + side, left : left + side]
            found += both([*corners_and_centre(square, crop), pil_resize(square, crop, crop)])
    return found


def loop_grid(image: Pixels, sides: tuple[int, ...] = (256, 384, 512), crop: int = 224) -> list[Pixels]:
    found = []
    for side in sides:
        sized = shorter_to(image, side)
        h, w = sized.shape[:2]
        for row in range(5):
            for column in range(5):
                y, x = row * (h - crop) // 4, column * (w - crop) // 4
                found += both([sized[y : y + crop, x : x + crop]])
    return found


# --- the protocols at 224 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(256, 341), (400, 256), (256, 256)])
def test_ten_crops_to_the_byte(size: tuple[int, int]) -> None:
    image = photo(*size)
    found = all_views(image, "10-crop")
    assert len(found) == 10
    same_multiset(list(found.values()), loop_10(image))


@pytest.mark.parametrize("side", [256, 288, 320, 352])
@pytest.mark.parametrize("wide", [True, False])
def test_the_36_crops_of_one_scale_to_the_byte(side: int, wide: bool) -> None:
    image = photo(side, side + 101) if wide else photo(side + 66, side)
    found = list(all_views(image, f"144-crop@{side}").values())
    expected = loop_144(image, (side,))
    assert len(found) == 36
    whole = [i for i in range(36) if i % 12 >= 10]  # the squares themselves, which are resized
    crops = [i for i in range(36) if i % 12 < 10]
    same_multiset([found[i] for i in crops], [expected[i] for i in crops])
    small = smooth(*image.shape[:2])
    found, expected = list(all_views(small, f"144-crop@{side}").values()), loop_144(small, (side,))
    same_multiset([found[i] for i in whole], [expected[i] for i in whole], tolerance=1)


@pytest.mark.parametrize("size", [(300, 420), (640, 480), (231, 200)])
def test_144_crops_of_any_photograph(size: tuple[int, int]) -> None:
    image = smooth(*size)
    found = all_views(image, "144-crop")
    assert len(found) == 144
    same_multiset(list(found.values()), loop_144(image), tolerance=2)


@pytest.mark.parametrize(("name", "views"), [("multi-crop", 150), ("multi-crop@256", 50)])
def test_the_regular_grid(name: str, views: int) -> None:
    image = photo(256, 377)
    sides = resolve(name).scales
    found = list(all_views(image, name).values())
    assert len(found) == views
    same_multiset(found[:50], loop_grid(image, (256,)))  # not resized: to the byte
    image = smooth(300, 451)
    same_multiset(list(all_views(image, name).values()), loop_grid(image, sides), tolerance=2)


def test_the_whole_image_is_not_cut() -> None:
    image = photo(256, 377)
    found = all_views(image, "vgg-dense")
    assert list(found) == ["256", "256" + MIRROR]
    same_multiset(list(found.values()), both([image]))
    assert [view.shape[:2] for view in all_views(image, "vgg-multi-scale").values()][::2] == [
        (224, 377 * 224 // 256),
        (256, 377),
        (288, 377 * 288 // 256),
    ]
    assert list(all_views(image, "full")) == ["256"]


def test_the_centre_is_what_training_fits() -> None:
    geometry = Geometry(20, 24, 3, "crop", 30, 28)
    image = photo(100, 77)
    (view,) = all_views(image, "centre", geometry).values()
    np.testing.assert_array_equal(view, geometry.fitted(image)[5:25, 2:26])


def test_shifts_are_the_centre_moved() -> None:
    geometry = Geometry(32, 32, 3, "pad", 32, 32, fill=9)
    image = photo(32, 32)
    found = all_views(image, "tta", geometry)
    assert len(found) == 18
    padded = np.full((36, 36, 3), 9, np.uint8)
    padded[2:34, 2:34] = image
    expected = [padded[2 + y : 34 + y, 2 + x : 34 + x] for y in (0, -2, 2) for x in (0, -2, 2)]
    same_multiset(list(found.values()), both(expected))
    same_multiset(list(all_views(image, "tta-shifts", geometry).values()), expected)
    # a stored border is used before anything is filled in
    large = Geometry(32, 32, 3, "crop", 40, 40)
    image = photo(40, 40)
    moved = all_views(image, "tta-shifts", large)["-1+1"]
    np.testing.assert_array_equal(moved, image[2:34, 6:38])


def test_a_diagonal_is_mirrored_at_the_border() -> None:
    geometry = Geometry(32, 32, 3, "pad", 32, 32, fill=9)
    image = photo(32, 32)
    found = all_views(image, "mirror-translate", geometry)
    padded = np.pad(image, [(1, 1), (1, 1), (0, 0)], mode="reflect")
    expected = [padded[1 + d : 33 + d, 1 + d : 33 + d] for d in (0, -1, 1)]
    same_multiset(list(found.values()), both(expected))
    np.testing.assert_array_equal(found["centre"], image)
    np.testing.assert_array_equal(found["up left"], expected[1])
    large = Geometry(64, 64, 3, "crop", 80, 80)
    image = photo(80, 80)
    np.testing.assert_array_equal(
        all_views(image, "mirror-translate", large)["down right"], image[10:74, 10:74]
    )
    dot = Geometry(1, 1, 3, "pad", 1, 1)
    assert {view.tobytes() for view in all_views(photo(1, 1), "mirror-translate", dot).values()} == {
        photo(1, 1).tobytes()
    }


# --- other inputs, other images -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (12, 12), (1, 1), (3, 200), (500, 41), (31, 30)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(28, 28, 1, "pad", 32, 32),
        Geometry(32, 32, 3, "crop", 36, 36),
        Geometry(24, 40, 3, "crop", 24, 40),
        Geometry(33, 33, 1, "squash", 33, 33),
        Geometry(1, 1, 3, "crop", 1, 1),
    ],
)
def test_any_image_has_all_views(size: tuple[int, int], channels: int, geometry: Geometry) -> None:
    # Grey and colour, smaller than the crop, long and thin: the right number, the right shape.
    for name, protocol in PROTOCOLS.items():
        if protocol.parts:
            continue
        views = all_views(photo(*size, channels), name, geometry)
        assert len(views) == protocol.views
        for key, view in views.items():
            assert view.shape[2] == geometry.channels
            if protocol.layout != "whole":
                assert view.shape[:2] == (geometry.height, geometry.width)
            else:
                assert view.shape[0] >= geometry.height
                assert view.shape[1] >= geometry.width
            if key.endswith(MIRROR):
                np.testing.assert_array_equal(view, views[key.removesuffix(MIRROR)][:, ::-1])


def test_an_oblong_input_is_covered_in_its_own_proportions() -> None:
    geometry = Geometry(112, 224, 3, "crop", 112, 224)
    image = photo(128, 256)
    found = list(all_views(image, "10-crop", geometry).values())
    places = [(0, 0), (0, 32), (16, 0), (16, 32), (8, 16)]
    same_multiset(found, both([image[y : y + 112, x : x + 224] for y, x in places]))


def test_a_panorama_is_cut_as_in_training() -> None:
    image = photo(10, 1000)
    assert base_image(image, AT_224).shape == (10, 40, 3)
    np.testing.assert_array_equal(base_image(image, AT_224), image[:, 480:520])
    assert all_views(image, "vgg-dense")["256"].shape == (256, 1024, 3)


def test_grey_becomes_colour_and_colour_grey() -> None:
    grey = photo(40, 50, 1)
    np.testing.assert_array_equal(base_image(grey, AT_224), np.repeat(grey, 3, axis=2))
    colour = photo(40, 50, 3)
    expected = np.asarray(Image.fromarray(colour).convert("L"))[..., None]
    np.testing.assert_array_equal(base_image(colour, Geometry(28, 28, 1, "crop", 28, 28)), expected)


def test_a_mean_has_no_views_of_its_own() -> None:
    with pytest.raises(ValueError, match="is a mean of"):
        list(views_of(photo(9, 9), resolve("dense+multi-crop"), AT_224))


@pytest.mark.parametrize("stored", [(28, 28), (40, 37)])
def test_turned_views_are_turned_and_zoomed_about_the_centre(stored: tuple[int, int]) -> None:
    height, width = stored
    geometry = Geometry(28, 26, 3, "crop" if height > 28 else "pad", height, width, fill=9)
    image = photo(height, width)
    views = all_views(image, "tta-turns", geometry)
    top, left = (height - 28) // 2, (width - 26) // 2
    np.testing.assert_array_equal(views.pop("centre"), image[top : top + 28, left : left + 26])
    ways = [(-8, 0.93), (-8, 1.07), (8, 0.93), (8, 1.07)]
    assert list(views) == [f"turned {a:+d}, {'larger' if z > 1 else 'smaller'}" for a, z in ways]
    y, x = np.mgrid[0:28, 0:26] - np.array([13.5, 12.5])[:, None, None]
    for (angle, zoom), view in zip(ways, views.values(), strict=True):
        turn = np.deg2rad(angle)
        down = (np.sin(turn) * x + np.cos(turn) * y) / zoom + top + 13.5
        right = (np.cos(turn) * x - np.sin(turn) * y) / zoom + left + 12.5
        for channel in range(3):
            expected = map_coordinates(
                image[..., channel].astype(float), [down, right], order=1, mode="grid-constant", cval=9
            )
            assert np.abs(view[..., channel] - expected).max() <= 0.51


def test_a_positive_turn_is_counterclockwise() -> None:
    geometry = Geometry(41, 41, 1, "pad", 41, 41)
    y, x = np.mgrid[0:41, 0:41]
    bar = np.where((abs(y - 20) < 2) & (x > 20), 255, 0).astype(np.uint8)[..., None]
    views = all_views(bar, "tta-turns", geometry)
    for name, view in views.items():
        rows = np.average(y, weights=view[..., 0])
        assert rows > 21 if "-8" in name else rows < 19 if "+8" in name else abs(rows - 20) < 0.01
        right = np.flatnonzero(view[..., 0].sum(axis=0) > 100).max()
        assert right == 40 if "larger" in name or name == "centre" else right < 40
