"""The battery's training checks for networks with dropout on maps, and for those too large to train in it.

Dropout draws its masks in the order of memory, so that with channels last other units are dropped: layouts
are compared without it. Large plain networks learn eight images by heart with a rate of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convworks.training.initialize import initialize
from tests.models import test_battery as battery

LARGE = (
    *("alexnet", "alexnet_single_tower", "alexnet_torchvision", "zfnet"),
    *("vgg_a", "vgg_a_lrn", "vgg_b", "vgg_c", "vgg_d", "vgg_e"),
)
SMALL = ("nin", "maxout_mnist", "maxout_cifar")
every = pytest.mark.parametrize("name", [*LARGE, *SMALL])


@every
def test_every_parameter_gets_a_gradient(name: str) -> None:
    battery.test_every_parameter_gets_a_gradient(name)


@every
def test_weights_go_through_safetensors_to_the_bit(name: str) -> None:
    battery.test_weights_go_through_safetensors_to_the_bit(name)


@every
def test_bfloat16_autocast_is_near_float32(name: str) -> None:
    battery.test_bfloat16_autocast_is_near_float32(name)


@every
def test_one_step_lowers_the_loss(name: str) -> None:
    battery.test_one_step_lowers_the_loss(name)


@every
def test_channels_last_gives_the_same_logits_and_gradients_without_dropout(name: str) -> None:
    x, y = battery.images(name, 4), torch.arange(4)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = battery.build(name).eval().to(memory_format=layout)  # type: ignore[call-overload]
        loss = battery.loss_of(net, x.to(memory_format=layout), y)
        loss.backward()
        results.append((loss.detach(), [p.grad for p in net.parameters()]))
    (loss, gradients), (other_loss, others) = results
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, others, strict=True):
        assert gradient is not None
        scale = gradient.abs().max().item()
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=max(1e-5, 1e-4 * scale))


@pytest.mark.parametrize("name", ["maxout_mnist", "maxout_cifar"])
def test_maxout_learns_eight_images_by_heart(name: str) -> None:
    battery.test_it_learns_eight_images_by_heart(name)


class ByHeart(NamedTuple):
    """Adam's rate at which the network knows eight images after so many steps; without dropout."""

    rate: float
    steps: int
    seed: int = 0
    rule: str = ""  # of the initial weights; the network's own where nothing is said


# NiN: the class maps pass a ReLU, and with most seeds the one of some class is dead from the beginning.
# VGG-D and E: the paper begins them with the weights of A; from its random ones they hardly start.
# ZFNet: weights of 0.01 everywhere start slowly too.
BY_HEART = {
    "nin": ByHeart(3e-4, 60, seed=6),
    "alexnet": ByHeart(1e-3, 120),
    "alexnet_single_tower": ByHeart(3e-4, 150),
    "alexnet_torchvision": ByHeart(1e-4, 60),
    "zfnet": ByHeart(3e-4, 60, rule="he"),
    "vgg_a": ByHeart(1e-4, 60),
    "vgg_a_lrn": ByHeart(1e-4, 60),
    "vgg_b": ByHeart(1e-4, 100),
    "vgg_c": ByHeart(1e-4, 100),
    "vgg_d": ByHeart(1e-4, 60, rule="he"),
    "vgg_e": ByHeart(1e-4, 60, rule="he"),
}


def test_every_network_that_the_battery_leaves_out_is_here() -> None:
    assert {*LARGE, "nin"} == BY_HEART.keys()


@pytest.mark.proof
@pytest.mark.parametrize("name", BY_HEART)
def test_a_large_network_learns_eight_images_by_heart(name: str) -> None:
    how = BY_HEART[name]
    net = battery.build(name, seed=how.seed)
    if how.rule:
        initialize(net, how.rule, seed=how.seed)
    x, y = battery.images(name, 8), torch.arange(8)
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    optimizer = torch.optim.Adam(net.parameters(), lr=how.rate)
    for step in range(how.steps):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9 and net(x).argmax(dim=1).equal(y):
            return
    pytest.fail(f"{name} does not know eight images after {how.steps} steps")
