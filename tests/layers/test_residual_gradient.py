"""Which residual units hand the shortcut's gradient to their first convolution; it stays the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from convworks.layers import fused
from convworks.layers.amx import suitable_amx
from convworks.layers.arrangement import arrange
from convworks.layers.containers import stage
from convworks.layers.residual import Residual, ZeroPad, projection
from convworks.ops.shortcut_gradient import ShortcutGradient
from tests.layers.fake_amx import fake_amx
from tests.ops.native.kernels import loaded

WIDTH = 16


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with loaded():
        fake_amx(monkeypatch)
        yield


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of each gradient that was handed over."""
    shapes: list[tuple[int, ...]] = []
    real = ShortcutGradient.hand_over

    def hand_over(self: ShortcutGradient, gradient: Tensor) -> None:
        shapes.append(tuple(gradient.shape))
        real(self, gradient)

    monkeypatch.setattr(ShortcutGradient, "hand_over", hand_over)
    return shapes


class Stops(nn.Module):
    """A layer of somebody else's that lets no gradient through."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def branch(outputs: int = WIDTH, stride: int = 1, between: nn.Module | None = None) -> nn.Sequential:
    return stage(
        conv1=nn.Conv2d(WIDTH, outputs, 3, stride=stride, padding=1, bias=False),
        bn1=nn.BatchNorm2d(outputs),
        between=nn.ReLU() if between is None else between,
        conv2=nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(outputs),
    )


def identity() -> Residual:
    return Residual(branch(), nn.Identity(), activation=nn.ReLU())


def zeros() -> Residual:
    return Residual(branch(32, 2), ZeroPad(16, stride=2), activation=nn.ReLU())


class Widens(nn.Module):
    """A layer that gives float32, and passes for one of ours."""

    __module__ = "convworks.layers.others"

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def in_float32() -> Residual:
    wide = stage(conv1=branch().conv1, wide=Widens(), bn2=nn.BatchNorm2d(WIDTH))
    return Residual(wide, nn.Identity(), activation=nn.ReLU())


def shared() -> Residual:
    unit = identity()
    unit.branch.conv2 = unit.branch.conv1
    return unit


def in_two() -> Residual:
    first, second = branch()[:3], branch()[3:]
    return Residual(nn.Sequential(first, second), nn.Identity(), activation=nn.ReLU())


def observed(
    part: Callable[[Residual], nn.Module], make: Callable[[], Residual] = identity
) -> Callable[[], Residual]:
    def build() -> Residual:
        unit = make()
        part(unit).register_full_backward_hook(lambda *_: None)
        return unit

    return build


UNITS: dict[str, tuple[Callable[[], Residual], bool]] = {
    "identity": (identity, True),
    "without the ReLU": (lambda: Residual(branch(), nn.Identity()), True),
    "fitted": (lambda: Residual(branch(), activation=nn.ReLU()), True),
    "zeros": (zeros, True),
    "zeros, no stride": (lambda: Residual(branch(24), ZeroPad(8), activation=nn.ReLU()), True),
    "projected": (lambda: Residual(branch(32, 2), projection(16, 32, stride=2)), False),
    "fitted to another shape": (lambda: Residual(branch(32, 2)), False),
    "branch within a branch": (lambda: Residual(nn.Sequential(branch()), nn.Identity()), True),
    "unknown layer": (lambda: Residual(branch(between=Stops()), nn.Identity()), False),
    "one convolution twice": (shared, False),
    "first is observed": (observed(lambda unit: unit.branch.conv1), False),
    "branch is observed": (observed(lambda unit: unit.branch), False),
    "shortcut is observed": (observed(lambda unit: unit.shortcut), False),
    "unit is observed": (observed(lambda unit: unit), False),
    "zeros are observed": (observed(lambda unit: unit.shortcut, zeros), False),
    "a part of the branch is observed": (observed(lambda unit: unit.branch[0], in_two), False),
}


def network(unit: Residual) -> nn.Sequential:
    """A layer whose weights' gradient is that of the unit's input, then the unit."""
    torch.manual_seed(0)
    for each in unit.parameters():
        torch.nn.init.normal_(each, 0.5, 0.2) if each.ndim == 1 else torch.nn.init.kaiming_normal_(each)
    net = nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), unit)
    return net.train().to(memory_format=torch.channels_last)


def step(net: nn.Module, x: Tensor, *, times: int = 1) -> dict[str, Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    torch.manual_seed(2)
    dy = torch.randn_like(y)
    for _ in range(times):
        y.backward(dy, retain_graph=times > 1)
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def images() -> Tensor:
    return torch.randn(4, 3, 9, 7, generator=torch.Generator().manual_seed(1)).to(
        memory_format=torch.channels_last
    )


def near(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert (value - b[name]).norm() <= 0.01 * b[name].norm() + 1e-6, name


@pytest.mark.parametrize("name", UNITS)
def test_the_gradients_are_those_of_autograds_sum(
    name: str, handed: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, hands_over = UNITS[name]
    net = network(build())
    arrange(net, fused=True, amx=suitable_amx(net))
    x, found = images(), []
    for allowed in (True, False):
        if not allowed:
            monkeypatch.setattr(fused.Group, "first", lambda self: None)
        found.append(step(copy.deepcopy(net), x))
    assert len(handed) == hands_over
    assert "0.weight" in found[0]
    near(*found)


def test_only_where_kernels_of_ours_compute_it(handed: list[tuple[int, ...]]) -> None:
    net = network(identity())
    for named in ([], ["2.branch.conv2"]):
        step(arrange(net, fused=True, amx=named), images())
    step(arrange(net, fused=False, amx=suitable_amx(net)), images())
    assert not handed
    step(arrange(net, fused=True, amx=["2.branch.conv1"]), images())
    assert len(handed) == 1


def test_maps_that_autocast_converts_are_left_to_autograd(handed: list[tuple[int, ...]]) -> None:
    """The unit's input is float32 here, and so is what the branch gives its batch norm."""
    for build, ends in ((zeros, torch.bfloat16), (in_float32, torch.float32)):
        unit, found = network(build())[2], []
        for amx in (["0.branch.conv1"], []):
            x = torch.randn(4, WIDTH, 9, 7, generator=torch.Generator().manual_seed(3))
            x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                assert unit.branch[:-1](x).dtype == ends
            step(arrange(nn.Sequential(copy.deepcopy(unit)), fused=True, amx=amx), x)
            assert x.grad is not None
            found.append({"x": x.grad})
        near(*found)
    assert not handed


def test_backward_twice_and_in_part(handed: list[tuple[int, ...]]) -> None:
    net = network(identity())
    arrange(net, fused=True, amx=suitable_amx(net))
    once, twice = (step(copy.deepcopy(net), images(), times=times) for times in (1, 2))
    near({name: 2 * value for name, value in once.items()}, twice)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(images())
    weight = net.get_submodule("2.branch.bn2").weight
    torch.autograd.grad(y.sum(), [weight], retain_graph=True)  # hands over what nobody takes
    net.zero_grad()
    torch.manual_seed(2)
    y.backward(torch.randn_like(y))
    near({name: p.grad for name, p in net.named_parameters() if p.grad is not None}, once)
    assert len(handed) == 1 + 2 + 2


def test_a_pass_that_fails_leaves_nothing_behind(handed: list[tuple[int, ...]]) -> None:
    net = network(identity())
    arrange(net, fused=True, amx=suitable_amx(net))
    first = net.get_submodule("2.branch.conv1")
    before = set(first.__dict__)
    with pytest.raises(RuntimeError), torch.autocast("cpu", torch.bfloat16):
        net[2](torch.randn(1, WIDTH + 1, 4, 4).to(torch.bfloat16))
    assert set(first.__dict__) == before


def test_a_frozen_beginning_takes_and_drops_it(handed: list[tuple[int, ...]]) -> None:
    """Where the unit's input needs no gradient nobody misses it, and the branch trains on."""
    net = network(identity())
    for part in (net[0], net[1]):
        part.requires_grad_(False)
    arrange(net, fused=True, amx=suitable_amx(net))
    assert "2.branch.conv1.weight" in step(net, images())
