"""Batch norm folded away: the same outputs, fewer layers, and an affine map where it cannot be folded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from convworks import models
from convworks.errors import ConvworksError
from convworks.layers import Conv2d, stage
from convworks.layers.fold import ChannelAffine, fold_batch_norm
from convworks.layers.normalization import LocalResponseNorm, conv_norm_activation


@pytest.fixture(autouse=True)
def _weights_of_their_own() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def lived_in(network: nn.Module) -> nn.Module:
    """As after training: weights, gammas (some negative), betas and statistics of all sizes."""
    generator = torch.Generator().manual_seed(3)
    for each in network.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.running_mean is not None:
            assert each.running_var is not None
            each.running_mean.normal_(generator=generator)
            each.running_var.uniform_(0.3, 3, generator=generator)
            if each.affine:
                nn.init.normal_(each.weight, 1, 1, generator=generator)
                nn.init.normal_(each.bias, generator=generator)
    return network


def batch_norms(network: nn.Module) -> int:
    return sum(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in network.modules())


def same_outputs(network: nn.Module, folded: nn.Module, x: Tensor) -> None:
    """To 1e-5 of the size of the outputs."""
    with torch.no_grad():
        before, after = network.eval()(x), folded(x)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


def test_by_hand() -> None:
    """W = 3, b = 1, gamma 2, beta 5, mean 4, Var 9: y = 2 (3x + 1 - 4)/3 + 5 = 2x + 3."""
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0))
    with torch.no_grad():
        for tensor, value in zip(network.state_dict().values(), (3, 1, 2, 5, 4, 9, 0), strict=True):
            tensor.fill_(value)
    found = fold_batch_norm(network)
    assert [each.item() for each in found.network.parameters()] == pytest.approx([2, 3])
    assert found.folded == ("1",)
    assert str(found) == "1 of 1 batch norms folded"


KINDS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("linear", lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (6, 5)),
    ("no bias", lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
    ("groups", lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)), (2, 4, 6, 6)),
    ("1-D", lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9)),
    ("3-D", lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 2, 4, 4, 4)),
    ("not affine", lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), (2, 3, 3, 3)),
    (
        "transposed",
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        (2, 4, 5, 5),
    ),
    ("our own", lambda: nn.Sequential(Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)), (2, 3, 6, 6)),
    (
        "dropout between",
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Identity(), nn.BatchNorm1d(4)),
        (6, 5),
    ),
    (
        "means between",
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()
        ),
        (2, 3, 8, 8),
    ),
    (
        "means of what is there",
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.AvgPool2d(2, padding=1, ceil_mode=True, count_include_pad=False),
            nn.BatchNorm2d(4),
        ),
        (2, 3, 7, 8),
    ),
    (
        "means, rounded up",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, ceil_mode=True), nn.BatchNorm2d(4)),
        (2, 3, 8, 9),
    ),
    ("helper", lambda: conv_norm_activation(3, 4, 3, activation=nn.Tanh()), (2, 3, 6, 6)),
]


@pytest.mark.parametrize(("make", "shape"), [each[1:] for each in KINDS], ids=[each[0] for each in KINDS])
def test_every_kind_folds(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    network = lived_in(make())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = fold_batch_norm(network)
    assert (len(found.folded), found.affine, found.kept) == (1, (), ())
    assert batch_norms(found.network) == 0
    assert len(list(found.network.modules())) == len(list(network.modules())) - 1  # the layer is gone
    same_outputs(network, found.network, x)


def test_two_in_a_row() -> None:
    network = lived_in(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)))
    found = fold_batch_norm(network)
    assert found.folded == ("1", "2")
    assert len(list(found.network.children())) == 1
    same_outputs(network, found.network, torch.randn(6, 5))


@pytest.mark.parametrize("negative", [False, True])
def test_a_maximum_lets_only_increasing_maps_pass(negative: bool) -> None:
    network = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, padding=1), nn.BatchNorm2d(4)))
    norm = network.get_submodule("2")
    with torch.no_grad():
        norm.weight.abs_()  # type: ignore[operator, union-attr]
        if negative:
            norm.weight[1] *= -1  # type: ignore[index, operator]
    found = fold_batch_norm(network)
    assert (len(found.folded), len(found.affine)) == ((0, 1) if negative else (1, 0))
    same_outputs(network, found.network, torch.randn(2, 3, 9, 9))


class Shared(nn.Module):
    """One convolution before two batch norms, and one batch norm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.n1, self.n2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z: Tensor = self.n1(y) + self.n1(self.b(y)) + self.n2(y)
        return z


class Twice(nn.Module):
    """The same convolution twice, then batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(self.conv(x)))
        return y


def with_weight_norm() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(5, 4)), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("network", "shape", "affine"),
    [
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)), (2, 3, 5, 5), 1),
        (conv_norm_activation(3, 4, 3, norm="after"), (2, 3, 6, 6), 1),
        (Shared(), (2, 3, 4, 4), 2),
        (Twice(), (2, 3, 4, 4), 1),
        (with_weight_norm(), (6, 5), 1),
        (
            nn.Sequential(Conv2d(3, 5, 1, data_format="channels_last"), nn.BatchNorm2d(5)),  # over the rows
            (2, 5, 6, 3),
            1,
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, divisor_override=3), nn.BatchNorm2d(4)),
            (2, 3, 6, 6),
            1,
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 3), LocalResponseNorm(), nn.BatchNorm2d(4)), (2, 3, 6, 6), 1),
        (nn.Sequential(Conv2d(3, 4, 3, activation="relu"), nn.BatchNorm2d(4)), (2, 3, 6, 6), 1),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2, padding=1), nn.BatchNorm2d(4)),
            (2, 3, 6, 6),
            1,
        ),
    ],
    ids=[
        "first",
        "after",
        "shared",
        "twice",
        "weight norm",
        "channels last",
        "sum",
        "lrn",
        "activation inside",
        "padded mean",
    ],
)
def test_what_cannot_be_folded_stays_as_an_affine_map(
    network: nn.Module, shape: tuple[int, ...], affine: int
) -> None:
    lived_in(network)
    found = fold_batch_norm(network)
    assert len(found.affine) == affine
    assert found.folded == ()
    assert sum(isinstance(each, ChannelAffine) for each in found.network.modules()) == affine
    assert f"{affine} became affine maps" in str(found)
    same_outputs(network, found.network, torch.randn(shape))


def test_one_without_population_statistics_is_kept() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False))
    found = fold_batch_norm(network)
    assert found.kept == ("1",)
    assert str(found) == "0 of 1 batch norms folded, 1 kept"
    same_outputs(network, found.network, torch.randn(6, 5))


def test_one_with_two_names_is_kept() -> None:
    norm = nn.BatchNorm1d(4)

    class TwoNames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.unused, self.used = nn.Linear(5, 4), norm, norm

        def forward(self, x: Tensor) -> Any:
            return self.used(self.linear(x))

    network = lived_in(TwoNames())
    found = fold_batch_norm(network)
    assert found.kept == ("unused",)
    same_outputs(network, found.network, torch.randn(6, 5))


class Named(nn.Module):
    """Asks for its layers by name, as the networks of papers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.parts = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        z: Tensor = self.parts[2](self.parts[1](self.parts[0](y)))
        return z


def test_where_code_asks_for_the_layer_an_identity_stands_in() -> None:
    network = lived_in(Named())
    found = fold_batch_norm(network)
    assert found.folded == ("norm", "parts.1")
    assert isinstance(found.network.norm, nn.Identity)
    same_outputs(network, found.network, torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(("name", "size", "folded"), [("fastnet", 32, 7), ("tutorial_cnn", 28, 0)])
def test_our_models(name: str, size: int, folded: int) -> None:
    network = lived_in(models.create(name, num_classes=10, in_channels=3, input_size=(size, size)))
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.weight.data.abs_()  # fastnet has a maximum before some of its batch norms
    found = fold_batch_norm(network)
    assert (len(found.folded), len(found.affine)) == (folded, 0)
    assert batch_norms(found.network) == 0
    same_outputs(network, found.network, torch.randn(2, 3, size, size))


def test_the_network_stays_as_it_is() -> None:
    network = lived_in(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = fold_batch_norm(network)
    assert network.training
    assert not found.network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_names_of_the_other_layers_stay() -> None:
    network = stage(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), relu=nn.ReLU())
    assert [name for name, _ in fold_batch_norm(network).network.named_children()] == ["conv", "relu"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_network_that_cannot_be_followed_is_named() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = stage(norm=nn.BatchNorm2d(3))

        def forward(self, x: Tensor) -> Any:
            return self.inner(x) if float(x.sum()) > 0 else x

    with pytest.raises(ConvworksError, match="the forward pass of Outer cannot be followed") as caught:
        fold_batch_norm(Outer())
    assert caught.value.code == "U162"


def test_a_layer_of_the_users_own_is_followed_around() -> None:
    network = lived_in(nn.Sequential(Branching(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    found = fold_batch_norm(network)
    assert len(found.folded) == 1
    same_outputs(network, found.network, torch.randn(2, 3, 5, 5))


def test_a_wrong_fold_would_be_seen() -> None:
    network = lived_in(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    found = fold_batch_norm(network)
    with torch.no_grad():
        next(found.network.parameters())[0] *= 1.01
    with pytest.raises(AssertionError, match="not close"):
        same_outputs(network, found.network, torch.randn(6, 5))


def test_folding_goes_by_way_of_float64() -> None:
    network = lived_in(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))).double()
    found = fold_batch_norm(network)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 5)))
    torch.testing.assert_close(found.network(x), network.eval()(x), rtol=1e-12, atol=1e-12)
