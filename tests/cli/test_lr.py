"""`convworks lr-find` and `lr-plot`: what they say, what they write, and what they refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.cli.helpers import run

QUICK = ("--model", "lenet5_modern", "--steps", "30", "--threads", "1", "--device", "cpu")
SEEN = (*QUICK[:2], "--steps", "100", "--low", "0.001", *QUICK[4:])  # enough for a fall


def test_a_rate_is_found_and_the_command_runs(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "lr-find", "digits", *SEEN, "--out", "rates.svg", "--set", "optimizer.momentum=0.8")
    assert ran.status == 0
    assert ran.out.startswith("rate test  lenet5_modern, ")
    assert "steepest" in ran.out
    assert "smoothed loss over learning rate, logarithmic" in ran.out
    assert "wrote rates.svg" in ran.err
    assert Path("rates.svg").read_text().startswith("<?xml")
    following = ran.out.rpartition("next ")[2].replace("\n", " ")
    words = shlex.split(following)
    assert words[:3] == ["convworks", "train", "digits"]
    assert words[words.index("--set") + 1] == "optimizer.momentum=0.8"
    assert float(words[words.index("--lr") + 1]) > 0
    assert not {"--steps", "--low", "--out"} & set(words)
    assert run(capsys, *words[1:], "--dry-run").status == 0


def test_the_same_seed_says_the_same(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = json.loads(run(capsys, "lr-find", "digits", *QUICK, "--json").out)
    assert first == json.loads(run(capsys, "lr-find", "digits", *QUICK, "--json").out)
    assert len(first["rates"]) == len(first["losses"]) == len(first["smoothed"]) == first["steps"]
    assert first["next"].endswith(f"--lr {first['lr']:g}")
    other = json.loads(run(capsys, "lr-find", "digits", *QUICK, "--seed", "3", "--json").out)
    assert other["losses"] != first["losses"]


def test_nothing_falls_and_nothing_is_suggested(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "lr-find", "digits", *QUICK, "--low", "1e-9", "--high", "1e-8")
    assert ran.status == 0
    assert "did not fall at any of these rates" in ran.err
    assert "next" not in ran.out


def test_an_existing_file_of_another_kind_is_kept(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.csv").write_text("my notes\n")
    for verb in (("lr-find", "digits", *QUICK), ("lr-plot", "fastnet")):
        ran = run(capsys, *verb, "--out", "notes.csv")
        assert (ran.status, ran.out) == (2, "")
        assert "U006" in ran.err
        assert "--out new-notes.csv" in ran.err
        assert "U181" in run(capsys, *verb, "--out", "lr.pdf").err
        Path("folder.svg").mkdir(exist_ok=True)
        assert "is a folder" in run(capsys, *verb, "--out", "folder.svg").err
        assert "R503" in run(capsys, *verb, "--out", "nowhere/lr.svg").err
    assert Path("notes.csv").read_text() == "my notes\n"


def test_rates_must_rise(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "lr-find", "digits", *QUICK, "--low", "1", "--high", "0.5")
    assert ran.status == 2
    assert "U216" in ran.err


@pytest.mark.parametrize("suffix", [".svg", ".png", ".csv"])
def test_the_rate_of_a_recipe(world: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    for _ in range(2):  # its own file may be written again
        ran = run(capsys, "lr-plot", "tutorial_cnn", "--images", "1000", "--out", f"lr{suffix}")
        assert ran.status == 0
    assert "10 epochs of 16 steps, 1,000 images in batches of 64" in " ".join(ran.out.split())
    assert "learning rate over epoch" in ran.out
    found = json.loads(run(capsys, "lr-plot", "tutorial_cnn", "--images", "1000", "--json").out)
    assert found["rates"] == [0.01] * 160


def test_the_rate_of_a_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`world` has a finished run of 24 photographs."""
    name = next(path.parent for path in Path("runs").glob("*/recipe.json"))
    ran = run(capsys, "lr-plot", str(name))
    assert ran.status == 0
    assert "images in batches of" in ran.out
    assert "U101" in run(capsys, "lr-plot", "fastnut").err
    assert "A410" in run(capsys, "lr-plot", "photos").err
