"""Noise on activations: N(0, std^2) while training, in no other pass and in no copy."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convworks.data.loader import Batch
from convworks.training.loop import Numerics, Position, StepSettings, train_epoch
from convworks.training.noise import activation_layers, noisy_activations
from convworks.training.optimizer import make_optimizer
from convworks.training.regularizers import Regularizers
from convworks.training.schedule import constant
from tests.training.test_regularizers import Once, batch_of, small_lenet


@pytest.mark.parametrize("std", [1.0, 0.25])
def test_mean_and_deviation(std: float) -> None:
    network, x = nn.Sequential(nn.ReLU()), torch.linspace(-1, 1, 400_000)
    torch.manual_seed(0)
    with noisy_activations(network, std):
        noise = network(x) - x.relu()
    assert float(noise.mean()) == pytest.approx(0, abs=0.01 * std)
    assert float(noise.std()) == pytest.approx(std, rel=0.01)
    ordered = noise.sort().values / std  # the quantiles of the normal distribution
    quantiles = torch.special.ndtri(torch.tensor([0.025, 0.25, 0.5, 0.75, 0.975], dtype=torch.float64))
    found = ordered[(torch.tensor([0.025, 0.25, 0.5, 0.75, 0.975]) * len(x)).long()].double()
    torch.testing.assert_close(found, quantiles, rtol=0, atol=0.02)


def test_in_training_only() -> None:
    network, batch = small_lenet(), batch_of()
    silent = network.eval()(batch.x)
    assert len(activation_layers(network)) == 2
    with noisy_activations(network, 1.0):
        assert torch.equal(network(batch.x), silent)  # evaluation mode
        inside = copy.deepcopy(network)
        assert not torch.equal(network.train()(batch.x), silent)
        assert torch.equal(inside.eval()(batch.x), silent)
    assert torch.equal(network(batch.x), silent)  # training mode, closed
    with noisy_activations(network, 0.0):
        assert torch.equal(network(batch.x), silent)


def test_steps_draw_by_their_number() -> None:
    def losses(seed: int, draws_between: int, std: float = 0.5) -> list[float]:
        network, position, found = small_lenet(), Position(), []
        optimizer = make_optimizer("sgd", network, lr=0.1)
        for _ in range(3):
            for step in train_epoch(
                network,
                Once(batch_of()),
                optimizer,
                position=position,
                schedule=constant(),
                settings=StepSettings(seed=seed, lr=0.1, regularizers=Regularizers(noise=std)),
                numerics=Numerics(),
            ):
                found.append(step.loss)
                torch.rand(draws_between)
            position.next_epoch()
        return found

    assert losses(1, 0) == losses(1, 5)
    assert losses(1, 0) != losses(2, 0)
    assert losses(1, 0, std=1e-9)[0] == pytest.approx(losses(1, 0, std=0.0)[0], rel=1e-6)


def test_a_training_that_is_left_leaves_no_hook() -> None:
    network = small_lenet()
    made = train_epoch(
        network,
        Once(batch_of()),
        make_optimizer("sgd", network, lr=0.1),
        position=Position(),
        schedule=constant(),
        settings=StepSettings(seed=0, lr=0.1, regularizers=Regularizers(noise=1.0)),
        numerics=Numerics(),
    )
    next(made)
    assert any(module._forward_hooks for module in network.modules())
    made.close()
    assert not any(module._forward_hooks for module in network.modules())


def test_in_bfloat16_and_channels_last() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(
        memory_format=torch.channels_last
    )
    x = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)
    batch = Batch(x=x, y=torch.arange(4) % 4, rows=batch_of(4).rows)
    steps = list(
        train_epoch(
            network,
            Once(batch),
            make_optimizer("sgd", network, lr=0.1),
            position=Position(),
            schedule=constant(),
            settings=StepSettings(seed=0, lr=0.1, regularizers=Regularizers(noise=1.0)),
            numerics=Numerics(precision="bf16", memory_format="channels_last"),
        )
    )
    assert len(steps) == 1
