"""Which convolutions train by Winograd's algorithm: each measured on what it meets; the plan's reasons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convworks.data.loader import Batch
from convworks.durable import to_json
from convworks.errors import ConvworksError
from convworks.layers.winograd import WinogradConv2d, suitable, use_winograd
from convworks.training import planner, winograd_choice
from convworks.training.loop import Numerics, StepSettings
from convworks.training.optimizer import make_optimizer
from convworks.training.planner import Plan, make_plan, plan_from_dict
from convworks.training.step_timing import Candidate, Trainee
from convworks.training.winograd_choice import MARGIN, Met, chosen, gains, layers_alone, layers_met
from tests.ops.native.kernels import with_winograd

BF16 = Numerics("bf16", "channels_last", "cpu")


@pytest.fixture
def kernels() -> Iterator[None]:
    with with_winograd():
        yield


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
        self.last = nn.Conv2d(16, 8, 3)
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


def batch(count: int = 8) -> Batch:
    draws = torch.Generator().manual_seed(0)
    return Batch(torch.randn(count, 3, 8, 8, generator=draws), torch.arange(count) % 3, np.arange(count))


# --- what the layers meet ---------------------------------------------------------------------------------


def test_what_the_layers_meet() -> None:
    net = network()
    assert suitable(net) == ["first", "twice", "second", "like", "never", "last"]
    found = layers_met(net, batch().x, BF16)
    assert found == {
        "first": Met((8, 3, 8, 8), (16, 3, 3, 3), "(1, 1)", True, False),
        "second": Met((8, 16, 8, 8), (16, 16, 3, 3), "(1, 1)", False, True),
        "like": Met((8, 16, 8, 8), (16, 16, 3, 3), "same", False, True),
        "last": Met((8, 16, 8, 8), (8, 16, 3, 3), "(0, 0)", True, True),
    }
    net.first.requires_grad_(False)
    net.norm.requires_grad_(False)
    net.twice.requires_grad_(False)
    assert layers_met(net, batch().x, BF16)["second"].input_gradient is False


def test_looking_leaves_no_trace(kernels: None) -> None:
    net, x = network(), batch().x
    use_winograd(net, ["second"])
    state = {name: value.clone() for name, value in net.state_dict().items()}
    kinds, draws = [type(each) for each in net.modules()], torch.random.get_rng_state()
    layers_met(net, x, BF16)
    assert gains(net, x, BF16)
    layers_alone(net, ["first", "like"], x, BF16)()
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


def test_each_shape_is_measured_once(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[tuple[str, str]] = []

    def ratio(first: Callable[[], float], second: Callable[[], float], *, seconds: float) -> float:
        assert first() > 0
        assert second() > 0
        pairs.append((str(seconds), ""))
        return 1.0 + len(pairs) / 10

    monkeypatch.setattr(winograd_choice, "ratio", ratio)
    net = network()
    net.like.padding = (1, 1)
    assert gains(net, batch().x, BF16) == {"first": 1.1, "second": 1.2, "like": 1.2, "last": 1.3}
    assert len(pairs) == 3


def test_the_two_sides_of_a_measurement(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[type] = []
    real = winograd_choice._timer
    monkeypatch.setattr(
        winograd_choice, "_timer", lambda layer, *a: kinds.append(type(layer[0])) or real(layer, *a)
    )
    net = network()
    use_winograd(net, ["last"])  # whatever it was before
    gains(net, batch().x, BF16)
    assert kinds == [nn.Conv2d, WinogradConv2d] * 4


def test_nothing_is_measured_where_it_cannot_be_used(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = batch().x
    assert gains(network(), x, Numerics("fp32", "channels_last", "cpu")) == {}
    assert gains(network(), x, replace(BF16, device="cuda")) == {}
    assert gains(nn.Sequential(nn.Conv2d(3, 4, 5)), x, BF16) == {}
    monkeypatch.setattr(winograd_choice, "available", lambda: False)
    assert gains(network(), x, BF16) == {}


def test_a_layer_must_win_by_the_margin() -> None:
    found = {"b": MARGIN, "a": MARGIN - 0.01, "d": 0.5, "c": 3.0}
    assert chosen(found) == ("b", "c")
    assert chosen({}) == ()


def test_the_time_of_layers_alone(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []

    def timer(layer: nn.Sequential, x: Tensor, numerics: Numerics) -> Callable[[], float]:
        assert type(layer[0]) is WinogradConv2d
        made.append(tuple(layer[0].weight.shape))
        return lambda: 10.0 ** len(made)

    net = network()
    net.like.padding = (1, 1)
    assert layers_alone(net, ["first", "like"], batch().x, BF16)() > 0
    monkeypatch.setattr(winograd_choice, "_timer", timer)
    alone = layers_alone(net, ["first", "second", "like"], batch().x, BF16)
    assert made == [(16, 3, 3, 3), (16, 16, 3, 3)]
    assert alone() == 300.0  # each layer counts, also those of a shape that was there
    assert layers_alone(net, [], batch().x, BF16)() == 0


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


# --- the plan ---------------------------------------------------------------------------------------------


def plan(net: nn.Module | None = None, kernels: Callable[[bool], str] = lambda _: "", **wanted: Any) -> Plan:
    settings: dict[str, Any] = {"precision": "bf16", "memory_format": "channels_last", "threads": 1}
    return make_plan(
        network() if net is None else net,
        batch(),
        make_optimizer=lambda trainee: make_optimizer("sgd", trainee, lr=0.1),
        settings=StepSettings(seed=0, lr=0.1),
        device="cpu",
        batch_path="RAM",
        allocator="test",
        steps=10,
        kernels=kernels,
        **{**settings, **wanted},
    )


def reason(found: Plan) -> str:
    (line,) = (line for line in found.reasons if line.startswith("Winograd's algorithm: "))
    return line.removeprefix("Winograd's algorithm: ")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"winograd": "no"}, "no, as asked"),
        ({"precision": "fp32"}, "no, it is for bf16 and channels_last on the CPU"),
        ({"memory_format": "contiguous"}, "no, it is for bf16 and channels_last on the CPU"),
        (
            {"net": nn.Sequential(nn.Conv2d(3, 3, 5), nn.Flatten(), nn.Linear(48, 3))},
            "no, there is no 3x3 convolution of stride 1",
        ),
        ({"kernels": lambda _: "no compiler"}, "no, no compiler"),
    ],
    ids=["as asked", "fp32", "contiguous", "nothing fits", "not built"],
)
def test_why_it_is_not_tried(wanted: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "gains", lambda *a: pytest.fail("nothing is measured"))
    found = plan(**wanted)
    assert reason(found) == expected
    assert found.winograd == ()
    assert not any("Winograd" in name for name in found.measured)
    assert "Winograd" not in found.lines()[0]


def test_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "available", lambda: False)
    assert reason(plan()) == "no, this processor has no bf16 arithmetic (AVX512-BF16)"


def test_a_short_run_waits_for_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    plan(kernels=lambda compile_: asked.append(compile_) or "not built")
    assert asked == [False]
    monkeypatch.setattr(planner, "WORTH_BUILDING", 0.0)
    plan(kernels=lambda compile_: asked.append(compile_) or "not built")
    assert asked == [False, True]


@pytest.mark.parametrize("whole", [1.5, 1.0])
def test_layers_and_then_the_whole_step_must_be_faster(
    kernels: None, whole: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = {"first": 1.0, "second": 2.0, "like": 1.05, "last": 1.2}
    monkeypatch.setattr(planner, "gains", lambda *a: single)
    compared: list[float] = []

    def ratio(first: Callable[[], float], second: Callable[[], float], *, seconds: float) -> float:
        compared.extend((first(), second()))
        return whole

    monkeypatch.setattr(planner, "ratio", ratio)
    found = plan()
    assert all(seconds > 0 for seconds in compared)
    slow, fast = "bf16 channels_last 1 threads", "bf16 channels_last 1 threads, Winograd"
    assert found.measured[fast] == pytest.approx(whole * found.measured[slow], rel=0.01)
    if whole > 1:
        assert found.winograd == ("second", "last")
        assert reason(found) == "yes, in 2 of 6 3x3 convolutions, 1.50x as fast as without"
        assert found.lines()[0].startswith("bf16, channels_last, cpu (1 thread), Winograd, ")
        assert found.images_per_second == pytest.approx(found.measured[fast], rel=0.01)
    else:
        assert found.winograd == ()
        assert reason(found) == "no, 1.00x as fast as without"
        assert found.images_per_second == pytest.approx(found.measured[slow], rel=0.01)


def test_no_single_layer_is_faster(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "gains", lambda *a: {"first": 1.09, "last": 0.3})
    monkeypatch.setattr(planner, "ratio", lambda *a, **k: pytest.fail("no step is measured"))
    assert reason(plan()) == "no, none of the convolutions is faster by it here"


def test_planning_changes_no_draw(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    monkeypatch.setattr(winograd_choice, "ratio", lambda *a, **k: 2.0)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = plan(net)
    assert "in 4 of 6" in reason(found) or "as fast as without" in reason(found)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(isinstance(each, WinogradConv2d) for each in net.modules())


def test_a_plan_is_kept_and_an_old_one_is_read() -> None:
    found = replace(plan(winograd="no"), winograd=("first", "blocks.0.conv"))
    stored = json.loads(to_json(found.to_dict()))
    assert stored["winograd"] == ["first", "blocks.0.conv"]
    assert plan_from_dict(stored) == found
    del stored["winograd"]
    assert plan_from_dict(stored) == replace(found, winograd=())


@pytest.mark.parametrize("damage", ["first", 3, None, True, [1], [["first"]], {"first": 1}], ids=str)
def test_a_damaged_list_of_layers_is_refused(damage: object) -> None:
    good = plan(winograd="no").to_dict()
    with pytest.raises(ConvworksError, match="A416"):
        plan_from_dict({**good, "winograd": damage})
    with pytest.raises(ConvworksError, match="A416"):
        plan_from_dict([good])
