"""`convworks cost`: memory before anything is allocated, time only where it fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.helpers import run

QUICK = ("--threads", "1")


def test_a_training_is_estimated_and_measured(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "cost", "mlp128", "--data", "photos", "--epochs", "3", *QUICK)
    assert ran.status == 0
    assert "estimated before anything is allocated" in ran.out
    assert "time, measured with random images at batch" in ran.out
    assert "counted by name, not decoded" in " ".join(ran.out.split())
    assert "for 3 epochs" in ran.out
    assert "extrapolated" in ran.err
    found = json.loads(run(capsys, "cost", "mlp128", "--data", "photos", "--json", *QUICK).out)
    assert found["images"]["train"] + found["images"]["val"] == 24
    assert found["classes"] == 2
    epoch = found["images"]["train"] * found["measured"]["step"]
    epoch += found["images"]["val"] * found["measured"]["inference"]
    assert found["extrapolated"]["epoch_seconds"] == pytest.approx(epoch)
    assert not (world / "runs" / "photos-mlp128-02").exists()


def test_large_images_are_refused_before_anything_is_allocated(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "cost", "vgg_d", "--input", "1080x1920x3", "--batch", "64")
    assert ran.status == 0
    assert "3 x 1080 x 1920" in ran.out
    assert "time, not measured" in ran.out
    assert "a third of the" in ran.out
    found = json.loads(run(capsys, "cost", "vgg_d", "--input", "1080x1920x3", "--batch", "64", "--json").out)
    assert found["measured"] is None
    assert found["estimated"]["weights"] > 16 * 10**9  # 512 x 33 x 60 inputs of fc6
    assert found["why_not_measured"]


def test_the_memory_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "resnet152", "--dry-run", "--batch", "8", "--set", "optimizer.name=adam", "--json"]
    found = json.loads(run(capsys, *words).out)
    assert found["estimated"]["weights"] == 4 * 60_192_808
    assert found["estimated"]["optimizer"] == 2 * found["estimated"]["weights"]
    assert found["measured"] is None


def test_parts_of_a_batch_take_less(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cost", "resnet18", "--dry-run", "--batch", "32", "--json"]
    whole = json.loads(run(capsys, *words).out)["estimated"]["activations"]
    parts = json.loads(run(capsys, *words, "--set", "accumulate=4").out)["estimated"]["activations"]
    assert whole == 4 * parts


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["resnet19"], "U101"),
        (["lenet5", "--data", "nowhere"], "D101"),
        (["lenet5", "--size", "40"], "U122"),
        (["lenet5", "--set", "nothing=1"], "U101"),
    ],
)
def test_mistakes(words: list[str], code: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "cost", *words)
    assert ran.status in (2, 3)
    assert f"error[{code}]" in ran.err
