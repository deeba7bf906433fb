"""Transfer from the command line: probe, features, advise, export --int8, and the flags of train."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from convworks.weights.int8 import load_int8
from tests.cli.helpers import draw, run
from tests.cli.test_verbs import RUN, SMALL, StopAfter


def test_probe_prints_a_table_and_writes_it(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "probe", RUN, "photos", "--csv", "probe.csv")
    assert ran.status == 0
    assert ran.out.startswith("layer  features")
    assert "the network's own answers" in ran.out
    with (world / "probe.csv").open() as file:
        assert [row["layer"] for row in csv.DictReader(file)] == ["input", "fc1"]
    document = json.loads(run(capsys, "probe", RUN, "photos", "--json").out)
    assert [row["layer"] for row in document["rows"]] == ["input", "fc1"]
    assert run(capsys, "probe", RUN, "photos", "--csv", "photos/rose/1.png").status == 2


def test_features_are_written_as_npz_and_csv(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(world / "photos" / "lily" / "1.png")
    ran = run(capsys, "features", RUN, "photos")
    assert (ran.status, ran.out) == (0, "features   features.npz, 25 images x 128 (all 128)\n")
    with np.load(world / "features.npz") as found:
        assert found["features"].shape == (25, 128)
        assert found["classes"].tolist() == ["daisy", "lily", "rose"]
    assert run(capsys, "features", RUN, "photos").status == 0  # a file of ours may be written again
    assert run(capsys, "features", RUN, "photos", "--out", "f.csv").status == 0
    with (world / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), rows[0]["label"], "f127" in rows[0]) == (25, "daisy", True)
    for name in ("f.txt", "photos/rose/1.png"):
        assert "neither a .npz nor a .csv" in run(capsys, "features", RUN, "photos", "--out", name).err
    (world / "mine.npz").write_text("mine")
    ran = run(capsys, "features", RUN, "photos", "--out", "mine.npz")
    assert (ran.status, (world / "mine.npz").read_text()) == (2, "mine")
    assert run(capsys, "features", RUN, "photos", "--out", "no/f.npz").status == 5


def test_advise_says_rules_and_commands(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "advise", "photos")
    assert ran.status == 0
    assert "rule       one channel" in ran.out
    assert "try        convworks train photos --model lenet5_modern" in ran.out
    document = json.loads(run(capsys, "advise", "photos", "--json").out)
    assert document["statistics"]["counts"] == {"daisy": 10, "rose": 10}
    assert document["advice"][0]["about"] == "model"


@pytest.mark.parametrize("verb", ["probe", "features"])
def test_stopped_is_75_and_writes_nothing(
    verb: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"convworks.cli.{verb}.StopRequest", StopAfter)
    assert run(capsys, verb, RUN, "photos").status == 75
    assert not list(world.glob("*.npz"))


def test_export_in_eight_bits(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "export", RUN, "--int8", "a.safetensors")
    assert ran.status == 2
    assert "--calibrate DATA" in ran.err
    ran = run(capsys, "export", RUN, "--int8", "a.safetensors", "--calibrate", "photos")
    assert ran.status == 0
    assert "2 layers of mlp128 in 8 bits, input scales measured on 20 training images of photos" in ran.out
    assert "read back and equal" in ran.out
    assert load_int8(world / "a.safetensors").classes == ("daisy", "rose")
    assert run(capsys, "export", RUN, "--int8", "a.safetensors", "--calibrate", "photos").status == 2
    assert "is for --int8" in run(capsys, "export", RUN, "--calibrate", "photos").err
    ran = run(capsys, "export", RUN, "--int8", "b.safetensors", "--names", "timm")
    assert "--int8 names its own file" in ran.err


def test_train_begins_with_a_run_and_rests_its_backbone(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "photos", "--model", "mlp128", "--epochs", "2", *SMALL)
    ran = run(capsys, *words, "--pretrained", RUN, "--freeze", "backbone", "--name", "frozen")
    assert ran.status == 0
    assert "features of 24 images (128 numbers each" in ran.err
    ran = run(capsys, *words, "--init", RUN, "--unfreeze", "1", "--name", "staged")
    assert ran.status == 0
    assert "2 layers copied from" in ran.err
    assert "fc2 learns first, one stage more after every epoch" in ran.err
    ran = run(capsys, *words, "--freeze", "backbone", "--unfreeze", "1")
    assert "exclude each other" in ran.err
    record = json.loads((world / "runs/staged/recipe.json").read_text())["recipe"]
    assert (record["init"], record["transfer"]["unfreeze"]) == (str(world / RUN), 1)
