"""Receptive fields: the lectures' and papers' numbers, and the support of the gradient as an oracle."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks import layers, models
from convworks.anatomy import trace
from convworks.anatomy.measured_field import measured_field, measured_fields, predicted


def sizes(network: nn.Module, shape: tuple[int, ...]) -> list[int]:
    return [row.field[0] for row in trace(network, shape) if row.kernel and row.output]


def plain(*rows: tuple[int, ...]) -> nn.Sequential:
    """One-map convolutions of (kernel, stride, dilation); a negative kernel is maximum pooling."""
    layers = [
        nn.MaxPool1d(-k, s) if k < 0 else nn.Conv1d(1, 1, k, stride=s, dilation=d, padding=(k - 1) * d // 2)
        for k, s, d in rows
    ]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("rows", "field"),
    [
        ([(3, 1, 1)] * 5, 11),
        ([(3, s, 1) for s in (1, 2, 1, 2, 1)], 21),
        ([(3, 1, d) for d in (1, 2, 4, 8, 16)], 63),
        ([(3, 1, 1)] * 250, 501),
        ([(3, 1, 2**i) for i in range(8)], 511),
        ([(3, 2, 1)] * 8, 511),
        ([(3, 1, 1)] * 2, 5),
        ([(3, 1, 1)] * 3, 7),
        ([(5, 1, 1), (-2, 2, 1), (5, 1, 1), (-2, 2, 1)], 16),
        ([(3, 1, 1), (3, 1, 1), (-3, 2, 1), (3, 1, 1), (-3, 2, 1)], 15),
    ],
)
def test_examples_of_the_lectures(rows: list[tuple[int, int, int]], field: int) -> None:
    row = trace(plain(*rows), (1, 1024))[-1]
    assert row.field == (field,)


def test_alexnet() -> None:
    conv, pool = nn.Conv2d, nn.MaxPool2d
    net = nn.Sequential(
        conv(3, 2, 11, 4), pool(3, 2), conv(2, 2, 5, padding=2), pool(3, 2), conv(2, 2, 3, padding=1),
        conv(2, 2, 3, padding=1), conv(2, 2, 3, padding=1), pool(3, 2),
    )  # fmt: skip
    assert sizes(net, (3, 227, 227)) == [11, 19, 51, 67, 99, 131, 163, 195]


class Everything(nn.Module):
    """Branches of several widths, a shortcut that slices and pads, dilation, pooling, a change of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.wide, self.tall = (
            nn.Conv2d(4, 4, (1, 7), padding=(0, 3)),
            nn.Conv2d(4, 4, (5, 1), padding=(2, 0)),
        )
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.pool = nn.AvgPool2d(3, 1, padding=1)
        self.dilated = nn.Conv2d(16, 4, 3, padding=2, dilation=2)
        self.norm = nn.BatchNorm2d(4)
        self.end = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.wide(x), self.tall(x)], dim=1)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.pad(self.down(x), (0, 0, 0, 0, 0, 8)) + shortcut
        x = self.norm(self.dilated(self.pool(x)))
        return self.end(x.transpose(2, 3).contiguous())


def reached(network: nn.Module, shape: tuple[int, ...], layer: str) -> tuple[tuple[int, int], ...]:
    """The analytic field of the middle unit, inside the image."""
    return predicted(next(row for row in trace(network, shape) if row.name == layer), shape)


@pytest.mark.parametrize("layer", ["stem", "wide", "tall", "down", "pool", "dilated"])
def test_the_gradient_has_the_same_support(layer: str) -> None:
    torch.manual_seed(0)
    net = Everything()
    assert measured_field(net, (1, 41, 40), layer, draws=3) == reached(net, (1, 41, 40), layer)


@pytest.mark.parametrize("seed", range(12))
def test_random_chains_have_the_support_of_their_gradient(seed: int) -> None:
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(4):
        k, s, d = (int(torch.randint(1, high, (1,), generator=draw)) for high in (5, 3, 3))
        p = int(torch.randint(0, k, (1,), generator=draw))
        kind = int(torch.randint(0, 3, (1,), generator=draw))
        layers.append(
            nn.AvgPool2d(k, s, padding=min(p, k // 2)) if kind == 0 else nn.Conv2d(1, 1, k, s, p, d)
        )
    net = nn.Sequential(*layers)
    last = str(len(layers) - 1)
    assert measured_field(net, (1, 64, 70), last, draws=2) == reached(net, (1, 64, 70), last)


def test_maximum_pooling_is_measured_over_many_images() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3), nn.ReLU())
    assert measured_field(net, (1, 32, 32), "2", draws=200) == reached(net, (1, 32, 32), "2")


def test_a_transposed_axis_stays_with_its_dimension() -> None:
    """Dimension 0 of the input is the last axis of the output after a transposition."""
    rows = trace(nn.Sequential(nn.Conv2d(1, 1, (5, 3)), Turn(), nn.Conv2d(1, 1, (7, 1))), (1, 20, 30))
    assert rows[-1].field == (5, 9)  # the 7 taps of the second layer run along the input's width


class Turn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


def test_flattening_and_means_see_what_all_units_saw() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 3))
    assert [row.field for row in trace(net, (1, 8, 8))] == [(3, 3), (8, 8), (8, 8)]
    mean = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.AdaptiveAvgPool2d(1))
    assert trace(mean, (1, 9, 9))[-1].field == (9, 9)


def test_transposed_convolution_narrows_the_jump() -> None:
    row = trace(nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1), (1, 8, 8))[0]
    assert (row.jump, row.field) == ((0.5, 0.5), (2, 2))


def test_nothing_is_allocated_on_the_meta_device() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.Linear(112, 10**9))
    assert trace(net, (3, 224, 224))[0].field == (7, 7)


def test_an_unknown_layer_offers_the_closest() -> None:
    with pytest.raises(Exception, match="did you mean 'dilated'"):
        measured_field(Everything(), (1, 20, 20), "dilatd")


def test_several_layers_from_the_same_passes() -> None:
    torch.manual_seed(0)
    net, shape = Everything(), (1, 41, 40)
    found = measured_fields(net, shape, ("wide", "dilated"), draws=3)
    assert found == {layer: measured_field(net, shape, layer, draws=3) for layer in ("wide", "dilated")}
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_the_prediction_ends_at_the_image() -> None:
    row = trace(nn.Conv2d(1, 1, 5, padding=2), (1, 3, 12))[0]
    assert predicted(row, (1, 3, 12)) == ((0, 2), (3, 7))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("vgg_d", 212),
        ("resnet50", 483),
        ("resnet101", 1027),
        ("resnet152", 1507),
        ("resnet50_v1_5", 427),
        ("resnet101_v1_5", 971),
        ("resnet152_v1_5", 1451),
        ("mobilenet_v1_100_224", 315),
        ("googlenet", 715),
    ],
)
def test_published_networks(name: str, field: int) -> None:
    """google-research/receptive_field; GoogLeNet's is that of the path through the 5x5 kernels."""
    info = models.info(name)
    with torch.device("meta"):
        net = models.create(name, num_classes=info.num_classes)
    assert max(sizes(net, (info.in_channels, *info.input_size))) == field


WINDOWS: dict[str, Callable[[], nn.Module]] = {
    "maxout": lambda: layers.MaxoutConv2d(2, 3, (3, 5), pieces=2, stride=2, padding=1),
    "maxout of groups": lambda: layers.MaxoutPool(2),
    "local": lambda: layers.LocallyConnected2d(
        2, 3, (3, 2), input_size=(18, 20), stride=(2, 1), padding="tf_same", dilation=(2, 3)
    ),
    "lowering": lambda: layers.Conv2d(2, 3, (5, 3), stride=2, padding="causal", algorithm="lowering"),
    "direct": lambda: layers.Conv2d(2, 3, 3, dilation=2, padding=((0, 3), (2, 1)), algorithm="direct"),
    "winograd": lambda: layers.Conv2d(2, 3, 3, padding=1, algorithm="winograd"),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_layers_that_hide_their_window_have_the_support_of_their_gradient(name: str) -> None:
    torch.manual_seed(0)
    made = WINDOWS[name]()
    shape = (1, 20, 22)
    maps = made(torch.zeros(1, 2, 18, 20)).shape[1]
    net = nn.Sequential(nn.Conv2d(1, 2, 3), made, nn.Conv2d(maps, 1, 2))
    for layer in ("1.max" if name == "maxout" else "1", "2"):
        assert measured_field(net, shape, layer, draws=60) == reached(net, shape, layer)


def test_a_locally_connected_sequence_and_volume() -> None:
    one = nn.Sequential(
        nn.Conv1d(1, 1, 3), layers.LocallyConnected1d(1, 1, 4, input_size=[28], stride=3, dilation=2)
    )
    assert [(row.field, row.jump) for row in trace(one, (1, 30))] == [((3,), (1.0,)), ((9,), (3.0,))]
    three = layers.LocallyConnected3d(1, 1, (1, 2, 3), input_size=(4, 5, 6), padding=1)
    assert trace(three, (1, 4, 5, 6))[0].field == (1, 2, 3)


def test_a_maxout_network_of_dense_units_sees_everything() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), layers.Maxout(72, 4))
    assert trace(net, (1, 8, 8))[-1].field == (8, 8)
