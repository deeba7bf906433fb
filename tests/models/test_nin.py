"""Network in network: 1x1 convolutions as a perceptron on every window, classes as means of maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convworks import models


def test_an_mlpconv_layer_is_one_perceptron_slid_over_the_image() -> None:
    torch.manual_seed(0)
    net = models.create("nin", num_classes=10).eval().double()
    part = net.get_submodule("mlpconv2")
    x = torch.randn(1, 96, 7, 7, dtype=torch.float64)
    maps = x
    for name in ("conv", "relu1", "cccp1", "relu2", "cccp2", "relu3"):
        maps = part.get_submodule(name)(maps)
    window = x[0, :, 1:6, 2:7].flatten()  # around row 3, column 4
    for name in ("conv", "cccp1", "cccp2"):
        layer = part.get_submodule(name)
        window = torch.relu(layer.get_parameter("weight").flatten(1) @ window + layer.get_parameter("bias"))
    torch.testing.assert_close(maps[0, :, 3, 4], window)


def test_a_1x1_convolution_sees_one_place() -> None:
    net = models.create("nin", num_classes=10)
    kernels = [m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(5, 5), (1, 1), (1, 1)] * 2 + [(3, 3), (1, 1), (1, 1)]


def test_logits_are_means_of_maps_at_any_size() -> None:
    torch.manual_seed(0)
    net = models.create("nin", num_classes=7, input_size=(32, 32)).eval()
    x = torch.randn(2, 3, 40, 26)
    maps = net.get_submodule("mlpconv3")(net.get_submodule("mlpconv2")(net.get_submodule("mlpconv1")(x)))
    assert maps.shape == (2, 7, 10, 6)
    torch.testing.assert_close(net(x), maps.mean(dim=(2, 3)))


def test_initial_weights_and_dropout() -> None:
    torch.manual_seed(0)
    net = models.create("nin", num_classes=10)
    assert net.get_parameter("mlpconv2.conv.weight").std().item() == pytest.approx(0.05, rel=0.01)
    drops = [name for name, m in net.named_modules() if isinstance(m, nn.Dropout)]
    assert drops == ["mlpconv1.drop", "mlpconv2.drop"]
