"""The small network for CIFAR-10: order of its layers, initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models


def test_kinds_of_pooling_and_order() -> None:
    net = models.create("cifar_quick", num_classes=10)
    order = {name: [part for part, _ in stage.named_children()] for name, stage in net.named_children()}
    assert order["conv1"] == ["conv", "pool", "relu"]
    assert order["conv2"] == order["conv3"] == ["conv", "relu", "pool"]
    assert order["fc64"] == ["flatten", "linear", "relu"]
    kinds = [type(m) for m in net.modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)]
    assert kinds == [nn.MaxPool2d, nn.AvgPool2d, nn.AvgPool2d]


def test_initial_weights_of_the_definition() -> None:
    torch.manual_seed(0)
    net = models.create("cifar_quick", num_classes=10)
    stds = {"conv1.conv": 1e-4, "conv2.conv": 0.01, "conv3.conv": 0.01, "fc64.linear": 0.1, "fc10": 0.1}
    for name, std in stds.items():
        assert net.get_parameter(f"{name}.weight").std().item() == pytest.approx(std, rel=0.06)
        assert not net.get_parameter(f"{name}.bias").any()
