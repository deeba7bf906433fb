"""Subsampling against loops, and against what the paper says of S2 and S4."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.autograd import gradcheck
from torch.func import functional_call

from convworks.layers import Subsampling


def by_loops(
    x: NDArray[np.float64], coefficient: NDArray[np.float64], bias: NDArray[np.float64]
) -> NDArray[np.float64]:
    n, c, h, w = x.shape
    y = np.zeros((n, c, h // 2, w // 2))
    for image, channel, i, j in np.ndindex(*y.shape):
        block = x[image, channel, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        y[image, channel, i, j] = coefficient[channel] * block.sum() + bias[channel]
    return y


def test_equals_loops() -> None:
    rng = np.random.default_rng(0)
    layer = Subsampling(3).double()
    x, coefficient, bias = rng.normal(size=(2, 3, 6, 4)), rng.normal(size=3), rng.normal(size=3)
    with torch.no_grad():
        layer.coefficient.copy_(torch.from_numpy(coefficient))
        layer.bias.copy_(torch.from_numpy(bias))
    y = layer(torch.from_numpy(x))
    np.testing.assert_allclose(y.detach().numpy(), by_loops(x, coefficient, bias), rtol=1e-12)


def test_a_new_layer_averages() -> None:
    x = torch.arange(16, dtype=torch.float32).reshape(1, 1, 4, 4)
    torch.testing.assert_close(Subsampling(1)(x).detach(), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))


@pytest.mark.parametrize(("channels", "parameters"), [(6, 12), (16, 32)])
def test_parameters_of_s2_and_s4(channels: int, parameters: int) -> None:
    assert sum(p.numel() for p in Subsampling(channels).parameters()) == parameters


def test_macs_are_four_for_each_unit() -> None:
    assert Subsampling(6).macs((6, 14, 14)) == 4 * 6 * 14 * 14


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    layer = Subsampling(2).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    coefficient = torch.randn(2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        lambda x, c, b: functional_call(layer, {"coefficient": c, "bias": b}, (x,)), (x, coefficient, bias)
    )


def test_bfloat16_maps_stay_bfloat16() -> None:
    x = torch.ones(1, 2, 4, 4, dtype=torch.bfloat16)
    y = Subsampling(2)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float().detach(), torch.ones(1, 2, 2, 2))


def test_channels_last_stays() -> None:
    x = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    assert Subsampling(8)(x).is_contiguous(memory_format=torch.channels_last)
