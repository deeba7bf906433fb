"""AlexNet against the paper: towers, neurons, receptive fields, initial weights, sizes, layers left out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convworks import anatomy, models
from convworks.errors import ConvworksError
from convworks.models.alexnet import CONFIGS
from tests.papers import alexnet as facts


def layers(name: str, side: int = 227) -> dict[str, anatomy.Row]:
    with torch.device("meta"):
        net = models.create(name, num_classes=1000, input_size=(side, side))
    return {row.name: row for row in anatomy.trace(net, (3, side, side))}


def test_the_towers_are_groups() -> None:
    net = models.create("alexnet", num_classes=10, input_size=(67, 67))
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    assert [layer.weight[0].shape for layer in convolutions] == [
        (3, 11, 11), (48, 5, 5), (256, 3, 3), (192, 3, 3), (192, 3, 3),
    ]  # fmt: skip
    assert [sum(p.numel() for p in layer.parameters()) for layer in convolutions[:2]] == [34_944, 307_456]
    assert convolutions[0].weight.numel() == 34_848  # "35K"


def test_a_unit_of_one_tower_does_not_see_the_other() -> None:
    torch.manual_seed(0)
    net = models.create("alexnet", num_classes=10, input_size=(67, 67)).eval()
    maps = torch.randn(1, 96, 7, 7, requires_grad=True)
    net.get_submodule("conv2.conv")(maps)[:, :128].sum().backward()
    assert maps.grad is not None
    assert maps.grad[:, :48].all()
    assert not maps.grad[:, 48:].any()


@pytest.mark.parametrize("name", ["alexnet", "alexnet_single_tower"])
def test_neurons_are_those_of_the_paper(name: str) -> None:
    rows = layers(name)
    computing = [row for row in rows.values() if row.macs]
    assert {row.name.split(".")[0]: row.neurons for row in computing} == facts.NEURONS
    assert sum(row.neurons for row in computing) == facts.ALL_NEURONS


def test_receptive_fields_are_those_of_the_lectures() -> None:
    rows = layers("alexnet")
    names = {name: name if "." in name else f"{name}.conv" for name in facts.FIELDS}
    assert {short: rows[name].field for short, name in names.items()} == {
        short: (side, side) for short, side in facts.FIELDS.items()
    }
    sides = [rows[names[name]].output[1] for name in facts.FIELDS]
    assert sides == [55, 27, 27, 13, 13, 13, 13, 6]


def test_order_within_a_layer() -> None:
    # section 3.5: response normalisation behind the ReLU of conv1 and conv2, pooling behind that and conv5
    net = models.create("alexnet", num_classes=10, input_size=(67, 67))
    order = {name: [part for part, _ in stage.named_children()] for name, stage in net.named_children()}
    assert order["conv1"] == order["conv2"] == ["conv", "relu", "norm", "pool"]
    assert order["conv3"] == order["conv4"] == ["conv", "relu"]
    assert order["conv5"] == ["conv", "relu", "pool"]
    assert order["fc6"] == ["flatten", "linear", "relu", "drop"]
    pools = [layer for layer in net.modules() if isinstance(layer, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride) for pool in pools] == [(3, 2)] * 3


def test_response_normalisation_is_the_sum_of_the_paper() -> None:
    net = models.create("alexnet", num_classes=10, input_size=(67, 67))
    a = 30 * torch.rand(2, 96, 4, 4, dtype=torch.float64)
    window = [a[:, max(0, i - 2) : i + 3].square().sum(dim=1) for i in range(96)]
    expected = a / (2 + 1e-4 * torch.stack(window, dim=1)) ** 0.75
    torch.testing.assert_close(net.get_submodule("conv1.norm")(a), expected)


def test_initial_weights_are_those_of_section_5() -> None:
    torch.manual_seed(0)
    net = models.create("alexnet", num_classes=1000, input_size=(67, 67))
    for name, p in net.named_parameters():
        if name.endswith("weight"):
            assert p.std().item() == pytest.approx(0.01, rel=0.01), name
            assert abs(p.mean().item()) < 4 * 0.01 / math.sqrt(p.numel()), name
        else:
            one = name.split(".")[0] in ("conv2", "conv4", "conv5", "fc6", "fc7")
            assert p.unique().tolist() == [1.0 if one else 0.0], name
    variant = models.create("alexnet", num_classes=10, input_size=(67, 67), bias=0.1)
    assert variant.get_parameter("fc7.linear.bias").unique().item() == pytest.approx(0.1)
    assert variant.get_parameter("conv1.conv.bias").unique().item() == 0


@pytest.mark.parametrize(
    ("side", "padding", "cells"),
    [(227, "auto", 55), (227, 0, 55), (224, "auto", 55), (224, 2, 55), (227, 2, 56), (225, "auto", 55)],
)
def test_sizes_of_conv1(side: int, padding: object, cells: int) -> None:
    with torch.device("meta"):
        net = models.create("alexnet", num_classes=10, input_size=(side, side), padding=padding)
        assert net.get_submodule("conv1.conv")(torch.zeros(1, 3, side, side)).shape[2:] == (cells, cells)
        assert net(torch.zeros(1, 3, side, side)).shape == (1, 10)


def test_sides_that_differ_are_padded_each_by_itself() -> None:
    net = models.create("alexnet", num_classes=3, input_size=(67, 100)).eval()
    assert net.get_submodule("conv1.conv").padding == (0, 2)
    assert net(torch.zeros(1, 3, 67, 100)).shape == (1, 3)


def test_224_without_padding_is_flagged() -> None:
    with pytest.raises(ConvworksError) as caught:
        models.create("alexnet", num_classes=10, input_size=(224, 224), padding=0)
    error = caught.value
    assert (error.code, error.what) == ("U122", "alexnet cannot take images of 224x224 pixels")
    assert "(224 - 11) / 4 + 1 = 54.25 windows" in str(error.why)
    assert error.where == "what fits: sides of 223 and 227; any from 64 with padding=auto or padding=2"


def test_another_padding_and_too_small_an_image() -> None:
    with pytest.raises(ConvworksError, match="option 'padding' of alexnet cannot be 1") as caught:
        models.create("alexnet", num_classes=10, padding=1)
    assert caught.value.where == "allowed: auto, 0, 2"
    with pytest.raises(ConvworksError) as caught:
        models.create("alexnet", num_classes=10, input_size=(63, 80))
    assert caught.value.where == "what fits: 64x64 and larger"
    assert caught.value.why == "conv5.pool has a 3x3 window, and 2 cells are left"


def parameters() -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.create("alexnet", num_classes=1000).parameters())


@pytest.mark.parametrize("towers", [2, 1])
def test_what_conv3_and_conv4_cost(towers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "alexnet" if towers == 2 else "alexnet_single_tower"
    monkeypatch.setitem(CONFIGS, "alexnet", CONFIGS[name])
    whole = parameters()
    left = {layer: row for layer, row in CONFIGS[name].items() if layer not in ("conv3", "conv4")}
    monkeypatch.setitem(CONFIGS, "alexnet", left)
    assert whole - parameters() == facts.WITHOUT_CONV3_AND_CONV4[towers]


def test_what_the_dense_layers_cost() -> None:
    assert facts.FC7 == facts.WITHOUT_FC7
    assert facts.FC6_AND_FC7 == 54_534_144
    assert facts.WIDER_FC8 == 9_217_000
    fc8 = 4096 * 1000 + 1000
    assert facts.FC6_AND_FC7 - (facts.WIDER_FC8 - fc8) == facts.WITHOUT_FC6_AND_FC7
    rows = anatomy.stages(list(layers("alexnet").values()))
    of = {row.name: row.parameters for row in rows}
    assert of["fc7"] == facts.WITHOUT_FC7
    assert of["fc6"] + of["fc7"] - (facts.WIDER_FC8 - of["fc8"]) == facts.WITHOUT_FC6_AND_FC7


def test_the_later_form_takes_any_size_to_6x6() -> None:
    for size in ((63, 63), (90, 120)):
        net = models.create("alexnet_torchvision", num_classes=5, input_size=size).eval()
        assert net.get_submodule("fc6.linear").in_features == 9216
        assert net(torch.zeros(1, 3, *size)).shape == (1, 5)
    assert not any("norm" in name for name, _ in net.named_modules())
