"""`convworks recalibrate`: what is printed, the JSON, the model it leaves, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from convworks.cli import main
from convworks.cli.signals import StopRequest
from tests.cli.helpers import photos, run

NAME = "runs/photos-fastnet-01"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fastnet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CONVWORKS_CACHE", str(folder / "cache"))
        photos(folder / "photos")
        words = ["train", "photos", "--model", "fastnet", "--size", "16", "--epochs", "2", "--threads", "1"]
        assert main([*words, "--quiet", "--precision", "fp32", "--workers", "0", "--batch", "8"]) == 0
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVWORKS_CACHE", str(finished / "cache"))
    return tmp_path


def test_accuracy_before_and_after_with_intervals(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "recalibrate", NAME)
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["batch", "norm", "values", "mean", "moved", "by", "std", "times"]
    assert lines[1].startswith("stem.norm")
    assert sum(".norm" in line for line in lines) == 7
    before, after = (next(line for line in lines if word in line) for word in ("before ", "after "))
    assert before.startswith("val")
    for line in (before, after):
        assert "accuracy " in line
        assert "(95 % " in line
    assert f"model      {NAME}/model-recalibrated   (the run's own model is as it was)" in lines
    assert lines[-1] == f"next       convworks predict {NAME}/model-recalibrated PATH"


def test_the_model_is_of_use(place: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "recalibrate", NAME, "--quiet").status == 0
    model = f"{NAME}/model-recalibrated"
    assert run(capsys, "predict", model, finished / "photos", "--quiet").status == 0
    assert run(capsys, "eval", model, finished / "photos", "--quiet").status == 0


def test_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "recalibrate", NAME, "--json")
    found = json.loads(ran.out)
    assert found["model"] == f"{NAME}/model-recalibrated"
    assert [each["name"] for each in found["layers"]][:2] == ["stem.norm", "block1.down.norm"]
    score = found["scores"]["val"]
    for part in ("before", "after"):
        low, high = score[part]["top1_ci"]
        assert low <= score[part]["top1"] <= high
    assert set(found) == {"run", "model", "images", "layers", "scores"}


def test_a_run_without_batch_norm(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "recalibrate", "runs/photos-mlp128-01")
    assert ran.status == 2
    assert "error[U161]: mlp128 has no batch norm, so photos-mlp128-01 has no statistics" in ran.err
    assert not (world / "runs" / "photos-mlp128-01" / "model-recalibrated").exists()


def test_no_run_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "recalibrate", "runs/nothing")
    assert ran.status == 4
    assert "error[A410]: there is no run 'runs/nothing'" in ran.err


def test_stopped(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StopRequest, "__call__", lambda self: True)
    ran = run(capsys, "recalibrate", NAME)
    assert ran.status == 75
    assert "Stopped; nothing was written." in ran.err
    assert not (place / NAME / "model-recalibrated").exists()
