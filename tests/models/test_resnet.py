"""Residual and plain networks against Table 1, beside what the battery checks of every network."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convworks import anatomy, models
from convworks.layers.residual import Residual
from convworks.models.resnet import CONFIGS, ResNetConfig, build, cifar
from convworks.ops.arguments import BadArgument
from tests.papers import resnet as facts


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def weight_layers(net: nn.Module) -> int:
    """Convolutions and linear layers, but the projections of the shortcuts."""
    return sum(
        isinstance(layer, nn.Conv2d | nn.Linear) and "shortcut" not in name
        for name, layer in net.named_modules()
    )


def on_meta(config: ResNetConfig) -> nn.Sequential:
    with torch.device("meta"):
        return build(config)


def count_layers(name: str, net: nn.Module) -> None:
    found, printed = weight_layers(net), facts.LAYERS[name]
    assert found == printed, f"{name}: {found} weight layers, the paper says {printed}"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_name_counts_the_layers(name: str) -> None:
    count_layers(name, on_meta(CONFIGS[name]))
    assert CONFIGS[name].layers == facts.LAYERS[name]


def test_a_deleted_layer_is_named() -> None:
    shorter = on_meta(replace(CONFIGS["resnet34"], depths=(3, 4, 6, 2)))
    with pytest.raises(AssertionError, match="resnet34: 32 weight layers, the paper says 34"):
        count_layers("resnet34", shorter)


@pytest.mark.parametrize(("name", "parameters"), facts.PARAMETERS.items())
def test_parameters(name: str, parameters: int) -> None:
    assert facts.NETWORKS[name].parameters == parameters
    classes = 10 if "cifar" in name else 1000
    with torch.device("meta"):
        assert count(models.create(name, num_classes=classes)) == parameters


def test_options_of_other_depths() -> None:
    r18, r50 = CONFIGS["resnet18"], CONFIGS["resnet50"]
    assert count(on_meta(replace(r18, shortcut="C"))) == facts.OPTION_C_18
    assert count(on_meta(replace(r50, shortcut="A"))) == facts.OPTION_A_50
    assert count(on_meta(replace(r50, shortcut="C"))) == facts.OPTION_C_50
    # with projections, as other libraries build the CIFAR networks
    assert count(build(replace(cifar(9), shortcut="B"), num_classes=10)) == 855_770
    assert count(build(replace(cifar(18), shortcut="B"), num_classes=10)) == 1_730_714


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("plain")])
def test_a_plain_network_has_the_weights_of_its_residual_twin_with_option_a(name: str) -> None:
    twin = replace(CONFIGS[name], shortcut="A")
    assert twin == CONFIGS[name.replace("plain", "resnet") + ("" if "cifar" in name else "_a")]
    plain, residual = on_meta(CONFIGS[name]), on_meta(twin)
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in residual.state_dict().items()
    }
    assert not any(isinstance(layer, Residual) for layer in plain.modules())
    assert sum(isinstance(layer, Residual) for layer in residual.modules()) == sum(twin.depths)


@pytest.mark.parametrize(("name", "giga"), facts.GIGA_MACS.items())
def test_multiply_adds_are_the_flops_row_of_table_1(name: str, giga: float) -> None:
    macs = facts.NETWORKS[name].macs or 0
    assert round(macs / 1e9, 3) == giga
    printed = facts.PRINTED_GIGA_FLOPS.get(name)
    assert printed is None or printed in (round(macs / 1e9, 1), int(macs / 1e8) / 10)


@pytest.mark.parametrize(("name", "millions"), facts.PRINTED_MILLIONS.items())
def test_parameters_of_table_6(name: str, millions: float) -> None:
    digits = 2 if millions < 1 else 1
    assert round(facts.NETWORKS[name].parameters / 1e6, digits) == millions


def test_the_stride_of_a_bottleneck() -> None:
    def strides(name: str) -> list[int]:
        net = on_meta(CONFIGS[name])
        branch = net.get_submodule("conv3_x.block1.branch")
        return [layer.stride[0] for layer in branch if isinstance(layer, nn.Conv2d)]

    assert strides("resnet50") == [2, 1, 1]
    assert strides("resnet50_v1_5") == [1, 2, 1]


@pytest.mark.parametrize(("name", "field"), facts.RECEPTIVE_FIELDS.items())
def test_receptive_fields(name: str, field: int) -> None:
    with torch.device("meta"):
        rows = anatomy.trace(models.create(name, num_classes=2), (3, 224, 224))
    assert [row.field for row in rows if row.name.startswith("conv5_x")][-1] == (field, field)


def test_maps_double_where_their_sides_halve_and_a_block_costs_the_same() -> None:
    with torch.device("meta"):
        rows = anatomy.trace(build(CONFIGS["resnet34"]), (3, 224, 224))
    stages = {row.name: row for row in anatomy.stages(rows)}
    assert [stages[f"conv{s}_x"].output for s in range(2, 6)] == [
        (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)
    ]  # fmt: skip
    costs = {
        s: sum(row.macs for row in rows if row.name.startswith(f"conv{s}_x.block2.")) for s in range(2, 6)
    }
    assert set(costs.values()) == {2 * 9 * 64 * 64 * 56 * 56}


def test_weights_begin_as_in_the_paper() -> None:
    torch.manual_seed(0)
    net = build(CONFIGS["resnet18"])
    conv = net.get_submodule("conv4_x.block2.branch.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert abs(conv.weight.mean().item()) < 1e-3
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.eq(1).all()
            assert layer.bias.eq(0).all()


def test_blocks_are_relu_of_the_sum() -> None:
    torch.manual_seed(0)
    unit = build(CONFIGS["resnet18"]).eval().get_submodule("conv3_x.block2")
    assert isinstance(unit, Residual)
    x = torch.randn(2, 128, 5, 5)
    b = unit.branch
    inner = F.relu(b.bn1(F.conv2d(x, b.conv1.weight, padding=1)))
    expected = F.relu(b.bn2(F.conv2d(inner, b.conv2.weight, padding=1)) + x)
    torch.testing.assert_close(unit(x), expected)


def test_all_three_shortcuts_learn() -> None:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8)
    for option in ("A", "B", "C"):
        torch.manual_seed(1)
        net = build(replace(cifar(1), shortcut=option), num_classes=8)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for _ in range(12):
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]


def test_1202_layers_are_built_in_three_seconds_and_take_a_step() -> None:
    start = time.perf_counter()
    net = models.create("resnet1202_cifar", num_classes=10)
    assert time.perf_counter() - start < 3
    x, y = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 7])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    before = [p.detach().clone() for p in net.parameters()]
    F.cross_entropy(net(x), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    optimizer.step()
    assert sum(not p.equal(q) for p, q in zip(net.parameters(), before, strict=True)) > 3000


@pytest.mark.parametrize(("n", "layers"), [(1, 8), (3, 20), (5, 32), (9, 56), (166, 998), (200, 1202)])
def test_any_depth_6n_plus_2_can_be_built(n: int, layers: int) -> None:
    with torch.device("meta"):
        assert weight_layers(build(cifar(n), num_classes=10)) == layers == cifar(n).layers


def test_words_that_are_not_known() -> None:
    with pytest.raises(BadArgument, match="block = 'bottlenek' does not fit") as caught:
        replace(CONFIGS["resnet50"], block="bottlenek")  # type: ignore[arg-type]
    assert caught.value.hint == "block='bottleneck'"
    with pytest.raises(BadArgument, match="stride_on = '5x5'"):
        replace(CONFIGS["resnet50"], stride_on="5x5")  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="shortcut = 'D'"):
        replace(CONFIGS["resnet50"], shortcut="D")  # type: ignore[arg-type]
