"""The connection-table convolution against loops that visit only the connections of the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

from convworks.layers import ConnectionTableConv2d

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
