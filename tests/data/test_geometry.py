"""Geometry against Pillow and a triangle filter in float64; grey, colour, panoramas and tiny images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convworks.data import preprocess
from convworks.data.preprocess import Fit, Geometry
from convworks.errors import ConvworksError

from .pixels import QUICK, counts_threads, noise, square, threads_started

FITS = get_args(Fit)


def triangle_weights(before: int, after: int) -> NDArray[np.float64]:
    """(after, before): antialiased linear interpolation between pixel centres, in float64."""
    scale = before / after
    support = max(1.0, scale)
    centres = (np.arange(after)[:, None] + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(before) - centres) / support)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def resize_oracle(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    rows = triangle_weights(pixels.shape[0], height)
    columns = triangle_weights(pixels.shape[1], width)
    result: NDArray[np.float64] = np.einsum("yh,xw,hwc->yxc", rows, columns, pixels.astype(np.float64))
    return result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height is 0"),
        ({"width": 2**20}, "width is 1048576"),
        ({"height": 8.0}, "height is 8.0"),
        ({"height": True}, "height is True"),
        ({"stored_width": 7}, "stored_width is 7"),
        ({"channels": 2}, "channels is 2"),
        ({"fill": 256}, "fill is 256"),
        ({"fill": -1}, "fill is -1"),
    ],
)
def test_a_geometry_that_makes_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        replace(square(8), **change)
    assert caught.value.code == "U175"
    assert caught.value.why


def test_an_unknown_fit_offers_the_near_one() -> None:
    with pytest.raises(ConvworksError, match="did you mean 'squash'"):
        square(8, fit="squish")


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_stored_size_is_not_copied(fit: str, channels: int) -> None:
    pixels = noise(9, 9, channels)
    got = square(9, channels=channels, fit=fit).fitted(pixels)
    assert np.shares_memory(got, pixels)
    np.testing.assert_array_equal(got, noise(9, 9, channels))


def test_shorter_side_256_then_centre_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-01: 640x480 -> 341x256 -> 256x256."""
    sizes: list[tuple[int, int]] = []
    real = preprocess.resized

    def spy(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        sizes.append((height, width))
        return real(pixels, height, width)

    monkeypatch.setattr(preprocess, "resized", spy)
    smooth = np.array(Image.fromarray(noise(6, 8, 3)).resize((640, 480), Image.Resampling.BICUBIC))
    got = square(224, stored=256).fitted(smooth)
    assert sizes == [(256, 341)]
    whole = np.array(Image.fromarray(smooth).resize((341, 256), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(got.astype(int), whole[:, 42 : 42 + 256], atol=1)
    upright = square(224, stored=256).fitted(np.ascontiguousarray(smooth.transpose(1, 0, 2)))
    assert sizes[1] == (341, 256)
    np.testing.assert_allclose(upright.transpose(1, 0, 2).astype(int), got, atol=1)


@QUICK
@given(
    before=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    after=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_resizing_is_the_triangle_filter(
    before: tuple[int, int], after: tuple[int, int], channels: int, seed: int
) -> None:
    """Smaller and larger; within one grey level, since torch rounds after each of the two passes."""
    pixels = noise(*before, channels, seed=seed)
    got = preprocess.resized(pixels, *after)
    assert got.shape == (*after, channels)
    np.testing.assert_allclose(got, resize_oracle(pixels, *after), atol=1.01)


@QUICK
@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    stored=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    fit=st.sampled_from(FITS),
    channels=st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    level=st.integers(0, 255),
)
def test_any_image_gets_the_stored_shape_and_keeps_its_grey(
    size: tuple[int, int], stored: tuple[int, int], fit: Any, channels: tuple[int, Any], level: int
) -> None:
    geometry = Geometry(1, 1, channels[1], fit, *stored, fill=level)
    got = geometry.fitted(np.full((*size, channels[0]), level, dtype=np.uint8))
    assert got.shape == geometry.stored_shape
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, level)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 30_000), (30_000, 1), (20, 9000)])
def test_panoramas_take_no_more_memory_than_other_images(
    fit: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    real = preprocess.resized

    def spy(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        nonlocal largest
        largest = max(largest, height * width)
        return real(pixels, height, width)

    monkeypatch.setattr(preprocess, "resized", spy)
    got = square(32, fit=fit).fitted(np.full((*shape, 3), 77, dtype=np.uint8))
    assert largest <= 5 * 32 * 32
    assert got.max() == 77


def test_crop_of_a_panorama_keeps_the_middle() -> None:
    wide = np.zeros((10, 1000, 1), dtype=np.uint8)
    wide[:, 495:505] = 255
    np.testing.assert_array_equal(square(10, channels=1).fitted(wide), 255)


def test_crop_covers_a_store_that_is_not_square() -> None:
    pixels = np.tile(np.arange(40, dtype=np.uint8)[:, None, None], (1, 20, 1))  # value = row
    got = Geometry(10, 20, 1, "crop", 10, 20).fitted(pixels)
    np.testing.assert_array_equal(got[:, :, 0], np.tile(np.arange(15, 25)[:, None], (1, 20)))


@pytest.mark.parametrize(
    ("size", "box"),
    [  # (height, width) -> (top, left, height, width) on a canvas of 8x8
        ((3, 5), (2, 1, 3, 5)),
        ((8, 7), (0, 0, 8, 7)),
        ((1, 1), (3, 3, 1, 1)),
        ((16, 8), (0, 2, 8, 4)),
        ((16, 6), (0, 2, 8, 3)),
        ((9, 25), (2, 0, 3, 8)),
        ((25, 9), (0, 2, 8, 3)),
        ((100, 2), (0, 3, 8, 1)),
    ],
)
def test_pad_shrinks_but_never_enlarges(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    top, left, height, width = box
    got = replace(square(8, channels=1, fit="pad"), fill=9).fitted(np.full((*size, 1), 200, dtype=np.uint8))
    expected = np.full((8, 8, 1), 9)
    expected[top : top + height, left : left + width] = 200
    np.testing.assert_array_equal(got, expected)


def test_squash_changes_the_aspect_ratio() -> None:
    pixels = noise(30, 12, 3)
    np.testing.assert_array_equal(square(16, fit="squash").fitted(pixels), preprocess.resized(pixels, 16, 16))


def test_luma_is_that_of_bt601() -> None:
    pixels = noise(50, 40, 3)
    red, green, blue = pixels.astype(np.int64).transpose(2, 0, 1)
    expected = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16  # 0.299, 0.587, 0.114 in 1 / 65,536
    got = Geometry(50, 40, 1, "crop", 50, 40).fitted(pixels)
    np.testing.assert_array_equal(got[:, :, 0], expected)


def test_grey_becomes_colour_by_repetition() -> None:
    pixels = noise(6, 6, 1)
    np.testing.assert_array_equal(square(6).fitted(pixels), np.concatenate([pixels] * 3, axis=2))


def test_read_only_and_strided_images() -> None:
    pixels = noise(30, 40, 3)
    frozen = pixels.copy()
    frozen.flags.writeable = False
    expected = square(8).fitted(pixels)
    np.testing.assert_array_equal(square(8).fitted(frozen), expected)
    np.testing.assert_array_equal(square(8).fitted(pixels[:, ::-1]), square(8).fitted(pixels[:, ::-1].copy()))


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4, 2), (4, 4, 4)])
def test_what_is_no_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="an image must be uint8"):
        square(4).fitted(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match="float64"):
        square(4).fitted(np.zeros((4, 4, 3)))  # type: ignore[arg-type]


def test_fitting_in_threads_gives_the_same_pixels() -> None:
    images = [noise(200 + i, 300 - i, 3, seed=i) for i in range(24)]
    geometry = square(64)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(geometry.fitted, images))
    for got, image in zip(together, images, strict=True):
        np.testing.assert_array_equal(got, geometry.fitted(image))


@counts_threads
@pytest.mark.parametrize("fit", FITS)
def test_fitting_starts_no_threads_of_its_own(fit: str) -> None:
    assert threads_started(lambda: square(256, fit=fit).fitted(noise(700, 900, 3))) == 0
