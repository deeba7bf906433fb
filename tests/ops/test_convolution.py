"""The public convolution: padding by name, bias, flip, autograd, autocast, and what is said of bad shapes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor

from convworks.ops.arguments import BadArgument
from convworks.ops.convolution import ALGORITHMS, convolve
from tests.ops import oracles
from tests.ops.oracles import Case, cases

OWN = ("direct", "lowering", "fft", "winograd", "winograd4")
quick = settings(max_examples=25, deadline=None, derandomize=True)


def arguments(case: Case) -> dict[str, object]:
    return {
        "stride": case.stride,
        "padding": case.padding,
        "dilation": case.dilation,
        "groups": case.groups,
    }


@pytest.mark.parametrize("name", ["library", "auto", "direct", "lowering", "fft"])
@quick
@given(case=cases())
def test_forward_and_both_gradients_through_autograd(name: str, case: Case) -> None:
    x, w = (torch.from_numpy(a).requires_grad_() for a in case.arrays())
    y = convolve(x, w, algorithm=name, **arguments(case))
    y.backward(torch.from_numpy(case.errors()))
    np.testing.assert_allclose(y.detach(), oracles.forward(case), atol=1e-10)
    np.testing.assert_allclose(x.grad, oracles.input_gradient(case), atol=1e-10)
    np.testing.assert_allclose(w.grad, oracles.weight_gradient(case), atol=1e-10)


@pytest.mark.parametrize("name", OWN)
def test_gradcheck_with_bias(name: str) -> None:
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: convolve(x, w, b, padding="same", groups=2, algorithm=name), (x, w, b)
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_flip_is_true_convolution(rank: int) -> None:
    draw = np.random.default_rng(rank)
    x, k = draw.integers(-9, 9, (6,) * rank), draw.integers(-9, 9, (3,) * rank)
    y = convolve(
        torch.from_numpy(x)[None, None].double(), torch.from_numpy(k)[None, None].double(), flip=True
    )
    np.testing.assert_array_equal(y[0, 0], scipy.signal.convolve(x, k, mode="valid", method="direct"))


@pytest.mark.parametrize(("mode", "size"), [("full", 32), ("same", 28), ("valid", 24)])
def test_sizes_of_the_padding_modes(mode: str, size: int) -> None:
    y = convolve(torch.randn(1, 1, 28, 28), torch.randn(1, 1, 5, 5), padding=mode)
    assert tuple(y.shape) == (1, 1, size, size)


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("name", ["library", "direct", "lowering"])
def test_causal_padding_sees_no_future(name: str, dilation: int) -> None:
    """What comes after t changes nothing up to t, to the bit."""
    x, w = torch.randn(1, 2, 20), torch.randn(3, 2, 3)
    changed = x.clone()
    changed[..., 12:] += 1
    before, after = (
        convolve(v, w, padding="causal", dilation=dilation, algorithm=name) for v in (x, changed)
    )
    assert before.shape[-1] == 20
    assert torch.equal(before[..., :12], after[..., :12])
    assert not torch.equal(before[..., 12:], after[..., 12:])


@pytest.mark.parametrize("stride", [2, 3])
def test_a_stride_subsamples_the_result_at_stride_one(stride: int) -> None:
    x, w = torch.randint(-9, 9, (1, 2, 11, 10)).double(), torch.randint(-9, 9, (3, 2, 3, 3)).double()
    dense = convolve(x, w, algorithm="direct")
    assert torch.equal(convolve(x, w, stride=stride, algorithm="direct"), dense[..., ::stride, ::stride])


def test_dilation_is_a_kernel_stuffed_with_zeros() -> None:
    x, w = torch.randn(1, 1, 12, 12).double(), torch.randn(1, 1, 3, 3).double()
    stuffed = torch.zeros(1, 1, 5, 5).double()
    stuffed[..., ::2, ::2] = w
    for stride in (1, 2):  # also with a stride, which some libraries refuse
        torch.testing.assert_close(
            convolve(x, w, dilation=2, stride=stride), convolve(x, stuffed, stride=stride)
        )


def test_one_by_one_is_a_linear_map_of_every_pixel() -> None:
    x, w = torch.randn(2, 5, 4, 3).double(), torch.randn(7, 5, 1, 1).double()
    expected = np.einsum("oc,nchw->nohw", w[:, :, 0, 0], x)
    np.testing.assert_allclose(convolve(x, w), expected)


def test_two_groups_are_two_convolutions_side_by_side() -> None:
    """AlexNet's towers: conv2 has 307,456 parameters with two groups and 614,656 with one."""
    x, w = torch.randn(1, 4, 6, 6).double(), torch.randn(6, 2, 3, 3).double()
    halves = [F.conv2d(x[:, :2], w[:3]), F.conv2d(x[:, 2:], w[3:])]
    torch.testing.assert_close(convolve(x, w, groups=2), torch.cat(halves, dim=1))
    assert 256 * 48 * 25 + 256 == 307_456
    assert 256 * 96 * 25 + 256 == 614_656


def test_interior_of_a_shifted_image_is_the_shifted_result() -> None:
    x, w = torch.randn(1, 1, 12, 12), torch.randn(2, 1, 3, 3)
    y, shifted = (convolve(v, w, padding="same", algorithm="direct") for v in (x, x.roll(2, dims=3)))
    assert torch.equal(shifted[..., 4:-1], y[..., 2:-3])


def test_maps_of_different_channels_share_no_parameters() -> None:
    """A gradient at output map 0 reaches kernel 0 alone; six kernels give six maps."""
    x, w = torch.randn(1, 3, 32, 32), torch.randn(6, 3, 5, 5, requires_grad=True)
    y = convolve(x, w, algorithm="lowering")
    assert tuple(y.shape[1:]) == (6, 28, 28)
    y[:, 0].sum().backward()
    assert w.grad is not None
    assert w.grad[0].abs().sum() > 0
    assert w.grad[1:].abs().sum() == 0


@pytest.mark.parametrize("name", OWN)
def test_threads_do_not_change_the_result(name: str) -> None:
    x, w = torch.randn(4, 3, 12, 12), torch.randn(5, 3, 3, 3)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(convolve(x, w, algorithm=name))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["library", "lowering", "fft"])
def test_under_autocast_the_output_is_bfloat16(name: str) -> None:
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = convolve(x, w, torch.randn(3), algorithm=name)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert w.grad is not None
    assert w.grad.dtype == torch.float32


def test_only_the_gradients_that_are_asked_for_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from convworks.ops.algorithms import named

    def refuse(*_: object) -> Tensor:
        raise AssertionError("not asked for")

    direct = named.algorithm("direct")
    monkeypatch.setattr(
        "convworks.ops.convolution.algorithm",
        lambda _: named.Algorithm("direct", direct.forward, refuse, direct.weight_gradient),
    )
    w = torch.randn(1, 1, 3, requires_grad=True)
    convolve(torch.randn(1, 1, 5), w, algorithm="direct").sum().backward()
    assert w.grad is not None


X, W = torch.zeros(1, 6, 8, 8), torch.zeros(4, 6, 3, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: convolve(X, W, groups=4),
            ["groups = 4", "the 6 input and the 4 output maps", "groups=1 or 2"],
        ),
        (
            lambda: convolve(X, W[:, :5]),
            ["weight.shape = (4, 5, 3, 3)", "x has 6", "a weight (4, 6, ...)"],
        ),
        (lambda: convolve(X, W[..., 0]), ["weight.shape = ", "2 spatial dimensions, the weight 1"]),
        (lambda: convolve(X[0, 0], W), ["x.shape = (8, 8)", "(N, C, H, W)"]),
        (lambda: convolve(X, torch.zeros(4, 6, 9, 9)), ["kernel_size", "9", "8"]),
        (lambda: convolve(X, torch.zeros(4, 6, 2, 2), padding="same"), ["kernel_size", "even", "tf_same"]),
        (lambda: convolve(X, W, padding="smae"), ["padding = 'smae'", "padding='same'"]),
        (lambda: convolve(X, W, stride=0), ["stride = 0", "at least 1"]),
        (lambda: convolve(X, W, stride=(1, 1, 1)), ["stride = (1, 1, 1)", "2 dimensions"]),
        (lambda: convolve(X, W.double()), ["float32", "float64"]),
        (lambda: convolve(X, W, torch.zeros(3)), ["bias.shape = (3,)", "4 output maps"]),
        (lambda: convolve(X, W, algorithm="winogard"), ["algorithm = 'winogard'", "algorithm='winograd'"]),
        (lambda: convolve(X, W, stride=2, algorithm="winograd"), ["stride (2, 2)", "algorithm='auto'"]),
    ],
)
def test_one_message_names_the_argument_the_value_and_what_fits(call, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadArgument) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_lists_are_taken_as_well_as_tuples() -> None:
    y = convolve(X, W, stride=[2, 1], padding=[1, 1])
    assert tuple(y.shape[2:]) == (4, 8)


def test_every_algorithm_has_a_name() -> None:
    assert set(OWN) < set(ALGORITHMS)
