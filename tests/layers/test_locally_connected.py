"""Locally connected layers: counts of the lectures, and the convolution they are with shared weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convworks.anatomy import trace
from convworks.layers import LocallyConnected1d, LocallyConnected2d, LocallyConnected3d


def test_weights_of_the_lecture() -> None:
    """28x28x6 from 32x32x3 with 5x5: 357,504 without weight sharing is 352,800 weights and 4,704 biases."""
    layer = LocallyConnected2d(3, 6, 5, input_size=(32, 32))
    assert sum(p.numel() for p in layer.parameters()) == 357_504
    tied, dense = nn.Conv2d(3, 6, 5), 32 * 32 * 3 * 28 * 28 * 6 + 28 * 28 * 6
    assert sum(p.numel() for p in tied.parameters()) == 456
    assert dense == 14_455_392
    row = trace(layer, (3, 32, 32))[0]
    assert row.output == (6, 28, 28)
    assert row.macs == 28 * 28 * 6 * 75


@pytest.mark.parametrize(
    ("layer", "rank"), [(LocallyConnected1d, 1), (LocallyConnected2d, 2), (LocallyConnected3d, 3)]
)
def test_equal_copies_are_a_convolution(layer: type[LocallyConnected2d], rank: int) -> None:
    x = torch.randn(2, 3, *(7,) * rank)
    local = layer(3, 4, 3, input_size=(7,) * rank, stride=2, padding=1)
    kernel, bias = torch.randn(4, 3, *(3,) * rank), torch.randn(4)
    with torch.no_grad():
        local.weight.copy_(kernel.reshape(*kernel.shape, *(1,) * rank).expand_as(local.weight))
        local.bias.copy_(bias.reshape(4, *(1,) * rank).expand_as(local.bias))
    torch.testing.assert_close(local(x), getattr(F, f"conv{rank}d")(x, kernel, bias, 2, 1))


def test_another_size_of_input_is_refused_with_the_one_that_fits() -> None:
    layer = LocallyConnected2d(3, 4, 3, input_size=(7, 7))
    with pytest.raises(ValueError, match=r"positions \(6, 6\) on an input of \(8, 8\)"):
        layer(torch.zeros(1, 3, 8, 8))
