"""Networks from one line: the sizes and counts of the line's own table, messages of lines that do not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convworks import anatomy, models
from convworks.errors import ConvworksError
from convworks.models import network_from_line
from convworks.ops.arguments import BadArgument
from convworks.ops.stack import parse_stack, trace_stack

LENET = "32x32x1: 6@5x5 tanh, avg 2x2/2, 16@5x5 tanh, avg 2x2/2, dense 120 tanh, dense 84 tanh, dense 10"
ALEXNET = (
    "227x227x3: 96@11x11/4 relu, lrn, max 3x3/2, 256@5x5 p2 g2 relu, lrn, max 3x3/2, 384@3x3 p1 relu, "
    "384@3x3 p1 g2 relu, 256@3x3 p1 g2 relu, max 3x3/2, dense 4096 relu, dropout, dense 4096 relu, dense 1000"
)


def same_as_the_table(line: str) -> nn.Sequential:
    """The built network has the outputs, parameters and multiply-adds of the line's table."""
    stack = parse_stack(line)
    net = network_from_line(line).eval()
    stages = anatomy.stages(anatomy.trace(net, stack.input))
    table = trace_stack(stack)
    assert [row.output for row in stages] == [row.output for row in table]
    assert [row.parameters for row in stages] == [row.parameters for row in table]
    assert [row.macs for row in stages] == [row.macs for row in table]
    assert net(torch.zeros(2, *stack.input)).shape == (2, *table[-1].output)
    return net


def test_a_typical_network_of_the_lectures() -> None:
    net = same_as_the_table(LENET)
    assert [name for name, _ in net.named_children()] == [
        "conv1", "avg1", "conv2", "avg2", "dense1", "dense2", "dense3",
    ]  # fmt: skip
    assert sum(p.numel() for p in net.parameters()) == 61_706
    assert isinstance(net.get_submodule("conv1.conv"), nn.Conv2d)
    assert isinstance(net.get_submodule("conv1.tanh"), nn.Tanh)


def test_a_line_prints_the_shape_table() -> None:
    rows = anatomy.trace(network_from_line(LENET), (1, 32, 32))
    text = anatomy.format_table(rows)
    for output in ("6 x 28 x 28", "6 x 14 x 14", "16 x 10 x 10", "16 x 5 x 5", "120", "84"):
        assert output in text
    assert "61,706 trainable parameters" in text


def test_alexnet_in_one_line() -> None:
    with torch.device("meta"):
        net = network_from_line(ALEXNET)
        rows = anatomy.trace(net, (3, 227, 227))
    assert anatomy.totals(rows).parameters == 60_965_224
    assert anatomy.totals(rows).macs == 724_406_816


def test_a_perceptron_of_any_depth() -> None:
    assert sum(p.numel() for p in same_as_the_table("784: dense 128 relu, dense 10").parameters()) == 101_770
    same_as_the_table("20: dense 30 sigmoid, bn, dense 30 scaled_tanh, dropout, dense 5 nobias, softmax")
    same_as_the_table("28x28x1: dense 128 relu, dense 10")


@pytest.mark.parametrize(
    "line",
    [
        "32@100: 16@5 causal relu, max 2, 8@3 d2 same, gap, dense 3",
        "2@6x8x8: 4@3x3x3 p1 relu, max 2x2x2, 4@1x3x3, bn, flatten, dense 2",
        "3@24x24: dw 3x3 m2 same relu, sep 8@3x3 s2 p1 m3, local 6@3x3 relu, avg 2x2 ceil, dense 4",
        "3@17x13: 5@4x4 tf_same s2 leaky_relu, max 3x3/2 same, 4@3x3 full elu, avg 3x3/2 p1 ceil, gap",
        "3@17x13: 8@3x3 selu, max 2x2/1 d2, bn, softplus, lrn, dense 5",
        "3@9x9: max 2x2/2 tf_same, avg 2x2/2 tf_same, dense 2",
        "3@9x9: 4@3x3 nobias bn, sep 5@3x3 bn, dw 3x3 m2 bn, dense 6 bn, dense 2",
    ],
)
def test_every_kind_of_layer(line: str) -> None:
    same_as_the_table(line)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(
            [
                "4@3x3 same relu",
                "6@5x5 p2",
                "4@1x1 tanh",
                "max 2x2/2",
                "avg 3x3/2 ceil",
                "dw 3x3 same",
                "bn",
                "relu",
            ]
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(16, 40),
    st.integers(16, 40),
)
def test_any_row_of_layers(layers: list[str], height: int, width: int) -> None:
    line = f"3@{height}x{width}: {', '.join(layers)}, dense 7"
    try:
        trace_stack(parse_stack(line))
    except BadArgument:
        with pytest.raises(BadArgument):
            network_from_line(line)
    else:
        same_as_the_table(line)


def test_dilated_windows_with_padding_on_one_side() -> None:
    with pytest.raises(BadArgument, match="dilated windows take symmetric padding"):
        network_from_line("3@9x9: max 2x2/1 d2 causal")


def test_maps_of_four_dimensions() -> None:
    with pytest.raises(BadArgument, match="maps have at most 3 dimensions here"):
        network_from_line("1@4x4x4x4: relu")


def create(spec: str, **options: object) -> nn.Module:
    return models.create("stack", num_classes=5, spec=spec, **options)  # type: ignore[arg-type]


def test_k_is_the_number_of_classes() -> None:
    net = create("8@3x3 same relu, K@1x1, gap").eval()
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert net.get_submodule("conv2").out_channels == 5
    assert create("dense K", in_channels=1, input_size=(4, 6))(torch.zeros(2, 1, 4, 6)).shape == (2, 5)
    assert create("dense 5")(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("spec", ["dense K, softmax", "dense K softmax"])
def test_a_softmax_at_the_end_is_part_of_the_loss(spec: str) -> None:
    assert not any(isinstance(m, nn.Softmax) for m in create(spec).modules())


def test_a_line_that_does_not_end_in_the_classes() -> None:
    with pytest.raises(ConvworksError) as caught:
        create("8@3x3, dense 10")
    error = caught.value
    assert error.code == "U123"
    assert error.what == "option 'spec' of stack ends in 10 outputs, and there are 5 classes"
    assert error.where == "allowed: layers that end in 'dense K', or in 'K@1x1, gap'"


def test_an_image_that_is_too_small_for_the_line() -> None:
    with pytest.raises(ConvworksError) as caught:
        create("8@5x5, max 2x2/2, 8@5x5, dense K", input_size=(12, 40))
    error = caught.value
    assert (error.code, error.what) == ("U122", "stack cannot take images of 12x40 pixels")
    assert error.where == "what fits: 14x14 and larger"
    assert "layer 3, '8@5x5', on 4x18x8" in str(error.why)
    create("8@5x5, max 2x2/2, 8@5x5, dense K", input_size=(14, 14))


def test_a_line_that_fits_no_image() -> None:
    with pytest.raises(BadArgument, match="max needs maps"):
        create("flatten, max 2x2, dense K")


def test_a_line_that_cannot_be_read() -> None:
    with pytest.raises(ConvworksError, match="did you mean 'relu'") as caught:
        create("8@3x3 rellu, dense K")
    assert caught.value.code == "U140"
    with pytest.raises(ConvworksError, match="begins with an input") as caught:
        create("32x32x3: 8@3x3, dense K")
    assert caught.value.hint == '--set model_options.spec="8@3x3, dense K"'
