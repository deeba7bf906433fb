"""The loader with mixup, CutMix, cutout and PCA lighting: no sample depends on its batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convworks.data.augment import Augment, Lighting
from convworks.errors import ConvworksError

from .pixels import QUICK, counts_threads, fit, noise, square, threads_started
from .test_loader import COUNT, IMAGES, LABELS, POLICY, PREPARED, THREADS, loader

MIXING = [
    Augment(shift=1, mixup=0.4),
    Augment(flip=True, cutmix=1.0),
    Augment(shift=1, mixup=0.4, cutmix=1.0, cutout=3),
    Augment(lighting=0.5, brightness=0.3, randaugment=1),
]


@QUICK
@given(
    batch=st.integers(1, 8),
    threads=st.sampled_from(THREADS),
    place=st.floats(0, 1),
    policy=st.sampled_from(MIXING),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_a_mixed_sample_depends_on_no_batch_thread_or_start(
    batch: int, threads: int, place: float, policy: Augment, dtype: torch.dtype, memory_format: Any
) -> None:
    values: dict[str, Any] = {"augment": policy, "dtype": dtype, "memory_format": memory_format}
    whole = loader(batch=COUNT, shuffle=False, **values).batch_of(6, np.arange(COUNT))
    resumed = loader(threads=threads, batch=batch, **values)
    for part in resumed.epoch(6, start=round(place * resumed.steps)):
        assert torch.equal(part.x, whole.x[part.rows])
        assert part.x.dtype == dtype
        assert part.x.is_contiguous(memory_format=memory_format)
        assert (part.mixed is None) == (not policy.mixes)
        if part.mixed is not None and whole.mixed is not None:
            assert torch.equal(part.mixed.other, whole.mixed.other[part.rows])
            assert torch.equal(part.mixed.share, whole.mixed.share[part.rows])


def test_mixup_blends_what_both_images_are_in_that_epoch() -> None:
    rows = np.array([4, 9, 21])
    found = loader(rows=rows, augment=Augment(shift=2, mixup=1.0), shuffle=False)
    (batch,) = found.epoch(5)
    mix, plain = found.mix(5, rows), loader(rows=rows, augment=Augment(shift=2))
    assert mix is not None
    assert batch.mixed is not None
    assert set(mix.partner) <= set(rows)  # of the training rows only
    np.testing.assert_array_equal(batch.mixed.other.numpy(), LABELS[mix.partner])
    own, other = plain.batch_of(5, rows).x.double(), plain.batch_of(5, mix.partner).x.double()
    share = batch.mixed.share.double()[:, None, None, None]
    torch.testing.assert_close(batch.x.double(), share * own + (1 - share) * other, rtol=1e-5, atol=1e-6)
    # Normalising is linear: blending pixels between 0 and 255 is the same.
    mean, std = torch.from_numpy(PREPARED.mean).double(), torch.from_numpy(PREPARED.std).double()
    pixels = share * (own * std + mean) + (1 - share) * (other * std + mean)
    torch.testing.assert_close(batch.x.double(), (pixels - mean) / std, rtol=1e-5, atol=1e-6)


def test_cutmix_takes_a_rectangle_of_the_other_image() -> None:
    rows = np.arange(COUNT)
    found, plain = loader(augment=Augment(flip=True, cutmix=1.0)), loader(augment=Augment(flip=True))
    batch, mix = found.batch_of(2, rows), found.mix(2, rows)
    assert mix is not None
    assert batch.mixed is not None
    expected = plain.batch_of(2, rows).x.clone()
    other = plain.batch_of(2, mix.partner).x
    for i, (top, left, bottom, right) in enumerate(mix.rectangles.tolist()):
        expected[i, :, top:bottom, left:right] = other[i, :, top:bottom, left:right]
        assert float(batch.mixed.share[i]) == np.float32(1 - (bottom - top) * (right - left) / 64)
    assert torch.equal(batch.x, expected)


def test_with_both_each_image_is_what_it_would_be_with_one() -> None:
    rows = np.arange(COUNT)
    both, up, cut = (
        loader(augment=Augment(mixup=a, cutmix=b)) for a, b in ((0.5, 1.0), (0.5, 0.0), (0.0, 1.0))
    )
    mix = both.mix(0, rows)
    assert mix is not None
    assert 0 < mix.blended.sum() < COUNT
    x = both.batch_of(0, rows).x
    assert torch.equal(x[mix.blended], up.batch_of(0, rows).x[mix.blended])
    assert torch.equal(x[~mix.blended], cut.batch_of(0, rows).x[~mix.blended])


def test_a_hidden_square_is_zero_for_the_network() -> None:
    """DeVries' zeros after the normalisation, but for the rounding to bytes."""
    flat = np.full_like(IMAGES, 250)
    for normalize in ("per-channel", "mean-image", "none"):
        prepared = fit(IMAGES, range(COUNT), square(9), normalize)
        found = loader(images=torch.from_numpy(flat), preprocess=prepared, augment=Augment(cutout=3))
        x = found.batch_of(0, np.arange(COUNT)).x
        bytes_ = 255 * (x * torch.from_numpy(prepared.std) + torch.from_numpy(prepared.mean))
        hidden = bytes_ < 249
        assert (hidden.flatten(1).sum(1) >= 4 * 3).all()  # a corner has 2 x 2 pixels
        if normalize == "per-channel":
            assert x[hidden].abs().max() < 0.51 / (255 * prepared.std.min())
        if normalize == "none":
            assert float(x[hidden].abs().max()) == 0


def test_lighting_is_measured_on_the_training_rows_alone() -> None:
    rows = np.arange(7)
    found = loader(rows=rows, augment=Augment(lighting=0.1)).lighting
    assert found is not None
    np.testing.assert_array_equal(found.values, Lighting.fit(torch.from_numpy(IMAGES), rows).values)
    assert (found.values != Lighting.fit(torch.from_numpy(IMAGES), np.arange(COUNT)).values).any()
    assert loader(augment=POLICY).lighting is None
    assert list(loader(rows=np.arange(0), augment=Augment(lighting=0.1, mixup=1.0)).epoch(0)) == []


@counts_threads
def test_mixing_starts_no_threads_of_its_own() -> None:
    images = torch.from_numpy(noise(64, 64, 64, 3))
    prepared = fit(images.numpy(), range(64), square(64), "per-feature")
    values: dict[str, Any] = {"images": images, "labels": np.zeros(64, dtype=np.int64)}
    values |= {"rows": np.arange(64), "preprocess": prepared, "batch": 64, "dtype": torch.bfloat16}
    for policy in (Augment(mixup=1.0), Augment(mixup=1.0, cutmix=1.0, cutout=9, brightness=0.2)):
        assert threads_started(lambda p=policy: list(loader(augment=p, **values).epoch(0))) == 0


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Augment(scale_jitter=(7, 20)), "U200"),
        (Augment(cutout=9), "U203"),
        (Augment(hue=0.1), "U202"),
    ],
)
def test_an_augmentation_that_does_not_fit_is_refused_at_once(policy: Augment, code: str) -> None:
    grey = IMAGES[..., :1].copy()
    prepared = fit(grey, range(COUNT), square(8, stored=9, channels=1), "none")
    with pytest.raises(ConvworksError) as caught:
        loader(images=torch.from_numpy(grey), preprocess=prepared, augment=policy)
    assert caught.value.code == code
