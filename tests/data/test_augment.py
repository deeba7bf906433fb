"""Augmentation against loops over images, scipy's affine transform, and the frequencies that are promised."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage, stats

from convworks.data.augment import Augment, augment, inverse_affine, sample_affine, windows
from convworks.errors import ConvworksError
from convworks.randomness import uniform

from .pixels import QUICK, counts_threads, noise, threads_started

AFFINE = Augment(shift=2, flip=True, rotate=30.0, scale=0.2, shear=10.0)
POLICIES = [
    Augment(),
    Augment(shift=2),
    Augment(flip=True),
    Augment(shift=1, flip=True),
    Augment(rotate=20.0),
    AFFINE,
]


def run(
    images: NDArray[np.uint8],
    policy: Augment,
    *,
    indices: Any = None,
    seed: int = 1,
    epoch: int = 0,
    size: tuple[int, int] | None = None,
    fill: int = 0,
) -> NDArray[np.uint8]:
    height, width = size or images.shape[1:3]
    indices = np.arange(len(images)) if indices is None else np.asarray(indices)
    result = augment(
        torch.from_numpy(images),
        policy,
        seed=seed,
        epoch=epoch,
        indices=indices,
        height=height,
        width=width,
        fill=fill,
    )
    return result.numpy()


# The policy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shift": -1}, "shift = -1 cannot be used"),
        ({"shift": 2.0}, "a whole number of pixels from 0 to 1024"),
        ({"shift": True}, "shift = True"),
        ({"shift": 5000}, "shift = 5000"),
        ({"flip": 1}, "true or false"),
        ({"rotate": 181}, "degrees from 0 to 180"),
        ({"rotate": math.nan}, "rotate = nan"),
        ({"rotate": "10"}, "rotate = '10'"),
        ({"scale": 1.0}, "a fraction from 0 to 0.9"),
        ({"scale": -0.1}, "scale = -0.1"),
        ({"shear": 90}, "degrees from 0 to 60"),
        ({"shear": math.inf}, "shear = inf"),
    ],
)
def test_values_that_cannot_be_used(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        Augment(**values)
    assert caught.value.code == "U170"
    assert caught.value.exit_status == 2


def test_enabled() -> None:
    assert not Augment().enabled
    assert not Augment(rotate=0).affine
    for policy in POLICIES[1:]:
        assert policy.enabled
    for values in ({"rotate": 1}, {"scale": 0.1}, {"shear": 1.0}):
        assert Augment(**values).affine


def test_a_shift_must_leave_something_of_the_image() -> None:
    with pytest.raises(ConvworksError, match="a shift of 8 pixels is too large for images of 10x8") as caught:
        run(noise(2, 10, 8, 1), Augment(shift=8))
    assert caught.value.code == "U171"
    run(noise(2, 10, 8, 1), Augment(shift=7))


# Shift, crop and flip


def test_the_identity_changes_nothing() -> None:
    images = noise(5, 8, 8, 3)
    np.testing.assert_array_equal(run(images, Augment(), size=(8, 8)), images)


def test_a_larger_store_gives_random_crops_without_any_other_change() -> None:
    images = noise(64, 9, 12, 3)
    got = run(images, Augment(), size=(8, 8))
    places = set()
    for image, result in zip(images, got, strict=True):
        (place,) = [
            (top, left)
            for top in range(2)
            for left in range(5)
            if np.array_equal(image[top : top + 8, left : left + 8], result)
        ]
        places.add(place)
    assert len(places) == 2 * 5


@QUICK
@given(
    shift=st.integers(0, 5),
    flip=st.booleans(),
    border=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    channels=st.sampled_from([1, 3]),
    fill=st.integers(0, 255),
    seed=st.integers(0, 999),
    epoch=st.integers(0, 99),
)
def test_shift_crop_and_flip_equal_a_loop(
    shift: int, flip: bool, border: tuple[int, int], channels: int, fill: int, seed: int, epoch: int
) -> None:
    policy = Augment(shift=shift, flip=flip)
    height, width = 6, 7
    images = noise(9, height + border[0], width + border[1], channels, seed=seed)
    got = run(images, policy, seed=seed, epoch=epoch, size=(height, width), fill=fill)
    draws = uniform(seed, "augment", epoch, np.arange(9), 3)
    for image, result, (u, v, w) in zip(images, got, draws.tolist(), strict=True):
        top = int(u * (border[0] + 2 * shift + 1))
        left = int(v * (border[1] + 2 * shift + 1))
        padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), constant_values=fill)
        expected = padded[top : top + height, left : left + width]
        np.testing.assert_array_equal(result, expected[:, ::-1] if flip and w < 0.5 else expected)


def placed(policy: Augment, *, stored: int, size: int, total: int) -> Iterator[NDArray[np.uint8]]:
    """(n, size, size, 3) augmented images whose values are their own row, column and 1, or fill 255."""
    rows, columns = np.mgrid[:stored, :stored].astype(np.uint8)
    image = np.stack([rows, columns, np.ones_like(rows)], axis=2)
    for start in range(0, total, 2000):
        many = np.repeat(image[None], 2000, axis=0)
        indices = np.arange(start, start + 2000)
        yield run(many, policy, indices=indices, size=(size, size), fill=255)


def test_shifts_are_uniform_whole_pixels_on_both_axes() -> None:
    """-3 ... +3 on each axis, independent of each other; flips with probability 1/2."""
    found: list[Any] = []
    for images in placed(Augment(shift=3, flip=True), stored=9, size=9, total=20_000):
        middle = images[:, 4, 4].astype(int)
        flipped = images[:, 4, 3, 1] > images[:, 4, 5, 1]
        found.append(np.column_stack([middle[:, 0] - 4, middle[:, 1] - 4, flipped]))
    down, right, flipped = np.concatenate(found).T
    table = np.zeros((7, 7), dtype=int)
    np.add.at(table, (down + 3, right + 3), 1)
    assert table.sum() == 20_000
    assert stats.chisquare(table.ravel()).pvalue > 1e-4
    assert stats.binomtest(int(flipped.sum()), 20_000, 0.5).pvalue > 1e-4
    assert abs(np.corrcoef(right, flipped)[0, 1]) < 0.03


def test_a_random_crop_takes_every_position() -> None:
    """AU-02: stored S, input S - 32 has 33 x 33 positions, with flips 2,178 views (2,048 in the paper)."""
    assert 33**2 * 2 == 2178
    assert (256 - 224) ** 2 * 2 == 2048
    corners: list[Any] = []
    for images in placed(Augment(flip=True), stored=40, size=8, total=30_000):
        flipped = images[:, 0, 0, 1] > images[:, 0, 7, 1]
        left = np.where(flipped, images[:, 0, 7, 1], images[:, 0, 0, 1])
        corners.append(np.column_stack([images[:, 0, 0, 0], left, flipped]))
        assert images[..., 2].max() == 1  # never outside of the stored image
    views, counts = np.unique(np.concatenate(corners), axis=0, return_counts=True)
    assert len(views) == 2178
    assert stats.chisquare(counts).pvalue > 1e-4


def test_crops_of_224_from_256() -> None:
    rows, columns = np.mgrid[:256, :256].astype(np.uint8)
    images = np.repeat(np.stack([rows, columns, rows], axis=2)[None], 64, axis=0)
    got = run(images, Augment(flip=True), size=(224, 224))
    assert got.shape == (64, 224, 224, 3)
    assert got[:, 0, 0, 0].max() <= 32
    assert got[:, 0, :, 1].min() >= 0
    np.testing.assert_array_equal(got[:, 223, 0, 0] - got[:, 0, 0, 0], 223)


# Affine


def scipy_affine(
    image: NDArray[np.uint8], matrix: NDArray[Any], *, top: int, left: int, size: tuple[int, int], fill: int
) -> NDArray[np.float64]:
    """One image by scipy in float64; `matrix` takes output (x, y) to input (x, y)."""
    swapped = np.asarray(matrix, dtype=np.float64)[::-1, ::-1]  # (y, x), as the axes of an array
    centre = (np.array(size) - 1) / 2
    offset = np.array([top, left]) + centre - swapped @ centre
    planes = [
        ndimage.affine_transform(
            plane.astype(np.float64),
            swapped,
            offset=offset,
            output_shape=size,
            order=1,
            mode="grid-constant",
            cval=fill,
        )
        for plane in image.transpose(2, 0, 1)
    ]
    return np.stack(planes, axis=2)


@QUICK
@given(
    angle=st.floats(-180, 180),
    scale=st.floats(-0.9, 0.9),
    shear=st.floats(-60, 60),
    window=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    stored=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    channels=st.sampled_from([1, 3]),
    fill=st.sampled_from([0, 100, 255]),
    seed=st.integers(0, 99),
)
def test_affine_sampling_equals_scipy(
    angle: float,
    scale: float,
    shear: float,
    window: tuple[int, int],
    stored: tuple[int, int],
    channels: int,
    fill: int,
    seed: int,
) -> None:
    images = noise(3, *stored, channels, seed=seed)
    matrix = inverse_affine(angle=np.full(3, angle), scale=np.full(3, scale), shear=np.full(3, shear))
    top, left = np.full(3, window[0]), np.full(3, window[1])
    got = sample_affine(images, matrix, top=top, left=left, height=7, width=9, fill=fill)
    for image, result in zip(images, got, strict=True):
        expected = scipy_affine(image, matrix[0], top=window[0], left=window[1], size=(7, 9), fill=fill)
        np.testing.assert_allclose(result, expected, atol=0.51)  # rounded to whole grey levels


@QUICK
@given(st.floats(-180, 180), st.floats(-0.9, 0.9), st.floats(-60, 60))
def test_the_matrix_is_the_inverse_of_scale_shear_rotate(angle: float, scale: float, shear: float) -> None:
    turn, slope = math.radians(angle), math.tan(math.radians(shear))
    # y points down: counter-clockwise on the screen takes (1, 0) to (cos, -sin).
    rotate = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    forward = rotate @ np.array([[1.0, slope], [0.0, 1.0]]) @ np.diag([1 + scale, 1 + scale])
    got = inverse_affine(angle=np.array([angle]), scale=np.array([scale]), shear=np.array([shear]))
    np.testing.assert_allclose(got[0], np.linalg.inv(forward), rtol=1e-5, atol=1e-5)


def warp(image: NDArray[np.uint8], *, angle: float = 0, scale: float = 0, shear: float = 0) -> Any:
    matrix = inverse_affine(angle=np.array([angle]), scale=np.array([scale]), shear=np.array([shear]))
    zero = np.zeros(1, dtype=np.int64)
    height, width = image.shape[:2]
    return sample_affine(image[None], matrix, top=zero, left=zero, height=height, width=width, fill=0)[0]


@pytest.mark.parametrize("size", [8, 9, 32])
def test_a_right_angle_is_an_exact_rotation(size: int) -> None:
    image = noise(size, size, 3)
    for quarter in range(-2, 3):
        np.testing.assert_array_equal(warp(image, angle=90.0 * quarter), np.rot90(image, quarter))


def test_positive_scale_magnifies_and_shear_moves_rows() -> None:
    square = np.zeros((21, 21, 1), dtype=np.uint8)
    square[8:13, 8:13] = 255
    assert warp(square, scale=0.5).sum() > 1.9 * square.sum()
    assert warp(square, scale=-0.5).sum() < 0.4 * square.sum()
    sheared = warp(square, shear=45.0)[:, :, 0]
    for row in range(8, 13):  # y downwards: one pixel to the right for each row further down
        np.testing.assert_array_equal(sheared[row], np.roll(square[row, :, 0], row - 10))


@pytest.mark.parametrize("stored", [(7, 7), (10, 9)])
def test_an_affine_change_of_nothing_is_the_window(stored: tuple[int, int]) -> None:
    images = noise(20, *stored, 3)
    top = np.arange(20) % (stored[0] - 2) - 2
    left = np.arange(20) % (stored[1] - 3) - 2
    place: dict[str, Any] = {"top": top, "left": left, "height": 7, "width": 7, "fill": 9}
    identity = np.tile(np.eye(2, dtype=np.float32), (20, 1, 1))
    expected = windows(images, margin=5, **place)
    np.testing.assert_array_equal(sample_affine(images, identity, **place), expected)


def test_ranges_of_the_affine_draws() -> None:
    """The angle of a gradient turned by the draw, over many images: within the range, and all over it."""
    rows = np.tile(np.arange(0, 205, 5, dtype=np.uint8)[:, None, None], (1, 41, 1))
    images = np.repeat(rows[None], 2000, axis=0)
    got = run(images, Augment(rotate=20.0)).astype(np.float64)[..., 0]
    down = got[:, 35, 20] - got[:, 5, 20]
    right = got[:, 20, 35] - got[:, 20, 5]
    angles = np.degrees(np.arctan2(right, down))
    assert 19 < np.abs(angles).max() < 20.6
    assert stats.kstest(angles, stats.uniform(-20, 40).cdf).statistic < 0.05
    draws = uniform(1, "augment", 0, np.arange(2000), 4)[:, 3]
    np.testing.assert_allclose(angles, (2 * draws - 1) * 20, atol=0.6)  # positive is counter-clockwise


def test_outside_is_filled() -> None:
    images = np.full((50, 12, 12, 3), 100, dtype=np.uint8)
    for policy in (Augment(shift=5), AFFINE):
        for fill in (0, 255):
            got = run(images, policy, fill=fill)
            low, high = min(fill, 100), max(fill, 100)
            assert got.min() == low
            assert got.max() == high
    np.testing.assert_array_equal(run(images, AFFINE, fill=100), 100)


# What a sample becomes depends on nothing else


@QUICK
@given(
    policy=st.sampled_from(POLICIES),
    size=st.sampled_from([(8, 8, 3), (20, 24, 1), (60, 60, 3), (100, 100, 1)]),
    chosen=st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True),
    border=st.integers(0, 2),
)
def test_a_sample_has_the_same_pixels_in_every_batch(
    policy: Augment, size: tuple[int, int, int], chosen: list[int], border: int
) -> None:
    height, width, channels = size
    images = noise(40, height + border, width + border, channels)
    together = run(images, policy, size=(height, width))
    part = run(images[chosen], policy, indices=chosen, size=(height, width))
    np.testing.assert_array_equal(part, together[chosen])


def test_pixels_do_not_depend_on_the_threads_of_torch() -> None:
    images = noise(64, 40, 40, 3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(run(images, AFFINE))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_seed_and_epoch_and_index_matter_and_the_source_stays(policy: Augment) -> None:
    images = np.repeat(noise(1, 12, 12, 3), 30, axis=0)
    kept = images.copy()
    base = run(images, policy)
    np.testing.assert_array_equal(run(images, policy), base)
    for change in ({"seed": 2}, {"epoch": 1}, {"indices": np.arange(100, 130)}):
        assert (run(images, policy, **change) != base).any()
    assert len(np.unique(base, axis=0)) > 1
    np.testing.assert_array_equal(images, kept)


def test_turning_one_change_on_leaves_the_draws_of_the_others() -> None:
    images = noise(50, 12, 12, 3)
    shifted = run(images, Augment(shift=3))
    both = run(images, Augment(shift=3, flip=True))
    flipped = uniform(1, "augment", 0, np.arange(50), 3)[:, 2] < 0.5
    np.testing.assert_array_equal(both[flipped], shifted[flipped][:, :, ::-1])
    np.testing.assert_array_equal(both[~flipped], shifted[~flipped])
    tiny = run(images, replace(Augment(shift=3, flip=True), rotate=1e-9))
    np.testing.assert_array_equal(tiny, both)


@counts_threads
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [32, 224])
def test_no_operator_starts_threads_of_its_own(policy: Augment, size: int) -> None:
    images = noise(256 * 32 // size, size + 8, size + 8, 3)
    assert threads_started(lambda: run(images, policy, size=(size, size))) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_no_images(policy: Augment) -> None:
    assert run(np.empty((0, 9, 9, 3), dtype=np.uint8), policy, size=(8, 8)).shape == (0, 8, 8, 3)
