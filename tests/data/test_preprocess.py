"""Normalisation against plain numpy in float64: what is measured, and what a network gets."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from convworks.data import preprocess
from convworks.data.preprocess import Geometry, Normalize
from convworks.errors import ConvworksError

from .pixels import CPU, QUICK, counts_threads, fit, noise, square, threads_started

NORMALIZATIONS = get_args(Normalize)


def expected_statistics(x: NDArray[np.float64], normalize: str) -> tuple[Any, Any]:
    """x is (N, C, H, W) in grey levels, the training images at the input size."""
    if normalize == "per-channel":
        mean, std = x.mean(axis=(0, 2, 3), keepdims=True)[0], x.std(axis=(0, 2, 3), keepdims=True)[0]
    else:
        mean, std = x.mean(axis=0), x.std(axis=0)
    if normalize == "mean-image":
        return mean / 255, np.ones_like(std)
    return mean / 255, np.where(std == 0, 1.0, std / 255)


@QUICK
@given(
    normalize=st.sampled_from(["per-channel", "mean-image", "per-feature"]),
    channels=st.sampled_from([1, 3]),
    count=st.integers(1, 12),
    border=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    step=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_fit_equals_numpy_in_float64(
    normalize: str, channels: Any, count: int, border: tuple[int, int], step: int, seed: int
) -> None:
    height, width = 4, 5
    geometry = Geometry(height, width, channels, "crop", height + border[0], width + border[1])
    images = noise(20, *geometry.stored_shape, seed=seed)
    images[:, 2, 2] = 7  # positions that never vary
    rows = np.random.default_rng(seed).permutation(20)[:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "SUM_VALUES", step)  # rows for each chunk
        got = fit(images, rows, geometry, normalize)
    top, left = border[0] // 2, border[1] // 2
    seen = images[rows, top : top + height, left : left + width].transpose(0, 3, 1, 2)
    mean, std = expected_statistics(seen.astype(np.float64), normalize)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(got.std, std, rtol=1e-6)
    assert got.mean.dtype == got.std.dtype == np.float32
    again = fit(images, rows[::-1], geometry, normalize)
    np.testing.assert_array_equal(again.mean, got.mean)
    np.testing.assert_array_equal(again.std, got.std)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_only_the_given_rows_count(normalize: str) -> None:
    images = noise(10, 4, 4, 3)
    before = fit(images, [1, 3, 5], square(4), normalize)
    images[[0, 2, 4, 6, 7, 8, 9]] = 255
    after = fit(images, [1, 3, 5], square(4), normalize)
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.std, before.std)


@pytest.mark.parametrize("normalize", ["per-channel", "per-feature"])
def test_sums_of_many_bright_images_are_exact(normalize: str) -> None:
    """Levels 254 and 255 in 3:1: where sums lose bits, the small deviation is lost first."""
    images = np.full((4000, 3, 3, 1), 255, dtype=np.uint8)
    images[::4] = 254
    got = fit(images, range(4000), square(3, channels=1), normalize)
    np.testing.assert_array_equal(got.mean, np.float32((255 - 0.25) / 255))
    np.testing.assert_array_equal(got.std, np.float32(np.sqrt(0.25 * 0.75) / 255))


@pytest.mark.parametrize("normalize", ["per-channel", "per-feature"])
def test_standardised_training_images_have_mean_0_and_std_1(normalize: str) -> None:
    """NM-05, on the training rows; what does not vary becomes 0."""
    images = noise(300, 5, 5, 3)
    images[:, 0, 0, :] = 19
    rows = np.arange(0, 300, 2)
    prepared = fit(images, rows, square(5), normalize)
    x = prepared.to_input(torch.from_numpy(images[rows]), **CPU).double()
    axes = (0, 2, 3) if normalize == "per-channel" else (0,)
    expected_std = torch.ones_like(x.std(dim=axes))
    if normalize == "per-feature":
        expected_std[:, 0, 0] = 0
    torch.testing.assert_close(x.mean(dim=axes), torch.zeros_like(expected_std), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=axes, correction=0), expected_std, atol=1e-5, rtol=0)


def test_the_mean_image_is_subtracted_and_nothing_else() -> None:
    """NM-06."""
    images = noise(20, 4, 4, 3)
    prepared = fit(images, range(20), square(4), "mean-image")
    x = prepared.to_input(torch.from_numpy(images), **CPU)
    expected = (images / 255.0 - (images / 255.0).mean(axis=0)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("normalize", ["per-channel", "mean-image", "per-feature"])
def test_no_training_image_is_an_error(normalize: str) -> None:
    with pytest.raises(ConvworksError, match="no training image") as caught:
        fit(noise(3, 4, 4, 3), np.array([], dtype=np.int64), square(4), normalize)
    assert caught.value.code == "D158"


@QUICK
@given(
    normalize=st.sampled_from(NORMALIZATIONS),
    channels=st.sampled_from([1, 3]),
    border=st.integers(0, 3),
    count=st.integers(0, 9),
    seed=st.integers(0, 99),
    planar=st.booleans(),
)
def test_to_input_is_the_formula(
    normalize: Any, channels: Any, border: int, count: int, seed: int, planar: bool
) -> None:
    geometry = square(6, channels=channels, stored=6 + border)
    images = noise(12, *geometry.stored_shape, seed=seed)
    prepared = fit(images, range(12), geometry, normalize)
    memory_format = torch.contiguous_format if planar else torch.channels_last
    x = prepared.to_input(
        torch.from_numpy(images[:count]), dtype=torch.float32, memory_format=memory_format, device="cpu"
    )
    inner = images[:count, border // 2 : border // 2 + 6, border // 2 : border // 2 + 6]
    raw = inner.transpose(0, 3, 1, 2) / 255.0
    expected = (raw - prepared.mean.astype(np.float64)) / prepared.std.astype(np.float64)
    assert x.shape == (count, channels, 6, 6)
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6, atol=2e-6)
    cropped = prepared.to_input(torch.from_numpy(inner.copy()), **CPU)
    torch.testing.assert_close(cropped.contiguous(), x.contiguous(), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_formats(channels: int) -> None:
    images = torch.from_numpy(noise(4, 6, 5, channels))
    prepared = fit(images.numpy(), range(4), Geometry(6, 5, channels, "crop", 6, 5), "per-channel")  # type: ignore[arg-type]
    last = prepared.to_input(images, **CPU)
    first = prepared.to_input(images, **{**CPU, "memory_format": torch.contiguous_format})
    assert last.stride() == (30 * channels, 1, 5 * channels, channels)
    assert first.stride() == (30 * channels, 30, 5, 1)
    torch.testing.assert_close(last, first, rtol=0, atol=0, check_stride=False)
    with pytest.raises(ValueError, match="memory_format must be"):
        prepared.to_input(images, **{**CPU, "memory_format": torch.preserve_format})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_the_float32_result_rounded(dtype: torch.dtype) -> None:
    images = torch.from_numpy(noise(40, 32, 32, 3))  # more values than one block
    prepared = fit(images.numpy(), range(40), square(32), "per-channel")
    exact = prepared.to_input(images, **CPU)
    got = prepared.to_input(images, **{**CPU, "dtype": dtype})
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, exact.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [3, 31, 220])
def test_a_sample_has_the_same_bits_in_every_batch(dtype: torch.dtype, size: int) -> None:
    images = torch.from_numpy(noise(23, size, size, 3))
    prepared = fit(images.numpy(), range(23), square(size), "per-feature")
    whole = prepared.to_input(images, **{**CPU, "dtype": dtype})
    for begin, end in ((0, 1), (22, 23), (3, 10), (7, 23)):
        part = prepared.to_input(images[begin:end], **{**CPU, "dtype": dtype})
        torch.testing.assert_close(part, whole[begin:end], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 4, 4, 1), (2, 9, 8, 3)])
def test_a_batch_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    prepared = fit(noise(2, 8, 8, 3), [0], square(4, stored=8), "none")
    with pytest.raises(ValueError, match="does not have the size of"):
        prepared.to_input(torch.zeros(shape, dtype=torch.uint8), **CPU)


@counts_threads
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_operator_starts_threads_of_its_own(dtype: torch.dtype) -> None:
    images = torch.from_numpy(noise(8, 256, 256, 3))
    prepared = fit(images.numpy(), range(8), square(224, stored=256), "per-channel")

    def work() -> None:
        for memory_format in (torch.channels_last, torch.contiguous_format):
            prepared.to_input(images, dtype=dtype, memory_format=memory_format, device="cpu")

    assert threads_started(work) == 0


def test_an_unknown_normalisation() -> None:
    with pytest.raises(ConvworksError, match="did you mean 'per-channel'"):
        fit(noise(2, 4, 4, 3), [0], square(4), "per-chanel")
