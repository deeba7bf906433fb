"""Layers by kernels of ours may make another form the fastest than that which won with torch's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor, nn

from convworks.ops.native import library
from convworks.training import convolution_choice, own_convolutions, planner
from convworks.training.loop import Numerics
from convworks.training.own_convolutions import Result, Stage
from convworks.training.step_timing import BF16_MARGIN, OWN_MARGIN, Candidate, Trainee
from tests.layers.fake_amx import fake_amx
from tests.training.stages import AMX, WINOGRAD, both_reasons, network, plan, reason
from tests.training.trial import batch

BF16, FP32 = Numerics("bf16", "channels_last", "cpu"), Numerics("fp32", "contiguous", "cpu")
FORMS = [Candidate(numerics, threads) for numerics in (BF16, FP32) for threads in (2, 1)]


class Still:
    """A trainee whose steps take a second by torch's layers, and what `speeds` says by ours."""

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
    step: float = 2.0,
    **wanted: str,
) -> tuple[Result, Still, dict[str, float]]:
    """What the stage chooses where a step with `threads` threads is so many times as fast as the winner's.

    The winner's takes `step` seconds.
    """
    trainee = Still()
    trainee.fusible = fusible
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: {"first": {"amx": 2.0}})
    spent: list[float] = []

    def ratio(first: Candidate, second: Candidate, *, seconds: float, margin: float) -> float:
        assert first is winner
        spent.append(seconds)
        return speeds[second.threads]

    monkeypatch.setattr(own_convolutions, "ratio", ratio)
    taken = {winner.name: step}
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
    assert (
        reason(found, AMX)
        == "yes, in 1 of 4 convolutions and 0 of 1 dense layers, 1.80x as fast as fp32 contiguous 1 threads"
    )
    assert found.overtook == (
        "bf16 with layers of our own trains 1.80x as fast as fp32 contiguous 1 threads here, "
        "which is the fastest with torch's"
    )


@pytest.mark.parametrize("winner", [Candidate(FP32, 2), Candidate(FP32, 1), Candidate(BF16, 2)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_where_steps_are_quick_each_number_of_threads_is_tried(
    amx: None, winner: Candidate, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {threads: 1.7, 3 - threads: 1.2}
    found, trainee, _ = decide(monkeypatch, winner, speeds, step=0.01)
    fused = winner.numerics == FP32 or threads == 1  # the winner's own form is taken as it won
    assert found.chosen == Candidate(BF16, threads, fused=fused, amx=("first",))
    assert {each.threads for each in trainee.looked_at[1:]} == {1, 2}
    assert len(trainee.looked_at) == 3


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
    assert (
        reason(found, AMX) == "yes, in 1 of 4 convolutions and 0 of 1 dense layers, 1.30x as fast as without"
    )
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
    monkeypatch.setattr(Trainee, "shorten", lambda *_: None)  # other work does not matter
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: {"first": {"amx": 2.0}})
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: 1.8)
    found = plan(precision="auto", threads=0)
    assert (found.precision, found.threads, found.amx) == ("bf16", 2, ("first",))
    assert found.lines()[0].startswith("bf16, channels_last, cpu (2 threads), AMX, ")
    assert found.reasons[0].startswith(
        "bf16 with layers of our own trains 1.80x as fast as fp32 channels_last 1 threads here, "
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
    assert found.reasons[1] == "fused kernels: yes, beside the layers of our own"
    assert found.reasons[0].startswith("because; ")


def with_something_fused() -> nn.Module:
    maps = nn.Unflatten(1, (3, 1, 1))
    return nn.Sequential(network(), maps, nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())


@pytest.mark.parametrize(("again", "fused"), [(1.3, True), (1.01, False)])
def test_fused_kernels_are_tried_again_beside_the_layers_of_our_own(
    amx: None, again: float, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = iter((0.86, again))
    monkeypatch.setattr(planner, "ratio", lambda *a, **k: next(pairs))
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: 1.5)
    monkeypatch.setattr(convolution_choice, "ratio", lambda *a, **k: 2.0)
    found = plan(with_something_fused())
    assert found.fused is fused
    assert found.amx or found.winograd
    yes = "yes" if fused else "no"
    assert reason(found, "fused kernels: ") == f"{yes}, {again:.2f}x as fast as torch's operators here"
    assert any(name.startswith("bf16 channels_last 1 threads, fused, ") for name in found.measured)
    assert next(pairs, None) is None


def test_they_are_not_tried_again_where_nothing_of_ours_won(
    amx: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = iter((0.86,))
    monkeypatch.setattr(planner, "ratio", lambda *a, **k: next(pairs))
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: 0.9)
    monkeypatch.setattr(convolution_choice, "ratio", lambda *a, **k: 2.0)
    found = plan(with_something_fused())
    assert not found.fused
    assert reason(found, "fused kernels: ").startswith("no, 0.86x")
