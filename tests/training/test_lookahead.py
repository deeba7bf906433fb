"""Lookahead against Algorithm 1 in plain float64 numbers, and which weights a recipe averages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks.errors import ConvworksError
from convworks.flows.prepare import average_for
from convworks.recipes.recipe import LookaheadSpec, Recipe
from convworks.training.ema import WeightAverage
from convworks.training.lookahead import Lookahead


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(("rate", "growth"), [(0.5, 0.0), (0.8, 0.0), (0.226, 3.0), (1.0, 0.0)])
def test_slow_weights_follow_algorithm_1(rate: float, growth: float) -> None:
    trained, total, every = network(), 40, 5
    lookahead = Lookahead(trained, every=every, rate=rate, growth=growth, total=total)
    slow = {k: v.double().clone() for k, v in trained.state_dict().items()}
    fast = {k: v.clone() for k, v in slow.items()}
    for step in range(total):
        with torch.no_grad():
            for name, value in trained.state_dict().items():
                move = 1 if name.endswith("num_batches_tracked") else 0.1 * (step % 7)
                value.add_(move)
                fast[name] += move
        lookahead.update(trained, step)
        if (step + 1) % every == 0:
            share = 1 - (1 - rate) * ((step + 1) / total) ** growth if growth else rate
            for name, value in trained.state_dict().items():
                counter = not value.is_floating_point()
                slow[name] = fast[name] if counter else slow[name] + share * (fast[name] - slow[name])
                fast[name] = slow[name].clone()
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(value.double(), fast[name], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(lookahead.average[name].double(), slow[name], rtol=1e-5, atol=1e-5)


def test_slow_weights_are_tensors_of_their_own() -> None:
    trained = network()
    lookahead = Lookahead(trained, every=2, rate=0.5)
    before = lookahead.average["0.weight"].clone()
    with torch.no_grad():
        trained[0].weight.add_(1)  # type: ignore[index]
    lookahead.update(trained, 0)  # the first of two steps moves nothing
    torch.testing.assert_close(lookahead.average["0.weight"], before, rtol=0, atol=0)
    lookahead.update(trained, 1)
    torch.testing.assert_close(lookahead.average["0.weight"], before + 0.5)
    torch.testing.assert_close(trained.state_dict()["0.weight"], before + 0.5)


def test_the_share_falls_to_the_rate() -> None:
    rising = Lookahead(network(), every=5, rate=0.25, growth=3.0, total=100)
    assert [rising.share(t) for t in (0, 50, 100, 130)] == pytest.approx([1, 1 - 0.75 / 8, 0.25, 0.25])
    assert Lookahead(network(), every=5, rate=0.25).share(0) == 0.25


def test_a_recipe_has_one_kind_of_averaged_weights() -> None:
    assert average_for(Recipe(), network(), 10) is None
    assert isinstance(average_for(Recipe(ema=0.9), network(), 10), WeightAverage)
    found = average_for(Recipe(lookahead=LookaheadSpec(every=5, growth=1.0), epochs=3), network(), 10)
    assert isinstance(found, Lookahead)
    assert (found.every, found.rate, found.growth, found.total) == (5, 0.5, 1.0, 30)
    with pytest.raises(ConvworksError, match="ema and lookahead cannot be used together") as caught:
        Recipe(ema=0.9, lookahead=LookaheadSpec(every=5))
    assert caught.value.code == "U290"
