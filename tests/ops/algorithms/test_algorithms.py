"""Every algorithm against loops in float64, over drawn shapes, in every pass and type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convworks.ops.algorithms import direct, fourier, library, lowering, winograd
from convworks.ops.algorithms.named import Algorithm, algorithm
from convworks.ops.algorithms.window import Window
from tests.ops import oracles
from tests.ops.oracles import Case, cases

ANY_WINDOW = ("library", "direct", "lowering", "fft", "channels_last", "trimmed direct", "trimmed library")
WINOGRAD = ("winograd", "winograd4")
PASSES = ("forward", "input_gradient", "weight_gradient")
ONE = Case(2, (7, 6), 2, 3, 2, (3, 3), (1, 1), ((1, 2), (0, 1)), (1, 1), seed=5)
quick = settings(max_examples=25, deadline=None, derandomize=True)


def window(case: Case) -> Window:
    return Window(case.kernel, case.stride, case.padding, case.dilation, case.groups)


def computed(part: str, each: Algorithm, case: Case, dtype: torch.dtype = torch.float64) -> Tensor:
    x, w = (torch.from_numpy(a).to(dtype) for a in case.arrays())
    dy = torch.from_numpy(case.errors()).to(dtype)
    if part == "forward":
        return each.forward(x, w, window(case))
    if part == "input_gradient":
        return each.input_gradient(dy, w, window(case), case.size)
    return each.weight_gradient(x, dy, window(case))


def check(name: str, case: Case, *, tolerance: float = 1e-10) -> None:
    for part in PASSES:
        expected = getattr(oracles, part)(case)
        actual = computed(part, algorithm(name), case).numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=f"{name} {part}")


@pytest.mark.parametrize("name", ANY_WINDOW)
@quick
@given(case=cases())
def test_equals_the_loops(name: str, case: Case) -> None:
    if name == "channels_last" and len(case.kernel) == 1:
        case = replace(ONE, seed=case.seed)  # one dimension has no such memory format
    check(name, case)


@pytest.mark.parametrize("name", WINOGRAD)
@quick
@given(case=cases(winograd=True))
def test_winograd_equals_the_loops(name: str, case: Case) -> None:
    check(name, case, tolerance=1e-9)


@quick
@given(case=cases())
def test_the_librarys_gradients_in_one_call(case: Case) -> None:
    x, w = map(torch.from_numpy, case.arrays())
    dy = torch.from_numpy(case.errors())
    dx, dw = library.gradients(x, dy, w, window(case), case.size)
    np.testing.assert_allclose(dx, oracles.input_gradient(case), atol=1e-10)
    np.testing.assert_allclose(dw, oracles.weight_gradient(case), atol=1e-10)


@pytest.mark.parametrize("side", [(4, 4), (6, 10), (16, 16)])
def test_any_size_of_tiles_gives_the_same(side: tuple[int, int]) -> None:
    check(f"fft {side[0]}x{side[1]}", ONE)


@pytest.mark.parametrize("name", [*ANY_WINDOW, *WINOGRAD])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 4e-2)])
def test_lower_precision(name: str, dtype: torch.dtype, tolerance: float) -> None:
    for part in PASSES:
        expected = torch.from_numpy(getattr(oracles, part)(ONE))
        actual = computed(part, algorithm(name), ONE, dtype)
        assert actual.dtype == dtype
        scale = expected.abs().max().item()
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", [*ANY_WINDOW, *WINOGRAD])
@pytest.mark.parametrize("part", PASSES)
def test_a_planted_error_is_caught(name: str, part: str) -> None:
    result = computed(part, algorithm(name), ONE).numpy()
    result.reshape(-1)[np.abs(result).argmax()] *= 1.01
    with pytest.raises(AssertionError, match="Mismatched elements: 1"):
        np.testing.assert_allclose(result, getattr(oracles, part)(ONE), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [*ANY_WINDOW, *WINOGRAD])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    case = replace(ONE, batch=1, size=(4, 3), inputs=1, outputs=2)
    each, (x, w), dy = algorithm(name), map(torch.from_numpy, case.arrays()), torch.from_numpy(case.errors())

    def cost(x: Tensor, w: Tensor) -> float:
        return float((each.forward(x, w, window(case)) * dy).sum())

    for part, at in (("input_gradient", x), ("weight_gradient", w)):
        analytic = computed(part, each, case)
        for index in np.ndindex(*at.shape):
            kept = at[index].item()
            at[index] = kept + 1e-5
            above = cost(x, w)
            at[index] = kept - 1e-5
            below = cost(x, w)
            at[index] = kept
            np.testing.assert_allclose(analytic[index], (above - below) / 2e-5, atol=1e-7)


def test_winograd_takes_16_multiplications_where_the_definition_takes_36() -> None:
    assert winograd.multiplications(2) == (16, 36)
    assert 36 / 16 == 2.25
    assert winograd.multiplications(4) == (36, 144)


@pytest.mark.parametrize(("m", "rank"), [(2, 2), (4, 2), (2, 1)])
def test_the_multiplications_are_those_of_the_product_in_the_domain(m: int, rank: int) -> None:
    """One tile of one channel: as many numbers are multiplied as the count says."""
    parts = winograd.matrices(m)
    assert len(parts.kernel) ** rank == winograd.multiplications(m, rank)[0]
    assert len(parts.output) == m


@pytest.mark.parametrize("m", [2, 4])
def test_winograds_identity_is_exact_in_fractions(m: int) -> None:
    """A^T ((G g) * (B^T d)) is the correlation of g and d, with no rounding at all."""
    parts = winograd.matrices(m)
    g, d = [3, -5, 7], [(-2) ** i + i for i in range(m + 2)]
    left = [sum(a * b for a, b in zip(row, g, strict=True)) for row in parts.kernel]
    right = [sum(a * b for a, b in zip(row, d, strict=True)) for row in parts.input]
    product = [a * b for a, b in zip(left, right, strict=True)]
    y = [sum(a * b for a, b in zip(row, product, strict=True)) for row in parts.output]
    assert y == [sum(g[k] * d[i + k] for k in range(3)) for i in range(m)]


def test_lowering_needs_the_memory_of_its_formula() -> None:
    """32 maps of 64x64, 5x5: 25 cells for each of 60x60 positions and each map."""
    case = replace(ONE, batch=2, size=(64, 64), inputs=32, groups=1, kernel=(5, 5), padding=((0, 0), (0, 0)))
    shape = (case.batch, case.inputs, *case.size)
    documented = 2 * 32 * 25 * 60 * 60 * 4
    assert lowering.extra_bytes(shape, window(case)) == documented
    matrix = lowering.lower(torch.zeros(shape), window(case))
    assert matrix.untyped_storage().nbytes() == documented


def test_lowering_copies_nothing_for_1x1() -> None:
    x = torch.randn(2, 3, 5, 5)
    matrix = lowering.lower(x, Window((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)))
    assert matrix.data_ptr() == x.data_ptr()


def test_fft_needs_the_memory_of_its_formula() -> None:
    case = replace(ONE, groups=1, padding=((1, 1), (1, 1)))
    x, w = (torch.from_numpy(a) for a in case.arrays())
    side = (6, 6)
    plan = fourier._Plan(window(case), case.size, side)
    kernels, inputs = plan.of_kernel(w), plan.of_input(x)
    products = inputs @ kernels
    held = sum(t.numel() * 16 for t in (kernels, inputs, products))
    assert fourier.extra_bytes(tuple(x.shape), tuple(w.shape), window(case), side, itemsize=8) == held


@quick
@given(case=cases(), data=st.data())
def test_only_useful_taps_meet_the_input(case: Case, data: st.DataObject) -> None:
    """The useful taps are the first to the last that a loop over all positions finds."""
    for found, n, k, s, (before, _), d, m in zip(
        window(case).useful(case.size), case.size, case.kernel, case.stride, case.padding, case.dilation,
        case.output, strict=True,
    ):  # fmt: skip
        meets = [t for t in range(k) if any(0 <= t * d - before + p * s < n for p in range(m))]
        assert (found.start, found.stop) == ((meets[0], meets[-1] + 1) if meets else (0, k))


def test_a_31x31_kernel_on_7x7_keeps_13x13_taps() -> None:
    whole = Window((31, 31), (1, 1), ((15, 15),) * 2, (1, 1))
    smaller, taps = whole.trimmed((7, 7))
    assert smaller.kernel == (13, 13)
    assert taps == (slice(9, 22), slice(9, 22))


def test_direct_holds_no_more_than_its_output() -> None:
    """A tap's product is added to the output; nothing grows with the kernel."""
    x, w = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 3, 3)
    y = direct.forward(x, w, Window((3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)))
    assert y.shape == (1, 1, 6, 6)
