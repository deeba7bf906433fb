"""Numbers of pictures against plain NumPy on each of them, and what counts as unusual."""

from __future__ import annotations

import numpy as np
import pytest

from convworks.data.image_statistics import (
    FEWEST,
    class_colours,
    is_nearly_one_colour,
    is_one_colour,
    measure,
    unusual,
)


def test_one_picture_at_a_time_gives_the_same() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 6, 5, 3), dtype=np.uint8)
    found = measure(images)
    for i in (0, 127, 128, 299):
        pixels = images[i].astype(float)
        grey = pixels @ [0.299, 0.587, 0.114]
        assert found.brightness[i] == pytest.approx(grey.mean(), abs=1e-3)
        assert found.contrast[i] == pytest.approx(grey.std(), abs=1e-3)
        assert found.colour[i] == pytest.approx(np.abs(pixels - grey[..., None]).mean(), abs=1e-3)
        np.testing.assert_allclose(found.mean[i], pixels.mean(axis=(0, 1)), atol=1e-3)


def test_grey_images_have_no_colour() -> None:
    found = measure(np.full((2, 4, 4, 1), 9, np.uint8))
    np.testing.assert_array_equal(found.colour, 0)
    np.testing.assert_array_equal(found.brightness, 9)
    assert found.flat.all()
    assert not found.grey.any()


def test_unusual_is_robust() -> None:
    values = np.concatenate([np.linspace(90, 110, 99), [1e6]])
    scores = unusual(values)
    assert scores[-1] > 1000
    assert np.abs(scores[:-1]).max() < 2
    assert scores[0] == pytest.approx(
        (90 - np.median(values)) / (1.4826 * np.median(np.abs(values - np.median(values))))
    )
    np.testing.assert_array_equal(unusual(values[: FEWEST - 1]), 0)
    np.testing.assert_array_equal(unusual(np.full(50, 3.0)), 0)


def test_dark_bright_and_grey_ones_among_others() -> None:
    random = np.random.default_rng(0)
    images = random.integers(60, 180, (60, 8, 8, 3), dtype=np.uint8)
    images[3] = random.integers(0, 12, (8, 8, 3))
    images[4] = random.integers(240, 256, (8, 8, 3))
    images[5] = random.integers(60, 180, (8, 8, 1))
    found = measure(images)
    assert np.flatnonzero(found.dark).tolist() == [3]
    assert np.flatnonzero(found.bright).tolist() == [4]
    assert np.flatnonzero(found.grey).tolist() == [5]
    night = measure(random.integers(0, 30, (60, 8, 8, 3), dtype=np.uint8))
    assert not night.dark.any()


@pytest.mark.parametrize(
    ("spread", "one", "nearly"), [(0, True, True), (3, True, True), (9, False, True), (40, False, False)]
)
def test_one_colour(spread: int, one: bool, nearly: bool) -> None:
    pixels = np.full((20, 30, 3), 100, np.uint8) + np.random.default_rng(0).integers(
        0, spread + 1, (20, 30, 3)
    ).astype(np.uint8)
    assert is_one_colour(pixels) == one
    assert is_nearly_one_colour(pixels) == nearly


def test_colour_is_looked_at_in_every_channel() -> None:
    pixels = np.full((20, 30, 3), 100, np.uint8)
    pixels[:10, :, 2] = 200
    assert not is_one_colour(pixels)
    assert not is_nearly_one_colour(pixels)


def test_the_mean_colour_of_a_class() -> None:
    images = np.stack([np.full((4, 4, 3), level, np.uint8) for level in (10, 30, 200)])
    found = class_colours(measure(images), ["a", "a", "b"], ["a", "b", "none"])
    np.testing.assert_allclose(found["a"], 20)
    np.testing.assert_allclose(found["b"], 200)
    assert "none" not in found
