"""Pooling layers against loops and numpy, and against what the papers say of their sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.autograd import gradcheck
from torch.func import functional_call

from convworks.errors import ConvworksError
from convworks.layers.pooling import (
    GlobalAveragePool,
    GlobalMaxPool,
    L2Pool2d,
    MaxoutPool,
    Pool,
    Subsampling,
    SumPool2d,
    WeightedMeanPool2d,
)
from convworks.ops.pool_window import pool_window
from convworks.ops.pooling import subsample


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


def test_subsampling_is_the_formula_of_ops() -> None:
    torch.manual_seed(0)
    layer, x = Subsampling(3).double(), torch.randn(2, 3, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.coefficient.normal_()
        layer.bias.normal_()
    expected = subsample(x, layer.coefficient, layer.bias, pool_window((4, 6), 2))
    torch.testing.assert_close(layer(x), expected)


def blocks(x: torch.Tensor) -> NDArray[np.float64]:
    """(N, C, H, W) -> (N, C, H/2, W/2, 4): the cells of each 2x2 window."""
    n, c, h, w = x.shape
    array = x.detach().numpy().reshape(n, c, h // 2, 2, w // 2, 2)
    return np.moveaxis(array, 3, 4).reshape(n, c, h // 2, w // 2, 4)


def maps(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_sum_l2_and_weighted_mean_equal_numpy() -> None:
    x = maps(2, 3, 4, 6)
    cells = blocks(x)
    np.testing.assert_allclose(SumPool2d(2)(x).detach().numpy(), cells.sum(-1), rtol=1e-10)
    np.testing.assert_allclose(L2Pool2d(2)(x).detach().numpy(), np.sqrt((cells**2).sum(-1)), rtol=1e-10)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    layer = WeightedMeanPool2d(2, weight=weight)
    np.testing.assert_allclose(layer(x).detach().numpy(), (cells * [1, 2, 3, 4]).sum(-1) / 10, rtol=1e-10)
    for module in (SumPool2d(2), L2Pool2d(2), layer):
        assert gradcheck(module, (x,))


def test_a_new_weighted_mean_is_a_mean_and_learns() -> None:
    x = maps(2, 3, 5, 5)
    layer = WeightedMeanPool2d(3, stride=2, padding=1).double()
    torch.testing.assert_close(layer(x), F.avg_pool2d(x, 3, 2, 1))
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum().item() > 0
    assert layer.macs((3, 3, 3)) == 27 * 9
    fixed = WeightedMeanPool2d(2, trainable=False)
    assert list(fixed.parameters()) == []
    assert "weight" in fixed.state_dict()
    with pytest.raises(ConvworksError, match=r"weight.shape = \(3, 3\) does not fit: the window is \(2, 2\)"):
        WeightedMeanPool2d(2, weight=torch.ones(3, 3))


def test_l2_pooling_of_zeros_has_no_nan_where_torch_has() -> None:
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    L2Pool2d(2)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros(1, 1, 2, 2))


def test_maxout_pool_halves_the_maps() -> None:
    x = maps(2, 6, 3)
    torch.testing.assert_close(MaxoutPool(2)(x), x.reshape(2, 3, 2, 3).amax(dim=2))
    assert gradcheck(MaxoutPool(3), (x,))
    with pytest.raises(ConvworksError, match="pieces = 4 does not fit: it does not divide the 6 maps"):
        MaxoutPool(4)(x)


@pytest.mark.parametrize("size", [(5,), (4, 3), (2, 3, 4)])
def test_global_pooling_of_every_rank(size: tuple[int, ...]) -> None:
    x = maps(2, 3, *size)
    flat = x.detach().numpy().reshape(2, 3, -1)
    np.testing.assert_allclose(GlobalAveragePool()(x).detach().numpy(), flat.mean(-1), rtol=1e-10)
    np.testing.assert_array_equal(GlobalMaxPool()(x).detach().numpy(), flat.max(-1))
    ones = (1,) * len(size)
    assert GlobalAveragePool(keepdim=True)(x).shape == (2, 3, *ones)
    assert GlobalMaxPool(keepdim=True)(x).shape == (2, 3, *ones)
    assert gradcheck(GlobalAveragePool(), (x,))
    assert gradcheck(GlobalMaxPool(), (x,))


def test_global_maximum_of_equal_numbers_sends_the_gradient_to_the_first() -> None:
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    GlobalMaxPool()(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[[[1.0, 0], [0, 0]]]]))


def test_googlenet_ends_in_1024_numbers() -> None:
    assert GlobalAveragePool(keepdim=True)(torch.zeros(1, 1024, 7, 7)).shape == (1, 1024, 1, 1)


def test_pool_takes_paddings_by_name() -> None:
    x = maps(1, 2, 5, 7)
    assert Pool("max", 2, padding="tf_same")(x).shape == (1, 2, 3, 4)
    assert Pool("mean", 3, stride=1, padding="same")(x).shape == x.shape
    corner = Pool("mean", 3, stride=1, padding="same", count_padding=False)(x)[0, 0, 0, 0]
    torch.testing.assert_close(corner, x[0, 0, :2, :2].mean())
    with pytest.raises(ConvworksError, match="kind = 'median' does not fit"):
        Pool("median", 2)


@pytest.mark.parametrize("layer", [SumPool2d(2), L2Pool2d(2), WeightedMeanPool2d(2), Pool("max", 2)])
def test_windows_are_readable_from_outside(layer: torch.nn.Module) -> None:
    assert layer.kernel_size in (2, (2, 2))
    assert layer.stride in (2, (2, 2))
    assert "kernel_size" in repr(layer)
