"""MC-dropout against its exact mean, for a network so small that all masks can be listed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from convworks.data.loader import Batch
from convworks.errors import ConvworksError
from convworks.evaluation.dropout_sampling import dropping, sampled_probabilities
from convworks.layers.dropconnect import DropConnect
from convworks.training.loop import Numerics


class Given:
    """Batches of given images."""

    def __init__(self, x: torch.Tensor, size: int) -> None:
        self.x, self.size = x, size

    def epoch(self, epoch: int, *, start: int = 0):  # type: ignore[no-untyped-def]
        for part in self.x.split(self.size):
            yield Batch(part, torch.zeros(len(part), dtype=torch.int64), np.arange(len(part)))


def network(p: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(p), nn.Linear(4, 3)).eval()


def test_the_mean_of_many_passes_is_that_over_all_masks() -> None:
    net, x = network(), torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    exact = torch.zeros(5, 3, dtype=torch.float64)
    for mask in itertools.product([0.0, 2.0], repeat=4):
        exact += torch.softmax(net[2](x.flatten(1) * torch.tensor(mask)), dim=1).double() / 16  # type: ignore[index]
    found = sampled_probabilities(net, Given(x, 5), Numerics(), samples=4_000)
    np.testing.assert_allclose(found, exact.detach().numpy(), atol=0.02)
    scaled = torch.softmax(net(x), dim=1).detach().numpy()
    assert np.abs(scaled - exact.detach().numpy()).max() > 0.02  # it is not the cheap approximation


def test_the_seed_decides_and_nothing_else_changes() -> None:
    net, x = network(), torch.randn(6, 1, 2, 2)
    before = torch.get_rng_state()
    one = sampled_probabilities(net, Given(x, 4), Numerics(), samples=3, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one, sampled_probabilities(net, Given(x, 4), Numerics(), samples=3, seed=1))
    assert not np.array_equal(one, sampled_probabilities(net, Given(x, 4), Numerics(), samples=3, seed=2))
    assert not any(each.training for each in net.modules())


def test_batch_norm_stays_in_evaluation() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5)).eval()
    with dropping(net):
        assert [each.training for each in net] == [False, False, True]
        net(torch.randn(3, 1, 2, 2) + 5)
    assert float(net[0].running_mean.sum()) == 0.0  # type: ignore[union-attr]
    assert not net[2].training


def test_dropconnect_draws_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), DropConnect(4, 3)).eval()
    x = torch.randn(2, 1, 2, 2)
    found = sampled_probabilities(net, Given(x, 2), Numerics(), samples=5)
    assert np.abs(found - torch.softmax(net(x), dim=1).detach().numpy()).max() > 1e-4


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(ConvworksError, match="no dropout layer") as problem:
        sampled_probabilities(nn.Flatten(), Given(torch.zeros(1, 1, 1, 1), 1), Numerics())
    assert problem.value.code == "U269"


def test_no_image() -> None:
    assert sampled_probabilities(network(), Given(torch.zeros(0, 1, 2, 2), 2), Numerics()).shape[0] == 0
