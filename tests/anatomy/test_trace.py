"""The trace against counts written out by hand, and the promise that it leaves a network as it was."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.anatomy import Row, stages, totals, trace, trace_graph
from convworks.layers import ConnectionTableConv2d, RBFOutput, Subsampling
from tests.anatomy.networks import residual


def small() -> nn.Sequential:
    """3 x 9 x 8 -> conv 4 @ 3x3/2 p1 -> 4 x 5 x 4 -> BN -> ReLU -> 2x2 maximum -> 4 x 2 x 2 -> 5."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def plain(row: Row) -> Row:
    """The row without what other tests are about."""
    return replace(row, dilation=(), biases=0, field=(), jump=(), centre=(), sources=())


def test_rows_of_a_small_network() -> None:
    assert [plain(row) for row in trace(small(), (3, 9, 8))] == [
        Row(
            name="0",
            kind="Conv2d",
            kernel=(3, 3),
            stride=(2, 2),
            padding=(1, 1),
            output=(4, 5, 4),
            parameters=3 * 9 * 4,
            macs=3 * 9 * 4 * 5 * 4,
        ),
        Row(name="1", kind="BatchNorm2d", output=(4, 5, 4), parameters=8),
        Row(name="2", kind="ReLU", output=(4, 5, 4)),
        Row(name="3", kind="MaxPool2d", kernel=(2, 2), stride=(2, 2), padding=(0, 0), output=(4, 2, 2)),
        Row(name="4", kind="Flatten", output=(16,)),
        Row(name="5", kind="Linear", output=(5,), parameters=16 * 5 + 5, macs=16 * 5),
    ]


def test_biases_neurons_dilation_and_the_receptive_field() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 4, (3, 5), stride=2, dilation=(2, 1)))
    first, second = trace(net, (1, 9, 9))
    assert (first.biases, first.parameters, first.neurons, first.flops) == (2, 20, 162, 2 * 81 * 18)
    assert (first.field, first.jump, first.centre) == ((3, 3), (1, 1), (0, 0))
    assert second.dilation == (2, 1)
    assert (second.field, second.jump, second.centre) == ((7, 7), (2, 2), (2, 2))


def test_totals_are_sums() -> None:
    total = totals(trace(small(), (3, 9, 8)))
    assert (total.parameters, total.fixed, total.macs) == (108 + 8 + 85, 0, 2160 + 80)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        # checklist OP-13: 3@32x32 with 64@3x3, same and valid
        (nn.Conv2d(3, 64, 3, padding="same"), (3, 32, 32), 1_769_472),
        (nn.Conv2d(3, 64, 3), (3, 32, 32), 1_555_200),
        (nn.Conv2d(8, 16, 3, groups=4), (8, 5, 5), 16 * 2 * 9 * 9),  # 8/4 inputs each
        (nn.Conv2d(8, 8, 3, groups=8, padding=1), (8, 5, 5), 8 * 9 * 25),  # depthwise
        (nn.Conv2d(2, 3, (1, 5), dilation=(1, 2)), (2, 4, 9), 3 * 2 * 5 * 4 * 1),
        (nn.Linear(6, 7), (2, 3, 6), 2 * 3 * 6 * 7),
        (ConnectionTableConv2d(("X.", "XX"), 3), (2, 5, 5), 3 * 9 * 9),
        (Subsampling(2), (2, 6, 6), 2 * 9 * 4),
        (nn.AvgPool2d(2), (2, 6, 6), 0),
    ],
)
def test_multiply_adds(layer: nn.Module, shape: tuple[int, int, int], macs: int) -> None:
    assert totals(trace(layer, shape)).macs == macs


def test_macs_equal_a_count_of_single_products() -> None:
    # An independent count: with weights of one and inputs of one, and no padding, the sum of all outputs of a
    # convolution is the number of its products.
    layer = nn.Conv2d(4, 6, (3, 2), stride=(1, 2), groups=2, bias=False)
    nn.init.ones_(layer.weight)
    products = layer(torch.ones(1, 4, 7, 9)).sum().item()
    assert totals(trace(layer, (4, 7, 9))).macs == int(products)


class Twice(nn.Module):
    """Calls one layer twice, leaves another alone, and holds a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(2, 2, 1)
        self.unused = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.ones(2, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.shared(self.shared(x)) * self.scale
        return y, y


def test_a_layer_called_twice_costs_twice_and_holds_its_parameters_once() -> None:
    rows = trace(Twice(), (2, 3, 3))
    assert [(row.name, row.parameters, row.macs) for row in rows[:2]] == [
        ("shared", 6, 36),
        ("shared", 0, 36),
    ]


def test_parameters_that_the_pass_did_not_reach_are_rows_too() -> None:
    net = Twice()
    rows = trace(net, (2, 3, 3))
    assert [(row.name, row.kind, row.output, row.parameters) for row in rows[2:]] == [
        ("Twice", "Twice", (), 2),
        ("unused", "Linear", (), 16),
    ]
    assert totals(rows).parameters == sum(p.numel() for p in net.parameters())


def test_frozen_parameters_and_codes_are_fixed() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), RBFOutput(torch.ones(2, 3)))
    net[1].weight.requires_grad_(False)
    rows = trace(net, (1, 2, 2))
    assert [(row.parameters, row.fixed) for row in rows] == [(0, 0), (3, 12), (0, 6)]


class Own(nn.Module):
    """A composite that knows its cost: one row, not the rows of its children."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out

    def macs(self, output: tuple[int, ...]) -> int:
        return 1000


def test_a_composite_with_a_cost_of_its_own_is_one_row() -> None:
    rows = trace(nn.Sequential(Own(), nn.ReLU()), (1, 2, 2))
    assert [(row.name, row.kind, row.parameters, row.macs) for row in rows] == [
        ("0", "Own", 6, 1000),
        ("1", "ReLU", 0, 0),
    ]


class Loses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("lost")


@pytest.mark.parametrize("broken", [False, True])
def test_the_network_comes_back_as_it_was(broken: bool) -> None:
    net = nn.Sequential(small(), nn.Dropout(), *([Loses()] if broken else []))
    net[0][1].eval()  # one child alone in evaluation mode
    flags = [layer.training for layer in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    if broken:
        with pytest.raises(RuntimeError, match="lost"):
            trace(net, (3, 9, 8))
    else:
        trace(net, (3, 9, 8))
    assert [layer.training for layer in net.modules()] == flags
    assert all(not layer._forward_hooks for layer in net.modules())
    torch.testing.assert_close(dict(net.state_dict()), state, rtol=0, atol=0)
    torch.testing.assert_close(torch.get_rng_state(), generator, rtol=0, atol=0)
    assert all(p.grad is None for p in net.parameters())


def test_a_network_in_float64_and_one_without_parameters() -> None:
    assert trace(small().double(), (3, 9, 8)) == trace(small(), (3, 9, 8))
    assert [row.output for row in trace(nn.MaxPool2d(2), (1, 4, 4))] == [(1, 2, 2)]


def test_stages_sum_the_children() -> None:
    net = nn.Sequential()
    net.add_module("conv1", nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)))
    net.add_module("pair", nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)))
    net.add_module("act", nn.Sequential(nn.ReLU(), nn.Dropout()))
    conv1, pair, act = stages(trace(net, (1, 6, 6)))
    assert plain(conv1) == Row(
        name="conv1",
        kind="Conv2d",
        kernel=(3, 3),
        stride=(1, 1),
        padding=(0, 0),
        output=(2, 2, 2),
        parameters=20 + 4,
        macs=18 * 16,
    )
    assert (pair.kind, pair.kernel, pair.parameters, pair.macs) == ("2 layers", (), 12, 2 * 4 * 4)
    assert (act.kind, act.output) == ("2 layers", (2, 2, 2))


def test_a_transposed_convolution_multiplies_each_input_by_the_kernel() -> None:
    layer = nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 1), groups=2, bias=False)
    nn.init.ones_(layer.weight)
    products = layer(torch.ones(1, 4, 5, 7)).sum().item()  # every product lands on one output
    assert totals(trace(layer, (4, 5, 7))).macs == int(products)


def test_options_of_a_line_are_one_number() -> None:
    rows = trace(nn.Sequential(nn.Conv1d(1, 2, 3), nn.MaxPool1d(2)), (1, 9))
    assert [(row.kernel, row.stride) for row in rows] == [((3,), (1,)), ((2,), (2,))]


def test_neurons_are_outputs_of_layers_that_multiply() -> None:
    """AlexNet's 659,272: the layers of the paper, without what is pooled, normalised or rectified."""
    conv, pool = nn.Conv2d, nn.MaxPool2d(3, 2)
    net = nn.Sequential(
        conv(3, 96, 11, 4), nn.ReLU(), nn.LocalResponseNorm(5), pool,
        conv(96, 256, 5, padding=2, groups=2), pool, conv(256, 384, 3, padding=1),
        conv(384, 384, 3, padding=1, groups=2), conv(384, 256, 3, padding=1, groups=2), pool,
        nn.Flatten(), nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 1000),
    ).to("meta")  # fmt: skip
    total = totals(trace(net, (3, 227, 227)))
    assert total.neurons == 290_400 + 186_624 + 64_896 + 64_896 + 43_264 + 4_096 + 4_096 + 1_000 == 659_272
    assert total.parameters == 60_965_224


def test_parameters_that_evaluation_does_not_reach_are_idle() -> None:
    total = totals(trace(Twice(), (2, 3, 3)))
    assert (total.parameters, total.idle) == (6 + 2 + 16, 2 + 16)


def test_sources_and_joins_of_a_shortcut() -> None:
    graph = trace_graph(residual(), (3, 32, 32))
    names = [row.name for row in graph.rows]
    unit = names.index("stage1.0.conv1")
    relu = names.index("stage1.0.relu", unit + 3)
    assert graph.rows[0].sources == (-1,)
    assert graph.rows[unit].sources == (names.index("stem.2"),)
    assert graph.rows[relu].sources == (names.index("stem.2"), names.index("stage1.0.bn2"))
    (join,) = graph.reads[relu]
    assert graph.joins[-2 - join].operator == "add"
    assert graph.joins[-2 - join].shape == (8, 16, 16)
    assert graph.outputs == (len(names) - 1,)


@pytest.mark.parametrize(("name", "seconds"), [("resnet152", 2.0), ("resnet1202_cifar", 10.0)])
def test_deep_networks_are_traced_in_time(name: str, seconds: float) -> None:
    """On the meta device, where no number is allocated; the limits leave room for a machine that is busy."""
    info = models.info(name)
    with torch.device("meta"):
        net = models.create(name, num_classes=info.num_classes)
    start = time.process_time()
    rows = trace(net, (info.in_channels, *info.input_size))
    assert time.process_time() - start < seconds
    assert all(tensor.device.type == "meta" for tensor in net.state_dict().values())
    assert totals(rows).parameters == sum(p.numel() for p in net.parameters())


def test_tracing_leaves_buffers_flags_and_random_numbers() -> None:
    net = models.create("resnet18", num_classes=10, input_size=(32, 32)).train()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    trace(net, (3, 32, 32))
    torch.testing.assert_close(dict(net.state_dict()), state, rtol=0, atol=0)
    torch.testing.assert_close(torch.get_rng_state(), generator, rtol=0, atol=0)
    assert all(layer.training for layer in net.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


def test_a_connection_table_needs_no_numbers_and_begins_as_before() -> None:
    """Uniform in +-1/sqrt(fan-in), the fan-in of a kernel being that of its output map: 1 x 9 and 2 x 9."""
    with torch.device("meta"):
        assert ConnectionTableConv2d(("X.", "XX"), 3).fan_in()[1].device.type == "meta"
        assert models.create("lenet5", num_classes=10).c3.conv.weight.shape == (60, 5, 5)
    torch.manual_seed(3)
    layer = ConnectionTableConv2d(("XX", ".X"), 3)
    torch.manual_seed(3)
    weight, bias = torch.empty(3, 3, 3).uniform_(-1, 1), torch.empty(2).uniform_(-1, 1)
    fans = torch.tensor([9.0, 18.0, 18.0])
    torch.testing.assert_close(layer.weight.detach(), weight / fans.sqrt()[:, None, None], rtol=0, atol=0)
    torch.testing.assert_close(layer.bias.detach(), bias / fans[:2].sqrt(), rtol=0, atol=0)
