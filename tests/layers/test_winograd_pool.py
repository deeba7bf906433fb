"""Poolings that the convolution before them does: found in rows, never where somebody looks between."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from convworks.layers.arrangement import arrange, as_torch
from convworks.layers.fused import FusedMaxPool2d
from convworks.layers.winograd import PooledBefore, WinogradConv2d, use_winograd, without_winograd
from tests.ops.native.kernels import with_winograd


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    with with_winograd():
        yield


def network(pool: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1, bias=False),
        nn.Sequential(pool or nn.MaxPool2d(2), nn.BatchNorm2d(20), nn.ReLU()),
        nn.Conv2d(20, 6, 3),
    ).to(memory_format=torch.channels_last)


def images() -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 12, 11, generator=draws).contiguous(memory_format=torch.channels_last)


def run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found: Tensor = net(x)
    return found


def sizes_seen(net: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The size of what the first layer gives, in a pass without hooks."""
    seen: list[tuple[int, ...]] = []
    first = type(net[0])
    forward = first.forward

    def watched(self: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = forward(self, x)  # type: ignore[arg-type]
        if self is net[0]:
            seen.append(tuple(y.shape[2:]))
        return y

    with monkeypatch.context() as patch:
        patch.setattr(first, "forward", watched)
        run(net, images())
    return seen


@pytest.mark.parametrize("fused", [False, True])
def test_a_pooling_behind_is_done_with_the_convolution(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    alone = copy.deepcopy(net)
    use_winograd(alone, ["0"])
    without_pair = alone[1][0]
    without_pair.__class__ = nn.MaxPool2d
    for layer in (alone[0], without_pair):
        layer.__dict__.pop("winograd_pair")
    arrange(net, fused=fused, winograd=["0"])
    assert type(net[0]) is WinogradConv2d
    assert type(net[1][0]) is PooledBefore
    assert sizes_seen(net, monkeypatch) == [(6, 5)]
    assert sizes_seen(alone, monkeypatch) == [(12, 11)]
    fresh = copy.deepcopy(net)  # a copy's pair is its own
    assert fresh[0].__dict__["winograd_pair"].pool is fresh[1][0]
    y, other = run(fresh.train(), images()), run(copy.deepcopy(alone).train(), images())
    torch.testing.assert_close(y, other, rtol=0.02, atol=0.02)
    assert torch.equal(run(net.eval(), images()), run(as_torch(copy.deepcopy(net)).eval(), images()))


def test_there_and_back() -> None:
    net = network()
    names = list(net.state_dict())
    arrange(net, fused=True, winograd=["0"])
    assert list(net.state_dict()) == names
    without_winograd(net)
    assert (type(net[0]), type(net[1][0])) == (nn.Conv2d, FusedMaxPool2d)
    use_winograd(net, ["0"])
    arrange(net, fused=False, winograd=["2"])
    assert [type(each) for each in (net[0], net[1][0], net[2])] == [nn.Conv2d, nn.MaxPool2d, WinogradConv2d]
    as_torch(net)
    assert not any(
        "winograd_pair" in each.__dict__ or "fused_group" in each.__dict__ for each in net.modules()
    )


@pytest.mark.parametrize("where", ["convolution", "pooling", "row"])
@pytest.mark.parametrize("fused", [False, True])
def test_hooks_see_the_whole_maps(where: str, fused: bool) -> None:
    net = arrange(network(), fused=fused, winograd=["0"])
    assert isinstance(net, nn.Sequential)
    layer = {"convolution": net[0], "pooling": net[1][0], "row": net[1]}[where]
    seen: list[tuple[int, ...]] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape[2:])))
    run(net, images())
    assert seen == [(12, 11)]
    assert run(net, images()).shape == (4, 6, 4, 3)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3), nn.MaxPool2d(2, stride=1), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2),
        nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, stride=2), nn.MaxPool2d(2, dilation=2),
    ],
    ids=str,
)  # fmt: skip
def test_other_poolings_do_their_own_work(pool: nn.Module) -> None:
    net = network(pool)
    use_winograd(net, ["0"])
    assert type(net[1][0]) is type(pool)
    shape = network(copy.deepcopy(pool))(images()).shape
    assert run(net, images()).shape == shape


def test_a_pooling_of_two_convolutions_or_behind_another_layer_is_left_alone() -> None:
    pool = nn.MaxPool2d(2)
    shared = nn.Sequential(nn.Conv2d(3, 3, 3), pool, nn.Conv2d(3, 3, 3), pool)
    use_winograd(shared, ["0", "2"])
    assert type(pool) is nn.MaxPool2d
    behind = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.MaxPool2d(2))
    arrange(behind, fused=True, winograd=["0"])
    assert type(behind[2]) is FusedMaxPool2d


def test_evaluation_between_two_training_passes() -> None:
    net = arrange(network(), fused=True, winograd=["0"])
    first = run(net.train(), images())
    assert run(net.eval(), images()).shape == first.shape
    assert run(net.train(), images()).shape == first.shape


def test_a_pass_that_broke_off_between_the_two_leaves_no_trace() -> None:
    net = arrange(network(), fused=True, winograd=["0"])
    assert isinstance(net, nn.Sequential)
    run(net[0].train(), images())  # and the pooling is never reached
    assert run(net.eval(), images()).shape == (4, 6, 4, 3)


def test_maps_too_small_to_pool_are_refused_as_by_torch() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)).to(memory_format=torch.channels_last)
    use_winograd(net, ["0"])
    with pytest.raises(RuntimeError, match="[Oo]utput size"):
        run(net, torch.zeros(1, 3, 3, 3))


def test_a_network_with_poolings_learns() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(network(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(
        memory_format=torch.channels_last
    )
    arrange(net, fused=True, winograd=["0.0", "0.2"])
    x, y = images(), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(net, x).float(), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
