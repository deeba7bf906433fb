"""Parameters and multiply-adds against torch layers that are built and counted, and the lectures' numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convworks.ops import cost
from convworks.ops.arguments import BadArgument

fast = settings(deadline=None, max_examples=25, derandomize=True)


def test_layers_of_the_lectures() -> None:
    same = cost.convolution_cost((32, 32), 3, 64, 3, padding="same")
    assert (same.output, same.macs, same.parameters) == ((64, 32, 32), 1_769_472, 1_792)
    valid = cost.convolution_cost((32, 32), 3, 64, 3)
    assert (valid.output, valid.macs) == ((64, 30, 30), 1_555_200)
    ten = cost.convolution_cost((32, 32), 3, 10, 5, padding=2)
    assert (ten.output, ten.parameters, ten.weights, ten.biases) == ((10, 32, 32), 760, 750, 10)
    six = cost.convolution_cost((32, 32), 3, 6, 5)
    assert (six.output, six.parameters) == ((6, 28, 28), 456)
    keras = cost.convolution_cost((24, 24), 3, 8, 3, padding="same")
    assert (keras.output, keras.parameters) == ((8, 24, 24), 224)
    free = cost.convolution_cost((100, 100), 3, 100, 3)
    assert (free.weights, free.parameters) == (2_700, 2_800)
    dense = cost.dense_cost(100 * 100 * 3, 100)
    assert (dense.weights, dense.parameters) == (3_000_000, 3_000_100)
    assert cost.dense_cost(784, 128).parameters + cost.dense_cost(128, 10).parameters == 101_770


def test_towers_depthwise_and_untied() -> None:
    towers = [cost.convolution_cost((27, 27), 96, 256, 5, padding=2, groups=g).parameters for g in (1, 2)]
    assert towers == [614_656, 307_456]
    stem = cost.separable_cost((224, 224), 3, 64, 7, multiplier=8, stride=2, padding="same")
    assert (stem.weights, stem.macs, stem.output) == (2_712, 34_019_328, (64, 112, 112))
    assert stem.biases == 64
    untied = cost.locally_connected_cost((32, 32), 3, 6, 5)
    assert untied.parameters == 357_504
    assert cost.dense_cost(32 * 32 * 3, 28 * 28 * 6).parameters == 14_455_392


def test_edges_of_the_sparse_graph() -> None:
    found = cost.connectivity((5,), 3)
    assert (found.edges, found.dense_edges, found.shared_weights) == (13, 25, 3)


@fast
@given(
    st.tuples(st.integers(3, 7), st.integers(3, 7)),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
    st.sampled_from([(1, 2, 3), (2, 2, 4), (3, 3, 6), (1, 4, 4)]),
)
def test_convolutions_are_counted_as_torch_builds_them(
    size: tuple[int, int], k: int, s: int, d: int, p: int, row: tuple[int, int, int]
) -> None:
    groups, channels, filters = row
    if min(size) + 2 * p < d * (k - 1) + 1:
        return
    layer = nn.Conv2d(channels, filters, k, stride=s, padding=p, dilation=d, groups=groups)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    layer.padding = (0, 0)  # each product with 1 counts once; padding is 1 too
    with torch.no_grad():
        y = layer(torch.ones(1, channels, *(n + 2 * p for n in size)))
    found = cost.convolution_cost(size, channels, filters, k, stride=s, padding=p, dilation=d, groups=groups)
    assert found.macs == int(y.sum())
    assert found.output == tuple(y.shape[1:])
    assert (found.weights, found.biases) == (layer.weight.numel(), filters)
    depth = cost.depthwise_cost(size, channels, k, multiplier=2, stride=s, padding=p, dilation=d)
    assert depth.weights == nn.Conv2d(channels, 2 * channels, k, groups=channels).weight.numel()
    assert depth.macs == 2 * channels * k * k * math.prod(y.shape[2:])


@fast
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
def test_edges_are_the_entries_of_the_matrix(n: int, k: int, s: int, p: int, d: int) -> None:
    if n + 2 * p < d * (k - 1) + 1:
        return
    matrix = torch.nn.functional.conv1d(torch.eye(n)[:, None], torch.ones(1, 1, k), None, s, p, d)
    found = cost.connectivity((n,), k, channels=2, filters=3, stride=s, padding=p, dilation=d)
    assert found.edges == 6 * int((matrix != 0).sum())
    assert found.dense_edges == 6 * matrix.numel()
    assert found.shared_weights == 6 * k


@fast
@given(
    st.tuples(st.integers(3, 6), st.integers(3, 6)), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)
)
def test_lowering_is_the_size_of_the_unfolded_input(
    size: tuple[int, int], k: int, s: int, batch: int
) -> None:
    columns = torch.nn.functional.unfold(torch.zeros(batch, 2, *size), k, stride=s)
    found = cost.lowering_memory(size, 2, k, batch=batch, stride=s)
    assert found.bytes == columns.numel() * columns.element_size()
    assert found.blow_up == pytest.approx(columns.numel() / (batch * 2 * math.prod(size)))
    assert cost.lowering_memory(size, 2, 3, padding="same").blow_up == 9.0
    assert cost.lowering_memory(size, 2, k, itemsize=2).bytes * 2 == cost.lowering_memory(size, 2, k).bytes


def test_groups_that_do_not_divide() -> None:
    with pytest.raises(
        BadArgument, match="groups = 4 does not fit: it does not divide filters = 6"
    ) as caught:
        cost.convolution_cost((8, 8), 8, 6, 3, groups=4)
    assert caught.value.try_ == "groups=1 or groups=2"
    with pytest.raises(BadArgument, match="does not divide channels = 3"):
        cost.convolution_cost((8, 8), 3, 6, 3, groups=2)
    with pytest.raises(BadArgument, match="filters = 0"):
        cost.convolution_cost((8, 8), 3, 0, 3)
    with pytest.raises(BadArgument, match="units = -1"):
        cost.dense_cost(3, -1)
