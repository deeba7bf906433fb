"""What is recorded of maps, against plain NumPy over one pass by hand."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convworks import anatomy, models
from convworks.insight.activations import (
    Activations,
    MapLayer,
    evenly,
    live_units,
    map_health,
    map_layers,
    record_maps,
    sparseness,
    top_images,
)


def small() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(5, 4, 3),
        nn.Tanh(),
    )
    random = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(random.normal(size=tuple(parameter.shape))))
    return network.double().eval()


X = torch.from_numpy(np.random.default_rng(1).normal(size=(11, 1, 10, 8)))


def recorded(x: Tensor = X, **settings: int) -> list[Activations]:
    network = small()
    layers = map_layers(network.float(), (1, 10, 8))
    return record_maps(network.double(), x.split(4), layers, **settings)


def test_one_layer_for_each_convolution_after_its_activation() -> None:
    assert [
        (row.name, row.call, row.channels, row.height, row.width, row.field)
        for row in map_layers(small(), (1, 10, 8))
    ] == [
        ("2", 0, 5, 10, 8, (3, 3)),
        ("5", 0, 4, 3, 2, (8, 8)),
    ]
    resnet = models.create("resnet20_cifar", num_classes=10)
    names = [layer.name for layer in map_layers(resnet, (3, 32, 32))]
    assert len(names) == 19  # of 20 layers, one is the output
    assert names[0] == "conv1.relu"
    assert names[-1] == "conv4_x.block3.activation"
    branched = [layer.name for layer in map_layers(models.create("resnet18", num_classes=9), (3, 64, 64))]
    assert "conv3_x.block1.branch.bn2" not in branched  # the sum with the shortcut comes later
    assert "conv3_x.block1.activation" in branched
    assert len(branched) == 17
    fastnet = [layer.name for layer in map_layers(models.create("fastnet", num_classes=9), (3, 32, 32))]
    assert len(fastnet) == 7
    assert map_layers(models.create("mlp128", num_classes=10), (1, 28, 28)) == []


def test_the_numbers_are_those_of_the_maps() -> None:
    network = small()
    maps = {"2": network[:3](X).detach().numpy(), "5": network(X).detach().numpy()}
    for found in recorded(examples=6, channels=3):
        a = maps[found.layer.name]
        n, c = a.shape[:2]
        flat = a.reshape(n, c, -1)
        np.testing.assert_array_equal(found.largest.numpy(), flat.max(axis=2))
        np.testing.assert_array_equal(found.place.numpy(), flat.argmax(axis=2))
        np.testing.assert_allclose(found.response.numpy(), np.abs(flat).mean(axis=2))
        assert found.smallest == a.min()
        np.testing.assert_array_equal(found.examples.numpy(), a[:6, :3])
        values = a.transpose(1, 0, 2, 3).reshape(c, -1)
        np.testing.assert_allclose(found.variance.numpy(), values.var(axis=1), atol=1e-14)
        np.testing.assert_allclose(found.correlation.numpy(), np.corrcoef(values), atol=1e-12)
        np.testing.assert_allclose(found.power.numpy(), (values**2).mean(axis=1))
        np.testing.assert_allclose(found.over_images.numpy(), a.var(axis=0).mean(axis=(1, 2)), atol=1e-14)


def test_batches_change_nothing() -> None:
    network = small()
    layers = map_layers(network.float(), (1, 10, 8))
    network.double()
    whole = record_maps(network, [X], layers, examples=5, channels=9)
    for one, other in zip(
        whole, record_maps(network, X.split(2), layers, examples=5, channels=9), strict=True
    ):
        for part in dataclasses.fields(Activations):
            a, b = getattr(one, part.name), getattr(other, part.name)
            if isinstance(a, Tensor):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_large_maps_are_correlated_on_a_grid() -> None:
    layer = MapLayer(name="0", call=0, channels=2, height=70, width=40)
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)).double()
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 1, 70, 40)))
    (found,) = record_maps(network, [x], [layer])
    values = network(x).detach().numpy()[:, :, ::3, ::2].transpose(1, 0, 2, 3).reshape(2, -1)
    np.testing.assert_allclose(found.correlation.numpy(), np.corrcoef(values), atol=1e-12)


class Twice(nn.Module):
    """One activation for two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.b(self.relu(self.a(x)) + 0 * torch.randn(())))


def test_each_call_of_a_layer_is_apart_and_the_network_as_before() -> None:
    network = Twice().train()
    network.b.eval()
    before, flags = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
    layers = map_layers(network, (1, 8, 8))
    assert [(layer.name, layer.call, layer.channels) for layer in layers] == [("relu", 0, 2), ("relu", 1, 3)]
    state = torch.get_rng_state()
    x = torch.ones(3, 1, 8, 8)
    first, second = record_maps(network, [x], layers, examples=1, channels=3)
    assert first.examples.shape == (1, 2, 6, 6)
    assert second.examples.shape == (1, 3, 4, 4)
    torch.testing.assert_close(second.examples, network(x)[:1])
    torch.set_rng_state(state)
    record_maps(network, [x], layers)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in network.modules()] == flags
    assert not any(m._forward_hooks for m in network.modules())
    with pytest.raises(ValueError, match="at least one image"):
        record_maps(network, [], layers)


@pytest.mark.parametrize(("name", "size"), [("tutorial_cnn", (1, 28, 28)), ("resnet20_cifar", (3, 32, 32))])
def test_the_window_is_what_the_gradient_shows(name: str, size: tuple[int, int, int]) -> None:
    network = models.create(name, num_classes=10, in_channels=size[0], input_size=size[1:])
    layers = map_layers(network, size)[:3]
    measured = anatomy.measured_fields(network, size, [layer.name for layer in layers], draws=8)
    for layer in layers:
        middle = (layer.height - 1) // 2 * layer.width + (layer.width - 1) // 2
        window = layer.window(middle, size[1:])
        assert (
            tuple((max(0, w.start), min(s, w.stop) - 1) for w, s in zip(window, size[1:], strict=True))
            == (measured[layer.name])
        )


def test_windows_at_the_edge_and_beyond() -> None:
    layer = MapLayer(
        name="", call=0, channels=1, height=4, width=5, field=(3, 9), jump=(2.0, 2.0), centre=(0.0, 0.0)
    )
    assert layer.window(0, (8, 10)) == (slice(-1, 2), slice(-4, 5))
    assert layer.window(3 * 5 + 4, (8, 10)) == (slice(5, 8), slice(4, 13))
    assert layer.window(7, (8, 9)) == (slice(1, 4), slice(0, 9))  # as wide as the image
    assert MapLayer(name="", call=0, channels=1, height=4, width=5).window(7, (8, 9)) == (
        slice(0, 8),
        slice(0, 9),
    )


def made(largest: Tensor, *, smallest: float = 0.0) -> Activations:
    c = largest.shape[1]
    return Activations(
        layer=MapLayer(name="x", call=0, channels=c, height=2, width=2),
        largest=largest,
        place=torch.zeros_like(largest, dtype=torch.long),
        response=largest.abs(),
        smallest=smallest,
        variance=torch.ones(c).double(),
        power=torch.ones(c).double(),
        over_images=torch.ones(c).double(),
        correlation=torch.eye(c).double(),
        examples=torch.empty(0),
    )


def test_the_top_images_come_by_value_then_by_number() -> None:
    found = made(torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.5], [3.0, 0.0], [0.0, 0.0]]))
    assert top_images(found, 0) == [1, 3, 2, 0]
    assert top_images(found, 0, count=2) == [1, 3]
    assert top_images(found, 1) == [2]
    signed = made(torch.tensor([[-1.0], [-3.0], [0.0]]), smallest=-5.0)
    assert top_images(signed, 0) == [2, 0, 1]
    assert live_units(made(torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 3.0]]))) == [2]


def test_sparseness_of_the_ends_and_between() -> None:
    rows = torch.tensor([[1.0, 1, 1, 1], [0, 0, 5, 0], [3, 1, 0, 0], [0, 0, 0, 0]])
    found = sparseness(rows)
    assert found[:2].tolist() == [0.0, 1.0]
    assert float(found[2]) == pytest.approx((1 - (4 / 4) ** 2 / (10 / 4)) / (3 / 4))
    assert bool(found[3].isnan())


def test_health_counts_copies_constants_and_the_deaf() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, 20, 6, 6))
    place = random.normal(size=(1, 6, 6)).repeat(20, axis=0)  # the same for every image
    maps = np.stack([a, b, 2 * a + 1, 0 * a + 7, place + 1e-3 * b, -a, a + 0.3 * b], axis=1)
    layer = MapLayer(name="0", call=0, channels=7, height=6, width=6)
    network = nn.Sequential(nn.Identity())
    (found,) = record_maps(network, torch.from_numpy(maps).split(6), [layer])
    health = map_health(found)
    assert (health.maps, health.constant, health.copies) == (7, 1, 2)
    assert health.deaf == 2  # the constant, and the one that is the same for every image
    pairs = np.abs(np.corrcoef(np.delete(maps, 3, axis=1).transpose(1, 0, 2, 3).reshape(6, -1)))
    expected = (pairs[np.triu_indices(6, 1)] >= 0.9).mean()
    assert health.alike == pytest.approx(expected)
    assert expected == 6 / 15  # a, 2a + 1, -a and a + 0.3 b among one another
    response = np.abs(maps).mean(axis=(2, 3))
    by_hand = [(1 - r.mean() ** 2 / (r**2).mean()) / (1 - 1 / len(r)) for r in response.T]
    assert health.over_images == pytest.approx(np.mean(by_hand))
    by_hand = [(1 - r.mean() ** 2 / (r**2).mean()) / (1 - 1 / len(r)) for r in response]
    assert health.over_units == pytest.approx(np.mean(by_hand))


def test_health_of_a_single_image_or_map() -> None:
    layer = MapLayer(name="0", call=0, channels=1, height=2, width=2)
    (found,) = record_maps(nn.Sequential(nn.Identity()), [torch.rand(1, 1, 2, 2)], [layer])
    health = map_health(found)
    assert (health.alike, health.deaf, health.over_images, health.over_units) == (None, None, None, None)
    silent = dataclasses.replace(layer, channels=2)
    (found,) = record_maps(nn.Sequential(nn.Identity()), [torch.zeros(3, 2, 2, 2)], [silent])
    health = map_health(found)
    assert (health.constant, health.deaf, health.alike, health.over_images) == (2, 2, None, None)


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [
        (3, 5, [0, 1, 2]),
        (0, 5, []),
        (10, 1, [9]),
        (10, 4, [0, 3, 6, 9]),
        (7, 6, [0, 1, 2, 4, 5, 6]),
        (9, 2, [0, 8]),
    ],
)
def test_evenly(count: int, most: int, expected: list[int]) -> None:
    assert evenly(count, most) == expected
