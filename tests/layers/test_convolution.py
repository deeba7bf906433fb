"""The connection-table convolution against loops over its connections; the layers with every option."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from convworks.anatomy import trace
from convworks.layers import ConnectionTableConv2d, Conv1d, Conv2d, Conv3d, SeparableConv2d

#        output maps 0 1 2
TABLE = ("X . X", "X X .")


def layer_and_input(seed: int = 0) -> tuple[ConnectionTableConv2d, torch.Tensor]:
    torch.manual_seed(seed)
    return ConnectionTableConv2d(TABLE, 3).double(), torch.randn(2, 2, 5, 6, dtype=torch.float64)


def test_equals_loops_over_the_connections() -> None:
    layer, x = layer_and_input()
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    expected = np.zeros((2, 3, 3, 4))
    # kernels are ordered by output map and then by input map: 0<-0, 0<-1, 1<-1, 2<-0
    connections = [(0, 0), (0, 1), (1, 1), (2, 0)]
    for n, o, i, j in np.ndindex(*expected.shape):
        expected[n, o, i, j] = bias[o]
        for kernel, (to, source) in zip(weight, connections, strict=True):
            if to == o:
                expected[n, o, i, j] += (kernel * x.numpy()[n, source, i : i + 3, j : j + 3]).sum()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12)


def test_an_input_that_is_not_connected_has_no_influence() -> None:
    layer, x = layer_and_input()
    other = x.clone()
    other[:, 1] += 100.0  # map 2 sees only input 0
    before, after = layer(x), layer(other)
    torch.testing.assert_close(before[:, 2], after[:, 2], rtol=0, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(before[:, 1], after[:, 1])


def test_gradients_agree_with_finite_differences() -> None:
    layer, x = layer_and_input()
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    x = x[:1].clone().requires_grad_()
    assert gradcheck(
        lambda x, w, b: functional_call(layer, {"weight": w, "bias": b}, (x,)), (x, weight, bias)
    )


def test_a_full_table_is_an_ordinary_convolution() -> None:
    torch.manual_seed(0)
    layer = ConnectionTableConv2d(("XXX", "XXX"), 3)
    plain = torch.nn.Conv2d(2, 3, 3)
    plain.load_state_dict({"weight": layer.dense_weight(), "bias": layer.bias})
    x = torch.randn(1, 2, 7, 7)
    torch.testing.assert_close(layer(x), plain(x))
    assert layer.macs((3, 5, 5)) == 2 * 3 * 9 * 25


def test_only_connections_are_stored() -> None:
    layer, _ = layer_and_input()
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "weight": (4, 3, 3),
        "bias": (3,),
    }
    assert set(layer.state_dict()) == {"weight", "bias"}
    assert layer.macs((3, 3, 4)) == 4 * 9 * 3 * 4


def test_fan_in_is_that_of_the_output_map() -> None:
    layer, _ = layer_and_input()
    of_kernel, of_map = layer.fan_in()
    assert of_kernel.tolist() == [18, 18, 9, 9]
    assert of_map.tolist() == [18, 9, 9]


def test_initial_weights_stay_in_their_bounds_and_reach_them() -> None:
    torch.manual_seed(0)
    layer = ConnectionTableConv2d(("X" * 200,), 5)
    bound = 1 / 5
    assert layer.weight.abs().max().item() <= bound
    assert layer.weight.abs().max().item() > 0.99 * bound
    assert layer.bias.abs().max().item() <= bound


@pytest.mark.parametrize("table", [(), ("XX", "X"), ("X?",), ("Xx",)])
def test_a_table_of_another_form_is_refused(table: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a connection table is rows of one length made of X and"):
        ConnectionTableConv2d(table, 3)


def test_an_output_map_that_sees_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="output map 1 of the connection table sees no input map"):
        ConnectionTableConv2d(("X.X", "X.."), 3)


# --- Conv1d, Conv2d, Conv3d and their relatives -----------------------------------------------------------


def test_the_lectures_keras_example() -> None:
    """8 kernels of 3x3, padding same, ReLU on (10, 24, 24, 3): (10, 24, 24, 8), 224 parameters."""
    layer = Conv2d(3, 8, 3, padding="same", activation="relu", data_format="channels_last")
    y = layer(torch.randn(10, 24, 24, 3))
    assert tuple(y.shape) == (10, 24, 24, 8)
    assert sum(p.numel() for p in layer.parameters()) == 224
    assert y.min() == 0


def test_channels_last_is_the_same_layer() -> None:
    x = torch.randn(2, 3, 6, 7)
    first, last = (Conv2d(3, 4, 3, data_format=form) for form in ("channels_first", "channels_last"))
    last.load_state_dict(first.state_dict())
    torch.testing.assert_close(last(x.movedim(1, -1)), first(x).movedim(1, -1))


@pytest.mark.parametrize(
    ("size", "outputs", "kernel", "stride", "padding", "shape", "parameters"),
    [
        (32, 10, 5, 1, 2, (10, 32, 32), 760),
        (32, 6, 5, 1, 0, (6, 28, 28), 456),
        (227, 96, 11, 4, 0, (96, 55, 55), 34_944),
    ],
)
def test_shapes_and_parameters_of_the_lectures(
    size: int, outputs: int, kernel: int, stride: int, padding: int, shape: tuple[int, ...], parameters: int
) -> None:
    layer = Conv2d(3, outputs, kernel, stride=stride, padding=padding)
    assert tuple(layer(torch.zeros(1, 3, size, size)).shape[1:]) == shape
    assert sum(p.numel() for p in layer.parameters()) == parameters


def test_macs_of_the_lecture_are_counted_by_the_layer() -> None:
    for padding, size, macs in (("same", 32, 1_769_472), ("valid", 30, 1_555_200)):
        rows = trace(nn.Sequential(Conv2d(3, 64, 3, padding=padding)), (3, 32, 32))
        assert (rows[0].output, rows[0].macs, rows[0].parameters) == ((64, size, size), macs, 1_792)


def test_googlenets_separable_stem() -> None:
    """7x7 at stride 2 with depth multiplier 8: 2,712 weights and 34,019,328 multiply-adds at 224 pixels."""
    stem = SeparableConv2d(3, 64, 7, depth_multiplier=8, stride=2, padding=3, bias=False)
    rows = trace(stem, (3, 224, 224))
    assert sum(row.parameters for row in rows) == 2_712
    assert sum(row.macs for row in rows) == 34_019_328


def test_separable_is_a_depthwise_and_a_pointwise_convolution() -> None:
    layer, x = SeparableConv2d(3, 5, 3, depth_multiplier=2, padding=1), torch.randn(2, 3, 6, 6)
    deep, point = layer.depthwise.weight, layer.pointwise.weight
    maps = [F.conv2d(x[:, c : c + 1], deep[2 * c : 2 * c + 2], padding=1) for c in range(3)]
    expected = torch.einsum("oc,nchw->nohw", point[:, :, 0, 0], torch.cat(maps, dim=1))
    torch.testing.assert_close(layer(x), expected + layer.pointwise.bias[:, None, None])


@pytest.mark.parametrize(("layer", "rank"), [(Conv1d, 1), (Conv2d, 2), (Conv3d, 3)])
def test_every_option_has_its_effect(layer: type[Conv2d], rank: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, *(9,) * rank)
    plain = layer(4, 6, 3)
    reference = getattr(F, f"conv{rank}d")
    torch.testing.assert_close(plain(x), reference(x, plain.weight, plain.bias))
    other = layer(
        4, 6, 3, stride=2, padding="causal", dilation=2, groups=2, bias=False, activation="tanh",
        weight_init=lambda w: w.fill_(0.1), algorithm="direct", true_convolution=True,
    )  # fmt: skip
    padded = F.pad(x, (4, 0) * rank)
    expected = torch.tanh(reference(padded, torch.full_like(other.weight, 0.1), None, 2, 0, 2, 2))
    torch.testing.assert_close(other(x), expected)
    assert "algorithm='direct'" in repr(other)
    assert "bias=False" in repr(other)


def test_flipping_all_kernels_switches_between_convolution_and_correlation() -> None:
    first = nn.Sequential(Conv2d(1, 3, 3), nn.ReLU(), Conv2d(3, 2, 3))
    second = nn.Sequential(
        Conv2d(1, 3, 3, true_convolution=True), nn.ReLU(), Conv2d(3, 2, 3, true_convolution=True)
    )
    flipped = {k: v.flip((2, 3)) if v.dim() == 4 else v for k, v in first.state_dict().items()}
    second.load_state_dict(flipped)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(first(x), second(x))


def test_bias_initialiser_and_the_default_bound() -> None:
    layer = Conv2d(2, 400, 3, bias_init=lambda b: b.fill_(1))
    assert layer.bias is not None
    assert (layer.bias == 1).all()
    assert 0.95 / 18**0.5 < layer.weight.abs().max() <= 1 / 18**0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 3}, "groups = 3 does not fit"),
        ({"padding": "smae"}, "padding='same'"),
        ({"activation": "rleu"}, "activation='relu'"),
        ({"data_format": "NHWC"}, "channels_first, channels_last"),
        ({"algorithm": "gemm"}, "algorithm = 'gemm'"),
        ({"stride": 0}, "stride = 0"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match="U125") as caught:
        Conv2d(4, 8, 3, **options)
    assert words in str(caught.value)


def test_a_layer_trains_with_each_algorithm_to_the_same_weights() -> None:
    x, target = torch.randn(8, 1, 8, 8), torch.randn(8, 2, 8, 8)
    ends = []
    for name in ("library", "direct", "lowering", "fft", "winograd", "auto"):
        torch.manual_seed(0)
        layer = Conv2d(1, 2, 3, padding="same", algorithm=name)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            F.mse_loss(layer(x), target).backward()
            optimizer.step()
        ends.append(layer.weight.detach())
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-4, atol=1e-5)
