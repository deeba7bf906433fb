"""`convworks plan`: the tables that it prints, the JSON document, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convworks import api
from convworks.flows import plan_report
from tests.cli.helpers import run

QUICK = ("--threads", "1", "--device", "cpu", "--batch", "16", "--set", "precision=fp32")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_report, "SECONDS", 0.05)
    monkeypatch.setenv("CONVWORKS_NATIVE", "0")


def test_the_tables(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    ran = run(capsys, "plan", "lenet5_modern", "digits", *QUICK)
    assert ran.status == 0
    assert ran.out.startswith("training lenet5_modern in batches of 16, images a second")
    for text in (
        "fp32 channels_last 1 threads",
        "chosen",
        "fused kernels: no, ",
        "where the time of a step goes",
        "convolution",
        "everything else",
        "torch's own convolutions and nothing else",
        "of that\n",
        "by size of the batch",
        "steps an epoch",
    ):
        assert text in ran.out
    assert sorted(Path("runs").rglob("*")) == [p for p in before if p.parts[0] == "runs" and len(p.parts) > 1]


def test_the_document(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "plan", "lenet5_modern", "digits", *QUICK, "--batches", "8", "--json").out)
    assert found["model"] == "lenet5_modern"
    assert [row["batch"] for row in found["batches"]] == [8, 16]
    assert set(found["seconds"]) == {"data", "step", "convolution", "ceiling", "rest"}
    assert found["seconds"]["ceiling"] == found["seconds"]["convolution"]
    assert found["plan"]["fused"] is False
    assert found["plan"]["winograd"] == found["plan"]["amx"] == []
    assert found["share_of_ceiling"] > 0


@pytest.mark.parametrize(
    ("winograd", "amx", "dense", "chosen", "how"),
    [
        (("conv1", "conv2"), (), 0, "Winograd, ", "2 layers by Winograd's algorithm"),
        ((), ("conv1",), 0, "AMX, ", "1 layer on matrix units"),
        ((), ("conv1", "fc"), 1, "AMX, ", "1 layer on matrix units"),
        (
            ("b",),
            ("a", "c"),
            0,
            "Winograd, AMX, ",
            "1 layer by Winograd's algorithm, 2 layers on matrix units",
        ),
    ],
)
def test_layers_by_kernels_of_ours_are_named(
    winograd: tuple[str, ...],
    amx: tuple[str, ...],
    dense: int,
    chosen: str,
    how: str,
    world: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = plan_report._measured

    def measured(*given: Any) -> plan_report.PlanReport:
        found = real(*given)
        shares = replace(found.shares, convolution=0.25, ceiling=2.0, step=1.0)
        return replace(
            found, shares=shares, plan=replace(found.plan, winograd=winograd, amx=amx), dense=dense
        )

    monkeypatch.setattr(plan_report, "_measured", measured)
    out = " ".join(run(capsys, "plan", "lenet5_modern", "digits", *QUICK).out.split())
    assert f"cpu (1 thread), {chosen}" in out
    assert f"forward and backward, alone, {how}" in out
    assert "would train 8 images a second; a step reaches 200% of that, more than 100% where" in out
    assert "everything else 750.0 ms" in out


def test_two_devices_are_compared(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plan_report._measured
    with_gpu = {"cuda": 5000.0, "cpu": 100.0}
    monkeypatch.setattr(plan_report, "_measured", lambda *a: replace(real(*a), devices=with_gpu))
    ran = run(capsys, "plan", "lenet5_modern", "digits", *QUICK)
    assert "cuda trains 5,000, cpu 100 images a second: 50.0x" in ran.out


def test_python_gets_the_same(world: Path) -> None:
    found = api.plan("lenet5_modern", "digits", batches=[8], batch=16, precision="fp32", threads=1)
    assert [each.batch for each in found.batches] == [8, 16]
    assert found.plan.precision == "fp32"


def test_mistakes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "U101" in run(capsys, "plan", "lenet6", "digits").err
    assert run(capsys, "plan", "lenet5_modern").status == 2
    assert "U240" in run(capsys, "plan", "lenet5_modern", "digits", "--batches", "1").err
    assert run(capsys, "plan", "mlp", "nowhere/").status != 0
