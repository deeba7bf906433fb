"""Colours: PCA on a known covariance, torchvision's adjustments and loops in float64 as oracles."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from convworks.data import augment_colour
from convworks.data.augment import Augment, Lighting, augment
from convworks.data.augment_colour import normals, recoloured
from convworks.data.augment_draws import draw
from convworks.errors import ConvworksError
from convworks.randomness import uniform
from tests.weights.oracle import torchvision_models

from .pixels import counts_threads, noise, threads_started

LUMA = np.array([0.299, 0.587, 0.114])


def changed(images: NDArray[np.uint8], **values: Any) -> NDArray[np.uint8]:
    """recoloured(), with what is not given doing nothing."""
    count = len(images)
    still: dict[str, Any] = dict.fromkeys(("brightness", "contrast", "saturation"), np.ones(count))
    still |= {"hue": np.zeros(count), "offsets": np.zeros((count, images.shape[3]))}
    return recoloured(images, **{**still, **values})


def run(images: NDArray[np.uint8], policy: Augment, lighting: Lighting | None = None, **changes: Any) -> Any:
    values: dict[str, Any] = {"seed": 1, "epoch": 0, "indices": np.arange(len(images)), "fill": 0, **changes}
    height, width = images.shape[1:3]
    found = augment(torch.from_numpy(images), policy, height=height, width=width, lighting=lighting, **values)
    return found.numpy()


# PCA lighting (AlexNet, section 4.1)


def pixels_with(covariance: NDArray[np.float64], count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count, 8, 8, 3) bytes around 128 with nearly that covariance, in units of u8 / 255."""
    draws = np.random.default_rng(seed).multivariate_normal(np.full(3, 0.5), covariance, size=(count, 8, 8))
    return np.clip(np.rint(255 * draws), 0, 255).astype(np.uint8)


def test_principal_components_of_a_known_covariance() -> None:
    turn = np.linalg.qr(np.array([[1.0, 2.0, 0.5], [1.0, -1.0, 1.0], [1.0, 0.3, -2.0]]))[0]
    values = np.array([0.02, 0.005, 0.001])
    found = Lighting.fit(
        torch.from_numpy(pixels_with(turn @ np.diag(values) @ turn.T, 3000)), np.arange(3000)
    )
    np.testing.assert_allclose(found.values, values, rtol=0.02)
    np.testing.assert_allclose(np.abs((found.vectors * turn).sum(axis=0)), 1, atol=1e-3)


def test_principal_components_equal_numpy_in_float64() -> None:
    images = noise(40, 6, 7, 3, seed=4)
    images[..., 1] = images[..., 0] // 2 + 20
    rows = np.array([30, 2, 5, 17])
    found = Lighting.fit(torch.from_numpy(images), rows)
    covariance = np.cov(images[rows].reshape(-1, 3).T / 255.0, bias=True)
    np.testing.assert_allclose(
        found.vectors @ np.diag(found.values) @ found.vectors.T, covariance, atol=1e-12
    )
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(3), atol=1e-12)
    assert (np.diff(found.values) <= 0).all()
    largest = found.vectors[np.abs(found.vectors).argmax(axis=0), np.arange(3)]
    assert (largest > 0).all()
    again = Lighting.fit(torch.from_numpy(images), rows[::-1].copy())
    np.testing.assert_array_equal(again.values, found.values)
    np.testing.assert_array_equal(again.vectors, found.vectors)
    other = Lighting.fit(torch.from_numpy(images), np.arange(40))
    assert (other.values != found.values).any()  # of these rows only


def test_the_signs_do_not_depend_on_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    covariance = np.array([[0.5, 0.3, 0.1], [0.3, 0.6, 0.2], [0.1, 0.2, 0.4]])
    found, values, vectors = Lighting.of(covariance), *np.linalg.eigh(covariance)
    for signs in ([1, 1, -1], [-1, 1, 1], [-1, -1, -1]):
        monkeypatch.setattr(np.linalg, "eigh", lambda _, s=signs: (values, vectors * s))
        np.testing.assert_array_equal(Lighting.of(covariance).vectors, found.vectors)


def test_of_very_many_pixels_images_in_equal_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment_colour, "MOST_PIXELS", 16 * 10)
    images = noise(40, 4, 4, 3)
    found = Lighting.fit(torch.from_numpy(images), np.arange(40))
    some = Lighting.fit(torch.from_numpy(images), np.arange(0, 40, 4))
    np.testing.assert_array_equal(found.values, some.values)


def test_the_shift_is_the_sum_of_the_papers_formula() -> None:
    """One offset for all pixels of an image: 255 sum_i p_i alpha_i lambda_i, alpha ~ N(0, 0.1)."""
    images = np.full((500, 5, 6, 3), 128, dtype=np.uint8)
    images += noise(500, 5, 6, 3) % 8
    lighting = Lighting.of(np.array([[0.5, 0.3, 0.1], [0.3, 0.6, 0.2], [0.1, 0.2, 0.4]]))
    got = run(images, Augment(lighting=0.1), lighting)
    alphas = 0.1 * normals(uniform(1, "lighting", 0, np.arange(500), 4))[:, :3]
    for image, result, alpha in zip(images, got, alphas, strict=True):
        offset = 255 * lighting.vectors @ (alpha * lighting.values)
        np.testing.assert_array_equal(
            result, np.floor(np.clip(image + offset + 0.5, 0, 255)).astype(np.uint8)
        )
    for component in range(3):
        assert stats.kstest(alphas[:, component] / 0.1, "norm").pvalue > 1e-3
    assert (run(images, Augment(lighting=0.1), lighting, epoch=1) != got).any()  # redrawn


def test_grey_images_have_one_component_their_variance() -> None:
    images = noise(50, 4, 4, 1)
    lighting = Lighting.fit(torch.from_numpy(images), np.arange(50))
    np.testing.assert_allclose(lighting.values, [np.var(images / 255.0)])
    np.testing.assert_array_equal(lighting.vectors, [[1.0]])
    got = run(np.full_like(images, 100), Augment(lighting=2.0), lighting)
    offsets = got[:, 0, 0, 0].astype(float) - 100
    assert (got == got[:, :1, :1]).all()
    np.testing.assert_allclose(offsets.std(), 2 * 255 * lighting.values[0], rtol=0.3)


def test_constant_images_and_no_images_have_no_components() -> None:
    flat = Lighting.fit(torch.full((3, 2, 2, 3), 7, dtype=torch.uint8), np.arange(3))
    none = Lighting.fit(torch.zeros(3, 2, 2, 3, dtype=torch.uint8), np.arange(0))
    for each in (flat, none):
        np.testing.assert_array_equal(each.values, 0)
        np.testing.assert_array_equal(each.offsets(np.ones((4, 3))), 0)


def test_lighting_needs_its_components() -> None:
    with pytest.raises(ValueError, match="principal components"):
        run(noise(2, 3, 3, 3), Augment(lighting=0.1))


def test_normal_numbers() -> None:
    found = normals(uniform(0, "x", 0, np.arange(5000), 4))
    assert stats.kstest(found.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.05
    assert np.isfinite(normals(np.zeros((1, 2)))).all()


# Brightness, contrast, saturation, hue


def theirs(name: str, image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    torchvision_models()
    from torchvision.transforms import functional

    adjusted = getattr(functional, f"adjust_{name}")(torch.from_numpy(image).permute(2, 0, 1), factor)
    result: NDArray[np.uint8] = adjusted.permute(1, 2, 0).numpy()
    return result


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("shape", [(9, 14, 3), (1, 1, 3), (7, 3, 1)])
def test_each_change_equals_torchvision(name: str, shape: tuple[int, ...]) -> None:
    if shape[2] == 1 and name in ("saturation", "hue"):
        return  # refused for grey images, see below
    images = noise(8, *shape)
    factors = np.linspace(-0.5, 0.5, 8) if name == "hue" else np.linspace(0.0, 2.0, 8)
    got = changed(images, **{name: factors})
    for image, result, factor in zip(images, got, factors.tolist(), strict=True):
        atol = (
            2 if name in ("contrast", "saturation") else 1
        )  # torchvision cuts decimals, and those of the grey
        np.testing.assert_allclose(result.astype(int), theirs(name, image, factor), atol=atol)


def test_hue_equals_the_standard_library() -> None:
    images = noise(3, 6, 6, 3)
    turns = np.array([0.17, -0.4, 1 / 3])
    got = changed(images, hue=turns)
    for image, result, turn in zip(images, got, turns.tolist(), strict=True):
        for pixel, found in zip(image.reshape(-1, 3) / 255.0, result.reshape(-1, 3), strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            wanted = 255 * np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v))
            np.testing.assert_allclose(found, wanted, atol=0.51)
    np.testing.assert_array_equal(got[2], np.roll(images[2], 1, axis=2))  # red to green to blue


def test_linear_changes_equal_a_loop_and_their_order_does_not_matter() -> None:
    images = (100 + noise(6, 5, 7, 3) % 50).astype(np.uint8)
    b, c, s = np.linspace(0.7, 1.3, 6), np.linspace(1.4, 0.6, 6), np.linspace(0, 2, 6)
    got = changed(images, brightness=b, contrast=c, saturation=s)

    def bright(x: Any, i: int) -> Any:
        return b[i] * x

    def contrasted(x: Any, i: int) -> Any:
        return c[i] * x + (1 - c[i]) * (x @ LUMA).mean()

    def saturated(x: Any, i: int) -> Any:
        return s[i] * x + (1 - s[i]) * (x @ LUMA)[..., None]

    for order in ((bright, contrasted, saturated), (saturated, contrasted, bright)):
        for i, (image, result) in enumerate(zip(images, got, strict=True)):
            x = image.astype(np.float64)
            for change in order:
                x = change(x, i)
            np.testing.assert_allclose(result, np.clip(x, 0, 255), atol=0.51)


def test_draws_are_uniform_and_symmetric() -> None:
    policy = Augment(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    found = draw(policy, seed=0, epoch=3, indices=np.arange(5000), stored=(4, 4), size=(4, 4))
    for values, middle, reach in (
        (found.brightness, 1, 0.4),
        (found.contrast, 1, 0.3),
        (found.saturation, 1, 0.2),
        (found.hue, 0, 0.1),
    ):
        assert stats.kstest(values, stats.uniform(middle - reach, 2 * reach).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "lighting"])
def test_almost_nothing_changes_nothing(name: str) -> None:
    images = noise(6, 9, 9, 3)
    lighting = Lighting.fit(torch.from_numpy(images), np.arange(6))
    np.testing.assert_array_equal(run(images, Augment(**{name: 1e-9}), lighting), images)


def test_a_sample_has_the_same_pixels_in_every_batch() -> None:
    policy = Augment(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, lighting=0.5)
    for shape in ((11, 13, 3), (200, 120, 3)):
        images = noise(20, *shape)
        lighting = Lighting.fit(torch.from_numpy(images), np.arange(20))
        together = run(images, policy, lighting)
        for chosen in ([4], [9, 3, 19]):
            part = run(images[chosen], policy, lighting, indices=np.array(chosen))
            np.testing.assert_array_equal(part, together[chosen])


@counts_threads
def test_no_operator_starts_threads_of_its_own() -> None:
    images = noise(4, 224, 224, 3)
    policy = Augment(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    assert threads_started(lambda: run(images, policy)) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hue": 0.1}, "hue"),
        ({"saturation": 0.1}, "saturation"),
        ({"saturation": 0.1, "hue": 0.1}, "saturation and hue"),
    ],
)
def test_grey_images_have_no_colour(values: dict[str, float], said: str) -> None:
    with pytest.raises(ConvworksError, match=f"grey images cannot be changed in {said}\n") as caught:
        run(noise(2, 4, 4, 1), Augment(**values))
    assert caught.value.code == "U202"
    assert math.isclose(
        run(noise(2, 4, 4, 1), Augment(brightness=0.1, contrast=0.2)).mean(), 127, rel_tol=0.2
    )
