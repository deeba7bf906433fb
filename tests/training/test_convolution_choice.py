"""Which layers train by kernels of ours: each is measured on what it meets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from convworks.layers.amx import AmxConv2d, AmxLinear, suitable_amx
from convworks.layers.arrangement import arrange
from convworks.layers.winograd import WinogradConv2d, suitable
from convworks.ops.native import library
from convworks.training import convolution_choice
from convworks.training.convolution_choice import (
    AMX,
    WINOGRAD,
    Choice,
    Met,
    chosen,
    convolutions_of,
    gains,
    layers_alone,
    layers_met,
)
from convworks.training.loop import Numerics, StepSettings
from convworks.training.optimizer import make_optimizer
from convworks.training.step_timing import Candidate, Trainee
from tests.layers.fake_amx import fake_amx
from tests.training.trial import batch, with_winograd_alone

BF16 = Numerics("bf16", "channels_last", "cpu")


@pytest.fixture
def kernels() -> Iterator[None]:
    with with_winograd_alone():
        yield


@pytest.fixture
def both(kernels: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Winograd's, and matrix units that are torch; returns what is computed by them."""
    return fake_amx(monkeypatch)


class Network(nn.Module):
    """Convolutions that are called once, twice and never; batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.like = nn.Conv2d(16, 16, 3, padding="same", bias=False)
        self.never = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 8, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = self.like(self.second(self.twice(self.twice(x))))
        y: Tensor = self.dense(self.drop(self.last(x)).mean((2, 3)))
        return y


def network() -> Network:
    torch.manual_seed(0)
    return Network().to(memory_format=torch.channels_last)


# --- what the layers meet ---------------------------------------------------------------------------------


def test_what_the_layers_meet() -> None:
    net = network()
    assert suitable(net) == ["first", "twice", "second", "like", "never"]
    assert suitable_amx(net) == ["first", "twice", "second", "like", "never", "last", "dense"]
    found = layers_met(net, batch().x, BF16)
    assert found == {
        "first": Met((8, 3, 8, 8), (16, 3, 3, 3), (1, 1), "(1, 1)", True, False),
        "second": Met((8, 16, 8, 8), (16, 16, 3, 3), (1, 1), "(1, 1)", False, True),
        "like": Met((8, 16, 8, 8), (16, 16, 3, 3), (1, 1), "same", False, True),
        "last": Met((8, 16, 8, 8), (8, 16, 3, 3), (2, 2), "(0, 0)", True, True),
        "dense": Met((8, 8), (3, 8), (), "", True, True),
    }
    net.first.requires_grad_(False)
    net.norm.requires_grad_(False)
    net.twice.requires_grad_(False)
    assert layers_met(net, batch().x, BF16)["second"].input_gradient is False


def test_looking_leaves_no_trace(both: list[str]) -> None:
    net, x = network(), batch().x
    arrange(net, fused=False, winograd=["second"], amx=["last"])
    state = {name: value.clone() for name, value in net.state_dict().items()}
    kinds, draws = [type(each) for each in net.modules()], torch.random.get_rng_state()
    layers_met(net, x, BF16)
    assert gains(net, x, BF16)
    layers_alone(net, Choice(("first",), ("like", "last", "dense")), x, BF16)()
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [type(each) for each in net.modules()] == kinds
    assert all(p.grad is None for p in net.parameters())
    assert not any(each._forward_pre_hooks for each in net.modules())


def test_a_pass_that_fails_leaves_none_either() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.named_buffers()}
    with pytest.raises(RuntimeError):
        layers_met(net, batch().x[:, :, :2, :2], BF16)
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert not any(each._forward_pre_hooks for each in net.modules())


# --- gains, and which are enough --------------------------------------------------------------------------


def test_each_shape_is_measured_once_for_each_way(both: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[float] = []

    def ratio(
        first: Callable[[], float], second: Callable[[], float], *, seconds: float, margin: float
    ) -> float:
        assert first() > 0
        assert second() > 0
        pairs.append(seconds)
        return 1.0 + len(pairs) / 10

    monkeypatch.setattr(convolution_choice, "ratio", ratio)
    net = network()
    net.like.padding = (1, 1)
    assert gains(net, batch().x, BF16) == {
        "first": {"winograd": 1.1, "amx": 1.2},
        "second": {"winograd": 1.3, "amx": 1.4},
        "like": {"winograd": 1.3, "amx": 1.4},
        "last": {"amx": 1.5},
        "dense": {"amx": 1.6},
    }
    assert len(pairs) == 6
    assert gains(net, batch().x, BF16, [WINOGRAD]).keys() == {"first", "second", "like"}
    assert gains(net, batch().x, BF16, [AMX])["first"].keys() == {"amx"}
    assert len(pairs) == 12


def test_the_two_sides_of_a_measurement(both: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[type] = []
    real = convolution_choice._timer
    monkeypatch.setattr(
        convolution_choice, "_timer", lambda layer, *a: kinds.append(type(layer[0])) or real(layer, *a)
    )
    net = network()
    arrange(net, fused=False, winograd=["first"], amx=["last"])  # whatever it was before
    gains(net, batch().x, BF16)
    assert kinds == [
        *[nn.Conv2d, WinogradConv2d, nn.Conv2d, AmxConv2d] * 3,
        *[nn.Conv2d, AmxConv2d, nn.Linear, AmxLinear],
    ]
    assert {"forward", "input", "weight", "dense", "dense back"} == set(both)


def test_nothing_is_measured_where_it_cannot_be_used(
    both: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = batch().x
    assert gains(network(), x, Numerics("fp32", "channels_last", "cpu")) == {}
    assert gains(network(), x, replace(BF16, device="cuda")) == {}
    assert gains(nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2)), x, BF16) == {}
    assert gains(network(), x, BF16, []) == {}
    monkeypatch.setattr(library, "winograd_available", lambda: False)
    assert gains(network(), x, BF16)["first"].keys() == {"amx"}
    monkeypatch.setattr(library, "amx_available", lambda: False)
    assert gains(network(), x, BF16) == {}


@pytest.mark.parametrize(
    ("winograd", "amx", "way"),
    [
        (None, 1.03, "amx"),
        (None, 1.02, ""),
        (1.1, None, "winograd"),
        (1.09, None, ""),
        (1.09, 1.02, ""),
        (1.1, 1.02, "winograd"),
        (1.2, 1.1, "amx"),  # as exact as torch's: Winograd's must win by its margin
        (1.1 * 1.5, 1.5, "winograd"),
        (1.6, 1.5, "amx"),
        (1.05, 3.0, "amx"),
        (0.5, 0.5, ""),
    ],
)
def test_a_layer_must_win_by_its_ways_margin(winograd: float | None, amx: float | None, way: str) -> None:
    found = {name: gain for name, gain in (("winograd", winograd), ("amx", amx)) if gain is not None}
    names = {"winograd": (), "amx": (), **({way: ("a",)} if way else {})}
    assert chosen({"a": found})._asdict() == names


def test_layers_are_chosen_in_the_order_of_the_network() -> None:
    found = {"b": {"winograd": 2.0}, "d": {"winograd": 0.5}, "c": {"amx": 2.0}, "a": {"winograd": 3.0}}
    assert chosen(found) == Choice(("b", "a"), ("c",))
    assert chosen({}) == Choice()


def test_the_time_of_layers_alone(both: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[type, int]] = []

    def timer(layer: nn.Sequential, x: Tensor, numerics: Numerics) -> Callable[[], float]:
        made.append((type(layer[0]), layer[0].weight.shape[1]))
        seconds = 10.0 ** len(made)
        return lambda: seconds

    net = network()
    net.like.padding = (1, 1)
    assert layers_alone(net, Choice(("first", "like"), ("last",)), batch().x, BF16)() > 0
    assert both
    monkeypatch.setattr(convolution_choice, "_timer", timer)
    alone = layers_alone(net, Choice(("first", "second", "like")), batch().x, BF16)
    assert made == [(WinogradConv2d, 3), (WinogradConv2d, 16)]
    assert alone() == 210.0  # each layer counts, also those of a shape that was there
    made.clear()
    assert layers_alone(net, Choice(("second",), ("like", "last")), batch().x, BF16)() == 1110.0
    assert made == [(WinogradConv2d, 16), (AmxConv2d, 16), (AmxConv2d, 16)]
    made.clear()
    assert layers_alone(net, Choice((), ("dense",)), batch().x, BF16)() == 10.0
    assert made == [(AmxLinear, 8)]
    assert layers_alone(net, Choice(), batch().x, BF16)() == 0


def test_names_of_convolutions_among_others() -> None:
    net = network()
    assert convolutions_of(net, ("last", "dense", "no such layer", "norm", "first")) == ("last", "first")
    arrange(net, fused=False, winograd=["first"], amx=["last", "dense"])
    assert convolutions_of(net, ("last", "dense", "first")) == ("last", "first"), "whatever they train by"
    assert convolutions_of(net, ()) == ()


@pytest.mark.parametrize("shape", [(6, 10), (6, 5, 10), (6, 4, 3, 10), (10,)], ids=str)
def test_a_dense_layer_meets_vectors_in_any_order(shape: tuple[int, ...], both: list[str]) -> None:
    net = nn.Sequential(nn.Linear(10, 3))
    x = torch.zeros(shape)
    met = Met(shape, (3, 10), (), "", True, False)
    assert layers_met(net, x, BF16) == {"0": met}
    assert gains(net, x, BF16).keys() == {"0"}
    assert set(both) == {"dense", "dense back"}


def test_layers_meet_a_part_where_gradients_accumulate() -> None:
    trainee = Trainee(
        network(),
        lambda trained: make_optimizer("sgd", trained, lr=0.1),
        batch(12),
        StepSettings(seed=0, lr=0.1, accumulate=3),
    )
    net, x = trainee.of_layers(Candidate(BF16, 1))
    assert trainee.passes == 3
    assert tuple(x.shape) == (4, 3, 8, 8)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert layers_met(net, x, BF16)["last"].maps == (4, 16, 8, 8)
    assert suitable(net) == suitable(network())
