"""Update rules against plain float64 loops, and the fixture that tells the two forms of momentum apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convworks.training.optimizer import (
    AlexNetSGD,
    load_state_tensors,
    make_optimizer,
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
