"""Convolutions by kernels of ours in a plan: tried in whole steps, with the reasons in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convworks.durable import to_json
from convworks.errors import ConvworksError
from convworks.layers.own_convolution import OwnConv2d
from convworks.ops.native import library
from convworks.training import convolution_choice, own_convolutions, planner
from convworks.training.loop import Numerics, StepSettings
from convworks.training.optimizer import make_optimizer
from convworks.training.own_convolutions import Result, Stage
from convworks.training.planner import Plan, make_plan, plan_from_dict
from convworks.training.step_timing import BF16_MARGIN, OWN_MARGIN, Candidate, Trainee
from tests.layers.fake_amx import fake_amx
from tests.training.trial import batch, with_winograd_alone

WINOGRAD, AMX = "Winograd's algorithm: ", "matrix units (AMX): "
Gains = dict[str, dict[str, float]]


@pytest.fixture
def kernels() -> Iterator[None]:
    with with_winograd_alone():
        yield


class Network(nn.Module):
    """Nothing in it is fused; three of the convolutions fit Winograd's algorithm, four the matrix units."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, padding=2)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 8, 3)
        self.drop = nn.Dropout(0.5)
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.norm(self.first(x))))
        y: Tensor = self.dense(self.drop(self.last(x)).mean((2, 3)))
        return y


def network() -> Network:
    torch.manual_seed(0)
    return Network().to(memory_format=torch.channels_last)


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


def reason(found: Plan | Result, begin: str) -> str:
    (line,) = (line for line in found.reasons if line.startswith(begin))
    return line.removeprefix(begin)


def both_reasons(found: Plan | Result) -> list[str]:
    return [reason(found, WINOGRAD), reason(found, AMX)]


# --- where they are not tried -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "winograd", "amx"),
    [
        ({"winograd": "no", "amx": "no"}, "as asked", "as asked"),
        ({"precision": "fp32"}, "it is for {}", "they are for {}"),
        ({"memory_format": "contiguous"}, "it is for {}", "they are for {}"),
        (
            {"net": nn.Sequential(nn.Conv2d(3, 3, 5, dilation=1, groups=3), nn.Flatten(), nn.Linear(48, 3))},
            "there is no 3x3 convolution of stride 1",
            "there is no convolution that they fit",
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

    def ratio(first: Callable[[], float], second: Callable[[], float], *, seconds: float) -> float:
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
    }
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: single)
    pairs: list[float] = []

    def ratio(first: Callable[[], float], second: Callable[[], float], *, seconds: float) -> float:
        for step in (first, second):
            called.clear()
            step()
            pairs.append(called.count("forward"))
        return 1.5

    monkeypatch.setattr(own_convolutions, "ratio", ratio)
    found = plan()
    assert pairs == [0, 2]
    assert (found.winograd, found.amx) == (("second",), ("first", "third"))
    assert both_reasons(found) == [
        "yes, in 1 of 3 3x3 convolutions, 1.50x as fast as without both",
        "yes, in 2 of 4 convolutions, 1.50x as fast as without both",
    ]
    assert "bf16 channels_last 1 threads, Winograd, AMX" in found.measured
    assert ", Winograd, AMX, " in found.lines()[0]
    assert found.reasons[0].startswith("bf16 channels_last 1 threads: as asked; 1 of ")


def test_no_single_layer_is_faster(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amx(monkeypatch)
    single = {"second": {"winograd": 1.09, "amx": 1.02}, "last": {"winograd": 0.3}}
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: single)
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: pytest.fail("no step is measured"))
    assert both_reasons(plan()) == [
        "no, none of the convolutions gains enough by it here",
        "no, none of the convolutions gains enough on them here",
    ]


def test_planning_changes_no_draw(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amx(monkeypatch)
    net = network()
    monkeypatch.setattr(convolution_choice, "ratio", lambda *a, **k: 2.0)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = plan(net)
    assert "in 4 of 4" in reason(found, AMX) or "as fast as without" in reason(found, AMX)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(isinstance(each, OwnConv2d) for each in net.modules())


# --- another form than the winner's -----------------------------------------------------------------------


BF16, FP32 = Numerics("bf16", "channels_last", "cpu"), Numerics("fp32", "contiguous", "cpu")
FORMS = [Candidate(numerics, threads) for numerics in (BF16, FP32) for threads in (2, 1)]


class Still:
    """A trainee whose steps take a second by torch's convolutions, and what `speeds` says by ours."""

    fusible = True

    def __init__(self) -> None:
        self.looked_at: list[Candidate] = []
        self.net = network()

    def of_layers(self, candidate: Candidate) -> tuple[nn.Module, Tensor]:
        self.looked_at.append(candidate)
        return self.net, batch().x

    def timer(self, candidate: Candidate) -> Candidate:
        return candidate


def decide(
    monkeypatch: pytest.MonkeyPatch,
    winner: Candidate,
    speeds: Mapping[int, float],
    *,
    tried: list[Candidate] = FORMS,
    fusible: bool = True,
    missing: str = "",
    **wanted: str,
) -> tuple[Result, Still, dict[str, float]]:
    """What the stage chooses where a step with `threads` threads is so many times as fast as the winner's."""
    trainee = Still()
    trainee.fusible = fusible
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: {"first": {"amx": 2.0}})
    spent: list[float] = []

    def ratio(first: Candidate, second: Candidate, *, seconds: float) -> float:
        assert first is winner
        spent.append(seconds)
        return speeds[second.threads]

    monkeypatch.setattr(own_convolutions, "ratio", ratio)
    taken = {winner.name: 2.0}
    stage = Stage(
        winner=winner,
        tried=tried,
        trainee=trainee,  # type: ignore[arg-type]
        ready=lambda: missing,
        wanted={"winograd": "auto", "amx": "auto", **wanted},
        seconds=1.0,
    )
    found = stage.run(taken)
    assert sum(spent) <= 1.0, "as long as one comparison took"
    return found, trainee, taken


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amx(monkeypatch)
    monkeypatch.setattr(library, "winograd_available", lambda: False)


def test_bf16_on_all_threads_overtakes_fp32(amx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = Candidate(FP32, 1, fused=False)
    found, trainee, taken = decide(monkeypatch, winner, {2: 1.8})
    assert found.chosen == Candidate(BF16, 2, fused=True, amx=("first",))
    assert trainee.looked_at[1:] == [Candidate(BF16, 2, fused=True)]
    assert taken["bf16 channels_last 2 threads, fused, AMX"] == pytest.approx(2.0 / 1.8)
    assert reason(found, AMX) == "yes, in 1 of 4 convolutions, 1.80x as fast as fp32 contiguous 1 threads"
    assert found.overtook == (
        "bf16 with convolutions of our own trains 1.80x as fast as fp32 contiguous 1 threads here, "
        "which is the fastest with torch's"
    )


@pytest.mark.parametrize(
    ("winner", "gain", "wins"),
    [
        (Candidate(FP32, 1), BF16_MARGIN, True),
        (Candidate(FP32, 1), BF16_MARGIN - 0.01, False),  # bf16's numbers are coarser
        (Candidate(BF16, 1), OWN_MARGIN, True),
        (Candidate(BF16, 1), OWN_MARGIN - 0.01, False),
    ],
)
def test_it_must_win_by_a_margin(
    amx: None, winner: Candidate, gain: float, wins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, _ = decide(monkeypatch, winner, {2: gain, 1: 0.5})
    assert (found.chosen.threads == 2) is wins
    assert bool(found.overtook) is wins
    if not wins:
        assert found.chosen is winner
        assert reason(found, AMX) == f"no, {gain:.2f}x as fast as {winner.name}"


def test_the_winner_itself_takes_part(amx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = Candidate(BF16, 1, fused=True)
    found, trainee, taken = decide(monkeypatch, winner, {2: 1.2, 1: 1.3})
    assert trainee.looked_at[1:] == [winner, Candidate(BF16, 2, fused=True)]
    assert found.chosen == replace(winner, amx=("first",))
    assert reason(found, AMX) == "yes, in 1 of 4 convolutions, 1.30x as fast as without"
    assert found.overtook == ""
    assert len(taken) == 3
    found, trainee, _ = decide(monkeypatch, Candidate(BF16, 2), {2: 1.2})
    assert trainee.looked_at[1:] == [Candidate(BF16, 2)], "not fused: that has lost already"


def test_nothing_is_fused_that_cannot_be(amx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = decide(monkeypatch, Candidate(FP32, 2), {2: 2.0}, fusible=False)
    assert found.chosen == Candidate(BF16, 2, amx=("first",))


@pytest.mark.parametrize(
    "change",
    [
        {"amx": "no"},
        {"missing": "no compiler"},
        {"tried": FORMS[2:]},  # the user asked for fp32
        {"tried": [Candidate(replace(BF16, memory_format="contiguous"), 2)]},
    ],
    ids=["as asked", "no kernels", "fp32 asked for", "contiguous asked for"],
)
def test_no_other_form_is_tried(amx: None, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    winner = Candidate(FP32, 1)
    found, trainee, taken = decide(monkeypatch, winner, {}, **change)
    assert found.chosen is winner
    assert len(trainee.looked_at) == len(taken) == 1
    assert reason(found, WINOGRAD).startswith("no, ")


def test_none_without_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "amx_available", lambda: False)
    monkeypatch.setattr(library, "winograd_available", lambda: True)
    found, trainee, _ = decide(monkeypatch, Candidate(FP32, 1), {})
    assert found.chosen == Candidate(FP32, 1)
    assert len(trainee.looked_at) == 1
    assert both_reasons(found) == [
        "no, it is for bf16 and channels_last on the CPU",
        "no, this processor has none, or the system does not lend them",
    ]


def test_a_plan_says_why_its_form_overtook(amx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_ours(tried: list[Candidate], trainee: Trainee, steps: int) -> Any:
        winner = next(each for each in tried if each.numerics.precision == "fp32" and each.threads == 1)
        return winner, "fp32: bf16 reaches only 0.90x of its speed here", {winner.name: 1.0}, 0.3

    monkeypatch.setattr(planner, "_try_forms", only_ours)
    monkeypatch.setattr(planner, "usable_cpus", lambda: 2)
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: {"first": {"amx": 2.0}})
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: 1.8)
    found = plan(precision="auto", threads=0)
    assert (found.precision, found.threads, found.amx) == ("bf16", 2, ("first",))
    assert found.lines()[0].startswith("bf16, channels_last, cpu (2 threads), AMX, ")
    assert found.reasons[0].startswith(
        "bf16 with convolutions of our own trains 1.80x as fast as fp32 channels_last 1 threads here, "
        "which is the fastest with torch's"
    )
    assert found.reasons[0].endswith("; 2 of 2 processors")
    assert found.reasons[1] == "fused kernels: no, nothing in this network is fused"
    assert found.images_per_second == pytest.approx(8 * 1.8)


def test_a_plan_says_that_the_form_that_overtook_is_fused(amx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Result(
        chosen=Candidate(BF16, 1, fused=True, amx=("first",)), reasons=("a", "b"), overtook="because"
    )
    fp32 = "fused kernels: no, 0.98x as fast as torch's operators here"
    monkeypatch.setattr(planner, "_try_fused", lambda chosen, *_: (chosen, fp32))
    monkeypatch.setattr(Stage, "run", lambda self, taken: taken.update({stage.chosen.name: 1.0}) or stage)
    found = plan(precision="fp32")
    assert found.fused
    assert found.reasons[1] == "fused kernels: yes, beside the convolutions"
    assert found.reasons[0].startswith("because; ")


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
