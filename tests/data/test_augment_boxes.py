"""Crops of other sizes: Pillow's resize of the whole and torchvision's resized crop as oracles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from convworks.data.augment import Augment, augment
from convworks.data.augment_boxes import area_boxes, jitter_boxes, resample, scaled_sizes
from convworks.data.augment_draws import draw
from convworks.errors import ConvworksError
from tests.weights.oracle import torchvision_models

from .pixels import QUICK, counts_threads, noise, threads_started

BILINEAR = Image.Resampling.BILINEAR
MANY = np.arange(20_000)


def boxes_of(policy: Augment, stored: tuple[int, int], size: tuple[int, int], **changes: Any) -> Any:
    values: dict[str, Any] = {"seed": 1, "epoch": 0, "indices": MANY, **changes}
    return draw(policy, stored=stored, size=size, **values)


# Scale jitter


@pytest.mark.parametrize("limits", [(256, 512), (256, 480)])
def test_the_shorter_side_is_uniform_and_the_window_is_of_the_input(limits: tuple[int, int]) -> None:
    """AU-04 (VGG) and AU-05 (ResNet): every whole number of the range is as likely; windows of 224."""
    found = boxes_of(Augment(scale_jitter=limits), (384, 384), (224, 224))
    values, counts = np.unique(found.shorter, return_counts=True)
    assert (values.min(), values.max(), len(values)) == (*limits, limits[1] - limits[0] + 1)
    assert stats.chisquare(counts).pvalue > 1e-4
    scale = found.shorter / 384
    np.testing.assert_allclose(found.boxes[:, 2:] * scale[:, None], 224)
    corner = found.boxes[:, :2] * scale[:, None]  # whole pixels of the scaled image
    np.testing.assert_allclose(corner, np.rint(corner), atol=1e-9)
    share = corner / (found.shorter - 224)[:, None]
    for axis in range(2):  # continuous but for the whole pixels
        assert stats.kstest(share[:, axis], "uniform").statistic < 0.03
    assert (found.boxes[:, :2] + found.boxes[:, 2:]).max() <= 384 + 1e-9


def test_the_longer_side_follows() -> None:
    np.testing.assert_array_equal(scaled_sizes(np.array([256, 300]), (480, 640)), [[256, 341], [300, 400]])
    np.testing.assert_array_equal(scaled_sizes(np.array([7]), (10, 10)), [[7, 7]])


@QUICK
@given(
    stored=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    shorter=st.integers(6, 60),
    place=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    channels=st.sampled_from([1, 3]),
)
def test_a_window_in_the_scaled_image_equals_resizing_all_and_cutting(
    stored: tuple[int, int], shorter: int, place: tuple[float, float], channels: int
) -> None:
    image = noise(*stored, channels)
    size = (5, 6)
    boxes = jitter_boxes(np.array([shorter]), np.array([place]), stored=stored, size=size, shift=0)
    got = resample(image[None], boxes, height=5, width=6, fill=0, bleed=True)[0]
    height, width = scaled_sizes(np.array([shorter]), stored)[0].tolist()
    picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
    whole = np.asarray(picture.resize((width, height), BILINEAR)).reshape(height, width, channels)
    top, left = int(place[0] * (height - 4)), int(place[1] * (width - 5))
    np.testing.assert_allclose(got.astype(int), whole[top : top + 5, left : left + 6], atol=1)


def test_a_jitter_without_a_range_is_the_crop() -> None:
    images = noise(20, 40, 40, 3)
    values: dict[str, Any] = {"seed": 2, "epoch": 0, "indices": np.arange(20), "height": 32, "width": 32}
    still = augment(torch.from_numpy(images), Augment(scale_jitter=(40, 40)), fill=0, **values)
    crop = augment(torch.from_numpy(images), Augment(), fill=0, **values)
    assert torch.equal(still, crop)


def test_a_shift_leaves_the_scaled_image_and_is_filled() -> None:
    images = np.full((200, 20, 20, 1), 100, dtype=np.uint8)
    policy = Augment(scale_jitter=(16, 40), shift=4)
    got = augment(
        torch.from_numpy(images), policy, seed=0, epoch=0, indices=np.arange(200), height=16, width=16, fill=9
    ).numpy()
    assert got.min() == 9
    assert got.max() == 100
    outside = (got == 9).any(axis=(1, 2, 3)).mean()
    assert 0.3 < outside < 1.0


# Area and aspect


def test_area_and_aspect_have_the_published_distribution() -> None:
    """8 % to 100 % of the area, aspect 3/4 to 4/3: torchvision's RandomResizedCrop draws by the same law."""
    found = boxes_of(Augment(area=(0.08, 1.0)), (256, 256), (224, 224)).boxes
    height, width = found[:, 2], found[:, 3]
    share, ratio = height * width / 256**2, width / height
    assert share.min() > 0.079
    assert share.max() <= 1.0
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    torchvision_models()
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(3, 256, 256)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(6000)])
    assert stats.ks_2samp(share, theirs[:, 2] * theirs[:, 3] / 256**2).pvalue > 1e-3
    assert stats.ks_2samp(ratio, theirs[:, 3] / theirs[:, 2]).pvalue > 1e-3
    assert stats.ks_2samp(found[:, 0], theirs[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp(found[:, 1], theirs[:, 1]).pvalue > 1e-3


def test_the_first_draws_are_uniform_where_every_try_fits() -> None:
    boxes = area_boxes(0, 0, MANY, stored=(400, 400), area=(0.1, 0.5), aspect=1.3)
    share = boxes[:, 2] * boxes[:, 3] / 400**2
    assert stats.kstest(share, stats.uniform(0.1, 0.4).cdf).statistic < 0.015
    ratio = np.log(boxes[:, 3] / boxes[:, 2])
    assert stats.kstest(ratio, stats.uniform(-math.log(1.3), 2 * math.log(1.3)).cdf).statistic < 0.015


@pytest.mark.parametrize(
    ("stored", "expected"),
    [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((9, 9), (0, 0, 9, 9))],
)
def test_where_no_try_fits_the_largest_crop_in_the_middle(
    stored: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """As torchvision: the whole shorter side, and of the longer one what the aspect allows."""
    boxes = area_boxes(0, 0, np.arange(50), stored=stored, area=(1.0, 1.0), aspect=4 / 3)
    middle = [box for box in boxes.tolist() if tuple(box) == expected]
    assert len(middle) >= 40


@pytest.mark.parametrize("channels", [1, 3])
def test_area_crops_equal_a_crop_and_a_resize(channels: int) -> None:
    torchvision_models()
    from torchvision.transforms.functional import resized_crop

    images = noise(30, 50, 40, channels)
    boxes = area_boxes(3, 1, np.arange(30), stored=(50, 40), area=(0.08, 1.0), aspect=4 / 3)
    got = resample(images, boxes, height=21, width=17, fill=0, bleed=False)
    for image, box, result in zip(images, boxes.astype(int).tolist(), got, strict=True):
        picture = Image.fromarray(image if channels == 3 else image[:, :, 0])
        theirs = np.asarray(resized_crop(picture, *box, [21, 17])).reshape(21, 17, channels)
        np.testing.assert_array_equal(result, theirs)
        tensor = resized_crop(torch.from_numpy(image).permute(2, 0, 1), *box, [21, 17], antialias=True)
        np.testing.assert_allclose(result.astype(int), tensor.permute(1, 2, 0).numpy(), atol=1)


def test_the_whole_area_without_aspect_is_the_whole_image() -> None:
    images = noise(9, 12, 12, 3)
    policy = Augment(area=(1.0, 1.0), aspect=1.0)
    values: dict[str, Any] = {"seed": 0, "epoch": 0, "indices": np.arange(9), "fill": 0}
    got = augment(torch.from_numpy(images), policy, height=12, width=12, **values)
    np.testing.assert_array_equal(got, images)


def test_shrinking_is_antialiased_also_where_an_affine_change_is_on() -> None:
    """A fine checkerboard has the mean 127.5; skipping pixels would give 0 and 255."""
    board = ((np.indices((64, 64)).sum(axis=0) % 2) * 255).astype(np.uint8)[None, :, :, None]
    for policy in (Augment(area=(1.0, 1.0), aspect=1.0), Augment(area=(1.0, 1.0), aspect=1.0, rotate=1e-6)):
        got = augment(
            torch.from_numpy(board), policy, seed=0, epoch=0, indices=np.zeros(1, dtype=np.int64),
            height=16, width=16, fill=127,
        )  # fmt: skip
        assert np.abs(got.numpy().astype(float) - 127.5).max() <= 1


# Together


COMBINED = [
    Augment(scale_jitter=(18, 30)),
    Augment(scale_jitter=(18, 30), shift=3, rotate=20.0),
    Augment(area=(0.08, 1.0)),
    Augment(area=(0.08, 1.0), shift=2, flip=True),
    Augment(area=(0.2, 1.0), rotate=10.0, elastic=20.0),
]


@pytest.mark.parametrize("policy", COMBINED)
@pytest.mark.parametrize("shape", [(24, 24, 3), (20, 33, 1)])
def test_a_sample_has_the_same_pixels_in_every_batch(policy: Augment, shape: tuple[int, int, int]) -> None:
    images = noise(30, *shape)
    values: dict[str, Any] = {"seed": 3, "epoch": 2, "height": 17, "width": 18, "fill": 0}
    together = augment(torch.from_numpy(images), policy, indices=np.arange(30), **values).numpy()
    for chosen in ([7], [20, 3, 11], list(range(29, -1, -1))):
        part = augment(torch.from_numpy(images[chosen]), policy, indices=np.array(chosen), **values)
        np.testing.assert_array_equal(part.numpy(), together[chosen])


@counts_threads
@pytest.mark.parametrize("policy", COMBINED)
def test_no_operator_starts_threads_of_its_own(policy: Augment) -> None:
    from dataclasses import replace

    large = replace(policy, scale_jitter=(256, 512)) if policy.scale_jitter else policy
    images = torch.from_numpy(noise(4, 256, 256, 3))
    values: dict[str, Any] = {"seed": 0, "epoch": 0, "indices": np.arange(4), "fill": 0}
    assert threads_started(lambda: augment(images, large, height=224, width=224, **values)) == 0


@pytest.mark.parametrize("policy", [Augment(scale_jitter=(1, 3)), Augment(area=(0.01, 1.0), aspect=4.0)])
def test_one_pixel(policy: Augment) -> None:
    images = noise(5, 1, 1, 3)
    values: dict[str, Any] = {"seed": 0, "epoch": 0, "indices": np.arange(5), "fill": 0}
    got = augment(torch.from_numpy(images), policy, height=1, width=1, **values)
    np.testing.assert_array_equal(got, images)


# Messages


def test_a_scale_below_the_input_is_refused() -> None:
    with pytest.raises(
        ConvworksError, match="a shorter side of 200 are smaller than the network's input"
    ) as e:
        Augment(scale_jitter=(200, 300)).require_fits(height=224, width=224, stored=(256, 256))
    assert (e.value.code, e.value.try_) == ("U200", "--set augment.scale_jitter=[224,300]")
    Augment(scale_jitter=(224, 300)).require_fits(height=224, width=224, stored=(256, 256))
    Augment(scale_jitter=(24, 30)).require_fits(height=24, width=48, stored=(24, 48))


def test_two_crops_are_refused() -> None:
    with pytest.raises(ConvworksError, match="cannot be used together") as caught:
        Augment(area=(0.1, 1.0), scale_jitter=(256, 512))
    assert caught.value.code == "U201"


@pytest.mark.parametrize(
    "values",
    [
        {"scale_jitter": (512, 256)},
        {"scale_jitter": (0, 10)},
        {"scale_jitter": (1.5, 10)},
        {"scale_jitter": (10, 9000)},
        {"area": (0.0, 1.0)},
        {"area": (0.5, 1.1)},
        {"area": (0.9, 0.5)},
        {"area": (math.nan, 1.0)},
        {"aspect": 0.9},
        {"elastic_sigma": 0.0},
        {"mixup": -0.1},
        {"hue": 0.6},
        {"randaugment": 2.0},
        {"cutout": -1},
    ],
)
def test_values_that_cannot_be_used(values: dict[str, Any]) -> None:
    with pytest.raises(ConvworksError, match=f"the augmentation {next(iter(values))} = ") as caught:
        Augment(**values)
    assert caught.value.code == "U170"
