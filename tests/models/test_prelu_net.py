"""PReLU-nets against Table 3: layers, operations, the pyramid, slopes and initial weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.models.prelu_net import CONFIGS, Convs, SpatialPyramidPooling, build, he_normal
from tests.papers import prelu_net as facts


@pytest.mark.parametrize("name", CONFIGS)
def test_table_3_prints_the_depth_and_the_operations(name: str) -> None:
    with torch.device("meta"):
        net = models.create(name, num_classes=1000)
    found = sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in net.modules())
    printed = facts.LAYERS[name]
    assert found == printed, f"{name}: {found} weight layers, the paper says {printed}"
    operations = (facts.NETWORKS[name].macs or 0) / 1e10
    assert operations == pytest.approx(facts.PRINTED_OPERATIONS[name], rel=0.01)
    if name != "prelu_net_c":  # whose 5.35 the docstring compares with the printed 5.30
        assert facts.PRINTED_OPERATIONS[name] == int(operations * 100) / 100


def test_bins_of_the_pyramid_by_a_loop() -> None:
    x = torch.randn(2, 3, 14, 11, generator=torch.Generator().manual_seed(0))
    expected = []
    for n in (7, 3, 2, 1):
        level = torch.empty(2, 3, n, n)
        for i in range(n):
            for j in range(n):
                rows = slice(math.floor(i * 14 / n), math.ceil((i + 1) * 14 / n))
                columns = slice(math.floor(j * 11 / n), math.ceil((j + 1) * 11 / n))
                level[:, :, i, j] = x[:, :, rows, columns].amax(dim=(2, 3))
        expected.append(level.flatten(1))
    torch.testing.assert_close(SpatialPyramidPooling((7, 3, 2, 1))(x), torch.cat(expected, 1), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("side", "levels"), [(15, (1,)), (32, (2, 1)), (64, (3, 2, 1)), (110, (3, 2, 1)), (111, (7, 3, 2, 1))]
)
def test_small_images_have_a_smaller_pyramid(side: int, levels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        net = models.create("prelu_net_a", num_classes=10, input_size=(side, side + 40))
    assert net.spp.levels == levels
    assert net.fc1.linear.in_features == 512 * sum(n * n for n in levels)


def test_an_image_that_is_too_small() -> None:
    with pytest.raises(ConvworksError, match="prelu_net_b cannot take images of 14x20 pixels") as caught:
        models.create("prelu_net_b", num_classes=10, input_size=(14, 20))
    assert caught.value.code == "U122"
    text = caught.value.format()
    assert "the pooling of conv4_x has a 2x2 window, and 1 cells are left" in text
    assert "15x15 and larger" in text


def test_one_slope_for_each_map_begins_at_a_quarter() -> None:
    net = build((Convs(1, 4), Convs(1, 6), Convs(1, 8)), name="tiny", input_size=(32, 32))
    slopes = [layer.weight for layer in net.modules() if isinstance(layer, nn.PReLU)]
    assert [len(slope) for slope in slopes] == [96, 4, 6, 8, 4096, 4096]
    assert all(slope.eq(0.25).all() for slope in slopes)
    assert [layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("slope", [0.0, 0.25])
def test_the_initial_weights_keep_the_signal_through_30_layers(slope: float) -> None:
    # Equation 15: (1 + a^2) / 2 n Var[w] = 1, so that E[y^2] stays from layer to layer.
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(400, 400) for _ in range(30)))
    he_normal(net, slope=slope)
    assert net[3].weight.std().item() == pytest.approx(math.sqrt(2 / ((1 + slope**2) * 400)), rel=0.01)
    x = torch.randn(200, 400)
    with torch.no_grad():
        y = x
        for layer in net:
            y = layer(F.leaky_relu(y, slope))
    assert 0.3 < y.square().mean().item() < 3
    assert all(layer.bias.eq(0).all() for layer in net)


def test_a_small_one_learns_and_every_parameter_has_a_gradient() -> None:
    torch.manual_seed(0)
    net = build((Convs(1, 8), Convs(1, 8), Convs(1, 8)), name="tiny", num_classes=8, input_size=(32, 32))
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4)
    for step in range(60):
        loss = F.cross_entropy(net.train()(x), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
        optimizer.step()
        if net.eval()(x).argmax(1).equal(torch.arange(8)):
            return
    pytest.fail("eight images are not known after 60 steps")
