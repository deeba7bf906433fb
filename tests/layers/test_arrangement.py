"""Fused kernels and Winograd's algorithm together: any arrangement from any other, and back to torch's."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.layers.arrangement import arrange, as_torch
from convworks.layers.fused import is_fused
from convworks.layers.winograd import WinogradConv2d, suitable
from tests.ops.native.kernels import with_winograd

WAYS: list[tuple[bool, tuple[str, ...]]] = [
    (fused, names) for fused in (False, True) for names in ((), ("0",), ("0", "3"), ("3", "gone"))
]


@pytest.fixture
def kernels() -> Iterator[None]:
    with with_winograd():
        yield


def network() -> nn.Sequential:
    torch.manual_seed(0)
    rows: list[nn.Module] = []
    for c_in, c_out in ((3, 8), (8, 17)):
        rows += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.ReLU()]
    rows += [nn.MaxPool2d(2, 2), nn.Flatten(), nn.Linear(17 * 16, 5)]
    return nn.Sequential(*rows).to(memory_format=torch.channels_last)


def winograd_of(net: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, each in net.named_modules() if type(each) is WinogradConv2d)


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
    y.float().square().sum().backward()
    return {"y": y.detach(), **{name: p.grad.clone() for name, p in net.named_parameters()}}


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(WAYS, 2)), ids=str)
def test_it_does_not_matter_what_it_was(
    before: tuple[bool, tuple[str, ...]], after: tuple[bool, tuple[str, ...]]
) -> None:
    net = network()
    kinds, state = [type(each) for each in net.modules()], list(net.state_dict())
    for fused, names in (before, after):
        assert arrange(net, fused=fused, winograd=names) is net
        assert is_fused(net) is fused
        assert winograd_of(net) == tuple(name for name in names if name != "gone")
    assert list(net.state_dict()) == state
    assert as_torch(net) is net
    assert [type(each) for each in net.modules()] == kinds


def test_both_compute_together(kernels: None) -> None:
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {
        way: step(arrange(network(), fused=way[0], winograd=way[1]), x)
        for way in ((False, ()), (True, ()), (False, ("0", "3")), (True, ("0", "3")))
    }
    wanted = found[False, ()]
    for (
        way,
        got,
    ) in found.items():  # a little noise moves masks and maxima, so gradients differ more than maps
        for name in ("y", "8.weight", "8.bias", "4.weight", "3.weight", "0.weight"):
            assert (got[name] - wanted[name]).norm() < 0.35 * wanted[name].norm(), (way, name)
    assert torch.equal(
        found[True, ("0", "3")]["y"], step(arrange(network(), fused=True, winograd=("0", "3")), x)["y"]
    )
    assert not torch.equal(found[True, ("0", "3")]["y"], found[True, ()]["y"])


@pytest.mark.parametrize("name", ["fastnet", "resnet20_cifar"])
def test_a_kept_network_has_torchs_bits(kernels: None, name: str) -> None:
    torch.manual_seed(0)
    net = models.create(name, num_classes=4, in_channels=3, input_size=(32, 32))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = copy.deepcopy(net)
    arrange(net, fused=True, winograd=suitable(net))
    assert len(winograd_of(net)) > 2
    x = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        kept = as_torch(copy.deepcopy(net)).eval()
        assert torch.equal(kept(x), plain.eval()(x))
        assert torch.equal(net.eval()(x), plain(x))
    assert is_fused(net)
