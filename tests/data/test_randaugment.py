"""Each operation of RandAugment against Pillow, torchvision or a closed form; how they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from convworks.data.augment import Augment, augment
from convworks.data.randaugment import OPERATIONS, apply_operations, draw_operations
from tests.weights.oracle import torchvision_models

from .pixels import counts_threads, noise, threads_started

NAMES = [each.name for each in OPERATIONS]
COLOURS = noise(4, 12, 15, 3)
COLOURS[1] = 90 + COLOURS[1] // 8  # low contrast
COLOURS[2] = np.arange(12 * 15 * 3, dtype=np.uint16).reshape(12, 15, 3).astype(np.uint8)
COLOURS[3] = 37


def done(name: str, images: NDArray[np.uint8], strength: float, fill: int = 0) -> NDArray[np.uint8]:
    return OPERATIONS[NAMES.index(name)].change(images, np.full(len(images), strength), fill)


def test_the_list_of_the_paper() -> None:
    assert len(OPERATIONS) == 14
    largest = {each.name: each.largest for each in OPERATIONS}
    assert largest["rotate"] == 30
    assert largest["shear-x"] == largest["shear-y"] == 0.3
    assert largest["translate-x"] == pytest.approx(150 / 331)
    assert largest["posterize"] == 4
    assert largest["solarize"] == 256


# Against Pillow and torchvision


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("colour", ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("strength", [-0.9, -0.3, 0.0, 0.5, 0.9])
def test_enhancements_equal_pillow(name: str, enhance: Any, strength: float) -> None:
    for image, result in zip(COLOURS, done(name, COLOURS, strength), strict=True):
        theirs = np.asarray(enhance(Image.fromarray(image)).enhance(1 + strength))
        atol = 2 if name == "colour" else 1  # Pillow rounds the grey first
        np.testing.assert_allclose(result.astype(int), theirs, atol=atol)


@pytest.mark.parametrize("strength", [-0.9, 0.0, 0.4, 0.9])
@pytest.mark.parametrize("shape", [(4, 12, 15, 3), (2, 3, 3, 1), (2, 2, 9, 3), (2, 1, 1, 3)])
def test_sharpness_equals_torchvision(strength: float, shape: tuple[int, ...]) -> None:
    torchvision_models()
    from torchvision.transforms.functional import adjust_sharpness

    images = noise(*shape)
    theirs = adjust_sharpness(torch.from_numpy(images).permute(0, 3, 1, 2), 1 + strength)
    np.testing.assert_allclose(
        done("sharpness", images, strength).astype(int), theirs.permute(0, 2, 3, 1).numpy(), atol=1
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_autocontrast_and_equalize_equal_pillow(channels: int) -> None:
    images = noise(5, 40, 50, channels) // np.array([1, 2, 3, 5, 255], dtype=np.uint8)[:, None, None, None]
    for name, function, atol in (
        ("autocontrast", ImageOps.autocontrast, 1),
        ("equalize", ImageOps.equalize, 0),
    ):
        for image, result in zip(images, done(name, images, 0.0), strict=True):
            picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
            theirs = np.asarray(function(picture)).reshape(image.shape)
            np.testing.assert_allclose(result.astype(int), theirs, atol=atol)


@pytest.mark.parametrize("level", [0, 64, 200, 256])
def test_solarize_equals_pillow(level: int) -> None:
    for image, result in zip(COLOURS, done("solarize", COLOURS, float(level)), strict=True):
        theirs = np.asarray(ImageOps.solarize(Image.fromarray(image), threshold=256 - level))
        np.testing.assert_array_equal(result, theirs)


@pytest.mark.parametrize("bits", [0, 1, 4])
def test_posterize_equals_pillow(bits: int) -> None:
    for image, result in zip(COLOURS, done("posterize", COLOURS, float(bits)), strict=True):
        np.testing.assert_array_equal(
            result, np.asarray(ImageOps.posterize(Image.fromarray(image), 8 - bits))
        )


# Geometry


def test_rotation_by_a_right_angle_and_translation_are_exact() -> None:
    images = noise(3, 9, 9, 3)
    np.testing.assert_array_equal(done("rotate", images, 90.0), np.rot90(images, axes=(1, 2)))
    moved = done("translate-x", images, 2 / 9, fill=5)
    np.testing.assert_array_equal(moved[:, :, 2:], images[:, :, :-2])
    assert (moved[:, :, :2] == 5).all()
    moved = done("translate-y", images, -1 / 3, fill=5)
    np.testing.assert_array_equal(moved[:, :-3], images[:, 3:])
    assert (moved[:, -3:] == 5).all()


@pytest.mark.parametrize(("name", "row"), [("shear-x", 0), ("shear-y", 1)])
def test_shears_equal_scipy(name: str, row: int) -> None:
    images = noise(2, 11, 8, 1)
    matrix = np.eye(2)
    matrix[1 - row, row] = -0.3  # output to input, axes (y, x)
    centre = (np.array([11, 8]) - 1) / 2
    for image, result in zip(images, done(name, images, 0.3), strict=True):
        theirs = ndimage.affine_transform(
            image[..., 0].astype(float),
            matrix,
            offset=centre - matrix @ centre,
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(result[..., 0], theirs, atol=0.51)


# Drawing


def test_operations_and_signs_are_uniform() -> None:
    chosen, strengths = draw_operations(0, 0, np.arange(7000), count=2, magnitude=10.0)
    assert stats.chisquare(np.bincount(chosen.ravel(), minlength=14)).pvalue > 1e-4
    turned = strengths[chosen == NAMES.index("rotate")]
    assert set(turned) == {-30.0, 30.0}
    assert stats.binomtest(int((turned > 0).sum()), len(turned), 0.5).pvalue > 1e-4
    assert set(strengths[chosen == NAMES.index("solarize")]) == {256.0}
    half = draw_operations(0, 0, np.arange(7000), count=2, magnitude=5.0)[1]
    np.testing.assert_allclose(half, strengths / 2)


@pytest.mark.parametrize("name", [each.name for each in OPERATIONS if each.largest > 0])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_magnitude_is_no_change(name: str, channels: int) -> None:
    images = COLOURS[..., :channels].copy()
    np.testing.assert_array_equal(done(name, images, 0.0), images)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (3, 5, 2, 1), (2, 1, 7, 3)])
def test_small_and_grey_images(name: str, shape: tuple[int, ...]) -> None:
    images = noise(*shape)
    assert done(name, images, OPERATIONS[NAMES.index(name)].largest).shape == images.shape
    assert done(name, images[:0], 0.1).shape == (0, *shape[1:])


def test_grey_images_keep_their_colour() -> None:
    images = COLOURS[..., :1]
    np.testing.assert_array_equal(done("colour", images, 0.9), images)


def test_operations_are_applied_one_after_the_other() -> None:
    images = noise(60, 8, 8, 3)
    chosen, strengths = draw_operations(5, 1, np.arange(60), count=3, magnitude=9.0)
    got = apply_operations(images, chosen, strengths, 0)
    for i in range(60):
        image = images[i : i + 1]
        for number, strength in zip(chosen[i], strengths[i], strict=True):
            image = OPERATIONS[number].change(image, np.array([strength]), 0)
        np.testing.assert_array_equal(got[i], image[0])


def run(images: NDArray[np.uint8], policy: Augment, indices: Any) -> NDArray[np.uint8]:
    height, width = images.shape[1:3]
    return augment(
        torch.from_numpy(images), policy, seed=1, epoch=0, indices=np.asarray(indices), height=height,
        width=width, fill=0,
    ).numpy()  # fmt: skip


def test_a_sample_has_the_same_pixels_in_every_batch() -> None:
    images, policy = noise(40, 13, 16, 3), Augment(randaugment=2)
    together = run(images, policy, range(40))
    for chosen in ([4], [30, 3, 19]):
        np.testing.assert_array_equal(run(images[chosen], policy, chosen), together[chosen])
    assert (together != images).any()


@counts_threads
def test_no_operator_starts_threads_of_its_own() -> None:
    assert threads_started(lambda: run(noise(14, 224, 224, 3), Augment(randaugment=4), range(14))) == 0


def test_operations_in_words() -> None:
    words = [each.in_words(0.9 * each.largest) for each in OPERATIONS]
    assert words[:6] == [
        "identity",
        "autocontrast",
        "equalize",
        "rotate +27 degrees",
        "solarize 230 levels",
        "posterize 4 bits",
    ]
    assert words[6] == "colour +0.81"
    assert words[-1] == "translate-y +0.41 of the height"
