"""Penalties against plain sums and an optimizer's weight decay; projections; sparse activations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError
from convworks.ops.arguments import BadArgument
from convworks.ops.loss import cross_entropy
from convworks.training.regularize import (
    SparsityPenalty,
    chosen_parameters,
    monte_carlo_probabilities,
    penalty,
    project_max_norm_,
    proximal_l1_,
)

close = torch.testing.assert_close


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small() -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number))
    return network


def test_weights_are_not_biases_nor_norms() -> None:
    network = small()
    assert list(chosen_parameters(network)) == ["0.weight", "4.weight"]
    assert len(chosen_parameters(network, "all")) == 6
    assert list(chosen_parameters(network, ("4.bias", "0.weight"))) == ["0.weight", "4.bias"]
    network[0].requires_grad_(False)
    assert list(chosen_parameters(network)) == ["4.weight"]
    assert list(chosen_parameters(network, ("0.weight",))) == ["0.weight"]


@pytest.mark.parametrize(("kind", "power", "factor"), [("l2_half", 2, 0.5), ("l2_plain", 2, 1), ("l1", 1, 1)])
def test_penalty_is_a_sum_over_the_chosen(kind: str, power: int, factor: float) -> None:
    network = small()
    for which, count in (("weights", 2), ("all", 6)):
        values = [v for p in chosen_parameters(network, which).values() for v in p.flatten().tolist()]
        assert len(chosen_parameters(network, which)) == count
        expected = 0.01 * factor * sum(abs(v) ** power for v in values)
        found = penalty(network, kind=kind, strength=0.01, which=which)
        assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    weight = network[4].weight
    expected_gradient = 0.01 * (weight.sign() if kind == "l1" else 2 * factor * weight)
    assert weight.grad is not None
    close(weight.grad, expected_gradient.detach())


def test_half_is_the_weight_decay_of_an_optimizer() -> None:
    """The loss plus lambda/2 ||w||^2 with lambda = 5e-4 steps as `weight_decay=5e-4`; "plain" does not."""
    x, y = normal(6, 1, 4, 4, seed=9), torch.tensor([0, 1, 2, 0, 1, 2])
    stepped = {}
    for kind in ("decay", "l2_half", "l2_plain"):
        network = small()
        decay = 5e-4 if kind == "decay" else 0.0
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=decay)
        total = cross_entropy(network(x), y)
        if kind != "decay":
            total = total + penalty(network, kind=kind, strength=5e-4, which="all")
        total.backward()
        optimizer.step()
        stepped[kind] = network[4].weight.detach().clone()
    close(stepped["l2_half"], stepped["decay"], rtol=1e-12, atol=1e-15)
    with pytest.raises(AssertionError):
        close(stepped["l2_plain"], stepped["decay"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("c", [2.0, 3.0])
def test_max_norm_holds_after_every_step(c: float) -> None:
    network, x, y = small(), normal(30, 1, 4, 4, seed=9), torch.arange(30) % 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    moved = 0
    for _ in range(10):
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        moved += project_max_norm_(network, c)
        for name in ("0.weight", "4.weight"):
            rows = zip(
                before[name].flatten(1), dict(network.named_parameters())[name].flatten(1), strict=True
            )
            for old, new in rows:
                assert math.sqrt(sum(v * v for v in new.tolist())) <= c * (1 + 1e-12)
                if math.sqrt(sum(v * v for v in old.tolist())) < c:
                    assert torch.equal(old, new)
        assert torch.equal(before["4.bias"], network[4].bias)
    assert moved >= 3  # the rows of 16 begin near norm 4


def test_max_norm_by_columns_counts_units() -> None:
    network = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, 0.1], [4.0, 0.2]]))
    assert project_max_norm_(network, 2.0, dims=(0,)) == 1
    close(network.weight.detach(), torch.tensor([[1.2, 0.1], [1.6, 0.2]]))
    assert project_max_norm_(network, 2.1, dims=(0,)) == 0


def test_proximal_steps_find_the_inputs_that_matter() -> None:
    """Least squares on 2 of 20 inputs: 18 weights become 0 by proximal steps, none with L1 in the loss."""
    x, true = normal(200, 20), torch.zeros(20, dtype=torch.float64)
    true[3], true[11] = 1.0, -2.0
    zeros = {}
    for proximal in (False, True):
        network = nn.Linear(20, 1, bias=False).double()
        with torch.no_grad():
            network.weight.copy_(normal(1, 20, seed=1))
        for _ in range(300):
            network.zero_grad()
            total = ((network(x)[:, 0] - x @ true) ** 2).mean() / 2
            if not proximal:
                total = total + penalty(network, kind="l1", strength=0.1)
            total.backward()
            with torch.no_grad():
                assert network.weight.grad is not None
                network.weight -= 0.1 * network.weight.grad
            if proximal:
                zeros["counted"] = proximal_l1_(network, strength=0.1, lr=0.1)
        zeros[str(proximal)] = int((network.weight == 0).sum())
        assert network.weight[0, 3].item() == pytest.approx(0.9, abs=0.03)
    assert zeros == {"False": 0, "True": 18, "counted": 18}


def test_mean_activations_approach_the_target() -> None:
    """Checklist LO-07: p = 0.05."""
    x, y = normal(256, 8), (normal(256, 8)[:, 0] > 0).long()
    found = {}
    for strength in (0.0, 1.0):
        network = nn.Sequential(nn.Linear(8, 12), nn.Sigmoid(), nn.Linear(12, 2)).double()
        with torch.no_grad():
            for number, parameter in enumerate(network.parameters()):
                parameter.copy_(0.5 * normal(*parameter.shape, seed=number + 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        with SparsityPenalty(network, ("1",), target=0.05, strength=strength) as sparsity:
            for _ in range(300):
                optimizer.zero_grad()
                (cross_entropy(network(x), y) + sparsity.term()).backward()
                optimizer.step()
            found[strength] = sparsity.means()["1"]
        assert not network[1]._forward_hooks
    assert found[1.0].shape == (12,)
    assert (found[1.0] - 0.05).abs().max() < 0.02
    assert found[0.0].mean() > 0.2


def test_the_term_is_the_formula() -> None:
    network = nn.Sequential(nn.Sigmoid())
    a = torch.tensor([[0.1, 0.4], [0.3, 0.8]], dtype=torch.float64)
    with SparsityPenalty(network, ("0",), target=0.05, strength=0.5) as sparsity:
        network(torch.logit(a))
        expected = 0.5 * sum(-0.05 * math.log(q) - 0.95 * math.log(1 - q) for q in (0.2, 0.6))
        assert sparsity.term().item() == pytest.approx(expected)


def test_dropout_is_an_ensemble() -> None:
    """One linear layer, four inputs dropped with 1/2: all 16 masks, their arithmetic and geometric means."""
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    with torch.no_grad():
        network[1].weight.copy_(normal(3, 4))
    x = normal(2, 4, seed=1)
    masks = torch.cartesian_prod(*[torch.tensor([0.0, 2.0], dtype=torch.float64)] * 4)  # inverted dropout
    rows = torch.stack([network[1:].eval()(x * mask).softmax(dim=1) for mask in masks]).detach()
    network.train()
    state = torch.get_rng_state()
    found = monte_carlo_probabilities(network, x, samples=4000, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    assert torch.equal(network[2].running_mean, torch.zeros(3, dtype=torch.float64))
    close(found, rows.mean(dim=0), rtol=0, atol=0.02)
    geometric = rows.log().mean(dim=0).softmax(dim=1)
    close(network.eval()(x).softmax(dim=1).detach(), geometric, rtol=1e-12, atol=1e-12)
    with pytest.raises(BadArgument, match="the network has no dropout layer"):
        monte_carlo_probabilities(nn.Linear(2, 2), normal(1, 2), samples=5, seed=0)
    with pytest.raises(BadArgument, match="samples = 0"):
        monte_carlo_probabilities(network, x, samples=0, seed=0)


def test_messages() -> None:
    network = small()
    with pytest.raises(BadArgument, match="kind = 'l2' does not fit: it is one of l2_half, l2_plain, l1"):
        penalty(network, kind="l2", strength=0.1)
    with pytest.raises(BadArgument, match="it chooses no parameter"):
        penalty(nn.ReLU(), kind="l1", strength=0.1)
    with pytest.raises(BadArgument, match="which = 'biases'"):
        chosen_parameters(network, "biases")
    with pytest.raises(ConvworksError, match="no parameter called '4.weights'") as caught:
        chosen_parameters(network, ("4.weights",))
    assert caught.value.code == "U101"
    with pytest.raises(ConvworksError, match="no layer called 'relu'"):
        SparsityPenalty(network, ("relu",))
    sparsity = SparsityPenalty(network, ("2",))
    with sparsity, pytest.raises(ConvworksError, match="no activations of 2 are recorded") as caught:
        sparsity.term()
    assert caught.value.code == "U176"
    with SparsityPenalty(network, ("2",)) as sparsity:
        network(normal(2, 1, 4, 4))
        with pytest.raises(BadArgument, match="a sigmoid"):
            sparsity.term()
