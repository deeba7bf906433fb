"""Update rules against plain float64 loops, and the fixture that tells the two forms of momentum apart."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from convworks.errors import ConvworksError
from convworks.training.optimizer import (
    AlexNetSGD,
    load_state_tensors,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
    state_tensors,
)


class Scalar(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[value]], dtype=torch.float64))


def walk(name: str, gradients: list[float], lrs: list[float], **settings: float) -> list[float]:
    network = Scalar(1.0)
    optimizer = make_optimizer(name, network, lr=lrs[0], **settings)
    path = []
    for gradient, lr in zip(gradients, lrs, strict=True):
        set_learning_rate(optimizer, lr)
        network.w.grad = torch.full_like(network.w, gradient)
        optimizer.step()
        path.append(network.w.item())
    return path


def test_forms_of_momentum_differ_after_a_drop() -> None:
    # Checklist OP2-01: g = 1, w0 = 1, no decay, three steps at 0.1, then 0.01.
    lrs = [0.1, 0.1, 0.1, 0.01]
    assert walk("sgd_alexnet", [1.0] * 4, lrs, momentum=0.9)[-1] == pytest.approx(0.1851, abs=1e-9)
    assert walk("sgd", [1.0] * 4, lrs, momentum=0.9)[-1] == pytest.approx(0.40461, abs=1e-9)
    assert walk("sgd_alexnet", [1.0] * 3, lrs[:3])[-1] == pytest.approx(walk("sgd", [1.0] * 3, lrs[:3])[-1])


def oracle(
    name: str, gradients: list[float], lrs: list[float], m: float, wd: float, b2: float
) -> list[float]:
    """Plain loops, from the papers' formulas."""
    w, v, s, path = 1.0, 0.0, 0.0, []
    for t, (g, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        if name == "sgd_alexnet":
            v = m * v - wd * lr * w - lr * g
            w += v
        elif name in {"sgd", "nesterov"}:
            g += wd * w
            v = g if t == 1 else m * v + g
            w -= lr * (g + m * v if name == "nesterov" else v)
        else:
            if name == "adamw":
                w -= lr * wd * w
            else:
                g += wd * w
            v, s = m * v + (1 - m) * g, b2 * s + (1 - b2) * g * g
            w -= lr * (v / (1 - m**t)) / (math.sqrt(s / (1 - b2**t)) + 1e-8)
        path.append(w)
    return path


@pytest.mark.parametrize("name", ["sgd", "sgd_alexnet", "nesterov", "adam", "adamw"])
def test_update_rules_equal_the_formulas(name: str) -> None:
    gradients, lrs = [0.3, -1.2, 0.8, 2.0, -0.1], [0.1, 0.1, 0.05, 0.02, 0.02]
    settings = {"momentum": 0.8, "weight_decay": 0.01, "beta2": 0.95}
    expected = oracle(name, gradients, lrs, 0.8, 0.01, 0.95)
    assert walk(name, gradients, lrs, **settings) == pytest.approx(expected, rel=1e-12)


def test_alexnet_form_refuses_a_closure() -> None:
    optimizer = AlexNetSGD(Scalar(1.0).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)


def test_norm_and_bias_can_be_spared_from_decay() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = make_optimizer("sgd", network, lr=0.1, weight_decay=0.1, decay_norm_and_bias=False)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(network[0].weight)] == 0.1
    assert [decays[id(p)] for p in (network[0].bias, network[1].weight, network[1].bias)] == [0, 0, 0]


@pytest.mark.parametrize("name", ["sgd", "sgd_alexnet", "nesterov", "adam", "adamw"])
def test_state_travels_by_name(name: str) -> None:
    def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        network(torch.zeros(1, 1, 5, 5))
        network = network.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(name, network, lr=0.05, momentum=0.9)
        run(network, optimizer, range(steps))
        return network, optimizer

    def run(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            x = torch.randn(3, 1, 5, 5, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()

    straight, _ = trained(6)
    network, optimizer = trained(3)
    saved = {key: value.clone() for key, value in state_tensors(network, optimizer).items()}
    assert all(key.rsplit("/", 1)[0] in dict(network.named_parameters()) for key in saved)
    fresh = make_optimizer(name, network, lr=0.05, momentum=0.9)
    load_state_tensors(network, fresh, saved)
    run(network, fresh, range(3, 6))
    for expected, found in zip(straight.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def two_stages() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    return nn.Sequential(OrderedDict(fc1=first, fc10=nn.Linear(4, 4), out=nn.Linear(4, 2)))


def decays(network: nn.Module, **settings: Any) -> dict[str, float]:
    """Parameter -> its weight decay."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, **settings)
    found = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert len(found) == len(names) == sum(len(group["params"]) for group in groups)
    return {name: found[name] for name in names.values()}


def test_parts_of_a_network_have_a_weight_decay_of_their_own() -> None:
    found = decays(
        two_stages(),
        weight_decay=0.1,
        decay_norm_and_bias=True,
        group_decay={"fc1": 0.2, "fc1.0.bias": 0.3, "out": 0.0},
    )
    assert found == {
        "fc1.0.weight": 0.2,
        "fc1.0.bias": 0.3,  # the longest name wins
        "fc1.1.weight": 0.2,
        "fc1.1.bias": 0.2,
        "fc10.weight": 0.1,  # no part of fc1
        "fc10.bias": 0.1,
        "out.weight": 0.0,
        "out.bias": 0.0,
    }


def test_vectors_are_spared_in_a_part_too_unless_they_are_named() -> None:
    settings = {"weight_decay": 0.1, "decay_norm_and_bias": False}
    found = decays(two_stages(), **settings, group_decay={"fc1": 0.2, "out.bias": 0.3})
    assert found["fc1.0.weight"] == 0.2
    assert found["fc1.0.bias"] == found["fc1.1.weight"] == found["fc10.bias"] == 0
    assert found["out.bias"] == 0.3
    alone = decays(two_stages(), weight_decay=0.0, decay_norm_and_bias=False, group_decay={"fc1": 0.2})
    assert alone == {**dict.fromkeys(found, 0.0), "fc1.0.weight": 0.2}


def test_an_unknown_part_is_refused_with_the_closest() -> None:
    with pytest.raises(ConvworksError, match="no part of the network called 'fc2'") as caught:
        parameter_groups(two_stages(), weight_decay=0.1, decay_norm_and_bias=True, group_decay={"fc2": 0.1})
    assert caught.value.code == "U101"
    assert "fc1" in caught.value.where


def test_a_part_at_rest_may_be_named() -> None:
    network = two_stages()
    network.get_submodule("fc1").requires_grad_(False)
    groups = parameter_groups(network, weight_decay=0.1, decay_norm_and_bias=True, group_decay={"fc1": 0.2})
    assert [len(group["params"]) for group in groups] == [4]


@pytest.mark.parametrize("name", ["sgd", "sgd_alexnet", "nesterov", "adam", "adamw"])
def test_a_share_of_the_rate_is_that_of_a_smaller_rate(name: str) -> None:
    """Independent: the same part alone, trained at its own rate."""
    gradients, lrs = [0.3, -1.2, 0.8], [0.1, 0.1, 0.05]
    network = nn.ModuleDict({"low": Scalar(1.0), "high": Scalar(1.0)})
    optimizer = make_optimizer(
        name, network, lr=0.1, momentum=0.8, weight_decay=0.01, lr_scales={"low": 0.25, "high": 1.0}
    )
    for gradient, lr in zip(gradients, lrs, strict=True):
        set_learning_rate(optimizer, lr)
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    for part, scale in (("low", 0.25), ("high", 1.0)):
        alone = walk(name, gradients, [lr * scale for lr in lrs], momentum=0.8, weight_decay=0.01)
        assert network.get_parameter(f"{part}.w").item() == pytest.approx(alone[-1], rel=1e-12)


def test_groups_have_one_order() -> None:
    settings: dict[str, Any] = {
        "weight_decay": 0.1,
        "decay_norm_and_bias": False,
        "group_decay": {"out": 0.3},
        "lr_scales": {"fc1": 0.5, "fc10": 0.5},
    }
    network = two_stages()
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = [
        (group["lr_scale"], group["weight_decay"], [names[p] for p in group["params"]])
        for group in parameter_groups(network, **settings)
    ]
    assert found == [
        (0.5, 0.1, ["fc1.0.weight", "fc10.weight"]),
        (1.0, 0.3, ["out.weight"]),
        (0.5, 0.0, ["fc1.0.bias", "fc1.1.weight", "fc1.1.bias", "fc10.bias"]),
        (1.0, 0.0, ["out.bias"]),
    ]


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_a_parameter_that_joins_later_begins_as_on_a_first_step(name: str) -> None:
    network = nn.ModuleDict({"first": Scalar(1.0), "later": Scalar(1.0)})
    optimizer = make_optimizer(name, network, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step, gradient in enumerate([0.3, -1.2, 0.8, 0.4]):
        network.get_parameter("first.w").grad = torch.full((1, 1), gradient, dtype=torch.float64)
        if step >= 2:
            network.get_parameter("later.w").grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
    both = (("first.w", [0.3, -1.2, 0.8, 0.4]), ("later.w", [0.8, 0.4]))
    for parameter, gradients in both:
        alone = walk(name, gradients, [0.1] * len(gradients), momentum=0.9, weight_decay=0.01)
        assert network.get_parameter(parameter).item() == pytest.approx(alone[-1], rel=1e-12)
