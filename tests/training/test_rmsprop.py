"""RMSprop by its formula, in a plain loop of float64 numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convworks.training.optimizer import load_state_tensors, make_optimizer, state_tensors


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_formula(momentum: float) -> None:
    """v <- b v + (1 - b) g^2; m <- momentum m + g / (sqrt(v) + eps); w <- w - lr m, with g from w^2 / 2."""
    network = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        network.weight.fill_(1.0)
    optimizer = make_optimizer("rmsprop", network, lr=0.05, momentum=momentum, beta2=0.9, weight_decay=0.01)
    w, v, m = 1.0, 0.0, 0.0
    for _ in range(20):
        optimizer.zero_grad()
        (network.weight.square() / 2).sum().backward()
        optimizer.step()
        g = w + 0.01 * w
        v = 0.9 * v + 0.1 * g * g
        m = momentum * m + g / (math.sqrt(v) + 1e-8)
        w -= 0.05 * m
        assert network.weight.item() == pytest.approx(w, rel=1e-12)


def test_its_memory_is_restored() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = make_optimizer("rmsprop", network, lr=0.01, momentum=0.9)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        network(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        return network.weight.detach().clone()

    step()
    kept = {name: value.clone() for name, value in state_tensors(network, optimizer).items()}
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    expected = step()
    network.load_state_dict(weights)
    load_state_tensors(network, optimizer, kept)
    assert torch.equal(step(), expected)
    assert {name.rpartition("/")[2] for name in kept} == {"step", "square_avg", "momentum_buffer"}
