"""Fused kernels, Winograd's algorithm and matrix units together: any arrangement from any other, and back."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.layers.amx import AmxConv2d, suitable_amx
from convworks.layers.arrangement import arrange, as_torch
from convworks.layers.fused import is_fused
from convworks.layers.winograd import WinogradConv2d, suitable
from tests.layers.fake_amx import fake_amx
from tests.ops.native.kernels import with_winograd

Names = tuple[str, ...]
Way = tuple[bool, Names, Names]  # fused; by Winograd's algorithm; on matrix units
WAYS: list[Way] = [
    (fused, *names)
    for fused in (False, True)
    for names in (
        ((), ()),
        (("0",), ()),
        (("0", "3"), ()),
        (("3", "gone"), ("0", "gone")),
        ((), ("0", "3")),
        (("0",), ("0", "3")),
    )
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


def of_kind(net: nn.Module, kind: type[nn.Module]) -> Names:
    return tuple(name for name, each in net.named_modules() if type(each) is kind)


def step(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
    y.float().square().sum().backward()
    return {"y": y.detach(), **{name: p.grad.clone() for name, p in net.named_parameters()}}


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(WAYS, 2)), ids=str)
def test_it_does_not_matter_what_it_was(before: Way, after: Way) -> None:
    net = network()
    kinds, state = [type(each) for each in net.modules()], list(net.state_dict())
    for fused, winograd, amx in (before, after):
        assert arrange(net, fused=fused, winograd=winograd, amx=amx) is net
        assert is_fused(net) is fused
        assert of_kind(net, WinogradConv2d) == tuple(name for name in winograd if name != "gone")
        assert of_kind(net, AmxConv2d) == tuple(name for name in amx if name not in {"gone", *winograd})
    assert list(net.state_dict()) == state
    assert as_torch(net) is net
    assert [type(each) for each in net.modules()] == kinds


def test_all_compute_together(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_amx(monkeypatch)
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {
        way: step(arrange(network(), fused=way[0], winograd=way[1], amx=way[2]), x)
        for way in (
            (False, (), ()),
            (True, (), ()),
            (False, ("0", "3"), ()),
            (True, ("0", "3"), ()),
            (False, (), ("0", "3")),
            (True, ("0",), ("3",)),
        )
    }
    assert called.count("forward") == 3
    wanted = found[False, (), ()]
    for (
        way,
        got,
    ) in found.items():  # a little noise moves masks and maxima, so gradients differ more than maps
        for name in ("y", "8.weight", "8.bias", "4.weight", "3.weight", "0.weight"):
            assert (got[name] - wanted[name]).norm() < 0.35 * wanted[name].norm(), (way, name)
    again = step(arrange(network(), fused=True, winograd=("0", "3")), x)["y"]
    assert torch.equal(found[True, ("0", "3"), ()]["y"], again)
    assert not torch.equal(again, found[True, (), ()]["y"])


@pytest.mark.parametrize("name", ["fastnet", "resnet20_cifar"])
def test_a_kept_network_has_torchs_bits(kernels: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amx(monkeypatch)
    torch.manual_seed(0)
    net = models.create(name, num_classes=4, in_channels=3, input_size=(32, 32))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = copy.deepcopy(net)
    arrange(net, fused=True, winograd=suitable(net)[::2], amx=suitable_amx(net))
    assert len(of_kind(net, WinogradConv2d)) > 1
    assert len(of_kind(net, AmxConv2d)) > 1
    x = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        kept = as_torch(copy.deepcopy(net)).eval()
        assert torch.equal(kept(x), plain.eval()(x))
        assert torch.equal(net.eval()(x), plain(x))
    assert is_fused(net)
