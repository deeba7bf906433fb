"""Winograd's algorithm in a run: kept in the plan, exact after a resume, said where it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from convworks.durable import read_json
from convworks.flows import plan as module
from convworks.flows import plan_report
from convworks.flows.events import Finished, Stopped, Will
from convworks.flows.plan import differences_of, plan_training, with_kernels
from convworks.flows.plan_report import shares_of
from convworks.flows.prepare import build_network, prepare_data
from convworks.ops.native import convolutions, library
from convworks.recipes.resolve import from_dict, resolve
from convworks.runs import Run
from convworks.training import own_convolutions, planner
from convworks.training.convolution_choice import WINOGRAD, Choice
from convworks.training.planner import Plan, plan_from_dict
from convworks.training.step_timing import Trainee
from tests.flows.helpers import fingerprint, request, resume_all, train_all, train_until, write_images
from tests.ops.native import kernels

pytestmark = pytest.mark.usefixtures("no_pages")

BF16 = {"model": "fastnet", "size": 32, "precision": "bf16", "memory_format": "channels_last"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Winograd's always wins where it can be used, fused kernels never; returns what is computed by it."""
    folder = kernels.built()
    with kernels.with_winograd():
        pass
    monkeypatch.setattr(
        module, "open_kernels", lambda _, compile_: library.open_kernels(folder, compile_=compile_)
    )
    monkeypatch.setattr(library, "amx_available", lambda: False)
    monkeypatch.setattr(
        own_convolutions,
        "gains",
        lambda network, *_: {name: {"winograd": 2.0} for name in WINOGRAD.suitable(network)},
    )
    monkeypatch.setattr(own_convolutions, "ratio", lambda *a, **k: 1.5)
    monkeypatch.setattr(planner, "_try_fused", lambda chosen, *_: (chosen, "fused kernels: not asked"))
    monkeypatch.setattr(planner, "_with_fused", lambda chosen, *_: (chosen, "fused kernels: not asked"))
    called: list[str] = []
    for name in ("winograd_convolution", "winograd_weight_gradient"):
        real = getattr(convolutions, name)
        monkeypatch.setattr(
            convolutions, name, lambda *a, name=name, real=real, **k: called.append(name) or real(*a, **k)
        )
    yield called
    library.close_kernels()


def stored_plan(work: Path) -> Plan:
    return plan_from_dict(read_json(work / "runs" / "run" / "plan.json"))


def test_a_run_stops_anywhere_and_ends_in_the_same_bits(
    data: Path, always: list[str], tmp_path: Path
) -> None:
    train_all(tmp_path / "whole", data, **BF16)
    plan = stored_plan(tmp_path / "whole")
    assert len(plan.winograd) > 2
    assert not plan.fused
    assert ", Winograd, " in plan.lines()[0]
    assert {"winograd_convolution", "winograd_weight_gradient"} == set(always)
    whole = fingerprint(tmp_path / "whole")
    for asked in (2, 5):
        work = tmp_path / f"stopped after {asked}"
        assert isinstance(train_until(work, data, asked, **BF16)[-1], Stopped)
        assert stored_plan(work).winograd == plan.winograd
        library.close_kernels()  # as in another process
        always.clear()
        events = resume_all(work)
        assert next(each for each in events if isinstance(each, Will)).exact == "exact"
        assert isinstance(events[-1], Finished)
        assert "winograd_weight_gradient" in always
        assert fingerprint(work) == whole


def test_switched_off(data: Path, always: list[str], tmp_path: Path) -> None:
    train_all(tmp_path / "on", data, **BF16)
    assert always
    always.clear()
    train_all(tmp_path / "off", data, **BF16, winograd="no")
    assert stored_plan(tmp_path / "off").winograd == ()
    assert "Winograd's algorithm: no, as asked" in stored_plan(tmp_path / "off").reasons
    assert always == []
    first, second = (fingerprint(tmp_path / name) for name in ("on", "off"))
    assert first["model/weights.safetensors"] != second["model/weights.safetensors"]


def test_switched_off_on_the_way(data: Path, always: list[str], tmp_path: Path) -> None:
    train_until(tmp_path, data, 5, **BF16)
    assert stored_plan(tmp_path).winograd
    before = from_dict(Run(tmp_path / "runs" / "run").record()["recipe"])
    changes = resolve(base=before, base_name="run", assignments=("winograd=no",))
    always.clear()
    events = resume_all(tmp_path, changes=changes, override=True)
    assert isinstance(events[-1], Finished)
    assert stored_plan(tmp_path).winograd == ()
    assert always == []


def test_a_resume_without_the_kernels_says_so(
    data: Path, always: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(tmp_path, data, 5, **BF16)
    plan = stored_plan(tmp_path)
    assert differences_of(plan) == []
    library.close_kernels()
    assert differences_of(plan) == ["Winograd's algorithm of the plan cannot be used here"]
    assert differences_of(replace(plan, winograd=())) == []
    assert len(differences_of(replace(plan, fused=True))) == 2
    monkeypatch.setenv("CONVWORKS_NATIVE", "0")
    always.clear()
    events = resume_all(tmp_path)
    will = next(each for each in events if isinstance(each, Will))
    assert will.exact == "approximate: Winograd's algorithm of the plan cannot be used here"
    assert isinstance(events[-1], Finished)
    assert always == []


@pytest.mark.usefixtures("with_page")
def test_another_processor_says_so(data: Path, always: list[str], tmp_path: Path) -> None:
    train_all(tmp_path, data, **BF16)
    plan = stored_plan(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "winograd_available", lambda: False)  # the kernels are loaded all the same
        assert library.available()
        assert differences_of(plan) == ["Winograd's algorithm of the plan cannot be used here"]
    assert differences_of(plan) == []


def prepared_of(work: Path, data: Path, **changes: Any) -> tuple[Any, Any, nn.Module]:
    asked = request(work, data, **{**BF16, **changes})
    recipe = asked.resolved.recipe
    prepared = prepare_data(asked.data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    return prepared, recipe, build_network(recipe, 3, prepared.dataset.geometry)


def test_a_remembered_plan_brings_its_kernels(data: Path, always: list[str], tmp_path: Path) -> None:
    prepared, recipe, network = prepared_of(tmp_path, data)
    first = plan_training(prepared, recipe, network, cache=tmp_path)
    assert first.winograd
    library.close_kernels()
    assert plan_training(prepared, recipe, network, cache=tmp_path) == first
    assert library.winograd_available()
    library.close_kernels()
    assert with_kernels(replace(first, winograd=()), cache=tmp_path)
    assert not library.available()
    assert plan_training(prepared, replace(recipe, winograd="no"), network, cache=tmp_path).winograd == ()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_shares_of_a_step(
    accumulate: int, data: Path, always: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions are those that the plan computes; the ceiling is torch's own."""
    monkeypatch.setattr(plan_report, "SECONDS", 0.01)
    prepared, recipe, network = prepared_of(tmp_path, data, accumulate=accumulate)
    plan = plan_training(prepared, recipe, network, cache=tmp_path)
    watched: list[int] = []
    steps: list[int] = []
    real, one_step = plan_report.convolutions_alone, Trainee._step

    def counted_step(self: Trainee, numerics: Any) -> None:
        steps[-1:] = [steps[-1] + 1] if steps else []
        one_step(self, numerics)

    monkeypatch.setattr(Trainee, "_step", counted_step)

    def watch(step: Any, **how: Any) -> Any:
        always.clear()
        steps.append(0)
        alone = real(step, **how)
        assert alone is not None
        assert steps[-1] == 1, "the convolutions of one step, not of two"
        watched.append(len(always))
        return alone

    monkeypatch.setattr(plan_report, "convolutions_alone", watch)
    made: list[tuple[str, ...]] = []
    layers = plan_report.layers_alone

    def counted(network: nn.Module, chosen: Choice, x: Any, numerics: Any) -> Any:
        assert chosen.amx == ()
        made.append((*chosen.winograd, str(len(x))))
        layers(network, chosen, x, numerics)()
        return lambda: 100.0

    monkeypatch.setattr(plan_report, "layers_alone", counted)
    shares, held = shares_of(prepared, recipe, network, plan)
    assert made == [(*plan.winograd, str(-(-16 // accumulate)))]
    assert watched[0] == 0, "the ceiling is torch's own"
    assert watched[1] >= 2 * accumulate * len(plan.winograd), "then what the plan does"
    assert shares.convolution is not None
    assert shares.ceiling is not None
    assert 100 * accumulate < shares.convolution < 100 * accumulate + 10
    assert 0 < shares.ceiling < 10
    assert shares.of_ceiling == shares.ceiling / shares.step
    assert held > 0
    plain, _ = shares_of(prepared, recipe, network, replace(plan, winograd=()))
    assert plain.convolution == plain.ceiling
