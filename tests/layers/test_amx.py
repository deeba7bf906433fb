"""Convolutions that train on matrix units: the class changes, nothing else, and only in training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from convworks.layers.amx import AmxConv2d, AmxLinear, suitable_amx, use_amx, window_of, without_amx
from convworks.layers.winograd import WinogradConv2d, suitable, use_winograd, without_winograd
from convworks.ops.native import library
from tests.layers.fake_amx import fake_amx
from tests.layers.trial import alike, images, run
from tests.ops.native.kernels import with_amx


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return fake_amx(monkeypatch)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 20, 5, padding=2),
        nn.Tanh(),
        nn.Sequential(nn.Conv2d(20, 17, 3, padding="same", bias=False), nn.Tanh()),
        nn.Conv2d(17, 8, 3, stride=2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).to(memory_format=torch.channels_last)


NAMES = ["0", "2.0", "3", "7"]


# --- which layers, and the change of class ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "window"),
    [
        (nn.Conv2d(4, 6, 3), (1, 0)),
        (nn.Conv2d(4, 6, 3, padding=2, bias=False), (1, 2)),
        (nn.Conv2d(4, 6, 3, padding=3), None),
        (nn.Conv2d(4, 6, 1), (1, 0)),
        (nn.Conv2d(4, 6, 1, padding=1), None),
        (nn.Conv2d(4, 6, 5, padding="same"), (1, 2)),
        (nn.Conv2d(4, 6, 5, padding="valid", stride=2), (2, 0)),
        (nn.Conv2d(4, 6, 4, padding="same"), None),
        (nn.Conv2d(4, 6, (3, 5), padding="same"), None),
        (nn.Conv2d(4, 6, (3, 5), padding=1), (1, 1)),
        (nn.Conv2d(4, 6, (1, 3), padding=1), None),
        (nn.Conv2d(4, 6, 11, stride=4, padding=2), (4, 2)),
        (nn.Conv2d(4, 6, 16, stride=8, padding=15), (8, 15)),
        (nn.Conv2d(4, 6, 17), None),
        (nn.Conv2d(4, 6, 3, stride=9), None),
        (nn.Conv2d(4, 6, 3, stride=(1, 2)), None),
        (nn.Conv2d(4, 6, 3, padding=(1, 0)), None),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), None),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), None),  # hardly any channels in a group
        (nn.Conv2d(16, 6, 3, padding=1, groups=2), (1, 1)),
        (nn.Conv2d(16, 6, 3, padding=1, groups=2, stride=2), None),
        (nn.Conv2d(4, 6, 3, dilation=2), None),
        (nn.Conv2d(8192, 1, 1), (1, 0)),
        (nn.Conv2d(8193, 1, 1), None),
        (nn.Conv2d(4097, 1, 1, stride=2), None),
        (nn.Conv2d(1, 8193, 1), None),
    ],
    ids=str,
)
def test_which_windows_fit(layer: nn.Conv2d, window: tuple[int, int] | None) -> None:
    assert window_of(layer) == window
    assert suitable_amx(nn.Sequential(layer)) == ([] if window is None else ["0"])


def test_other_classes_of_layers_are_left_alone() -> None:
    class Mine(nn.Conv2d):
        """Computes in a way of its own."""

    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    net = nn.Sequential(Mine(3, 4, 3), nn.Conv1d(3, 4, 3), nn.LazyConv2d(4, 3), parametrized)
    kinds = [type(each) for each in net]
    assert suitable_amx(net) == suitable(net) == []
    use_amx(net, ["0", "1", "2", "3"])
    assert [type(each) for each in net] == kinds


def test_there_and_back() -> None:
    net = network()
    names, state = [n for n, _ in net.named_modules()], {k: v.clone() for k, v in net.state_dict().items()}
    parameters, text = [id(p) for p in net.parameters()], str(net)
    assert suitable_amx(net) == NAMES
    use_amx(net, ["2.0", "no such layer", "1", "2", ""])
    assert [type(net[0]), type(net[2][0]), type(net[1])] == [nn.Conv2d, AmxConv2d, nn.Tanh]
    assert type(net[7]) is nn.Linear
    use_amx(net, ("0", "3", "7"))
    assert [type(net[0]), type(net[2][0]), type(net[3])] == [AmxConv2d, nn.Conv2d, AmxConv2d]
    assert type(net[7]) is AmxLinear
    assert suitable_amx(net) == NAMES
    assert [n for n, _ in net.named_modules()] == names
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert [id(p) for p in net.parameters()] == parameters
    assert without_amx(net) is net
    assert str(net) == text
    assert not any(isinstance(each, AmxConv2d | AmxLinear) for each in net.modules())
    plain = nn.Conv2d(3, 4, 3)
    use_amx(plain, [""])  # a layer alone is a network, too
    assert type(plain) is AmxConv2d
    assert type(without_amx(plain)) is nn.Conv2d


def test_beside_winograds() -> None:
    net = network()
    use_winograd(net, ["2.0"])
    use_amx(net, ["0", "2.0"])
    assert [type(net[0]), type(net[2][0])] == [AmxConv2d, WinogradConv2d]
    assert suitable(net) == ["2.0"]
    assert suitable_amx(net) == NAMES
    without_winograd(net)
    assert [type(net[0]), type(net[2][0])] == [AmxConv2d, nn.Conv2d]
    use_amx(net, ["2.0"])
    assert suitable(net) == ["2.0"], "whatever it trains by now"


# --- what it computes ------------------------------------------------------------------------------------


def check_that_it_trains_as_torch_does() -> None:
    """Maps and gradients are equal to bfloat16's rounding."""
    net, x = network(), images()
    other = copy.deepcopy(net)
    use_amx(other, suitable_amx(other))
    y, want = run(other, x), run(net, x)
    assert y.dtype == want.dtype
    assert alike(y, want)
    y.sum().backward()
    want.sum().backward()
    for (name, a), (_, b) in zip(other.named_parameters(), net.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.dtype == torch.float32
        assert alike(a.grad, b.grad), name


def test_training_is_on_matrix_units(called: list[str]) -> None:
    check_that_it_trains_as_torch_does()
    assert called.count("forward") == 3
    assert called.count("input") == 1, "the images need no gradient, and that of a stride is torch's"
    assert called.count("weight") == 3
    assert called.count("dense") == called.count("dense back") == 1


def test_training_by_the_kernels_themselves() -> None:
    with with_amx():
        check_that_it_trains_as_torch_does()


@pytest.mark.parametrize("case", ["eval", "no autocast", "half", "no kernels", "no images"])
def test_everything_else_is_as_torch_does_it_to_the_bit(
    called: list[str], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network(), images()[: 0 if case == "no images" else 4]
    other = copy.deepcopy(net)
    use_amx(other, suitable_amx(other))
    if case == "eval":
        net.eval(), other.eval()
    if case == "no kernels":
        monkeypatch.setattr(library, "amx_available", lambda: False)
    dtype = torch.float16 if case == "half" else torch.bfloat16
    with torch.autocast("cpu", dtype=dtype, enabled=case != "no autocast"):
        assert torch.equal(net(x), other(x))
    assert called == []


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation": 2},
        {"stride": (1, 2)},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 3},
    ],
    ids=str,
)
def test_a_window_that_does_not_fit_is_computed_by_torch(called: list[str], options: dict[str, Any]) -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, **options))
    other = copy.deepcopy(net)
    use_amx(other, ["0"])
    assert type(other[0]) is AmxConv2d
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(run(net, x), run(other, x))
    assert called == []


def test_copies_and_weights_of_others(called: list[str]) -> None:
    net = network()
    use_amx(net, suitable_amx(net))
    twin = copy.deepcopy(net)
    assert [type(each) for each in twin.modules()] == [type(each) for each in net.modules()]
    x = images()
    assert torch.equal(run(net, x), run(twin, x))
    run(twin, x).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    without_amx(twin)
    assert type(net[0]) is AmxConv2d
    fresh = network()
    fresh[0].weight.data.zero_()
    fresh.load_state_dict(net.state_dict())
    net.load_state_dict(fresh.state_dict())
    assert torch.equal(run(twin.eval(), x), run(net.eval(), x))


def test_hooks_see_what_they_saw(called: list[str]) -> None:
    net, x = network(), images()
    seen: list[tuple[str, tuple[int, ...]]] = []
    layer = net[2][0]
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(("before", tuple(inputs[0].shape))))
    layer.register_forward_hook(lambda _, inputs, y: seen.append(("after", tuple(y.shape))))
    layer.register_full_backward_hook(lambda _, dx, dy: seen.append(("back", tuple(dx[0].shape))))
    use_amx(net, suitable_amx(net))
    run(net, x).sum().backward()
    assert seen == [("before", (4, 20, 10, 9)), ("after", (4, 17, 10, 9)), ("back", (4, 20, 10, 9))]


def test_a_layer_in_two_places(called: list[str]) -> None:
    shared = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), shared, nn.ReLU(), shared)
    other = copy.deepcopy(net)
    use_amx(other, ["1"])
    assert other[1] is other[3]
    x = images()
    y, want = run(other, x), run(net, x)
    y.sum().backward(), want.sum().backward()
    assert called == ["forward"] * 2 + ["input", "weight"] * 2
    assert alike(y, want)
    assert other[1].weight.grad is not None
    assert shared.weight.grad is not None
    assert alike(other[1].weight.grad, shared.weight.grad)


def test_a_network_learns(called: list[str]) -> None:
    net = network()
    use_amx(net, suitable_amx(net))
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
