"""Stacks of layers: the grammar, and sizes, parameters, multiply-adds and fields against running networks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convworks.errors import ConvworksError
from convworks.ops.arguments import BadArgument
from convworks.ops.stack import (
    compare_stacks,
    parse_layer,
    parse_size,
    parse_stack,
    stacks_with_field,
    trace_stack,
    volume,
)

ALEXNET = (
    "227x227x3: 96@11x11/4, relu, max 3x3/2, lrn, 256@5x5 p2 g2, max 3x3/2, 384@3x3 p1, 384@3x3 p1 g2, "
    "256@3x3 p1 g2, max 3x3/2, dense 4096, dropout, dense 4096, dense 1000 softmax"
)


def outputs(text: str) -> list[str]:
    return [volume(row.output) for row in trace_stack(parse_stack(text))]


def last_field(text: str) -> tuple[int, ...]:
    return trace_stack(parse_stack(text))[-1].field


def test_the_example_of_the_module() -> None:
    rows = trace_stack(parse_stack("32x32x3: 10@5x5 s1 p2, relu, max 2x2/2, flatten, dense 10"))
    assert [volume(row.output) for row in rows] == ["32x32x10", "32x32x10", "16x16x10", "2560", "10"]
    assert [row.parameters for row in rows] == [760, 0, 0, 0, 25_610]
    assert [row.macs for row in rows] == [768_000, 0, 0, 0, 25_600]
    assert [row.field for row in rows] == [(5, 5), (5, 5), (6, 6), (6, 6), (36, 36)]
    assert [row.jump for row in rows] == [(1, 1), (1, 1), (2, 2), (2, 2), (2, 2)]


def test_alexnet_from_one_line() -> None:
    rows = trace_stack(parse_stack(ALEXNET))
    windows = [row for row in rows if row.macs or row.layer.kind == "max"]
    assert [row.field[0] for row in windows[:8]] == [11, 19, 51, 67, 99, 131, 163, 195]
    assert [row.output[-1] for row in windows[:8]] == [55, 27, 27, 13, 13, 13, 13, 6]
    assert sum(row.parameters for row in rows) == 60_965_224
    assert (rows[0].weights, rows[0].parameters) == (34_848, 34_944)
    assert (volume(rows[2].output), rows[2].parameters) == ("27x27x96", 0)
    single = trace_stack(parse_stack(ALEXNET.replace(" g2", "")))
    assert sum(row.parameters for row in single) == 62_378_344


def test_the_exercises_of_the_lectures() -> None:
    def totals(layers: str) -> tuple[str, int, int]:
        rows = trace_stack(parse_stack(f"32@64x64: {layers}"))
        return volume(rows[-1].output), sum(row.macs for row in rows), sum(row.parameters for row in rows)

    assert totals("64@5x5") == ("60x60x64", 184_320_000, 51_264)
    assert totals("64@5x5 same") == ("64x64x64", 209_715_200, 51_264)
    assert totals("64@3x3") == ("62x62x64", 70_852_608, 18_496)
    assert totals("64@3x3 same") == ("64x64x64", 75_497_472, 18_496)
    assert totals("2*64@3x3") == ("60x60x64", 203_563_008, 55_424)
    assert totals("64@3x3 same, 64@3x3 same") == ("64x64x64", 226_492_416, 55_424)


def test_small_kernels_beside_large_ones() -> None:
    found = compare_stacks("7x7x1: 3*1@3x3 nobias", "7x7x1: 1@7x7 nobias")
    assert 100 * (found.weights - 1) == pytest.approx(81.48, abs=0.005)
    assert found.fields == ((7, 7), (7, 7))
    wide = compare_stacks("32@64x64: 64@5x5", "32@64x64: 2*64@3x3")
    same = compare_stacks("32@64x64: 64@5x5 same", "32@64x64: 2*64@3x3 same")
    assert (round(wide.macs, 2), round(same.macs, 2)) == (1.10, 1.08)
    equal = compare_stacks("64@64x64: 64@5x5 same", "64@64x64: 2*64@3x3 same")
    assert equal.macs == pytest.approx(0.72)
    assert (wide.fields, equal.weights) == (((5, 5), (5, 5)), pytest.approx(0.72))
    with pytest.raises(BadArgument, match="no weights to compare with"):
        compare_stacks("8x8x1: relu", "8x8x1: 1@3x3")


def test_a_field_of_15_needs_pools_of_three() -> None:
    assert last_field("28x28x1: 32@5x5 same, max 2x2/2, 64@5x5 same, max 2x2/2") == (16, 16)
    assert last_field("28x28x1: 2*1@3x3 same, max 2x2/2, 2*1@3x3 same, max 2x2/2") == (16, 16)
    assert last_field("28x28x1: 1@3x3 same, max 2x2/2, 1@3x3 same, max 2x2/2") == (10, 10)
    wanted = "1@3x3 same, 1@3x3 same, max 3x3/2, 1@3x3 same, max 3x3/2"
    assert last_field(f"28x28x1: {wanted}") == (15, 15)
    assert list(stacks_with_field(15)) == []
    assert any(text.endswith(wanted) for text in stacks_with_field(15, pool=3))
    found = list(stacks_with_field(16))
    assert len(found) == 7
    assert {last_field(text) for text in found} == {(16, 16)}


def test_chains_of_one_and_three_dimensions() -> None:
    assert outputs("28x1: 4@3 causal d2, 8@3 s2, max 2/2, gap") == ["28x4", "13x8", "6x8", "1x8"]
    assert outputs("8x9x10x2: 3@3x3x3, avg 2x2x2/2") == ["6x7x8x3", "3x3x4x3"]
    assert outputs("784: dense 128 relu, dense 10") == ["128", "10"]
    assert last_field("28x1: 5*1@3") == (11,)
    assert last_field("99x1: 1@3 d1, 1@3 d2, 1@3 d4, 1@3 d8, 1@3 d16") == (63,)


def test_every_kind_of_layer_has_its_cost() -> None:
    def one(text: str) -> tuple[str, int, int]:
        (row,) = trace_stack(parse_stack(text))
        return volume(row.output), row.weights, row.biases

    assert one("224x224x3: sep 64@7x7/2 same m8") == ("112x112x64", 2_712, 64)
    assert one("32x32x3: local 6@5x5") == ("28x28x6", 352_800, 4_704)
    assert one("9x9x4: dw 3x3 m2 nobias") == ("7x7x8", 72, 0)
    assert one("9x9x4: bn") == ("9x9x4", 4, 4)
    assert one("9x9x4: 6@3x3 nobias bn") == ("7x7x6", 9 * 4 * 6 + 6, 6)
    assert one("9x9x4: sep 6@3x3 bn") == ("7x7x6", 9 * 4 + 4 * 6 + 6, 6 + 6)
    assert one("20: dense 5 bn") == ("5", 105, 10)
    assert one("9x9x4: 6@3x3 relu") == ("7x7x6", 9 * 4 * 6, 6)
    assert one("9x9x4: gap") == ("1x1x4", 0, 0)
    assert one("112x112x64: max 3x3/2 ceil") == ("56x56x64", 0, 0)
    assert one("112x112x64: max 3x3/2") == ("55x55x64", 0, 0)
    assert one("6x6x1: max 2x2") == ("3x3x1", 0, 0)  # normally the stride is the size


KERNELS = st.sampled_from(
    ["2@3x3", "3@1x1 s2", "2@3x2 p1", "2@2x2 d2", "4@3x3 same", "max 2x2/2", "avg 3x3 s1", "max 2x3 s2x1"]
)


def torch_layer(text: str, channels: int) -> nn.Module:
    """Written by hand for each word of KERNELS, without the parser."""
    made: dict[str, nn.Module] = {
        "2@3x3": nn.Conv2d(channels, 2, 3),
        "3@1x1 s2": nn.Conv2d(channels, 3, 1, stride=2),
        "2@3x2 p1": nn.Conv2d(channels, 2, (3, 2), padding=1),
        "2@2x2 d2": nn.Conv2d(channels, 2, 2, dilation=2),
        "4@3x3 same": nn.Conv2d(channels, 4, 3, padding="same"),
        "max 2x2/2": nn.AvgPool2d(2, 2),  # a mean has a gradient everywhere in its window
        "avg 3x3 s1": nn.AvgPool2d(3, 1),
        "max 2x3 s2x1": nn.AvgPool2d((2, 3), (2, 1)),
    }
    return made[text]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.lists(KERNELS, min_size=1, max_size=4))
def test_chains_are_those_that_torch_runs(layers: list[str]) -> None:
    x = torch.zeros(1, 2, 41, 37, dtype=torch.float64, requires_grad=True)
    y = x
    rows = trace_stack(parse_stack(f"41x37x2: {', '.join(layers)}"))
    for text, row in zip(layers, rows, strict=True):
        module = torch_layer(text, y.shape[1]).double()
        for parameter in module.parameters():
            nn.init.ones_(parameter)
        y = module(y)
        assert row.output == tuple(y.shape[1:])
        assert row.parameters == sum(p.numel() for p in module.parameters())
    middle = tuple(n // 2 for n in y.shape[2:])
    (gradient,) = torch.autograd.grad(y[(0, 0, *middle)], x)
    places = gradient[0].abs().sum(0).nonzero()
    seen = tuple(int(n) for n in places.amax(0) - places.amin(0) + 1)
    assert seen == rows[-1].field


MISTAKES = [
    ("32x32x3", "no input, a colon and layers"),
    ("32x32x3: ", "no input, a colon and layers"),
    ("a: relu", "the input 'a' is no size"),
    ("0x3: relu", "has a zero"),
    ("9" * 5000 + ": relu", "is no size"),
    ("3x3: 10x5x5", "did you mean '10@5x5'"),
    ("3x3: conv 5", "conv needs a size, not '5'"),
    ("3x3: convolution 5", "did you mean '10@5x5'"),
    ("3x3: rellu", "did you mean 'relu'"),
    ("3x3: relu,, relu", "a layer is missing between two commas"),
    ("3x3: 1@3x3 smae", "did you mean 'same'"),
    ("3x3: 1@3x3 q2", "'q2' is not understood"),
    ("3x3: 1@3x3 s1 s2", "conv has two of 's2'"),
    ("3x3: 1@3x3 p1 same", "conv has two of 'same'"),
    ("3x3: relu p2", "relu has no 'p2'"),
    ("3x3: max 2x2 nobias", "max has no 'nobias'"),
    ("3x3: 0@3x3", "conv needs a size, not '0@3x3'"),
    ("3x3: max", "max needs a size, not ''"),
    ("3x3: sep 3x3", "sep needs a size, not '3x3'"),
    ("3x3: dense ten", "dense needs a size, not 'ten'"),
    ("3x3: 4@3 g2x2", "groups is one number"),
    ("3x3: 999*relu, 999*relu", "more than 1,000 layers"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[m[:30] for _, m in MISTAKES])
def test_what_is_not_understood_is_named(text: str, message: str) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        parse_stack(text)
    assert caught.value.code == "U140"
    assert caught.value.try_


def test_what_does_not_fit_names_its_layer() -> None:
    with pytest.raises(BadArgument, match="kernel_size = .5, 5. does not fit") as caught:
        trace_stack(parse_stack("8x8x3: 4@3x3, max 2x2, 4@5x5"))
    assert caught.value.where == "layer 3, '4@5x5', on 3x3x4"
    with pytest.raises(BadArgument, match="max needs maps, and this is a vector of 192"):
        trace_stack(parse_stack("8x8x3: flatten, max 2x2"))
    with pytest.raises(BadArgument, match="groups = 3 does not fit"):
        trace_stack(parse_stack("8x8x3: 4@3x3 g3"))


def test_sizes_as_both_lectures_write_them() -> None:
    assert parse_size("[227x227x3]") == parse_size(" 3@227×227 ") == (3, 227, 227)
    assert parse_size("784") == (784,)
    assert volume((64, 60, 60)) == "60x60x64"
    layer = parse_layer("8@3x5 S2x1 P=1 D2 nobias ReLU")
    assert (layer.kernel, layer.stride, layer.padding, layer.dilation) == ((3, 5), (2, 1), 1, 2)
    assert (layer.bias, layer.activation) == (False, "relu")
