"""Convolution of signals against numpy and scipy, exactly, on integers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.ops.arguments import BadArgument
from convworks.ops.signal import convolution, cross_correlation

quick = settings(max_examples=30, deadline=None, derandomize=True)


def integers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 10, shape)


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@quick
@given(n=st.integers(1, 12), m=st.integers(1, 12), seed=st.integers(0, 999))
def test_one_dimension_is_numpys(mode: str, n: int, m: int, seed: int) -> None:
    n = max(n, m)  # numpy exchanges the two where the kernel is longer
    x, k = integers(seed, n), integers(seed + 1, m)
    np.testing.assert_array_equal(
        convolution(torch.from_numpy(x), torch.from_numpy(k), mode=mode), np.convolve(x, k, mode=mode)
    )


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@quick
@given(size=st.tuples(*[st.integers(1, 7)] * 4), seed=st.integers(0, 999))
def test_two_dimensions_are_scipys(mode: str, size: tuple[int, ...], seed: int) -> None:
    h, w = max(size[0], size[2]), max(size[1], size[3])
    x, k = integers(seed, h, w), integers(seed + 1, *size[2:])
    a, b = torch.from_numpy(x), torch.from_numpy(k)
    np.testing.assert_array_equal(convolution(a, b, mode=mode), scipy.signal.convolve2d(x, k, mode=mode))
    expected = scipy.signal.correlate2d(x, k, mode="full")
    np.testing.assert_array_equal(cross_correlation(a, b), expected)


def test_three_dimensions_are_scipys() -> None:
    x, k = integers(3, 4, 5, 6), integers(4, 2, 3, 3)
    full = scipy.signal.convolve(x, k, mode="full", method="direct")
    np.testing.assert_array_equal(convolution(torch.from_numpy(x), torch.from_numpy(k)), full)


def test_sizes_of_the_lecture() -> None:
    x, k = torch.zeros(28), torch.zeros(5)
    assert [len(convolution(x, k, mode=mode)) for mode in ("full", "same", "valid")] == [32, 28, 24]


def test_the_lectures_sum_is_the_valid_mode() -> None:
    """s_i = sum over m of k_m x_(i - m + M - 1)."""
    x, k = integers(1, 9), integers(2, 4)
    s = [sum(int(k[m]) * int(x[i - m + 3]) for m in range(4)) for i in range(6)]
    assert convolution(torch.from_numpy(x), torch.from_numpy(k), mode="valid").tolist() == s


@quick
@given(n=st.integers(1, 8), m=st.integers(1, 8), seed=st.integers(0, 999))
def test_convolution_commutes(n: int, m: int, seed: int) -> None:
    x, k = torch.from_numpy(integers(seed, n)), torch.from_numpy(integers(seed + 1, m))
    assert convolution(x, k).tolist() == convolution(k, x).tolist()


def test_correlation_does_not_commute() -> None:
    x, k = torch.tensor([1, 2, 3]), torch.tensor([1, 0, -2])
    assert cross_correlation(x, k).tolist() != cross_correlation(k, x).tolist()


def test_correlation_is_convolution_with_the_kernel_reversed() -> None:
    x, k = torch.from_numpy(integers(7, 5, 5)), torch.from_numpy(integers(8, 3, 3))
    assert cross_correlation(x, k).equal(convolution(x, torch.flip(k, (0, 1))))


@pytest.mark.parametrize(
    ("x", "k", "mode", "words"),
    [
        (
            torch.zeros(5),
            torch.zeros(3),
            "half",
            "mode = 'half' does not fit: it is one of full, same, valid",
        ),
        (torch.zeros(5), torch.zeros(3, 3), "full", "x has 1 dimensions and the kernel 2"),
        (torch.zeros(2), torch.zeros(3), "valid", "larger than x (2,)"),
    ],
)
def test_what_does_not_fit_is_said(x: torch.Tensor, k: torch.Tensor, mode: str, words: str) -> None:
    with pytest.raises(BadArgument) as caught:
        convolution(x, k, mode=mode)
    assert words in str(caught.value)
