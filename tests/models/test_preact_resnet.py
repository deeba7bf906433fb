"""Pre-activation networks: the counts, the clean shortcut, the two special units."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models
from convworks.layers.residual import Residual
from convworks.models.preact_resnet import CONFIGS, PreActConfig, build
from tests.papers import preact_resnet as facts


@pytest.mark.parametrize("name", CONFIGS)
def test_the_name_counts_the_layers(name: str) -> None:
    with torch.device("meta"):
        net = build(CONFIGS[name])
    found = sum(
        isinstance(layer, nn.Conv2d | nn.Linear) and "shortcut" not in path
        for path, layer in net.named_modules()
    )
    printed = facts.LAYERS[name]
    assert found == printed, f"{name}: {found} weight layers, the paper says {printed}"
    assert CONFIGS[name].layers == printed


@pytest.mark.parametrize(("name", "millions"), facts.PRINTED_MILLIONS.items())
def test_parameters_as_printed(name: str, millions: float) -> None:
    # The printed 10.2 M of 1001 layers is the count without batch norm; with it they are 10.33 M.
    with torch.device("meta"):
        net = models.create(name, num_classes=10)
    norms = sum(p.numel() for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    weights = sum(p.numel() for p in net.parameters()) - norms
    assert round(weights / 1e6, 1) == millions


def test_1001_layers_are_333_bottlenecks() -> None:
    with torch.device("meta"):
        net = models.create("preact_resnet1001_cifar", num_classes=10)
    assert sum(isinstance(layer, Residual) for layer in net.modules()) == 333
    assert [net.get_submodule(f"conv{s}_x.unit7.branch.conv2").weight.shape[0] for s in (2, 3, 4)] == [
        16, 32, 64
    ]  # fmt: skip


def small() -> nn.Sequential:
    torch.manual_seed(0)
    config = PreActConfig(block="basic", depths=(4, 1), widths=(4, 8), shortcut="A")
    return build(config, num_classes=3, input_size=(8, 8)).double().eval()


def test_the_first_unit_shares_its_activation_with_the_shortcut() -> None:
    net = small()
    first, second = net.get_submodule("conv2_x.unit1"), net.get_submodule("conv2_x.unit2")
    assert next(name for name, _ in first.get_submodule("branch").named_children()) == "conv1"
    assert [name for name, _ in second.get_submodule("branch").named_children()][:3] == [
        "bn1", "relu1", "conv1"
    ]  # fmt: skip
    assert [name for name, _ in net.named_children()][-3:] == ["last", "pool", "fc"]


def test_what_the_units_give_adds_up() -> None:
    # x_L = x_l + the sum of F(x_i) within a stage, to rounding: nothing stands on the shortcut
    net = small()
    x0 = net.conv1(torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    x, total = x0, torch.zeros_like(x0)
    for unit in net.conv2_x:
        total = total + unit.branch(x)
        x = unit(x)
    torch.testing.assert_close(x, x0 + total, rtol=0, atol=1e-12)
    assert x.min() < 0  # no ReLU after the addition


def test_projections_see_the_activated_input() -> None:
    with torch.device("meta"):
        net = models.create("preact_resnet164_cifar", num_classes=10)
    names = [name for name, _ in net.get_submodule("conv3_x.unit1").named_children()]
    assert names == ["act", "unit"]
    assert [name for name, _ in net.get_submodule("conv3_x.unit1.unit.shortcut").named_children()] == ["conv"]
    assert isinstance(net.get_submodule("conv3_x.unit2.shortcut"), nn.Identity)


def test_the_networks_of_the_paper_and_no_others() -> None:
    assert not [n for n in models.names() if n.startswith("preact_resnet") and n not in CONFIGS]
