"""Elastic fields against scipy's Gaussian filter; they and the affine change in one sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from convworks.data.augment import Augment, augment
from convworks.data.augment_draws import draw
from convworks.data.augment_geometry import elastic_fields, framed, inverse_affine, sample_affine
from convworks.errors import ConvworksError
from convworks.randomness import words

from .pixels import counts_threads, noise, threads_started


def fields(**changes: Any) -> NDArray[np.float32]:
    values: dict[str, Any] = {"seed": 0, "epoch": 0, "indices": np.arange(4), "height": 28, "width": 21}
    values |= {"alpha": 34.0, "sigma": 4.0}
    return elastic_fields(**{**values, **changes})


def run(images: NDArray[np.uint8], policy: Augment, **changes: Any) -> NDArray[np.uint8]:
    values: dict[str, Any] = {"seed": 0, "epoch": 0, "indices": np.arange(len(images)), "fill": 0}
    height, width = images.shape[1:3]
    values |= {"height": height, "width": width, **changes}
    return augment(torch.from_numpy(images), policy, **values).numpy()


@pytest.mark.parametrize("sigma", [2.0, 4.0, 7.5])
@pytest.mark.parametrize("size", [(28, 21), (17, 32), (13, 1)])
def test_fields_are_smoothed_uniform_noise_as_simard_says(sigma: float, size: tuple[int, int]) -> None:
    height, width = size
    got = fields(sigma=sigma, height=height, width=width)
    drawn = words(0, "elastic", 0, np.arange(4), -(-height * width // 2)).astype("<u4")
    bytes_ = drawn.view(np.uint8)[:, : 2 * height * width].astype(np.float64)
    raw = ((bytes_ - 127.5) / 127.5).reshape(4, height, width, 2)
    for field, noise_ in zip(got, raw, strict=True):
        for axis in range(2):
            smooth = ndimage.gaussian_filter(noise_[..., axis], sigma, mode="wrap", truncate=8)
            np.testing.assert_allclose(field[..., axis], 34 * smooth, atol=1e-4)


def test_the_noise_is_uniform_and_the_strength_is_as_documented() -> None:
    raw = fields(sigma=1e-6, alpha=1.0, indices=np.arange(60)).ravel()
    assert stats.kstest(raw, stats.uniform(-1, 2).cdf).statistic < 0.01
    assert np.abs(raw).max() <= 1 + 1e-6
    strong = fields(indices=np.arange(60), height=64, width=64)
    np.testing.assert_allclose(strong.std(), 0.163 * 34 / 4, rtol=0.05)
    np.testing.assert_allclose(strong[:, 0].std(), strong[:, 32].std(), rtol=0.2)  # as strong at the border


def test_a_field_belongs_to_its_image_and_epoch() -> None:
    together = fields(indices=np.arange(10))
    np.testing.assert_array_equal(fields(indices=np.array([7])), together[7:8])
    np.testing.assert_array_equal(fields(indices=np.array([7, 2, 3])), together[[7, 2, 3]])
    assert (fields(epoch=1) != fields()).any()
    assert (fields(seed=1) != fields()).any()


def test_an_image_is_sampled_where_its_field_says() -> None:
    images = noise(3, 28, 21, 3)
    got = run(images, Augment(elastic=34.0), fill=9)
    moved = fields(indices=np.arange(3)).astype(np.float64)
    y, x = np.mgrid[:28, :21]
    for image, field, result in zip(images, moved, got, strict=True):
        where = np.stack([y + field[..., 1], x + field[..., 0]])
        for channel in range(3):
            expected = ndimage.map_coordinates(
                image[..., channel].astype(float), where, order=1, mode="grid-constant", cval=9
            )
            np.testing.assert_allclose(result[..., channel], expected, atol=0.52)


def test_a_weak_field_changes_nothing_and_the_affine_change_stays() -> None:
    images = noise(5, 12, 15, 3)
    np.testing.assert_array_equal(run(images, Augment(elastic=1e-6)), images)
    turned = run(images, Augment(rotate=20.0, shift=2))
    weak = run(images, Augment(rotate=20.0, shift=2, elastic=1e-6))
    assert np.abs(turned.astype(int) - weak).max() <= 1


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_boxes_have_sides_of_their_own(angle: float) -> None:
    """On a plane every sample is exact: 3 rows and 1.5 columns of the image for one of the result."""
    rows, columns = np.mgrid[:60, :60].astype(np.float64)
    turn, zero = np.array([angle]), np.zeros(1)
    place: dict[str, Any] = {"top": np.array([6.0]), "left": np.array([12.0]), "height": 10, "width": 10}
    place |= {"box_height": np.array([30.0]), "box_width": np.array([15.0]), "fill": 0}
    inverse = inverse_affine(angle=turn, scale=zero, shear=zero)
    steps = np.arange(10) - 4.5
    for plane, middle, step in ((rows * 3, 3 * 20.5, 9.0), (columns * 3, 3 * 19.0, 4.5)):
        got = sample_affine(plane.astype(np.uint8)[None, :, :, None], inverse, **place)[0, :, :, 0]
        along = (step == 9.0) == (angle == 0.0)
        down, right = (steps[:, None], 0 * steps) if along else (0 * steps[:, None], steps)
        sign = -1 if angle and step == 4.5 else 1  # columns grow upwards after a quarter turn
        np.testing.assert_allclose(got, middle + sign * step * (down + right), atol=0.51)


@pytest.mark.parametrize("times", [2, 4])
def test_boxes_are_resized_about_their_centres(times: int) -> None:
    """A box of n times the size, sampled without turning, is the mean of n x n pixels."""
    images = noise(3, 4 + 6 * times, 4 + 4 * times, 3)
    zero = np.zeros(3)
    got = sample_affine(
        images,
        inverse_affine(angle=zero, scale=zero, shear=zero),
        top=np.array([0.0, 2.0, 4.0]),
        left=np.array([0.0, 4.0, 2.0]),
        height=6,
        width=4,
        fill=0,
        box_height=np.full(3, 6.0 * times),
        box_width=np.full(3, 4.0 * times),
    )
    for image, result, top, left in zip(images, got, (0, 2, 4), (0, 4, 2), strict=True):
        cut = image[top : top + 6 * times, left : left + 4 * times].astype(float)
        mean = cut.reshape(6, times, 4, times, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(result, mean, atol=0.51)


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 31, 3), (1, 1, 3), (224, 224, 3)])
def test_a_sample_has_the_same_pixels_in_every_batch(shape: tuple[int, ...]) -> None:
    images = noise(14, *shape)
    policy = Augment(elastic=20.0, elastic_sigma=3.0, rotate=10.0)
    together = run(images, policy)
    for chosen in ([4], [13, 3, 9]):
        part = run(images[chosen], policy, indices=np.array(chosen))
        np.testing.assert_array_equal(part, together[chosen])


@counts_threads
@pytest.mark.parametrize("side", [28, 224])
def test_no_operator_starts_threads_of_its_own(side: int) -> None:
    images = noise(8, side, side, 3)
    assert threads_started(lambda: run(images, Augment(elastic=34.0))) == 0


def test_alternating_flips_show_each_image_both_ways_in_turn() -> None:
    """Half of the images begin mirrored; in every next epoch all turn round (Jordan 2024, section 3.6)."""
    images = np.random.default_rng(0).integers(0, 256, (400, 3, 5, 1), dtype=np.uint8)
    policy = Augment(flip=True, flip_alternates=True)
    first, second, third = (
        augment(
            torch.from_numpy(images),
            policy,
            seed=1,
            epoch=epoch,
            indices=np.arange(400),
            height=3,
            width=5,
            fill=0,
        ).numpy()
        for epoch in (0, 1, 2)
    )
    np.testing.assert_array_equal(second, first[:, :, ::-1])
    np.testing.assert_array_equal(third, first)
    mirrored = (first == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert 0.4 < mirrored.mean() < 0.6


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (2, 0), (0, 3), (4, 5), (8, 6)])
def test_frames_are_numpys(rows: int, columns: int) -> None:
    images = noise(3, 9, 7, 3)
    around = [(0, 0), (rows, rows), (columns, columns), (0, 0)]
    mirrored = framed(images, rows, columns, fill=9, mirrored=True)
    np.testing.assert_array_equal(mirrored, np.pad(images, around, mode="reflect"))
    filled = framed(images, rows, columns, fill=9, mirrored=False)
    np.testing.assert_array_equal(filled, np.pad(images, around, constant_values=9))


def test_a_mirrored_border_shows_where_a_shift_ends_and_only_there() -> None:
    images = noise(50, 8, 8, 3)
    seen = run(images, Augment(shift=3, border="mirror"), fill=77)
    plain = run(images, Augment(shift=3), fill=77)
    padded = np.pad(images, [(0, 0), (3, 3), (3, 3), (0, 0)], mode="reflect")
    draws = draw(Augment(shift=3), seed=0, epoch=0, indices=np.arange(50), stored=(8, 8), size=(8, 8))
    for image, whole, (top, left, _, _) in zip(seen, padded, draws.boxes.astype(int), strict=True):
        np.testing.assert_array_equal(image, whole[top + 3 : top + 11, left + 3 : left + 11])
    inside = plain != 77
    np.testing.assert_array_equal(seen[inside], plain[inside])  # the same windows
    assert (seen[~inside] != 77).mean() > 0.9


@pytest.mark.parametrize("change", [{"rotate": 5.0}, {"area": (0.5, 1.0)}, {"elastic": 3.0}])
def test_a_mirrored_border_is_for_shifts_alone(change: dict[str, Any]) -> None:
    with pytest.raises(ConvworksError, match="for shifts alone") as caught:
        Augment(shift=2, border="mirror", **change)
    assert caught.value.code == "U205"
    with pytest.raises(ConvworksError, match="fill or mirror"):
        Augment(border="wrap")
