"""Convolutions that train by Winograd's algorithm: the class changes, nothing else, and only in training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convworks.layers.winograd import WinogradConv2d, padding_of, suitable, use_winograd, without_winograd
from convworks.ops import fast_winograd
from convworks.ops.native import convolutions
from tests.layers.trial import images, run
from tests.ops.native.kernels import with_winograd


@pytest.fixture
def kernels() -> Iterator[None]:
    with with_winograd():
        yield


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1),
        nn.Tanh(),
        nn.Sequential(nn.Conv2d(20, 17, 3, padding="same", bias=False), nn.Tanh()),
        nn.Conv2d(17, 8, 3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).to(memory_format=torch.channels_last)


def alike(a: Tensor, b: Tensor, limit: float = 0.05) -> bool:
    return bool((a.float() - b.float()).norm() < limit * b.float().norm())


# --- which layers, and the change of class ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "padding"),
    [
        (nn.Conv2d(4, 6, 3), 0),
        (nn.Conv2d(4, 6, 3, padding=1, bias=False), 1),
        (nn.Conv2d(4, 6, (3, 3), padding=(2, 2)), 2),
        (nn.Conv2d(4, 6, 3, padding="same"), 1),
        (nn.Conv2d(4, 6, 3, padding="valid"), 0),
        (nn.Conv2d(4, 6, 3, padding=3), None),
        (nn.Conv2d(4, 6, 3, padding=(1, 0)), None),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), None),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), None),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), None),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2), None),
        (nn.Conv2d(4, 6, 3, stride=2), None),
        (nn.Conv2d(4, 6, 3, stride=(1, 2)), None),
        (nn.Conv2d(4, 6, 1), None),
        (nn.Conv2d(4, 6, 5, padding=2), None),
        (nn.Conv2d(4, 6, (3, 1)), None),
    ],
    ids=str,
)
def test_which_windows_fit(layer: nn.Conv2d, padding: int | None) -> None:
    assert padding_of(layer) == padding
    assert suitable(nn.Sequential(layer)) == ([] if padding is None else ["0"])


def test_other_classes_of_layers_are_left_alone() -> None:
    class Mine(nn.Conv2d):
        """Computes in a way of its own."""

    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    net = nn.Sequential(Mine(3, 4, 3), nn.Conv1d(3, 4, 3), nn.LazyConv2d(4, 3), parametrized)
    kinds = [type(each) for each in net]
    assert suitable(net) == []
    use_winograd(net, ["0", "1", "2", "3"])
    assert [type(each) for each in net] == kinds


def test_there_and_back() -> None:
    net = network()
    names, state = [n for n, _ in net.named_modules()], {k: v.clone() for k, v in net.state_dict().items()}
    parameters, text = [id(p) for p in net.parameters()], str(net)
    assert suitable(net) == ["0", "2.0"]
    use_winograd(net, ["2.0", "no such layer", "1", "2", ""])
    assert [type(net[0]), type(net[2][0]), type(net[1])] == [nn.Conv2d, WinogradConv2d, nn.Tanh]
    use_winograd(net, ("0", "3"))  # no others; a layer that does not fit computes as torch does, see below
    assert [type(net[0]), type(net[2][0])] == [WinogradConv2d, nn.Conv2d]
    assert suitable(net) == ["0", "2.0"]
    assert [n for n, _ in net.named_modules()] == names
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert [id(p) for p in net.parameters()] == parameters
    assert without_winograd(net) is net
    assert str(net) == text
    assert not any(isinstance(each, WinogradConv2d) for each in net.modules())
    without_winograd(net)
    plain = nn.Conv2d(3, 4, 3)
    use_winograd(plain, [""])  # a layer alone is a network, too
    assert type(plain) is WinogradConv2d
    assert type(without_winograd(plain)) is nn.Conv2d


# --- what it computes ------------------------------------------------------------------------------------


def test_training_is_by_winograd_and_nearly_the_same(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), images()
    called: list[int] = []
    real = convolutions.winograd_convolution
    monkeypatch.setattr(
        convolutions,
        "winograd_convolution",
        lambda *a, padding, **k: called.append(padding) or real(*a, padding=padding, **k),
    )
    other = copy.deepcopy(net)
    use_winograd(other, suitable(other))
    exact = copy.deepcopy(net).double()(x.double())
    y, want = run(other, x), run(net, x)
    assert called == [1, 1]
    assert y.dtype == want.dtype
    assert alike(y, exact)
    assert not torch.equal(y, want)
    y.sum().backward()
    want.sum().backward()
    assert called == [1, 1, 1], "the first layer's images need no gradient"
    for (name, a), (_, b) in zip(other.named_parameters(), net.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.dtype == torch.float32
        assert alike(a.grad, b.grad, 0.1), name


@pytest.mark.parametrize("case", ["eval", "no autocast", "half", "no kernels", "no images"])
def test_everything_else_is_as_torch_does_it_to_the_bit(
    kernels: None, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network(), images()[: 0 if case == "no images" else 4]
    other = copy.deepcopy(net)
    use_winograd(other, suitable(other))
    if case == "eval":
        net.eval(), other.eval()
    if case == "no kernels":
        monkeypatch.setattr(fast_winograd, "available", lambda: False)
    dtype = torch.float16 if case == "half" else torch.bfloat16
    with torch.autocast("cpu", dtype=dtype, enabled=case != "no autocast"):
        assert torch.equal(net(x), other(x))


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation": 2},
        {"stride": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 3},
    ],
    ids=str,
)
def test_a_window_that_does_not_fit_is_computed_by_torch(kernels: None, options: dict[str, Any]) -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, **options))
    other = copy.deepcopy(net)
    use_winograd(other, ["0"])
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(run(net, x), run(other, x))


def test_copies_and_weights_of_others(kernels: None) -> None:
    net = network()
    use_winograd(net, suitable(net))
    twin = copy.deepcopy(net)
    assert [type(each) for each in twin.modules()] == [type(each) for each in net.modules()]
    x = images()
    assert torch.equal(run(net, x), run(twin, x))
    run(twin, x).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    without_winograd(twin)
    assert suitable(net) == ["0", "2.0"]
    assert type(net[0]) is WinogradConv2d
    fresh = network()
    fresh[0].weight.data.zero_()
    fresh.load_state_dict(net.state_dict())
    net.load_state_dict(fresh.state_dict())
    assert torch.equal(run(twin.eval(), x), run(net.eval(), x))


def test_hooks_see_what_they_saw(kernels: None) -> None:
    net, x = network(), images()
    seen: list[tuple[str, tuple[int, ...]]] = []
    layer = net[2][0]
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(("before", tuple(inputs[0].shape))))
    layer.register_forward_hook(lambda _, inputs, y: seen.append(("after", tuple(y.shape))))
    layer.register_full_backward_hook(lambda _, dx, dy: seen.append(("back", tuple(dx[0].shape))))
    use_winograd(net, suitable(net))
    run(net, x).sum().backward()
    assert seen == [("before", (4, 20, 10, 9)), ("after", (4, 17, 10, 9)), ("back", (4, 20, 10, 9))]
    doubled = layer.register_forward_hook(lambda _, inputs, y: 2 * y)
    assert not alike(run(net, x), run(copy.deepcopy(net), x) * 0)
    doubled.remove()


def test_a_layer_in_two_places(kernels: None) -> None:
    shared = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), shared, nn.ReLU(), shared)
    assert suitable(net) == ["1"]
    other = copy.deepcopy(net)
    use_winograd(other, ["1"])
    assert other[1] is other[3]
    x = images()
    y, want = run(other, x), run(net, x)
    assert alike(y, want)
    y.sum().backward(), want.sum().backward()
    assert other[1].weight.grad is not None
    assert shared.weight.grad is not None
    assert alike(other[1].weight.grad, shared.weight.grad, 0.1)


def test_a_network_learns(kernels: None) -> None:
    net = network()
    use_winograd(net, suitable(net))
    labels = torch.arange(4) % 3
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(net, images()).float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 < losses[0]
