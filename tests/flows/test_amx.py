"""Matrix units in a run: kept in the plan, exact after a resume, said where they are lost. Fake kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from convworks.bundle import load_bundle
from convworks.durable import read_json
from convworks.flows import plan as module
from convworks.flows import plan_report
from convworks.flows.events import Finished, Stopped, Will
from convworks.flows.plan import differences_of, plan_training, with_kernels
from convworks.flows.plan_report import shares_of
from convworks.flows.prepare import build_network, prepare_data
from convworks.layers.amx import AmxConv2d, AmxLinear
from convworks.recipes.resolve import from_dict, resolve
from convworks.runs import Run
from convworks.training import own_convolutions, planner
from convworks.training.convolution_choice import AMX, Choice
from convworks.training.planner import Plan, plan_from_dict
from tests.flows.helpers import fingerprint, request, resume_all, train_all, train_until, write_images
from tests.layers.fake_amx import fake_amx

pytestmark = pytest.mark.usefixtures("no_pages")

BF16 = {"model": "lenet5_modern", "size": 32, "precision": "bf16", "memory_format": "channels_last"}
LOST = "the matrix units (AMX) of the plan cannot be used here"


class Kernels:
    """Whether they are loaded, and what was computed by them."""

    def __init__(self) -> None:
        self.loaded = False
        self.called: list[str] = []

    def open(self, _: Path, *, compile_: bool) -> str:
        self.loaded = True
        return ""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Matrix units always win where they can be used, and nothing else does."""
    kernels = Kernels()
    kernels.called = fake_amx(monkeypatch, lambda: kernels.loaded)
    monkeypatch.setattr(module, "open_kernels", kernels.open)
    monkeypatch.setattr(
        own_convolutions, "gains", lambda network, *_: {name: {"amx": 2.0} for name in AMX.suitable(network)}
    )
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: 1.5)
    monkeypatch.setattr(planner, "_try_fused", lambda chosen, *_: (chosen, "fused kernels: not asked"))
    monkeypatch.setattr(planner, "_with_fused", lambda chosen, *_: (chosen, "fused kernels: not asked"))
    return kernels


def stored_plan(work: Path) -> Plan:
    return plan_from_dict(read_json(work / "runs" / "run" / "plan.json"))


def prepared_of(work: Path, data: Path, **changes: Any) -> tuple[Any, Any, nn.Module]:
    asked = request(work, data, **{**BF16, **changes})
    recipe = asked.resolved.recipe
    prepared = prepare_data(asked.data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    return prepared, recipe, build_network(recipe, 3, prepared.dataset.geometry)


def test_a_run_stops_anywhere_and_ends_in_the_same_bits(data: Path, always: Kernels, tmp_path: Path) -> None:
    train_all(tmp_path / "whole", data, **BF16)
    plan = stored_plan(tmp_path / "whole")
    assert len(plan.amx) >= 2
    assert plan.winograd == ()
    assert ", AMX, " in plan.lines()[0]
    assert {"forward", "input", "weight", "dense", "dense back"} == set(always.called)
    whole = fingerprint(tmp_path / "whole")
    kept = load_bundle(tmp_path / "whole" / "runs" / "run" / "model").network
    assert not any(isinstance(each, AmxConv2d | AmxLinear) for each in kept.modules())
    work = tmp_path / "stopped"
    assert isinstance(train_until(work, data, 5, **BF16)[-1], Stopped)
    assert stored_plan(work).amx == plan.amx
    always.loaded = False  # as in another process
    always.called.clear()
    events = resume_all(work)
    assert next(each for each in events if isinstance(each, Will)).exact == "exact"
    assert isinstance(events[-1], Finished)
    assert "weight" in always.called
    assert fingerprint(work) == whole


def test_switched_off_also_on_the_way(data: Path, always: Kernels, tmp_path: Path) -> None:
    train_all(tmp_path / "off", data, **BF16, amx="no")
    assert stored_plan(tmp_path / "off").amx == ()
    assert "matrix units (AMX): no, as asked" in stored_plan(tmp_path / "off").reasons
    assert always.called == []
    train_until(tmp_path / "on", data, 5, **BF16)
    assert stored_plan(tmp_path / "on").amx
    before = from_dict(Run(tmp_path / "on" / "runs" / "run").record()["recipe"])
    changes = resolve(base=before, base_name="run", assignments=("amx=no",))
    always.called.clear()
    events = resume_all(tmp_path / "on", changes=changes, override=True)
    assert isinstance(events[-1], Finished)
    assert stored_plan(tmp_path / "on").amx == ()
    assert always.called == []


def test_a_resume_without_them_says_so(
    data: Path, always: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(tmp_path, data, 5, **BF16)
    plan = stored_plan(tmp_path)
    assert differences_of(plan) == []
    always.loaded = False
    assert differences_of(plan) == [LOST]
    assert differences_of(replace(plan, amx=())) == []
    monkeypatch.setenv("CONVWORKS_NATIVE", "0")
    always.called.clear()
    events = resume_all(tmp_path)
    assert next(each for each in events if isinstance(each, Will)).exact == f"approximate: {LOST}"
    assert isinstance(events[-1], Finished)
    assert always.called == []


def test_a_remembered_plan_brings_its_kernels(data: Path, always: Kernels, tmp_path: Path) -> None:
    prepared, recipe, network = prepared_of(tmp_path, data)
    first = plan_training(prepared, recipe, network, cache=tmp_path)
    assert first.amx
    always.loaded = False
    assert plan_training(prepared, recipe, network, cache=tmp_path) == first
    assert always.loaded
    always.loaded = False
    assert with_kernels(replace(first, amx=()), cache=tmp_path)
    assert not always.loaded
    assert plan_training(prepared, replace(recipe, amx="no"), network, cache=tmp_path).amx == ()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_shares_of_a_step(
    accumulate: int, data: Path, always: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions, no dense layers, are those of the plan, each once; the ceiling is torch's own."""
    monkeypatch.setattr(plan_report, "SECONDS", 0.01)
    prepared, recipe, network = prepared_of(tmp_path, data, accumulate=accumulate, model="resnet20_cifar")
    plan = plan_training(prepared, recipe, network, cache=tmp_path)
    assert plan.amx == tuple(AMX.suitable(network))
    found: list[tuple[bool, int]] = []
    real = plan_report.convolutions_alone

    def watch(step: Any, **how: Any) -> Any:
        always.called.clear()
        alone = real(step, **how)
        found.append((alone is None, len(always.called)))
        return alone

    monkeypatch.setattr(plan_report, "convolutions_alone", watch)
    made: list[tuple[Choice, int]] = []

    def counted(network: nn.Module, chosen: Choice, x: Any, numerics: Any) -> Any:
        made.append((chosen, len(x)))
        return lambda: 100.0

    monkeypatch.setattr(plan_report, "layers_alone", counted)
    shares, _ = shares_of(prepared, recipe, network, plan)
    (nothing, by_units), (all_ours, ours) = found
    assert not nothing
    assert by_units == 0, "the ceiling is torch's own"
    assert all_ours, "nothing of torch's is left, the gradients of strided ones counted with the layers"
    assert ours >= 2 * accumulate * len(plan.amx)
    *convolutions, dense = plan.amx
    assert isinstance(network.get_submodule(dense), nn.Linear)
    assert made == [(Choice((), tuple(convolutions)), -(-16 // accumulate))]
    assert shares.convolution == 100 * accumulate
    assert shares.ceiling is not None
    assert 0 < shares.ceiling < 10


def test_a_network_without_convolutions(
    data: Path, always: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dense layers are in the plan and not among the convolutions of the report."""
    monkeypatch.setattr(plan_report, "SECONDS", 0.01)
    prepared, recipe, network = prepared_of(tmp_path, data, model="mlp128")
    plan = plan_training(prepared, recipe, network, cache=tmp_path)
    assert plan.amx == tuple(AMX.suitable(network))
    assert any("yes, in 2 of 2 dense layers, " in line for line in plan.reasons)
    shares, _ = shares_of(prepared, recipe, network, plan)
    assert shares.convolution is shares.ceiling is None
    asked = request(tmp_path, data, **{**BF16, "model": "mlp128"})
    monkeypatch.setattr(plan_report, "kernels_for", lambda _: lambda compile_: "")
    monkeypatch.setattr(plan_report, "measure_plan", lambda *given: plan)
    report = plan_report.explore(asked.data, asked.resolved, batches=(8,))
    assert report.dense == len(report.plan.amx) == 2
