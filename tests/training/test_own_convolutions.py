"""Layers by kernels of ours in a plan: tried in whole steps, with the reasons in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convworks.durable import to_json
from convworks.errors import ConvworksError
from convworks.layers.own_convolution import OwnConv2d, OwnLinear
from convworks.ops.native import library
from convworks.training import convolution_choice, own_convolutions, planner
from convworks.training.loop import Numerics
from convworks.training.planner import plan_from_dict
from tests.layers.fake_amx import fake_amx
from tests.training.stages import AMX, WINOGRAD, Gains, both_reasons, network, plan, reason
from tests.training.trial import with_winograd_alone


@pytest.fixture
def kernels() -> Iterator[None]:
    with with_winograd_alone():
        yield


# --- where they are not tried -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "winograd", "amx"),
    [
        ({"winograd": "no", "amx": "no"}, "as asked", "as asked"),
        ({"precision": "fp32"}, "it is for {}", "they are for {}"),
        ({"memory_format": "contiguous"}, "it is for {}", "they are for {}"),
        (
            {"net": nn.Sequential(nn.Conv2d(3, 3, 8, groups=3), nn.Flatten())},
            "there is no 3x3 convolution of stride 1",
            "there is no layer that they fit",
        ),
        ({"kernels": lambda _: "no compiler"}, "no compiler", "no compiler"),
    ],
    ids=["as asked", "fp32", "contiguous", "nothing fits", "not built"],
)
def test_why_they_are_not_tried(
    wanted: dict[str, Any], winograd: str, amx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_amx(monkeypatch)
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: pytest.fail("nothing is measured"))
    found = plan(**wanted)
    form = "bf16 and channels_last on the CPU"
    assert both_reasons(found) == [f"no, {winograd.format(form)}", f"no, {amx.format(form)}"]
    assert found.winograd == found.amx == ()
    for text in (*found.measured, found.lines()[0]):
        assert "Winograd" not in text
        assert "AMX" not in text


def test_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "winograd_available", lambda: False)
    monkeypatch.setattr(library, "amx_available", lambda: False)
    assert both_reasons(plan()) == [
        "no, this processor has no bf16 arithmetic (AVX512-BF16)",
        "no, this processor has none, or the system does not lend them",
    ]


def test_a_short_run_waits_for_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    plan(kernels=lambda compile_: asked.append(compile_) or "not built")
    assert asked == [False], "once for both"
    monkeypatch.setattr(planner, "WORTH_BUILDING", 0.0)
    plan(kernels=lambda compile_: asked.append(compile_) or "not built")
    assert asked == [False, True]
    plan(kernels=lambda _: pytest.fail("nobody asked"), winograd="no", amx="no")


@pytest.mark.parametrize(("off", "ways"), [("winograd", ["amx"]), ("amx", ["winograd"])])
def test_one_way_is_switched_off(off: str, ways: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amx(monkeypatch)
    monkeypatch.setattr(library, "winograd_available", lambda: True)
    asked: list[list[str]] = []

    def gains(network: nn.Module, x: Tensor, numerics: Numerics, ways: list[Any]) -> Gains:
        asked.append([way.name for way in ways])
        return {}

    monkeypatch.setattr(own_convolutions, "gains", gains)
    found = plan(**{off: "no"})
    assert asked == [ways]
    assert "no, as asked" in both_reasons(found)


# --- the whole step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [1.5, 1.0])
def test_layers_and_then_the_whole_step_must_be_faster(
    kernels: None, whole: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = {name: {"winograd": gain} for name, gain in (("second", 2.0), ("third", 1.05), ("last", 1.2))}
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: single)
    compared: list[float] = []

    def ratio(
        first: Callable[[], float], second: Callable[[], float], *, seconds: float, margin: float
    ) -> float:
        compared.extend((first(), second()))
        return whole

    monkeypatch.setattr(own_convolutions, "ratio", ratio)
    found = plan()
    assert all(seconds > 0 for seconds in compared)
    slow, fast = "bf16 channels_last 1 threads", "bf16 channels_last 1 threads, Winograd"
    assert found.measured[fast] == pytest.approx(whole * found.measured[slow], rel=0.01)
    assert reason(found, AMX) == "no, this processor has none, or the system does not lend them"
    if whole > 1:
        assert found.winograd == ("second", "last")
        assert reason(found, WINOGRAD) == "yes, in 2 of 3 3x3 convolutions, 1.50x as fast as without"
        assert found.lines()[0].startswith("bf16, channels_last, cpu (1 thread), Winograd, ")
        assert found.images_per_second == pytest.approx(found.measured[fast], rel=0.01)
    else:
        assert found.winograd == ()
        assert reason(found, WINOGRAD) == "no, 1.00x as fast as without"
        assert found.images_per_second == pytest.approx(found.measured[slow], rel=0.01)


def test_both_in_one_step(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake_amx(monkeypatch)
    single: Gains = {
        "first": {"amx": 2.0},
        "second": {"winograd": 2.0, "amx": 1.1},
        "third": {"winograd": 1.2, "amx": 1.9},
        "last": {"winograd": 1.0, "amx": 1.0},
        "dense": {"amx": 1.03},
    }
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: single)
    pairs: list[tuple[int, int]] = []

    def ratio(
        first: Callable[[], float], second: Callable[[], float], *, seconds: float, margin: float
    ) -> float:
        for step in (first, second):
            called.clear()
            step()
            pairs.append((called.count("forward"), called.count("dense")))
        return 1.5

    monkeypatch.setattr(own_convolutions, "ratio", ratio)
    found = plan()
    assert pairs == [(0, 0), (2, 1)]
    assert (found.winograd, found.amx) == (("second",), ("first", "third", "dense"))
    assert both_reasons(found) == [
        "yes, in 1 of 3 3x3 convolutions, 1.50x as fast as without both",
        "yes, in 2 of 4 convolutions and 1 of 1 dense layers, 1.50x as fast as without both",
    ]
    assert "bf16 channels_last 1 threads, Winograd, AMX" in found.measured
    assert ", Winograd, AMX, " in found.lines()[0]
    assert found.reasons[0].startswith("bf16 channels_last 1 threads: as asked; 1 of ")


@pytest.mark.parametrize(
    ("layers", "gaining", "share"),
    [
        ("cd", "d", "0 of 1 convolutions and 1 of 1 dense layers"),
        ("cd", "c", "1 of 1 convolutions and 0 of 1 dense layers"),
        ("dd", "d", "1 of 2 dense layers"),
        ("cc", "c", "1 of 2 convolutions"),
    ],
)
def test_the_kinds_of_layers_are_counted(
    layers: str, gaining: str, share: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_amx(monkeypatch)
    made = [nn.Conv2d(3, 3, 5, padding=2) if kind == "c" else nn.Linear(8, 8) for kind in layers]
    net = nn.Sequential(*made, nn.Flatten()).to(memory_format=torch.channels_last)
    name = str(layers.index(gaining))
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: {name: {"amx": 2.0}})
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: 1.5)
    found = plan(net)
    assert found.amx == (name,)
    assert reason(found, AMX) == f"yes, in {share}, 1.50x as fast as without"


def test_no_single_layer_is_faster(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amx(monkeypatch)
    single = {"second": {"winograd": 1.09, "amx": 1.02}, "last": {"winograd": 0.3}}
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: single)
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: pytest.fail("no step is measured"))
    assert both_reasons(plan()) == [
        "no, none of the convolutions gains enough by it here",
        "no, none of the layers gains enough on them here",
    ]


def test_planning_changes_no_draw(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amx(monkeypatch)
    net = network()
    monkeypatch.setattr(convolution_choice, "ratio", lambda *a, **k: 2.0)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = plan(net)
    assert "in 4 of 4" in reason(found, AMX) or "as fast as without" in reason(found, AMX)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(isinstance(each, OwnConv2d | OwnLinear) for each in net.modules())


# --- kept -------------------------------------------------------------------------------------------------


def test_a_plan_is_kept_and_an_old_one_is_read() -> None:
    found = replace(plan(winograd="no", amx="no"), winograd=("first", "blocks.0.conv"), amx=("last",))
    stored = json.loads(to_json(found.to_dict()))
    assert stored["winograd"] == ["first", "blocks.0.conv"]
    assert stored["amx"] == ["last"]
    assert plan_from_dict(stored) == found
    del stored["winograd"]
    assert plan_from_dict(stored) == replace(found, winograd=())
    del stored["amx"]
    assert plan_from_dict(stored) == replace(found, winograd=(), amx=())


@pytest.mark.parametrize("key", ["winograd", "amx"])
@pytest.mark.parametrize("damage", ["first", 3, None, True, [1], [["first"]], {"first": 1}], ids=str)
def test_a_damaged_list_of_layers_is_refused(damage: object, key: str) -> None:
    good = plan(winograd="no", amx="no").to_dict()
    with pytest.raises(ConvworksError, match="A416"):
        plan_from_dict({**good, key: damage})
    with pytest.raises(ConvworksError, match="A416"):
        plan_from_dict([good])
