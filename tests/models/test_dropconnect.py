"""The DropConnect network: its layers, initial weights and inference."""

from __future__ import annotations

import pytest
import torch

from convworks import models
from convworks.errors import ConvworksError
from convworks.layers import LocallyConnected2d
from convworks.layers.dropconnect import DropConnect


def test_layers_of_the_definition() -> None:
    net = models.create("dropconnect_cifar", num_classes=10)
    assert [name for name, _ in net.named_children()] == [
        "conv1",
        "conv2",
        "local3",
        "local4",
        "fc128",
        "fc10",
    ]
    local = net.get_submodule("local3.local")
    assert isinstance(local, LocallyConnected2d)
    assert local.weight.shape == (32, 64, 3, 3, 6, 6)
    connections = net.get_submodule("fc128.dropconnect")
    assert isinstance(connections, DropConnect)
    assert (connections.keep_probability, connections.activation) == (0.5, "relu")


def test_initial_weights_of_the_definition() -> None:
    torch.manual_seed(0)
    net = models.create("dropconnect_cifar", num_classes=10)
    stds = {"conv1.conv": 1e-4, "conv2.conv": 0.01, "local3.local": 0.04, "local4.local": 0.04, "fc10": 0.01}
    for name, std in stds.items():
        assert net.get_parameter(f"{name}.weight").std().item() == pytest.approx(std, rel=0.05)
        assert not net.get_parameter(f"{name}.bias").any()


def test_training_draws_and_inference_does_not() -> None:
    torch.manual_seed(0)
    net = models.create("dropconnect_cifar", num_classes=10)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=0.1)
    x = torch.randn(2, 3, 24, 24)
    assert not net.train()(x).equal(net(x))
    assert net.eval()(x).equal(net(x))


def test_the_other_inference() -> None:
    torch.manual_seed(0)
    net = models.create("dropconnect_cifar", num_classes=10, inference="mean")
    assert net.get_submodule("fc128.dropconnect").inference == "mean"
    with pytest.raises(ConvworksError, match="option 'inference' of dropconnect_cifar cannot be 'sample'"):
        models.create("dropconnect_cifar", num_classes=10, inference="sample")
