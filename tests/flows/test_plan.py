"""Fused kernels in a run: chosen by measurement, kept in the plan, exact after a resume; and the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convworks import environment
from convworks.durable import read_json, to_json
from convworks.errors import ConvworksError
from convworks.flows import plan as module
from convworks.flows import train
from convworks.flows.events import Note, Will
from convworks.flows.plan import differences_of, kernels_for, plan_training, with_kernels
from convworks.flows.plan_report import explore
from convworks.flows.prepare import build_network, prepare_data
from convworks.layers.amx import use_amx
from convworks.layers.fused import is_fused
from convworks.ops.native import library
from convworks.training import own_convolutions, planner, step_timing
from convworks.training.ceiling import convolutions_alone
from convworks.training.planner import plan_from_dict
from convworks.training.step_timing import Candidate, ratio
from tests.flows.helpers import (
    fingerprint,
    request,
    resume_all,
    run_all,
    train_all,
    train_until,
    write_images,
)
from tests.layers.fake_amx import fake_amx
from tests.ops.native import kernels

pytestmark = pytest.mark.usefixtures("no_pages")

FUSED = {"model": "fastnet", "size": 32, "precision": "bf16", "memory_format": "channels_last"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Fused kernels that always win, and nothing else does; they lie in a folder of their own."""
    folder = kernels.built()
    monkeypatch.setattr(
        module, "open_kernels", lambda _, compile_: library.open_kernels(folder, compile_=compile_)
    )
    monkeypatch.setattr(planner, "ratio", lambda *a, **k: 1.5)
    monkeypatch.setattr(own_convolutions, "gains", lambda *a: {})
    yield folder
    library.close_kernels()


def test_a_run_with_fused_kernels_stops_and_ends_in_the_same_bits(
    data: Path, built: Path, tmp_path: Path
) -> None:
    train_all(tmp_path / "whole", data, **FUSED)
    plan = read_json(tmp_path / "whole" / "runs" / "run" / "plan.json")
    assert plan["fused"] is True
    assert "fused kernels" in plan_from_dict(plan).lines()[0]
    assert any("fused kernels: yes, 1.50x" in line for line in plan["reasons"])
    whole = fingerprint(tmp_path / "whole")
    train_until(tmp_path / "parts", data, 5, **FUSED)
    library.close_kernels()  # as in another process
    resume_all(tmp_path / "parts")
    assert fingerprint(tmp_path / "parts") == whole


@pytest.mark.usefixtures("with_page")
def test_what_is_kept_is_an_ordinary_network(data: Path, built: Path, tmp_path: Path) -> None:
    from convworks.bundle import load_bundle

    train_all(tmp_path, data, **FUSED)
    assert not is_fused(load_bundle(tmp_path / "runs" / "run" / "model").network)


def test_a_resume_without_the_kernels_says_so(
    data: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(tmp_path, data, 5, **FUSED)
    library.close_kernels()
    monkeypatch.setenv("CONVWORKS_NATIVE", "0")
    (will,) = (event for event in resume_all(tmp_path) if isinstance(event, Will))
    assert will.exact.startswith("approximate: ")
    assert "the fused kernels of the plan cannot be used here" in will.exact


def test_a_short_run_does_not_wait_for_a_compiler(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.close_kernels()
    train_all(tmp_path, data, **FUSED)
    plan = read_json(tmp_path / "runs" / "run" / "plan.json")
    assert plan["fused"] is False
    assert any("fused kernels: no, " in line for line in plan["reasons"])
    assert not (tmp_path / "cache" / "kernels").exists()


def test_the_switch_and_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.close_kernels()
    for text, wanted in (("0", False), ("off", False), ("1", True), ("", False)):
        monkeypatch.setenv("CONVWORKS_NATIVE", text)
        assert environment.wants_kernels() is wanted
    monkeypatch.setenv("CONVWORKS_NATIVE", "0")
    assert kernels_for(tmp_path)(True) == "CONVWORKS_NATIVE=0"
    monkeypatch.delenv("CONVWORKS_NATIVE")
    assert "no cache folder" in kernels_for(None)(True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernels_for(tmp_path)(True) == "no compiler"


def test_a_remembered_plan_is_of_its_switch_and_compiler(
    data: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(tmp_path, data, **FUSED)
    recipe = asked.resolved.recipe
    prepared = prepare_data(asked.data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    net = build_network(recipe, 3, prepared.dataset.geometry)
    first = plan_training(prepared, recipe, net, cache=tmp_path)
    assert first.fused
    library.close_kernels()
    assert plan_training(prepared, recipe, net, cache=tmp_path) == first
    assert library.available()  # a remembered plan brings its kernels
    monkeypatch.setenv("CONVWORKS_NATIVE", "0")
    other = plan_training(prepared, recipe, net, cache=tmp_path)
    assert not other.fused
    assert any("CONVWORKS_NATIVE=0" in line for line in other.reasons)
    library.close_kernels()
    assert differences_of(with_kernels(first, cache=tmp_path)) != []
    assert differences_of(other) == []
    assert (
        plan_from_dict(json.loads(to_json({k: v for k, v in other.to_dict().items() if k != "fused"})))
        == other
    )
    with pytest.raises(ConvworksError, match="A416"):
        plan_from_dict({**other.to_dict(), "fused": "yes"})


def test_what_costs_time_in_a_step_has_a_plan_of_its_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(tmp_path, data, **FUSED)
    recipe = asked.resolved.recipe
    prepared = prepare_data(asked.data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    measured: list[str] = []
    real = module.measure_plan
    monkeypatch.setattr(module, "measure_plan", lambda *a: measured.append("") or real(*a))
    for change, count in (
        ({}, 1),
        ({"epochs": recipe.epochs + 1}, 1),
        ({"regularize": replace(recipe.regularize, noise=0.1)}, 2),
        ({"transfer": replace(recipe.transfer, quantize="int8")}, 3),
        ({"winograd": "no"}, 4),
        ({"amx": "no"}, 5),
    ):
        changed = replace(recipe, **change)  # type: ignore[arg-type]
        net = build_network(changed, 3, prepared.dataset.geometry)
        module.plan_training(prepared, changed, net, cache=tmp_path / "plans")
        assert len(measured) == count, change


@pytest.mark.parametrize(("worth", "tried"), [(float("inf"), [0]), (0.0, [0, 1, 2])])
def test_batch_threads_are_tried_where_preparing_costs_time(
    worth: float, tried: list[int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(tmp_path, data, **FUSED)
    recipe = replace(asked.resolved.recipe, workers=-1)
    prepared = prepare_data(asked.data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    seen: list[int] = []
    real = module.training_loader
    monkeypatch.setattr(
        module,
        "training_loader",
        lambda *a, workers, **k: seen.append(workers) or real(*a, workers=workers, **k),
    )
    monkeypatch.setattr(module, "_WORTH_AHEAD", worth)
    net = build_network(recipe, 3, prepared.dataset.geometry)
    module.measure_plan(prepared, recipe, net, "cpu", lambda _: "not wanted")
    assert seen[1:] == tried  # the first loader gives the batch that is measured


def test_fused_kernels_must_win(
    data: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "ratio", lambda *a, **k: 1.01)
    train_all(tmp_path, data, **FUSED)
    plan = read_json(tmp_path / "runs" / "run" / "plan.json")
    assert plan["fused"] is False
    assert any("1.01x as fast" in line for line in plan["reasons"])
    assert any(name.endswith(", fused") for name in plan["measured"])


def test_the_ratio_of_two_ways_is_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = iter(range(1, 1000))
    slow = iter(lambda: 2.0, None)
    assert ratio(lambda: next(slow), lambda: 1.0, seconds=0) == 2.0
    assert ratio(lambda: 1.0 * next(drift), lambda: 1e3, seconds=0) < 1


def test_one_copy_of_the_network_serves_all_candidates(data: Path, tmp_path: Path) -> None:
    asked = request(tmp_path, data, **FUSED)
    recipe = replace(asked.resolved.recipe, precision="auto", memory_format="auto")
    prepared = prepare_data(asked.data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    copies: list[nn.Module] = []
    net = build_network(recipe, 3, prepared.dataset.geometry)
    real = step_timing.copy.deepcopy

    class Counting:
        @staticmethod
        def deepcopy(value: nn.Module) -> nn.Module:
            copies.append(value)
            return real(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_timing, "copy", Counting)
        found = module.measure_plan(prepared, recipe, net, "cpu", lambda _: "not wanted")
    assert len(copies) == 1
    assert len(found.measured) == 4
    assert Candidate(found.numerics, found.threads).name in found.measured


# --- convolutions alone, and the report -----------------------------------------------------------------


def test_the_convolutions_of_a_step_are_repeated_and_nothing_else() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, groups=2), nn.Flatten(), nn.Linear(32, 2)
    )
    x = torch.randn(2, 3, 8, 8)
    ran: list[str] = []
    alone = convolutions_alone(lambda: net(x).sum().backward())
    assert alone is not None

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            ran.append(f"{func} {tuple(args[0].shape)}")
            return func(*args, **(kwargs or {}))

    with Names():
        assert alone() > 0
    assert ran == [
        "aten.convolution.default (2, 3, 8, 8)",
        "aten.convolution.default (2, 4, 6, 6)",
        "aten.convolution_backward.default (2, 2, 4, 4)",
        "aten.convolution_backward.default (2, 4, 6, 6)",
    ]
    assert convolutions_alone(lambda: torch.ones(2).sum()) is None


def test_a_gradient_that_a_kernel_asks_torch_for_is_no_convolution_of_torchs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = fake_amx(monkeypatch)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *(nn.Conv2d(4, 4, 2, stride=2, padding=1) for _ in range(3)))
    use_amx(net, ["2"])  # between two of the same window, on other maps
    x = torch.randn(2, 3, 18, 18)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            net(x).square().sum().backward()

    ran: list[Any] = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            ran.append(func)
            return func(*args, **(kwargs or {}))

    for whole, gradients in ((False, 4), (True, 3)):
        alone = convolutions_alone(step, whole=whole)
        assert alone is not None
        called.clear()
        ran.clear()
        with Names():
            alone()
        assert ran.count(torch.ops.aten.convolution.default) == 3
        assert ran.count(torch.ops.aten.convolution_backward.default) == gradients
        assert called == []


def test_a_report_of_everything(
    data: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convworks.flows import plan_report

    monkeypatch.setattr(plan_report, "SECONDS", 0.05)
    asked = request(tmp_path, data, **{**FUSED, "batch": 8})
    said: list[str] = []
    found = explore(asked.data, asked.resolved, batches=(4, 16, 100_000), progress=said.append)
    assert [each.batch for each in found.batches] == [4, 8, 16]
    assert found.too_large == (100_000,)
    assert [each.lr for each in found.batches] == pytest.approx([0.01, 0.02, 0.04])
    assert found.batches[0].steps_per_epoch == found.images // 4
    assert found.plan.fused
    assert found.devices == {"cpu": found.plan.images_per_second}
    assert found.shares.convolution is not None
    assert found.shares.rest >= 0
    assert found.shares.ceiling is not None
    assert found.ceiling == pytest.approx(8 / found.shares.ceiling)
    assert found.shares.of_ceiling == pytest.approx(found.shares.ceiling / found.shares.step)
    assert any("batches of 16" in line for line in said)
    json.dumps(found.to_dict())
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache" / "plans").exists()
    with pytest.raises(ConvworksError, match="U240"):
        explore(asked.data, asked.resolved, batches=(1,))
    unknown = replace(asked.resolved, recipe=replace(asked.resolved.recipe, model="resnet"))
    with pytest.raises(ConvworksError, match="U101"):
        explore(asked.data, unknown)
    run_all(iter(()))


@pytest.mark.parametrize(
    ("sure", "taken", "says"), [(0.0, 0.3, True), (0.0, 0.01, False), (1e9, 0.3, False)], ids=str
)
def test_a_long_run_says_what_the_host_took(
    sure: float, taken: float, says: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SURE", sure)
    monkeypatch.setattr(train.HostShare, "taken", lambda self: taken)
    notes = [event.text for event in train_all(tmp_path, data, **FUSED) if isinstance(event, Note)]
    said = "the host gave 30% of the processors' time to others while this run trained"
    assert any(text.startswith(said) for text in notes) == says


def test_a_plan_that_was_measured_on_a_busy_machine_is_forgotten(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plans() -> list[Path]:
        return list((tmp_path / "cache" / "plans").glob("*.json"))

    def notes(**changes: object) -> list[str]:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        events = train_all(tmp_path, data, **{**FUSED, **changes})
        return [event.text for event in events if isinstance(event, Note)]

    monkeypatch.setattr(module, "MISLED", 0.0)
    assert not any("was busy" in text for text in notes())  # too short to tell
    assert len(plans()) == 1
    monkeypatch.setattr(module, "SURE", 0.0)
    monkeypatch.setattr(module, "MISLED", 1e9)
    assert not any("was busy" in text for text in notes())
    assert len(plans()) == 1
    monkeypatch.setattr(module, "MISLED", 0.0)
    assert sum("the machine was busy then" in text for text in notes()) == 1
    assert plans() == []
    for resting in ({"transfer.unfreeze": 1}, {"transfer.freeze_after": {"stem": 1}}):
        assert not any("was busy" in text for text in notes(**resting)), "it is faster for another reason"
    assert len(plans()) == 2
