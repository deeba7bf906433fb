"""Maxout networks: the largest of the pieces, pooling that covers the map, dropout, initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import anatomy, models
from convworks.errors import ConvworksError


def test_sizes_of_every_layer_for_cifar() -> None:
    with torch.device("meta"):
        net = models.create("maxout_cifar", num_classes=10)
    outputs = {row.name: row.output for row in anatomy.trace(net, (3, 32, 32))}
    assert outputs["h0.conv.conv"] == (192, 33, 33)
    assert outputs["h0.pool"] == (96, 16, 16)
    assert outputs["h1.conv.conv"] == (384, 15, 15)
    assert outputs["h1.pool"] == (192, 7, 7)
    assert outputs["h2.conv.conv"] == (384, 9, 9)
    assert outputs["h2.pool"] == (192, 5, 5)
    assert outputs["h3.maxout"] == (500,)


def test_a_map_is_the_largest_of_its_pieces() -> None:
    torch.manual_seed(0)
    net = models.create("maxout_mnist", num_classes=10)
    layer = net.get_submodule("h2.conv")
    x = torch.randn(2, 48, 6, 6)
    scores = layer.get_submodule("conv")(x)
    assert scores.shape == (2, 96, 8, 8)
    torch.testing.assert_close(layer(x), scores.unflatten(1, (24, 4)).amax(dim=2))


def test_there_is_no_other_activation() -> None:
    for name in ("maxout_mnist", "maxout_cifar"):
        kinds = {type(m).__name__ for m in models.create(name, num_classes=10).modules()}
        assert not kinds & {"ReLU", "Tanh", "Sigmoid"}


def test_dropout_is_before_every_layer() -> None:
    net = models.create("maxout_cifar", num_classes=10)
    drops = {name: m.p for name, m in net.named_modules() if isinstance(m, nn.Dropout)}
    assert drops == {"h0.drop": 0.2, "h1.drop": 0.5, "h2.drop": 0.5, "h3.drop": 0.5, "y.drop": 0.5}


def test_initial_weights_are_uniform() -> None:
    torch.manual_seed(0)
    net = models.create("maxout_cifar", num_classes=10)
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        else:
            assert 0.0049 < p.abs().max().item() <= 0.005, name


def test_a_size_that_is_too_small() -> None:
    with pytest.raises(ConvworksError) as caught:
        models.create("maxout_mnist", num_classes=10, input_size=(14, 28))
    assert caught.value.code == "U122"
    side = int(str(caught.value.where).split("x")[-1].split()[0])
    models.create("maxout_mnist", num_classes=10, input_size=(side, side))
