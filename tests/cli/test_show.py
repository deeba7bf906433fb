"""`convworks show`: the table, what it sums up to, and the files it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.helpers import run

RUN = "runs/photos-mlp128-01"


def test_dense_share_memory_and_cost_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", "vgg_e").out
    assert "143,667,240 trainable parameters" in text
    assert "19,632,062,464 MACs (39,264,124,928 FLOPs) per image" in text
    assert "86.06 % of the parameters are in fully connected layers" in text
    assert "143,652,544 without the 14,696 biases" in text
    assert "574.7 MB of weights" in text  # 4 x 143,667,240 bytes
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.endswith("%")}
    assert lines["fc6"] == ["fc6", "71.5", "%", "0.5", "%", "0.3", "%"]
    assert "up to 268 pixels, more than the 224 of the image" in " ".join(text.split())


def test_a_deep_network_is_shown_by_stages_and_whole_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "show", "resnet50")
    line = next(line for line in ran.out.splitlines() if line.startswith("conv4_x"))
    assert line.split()[1:3] == ["19", "layers"]
    assert "--verbose lists every layer" in ran.err
    assert "conv2_x.block1.branch.conv1" not in ran.out
    every = run(capsys, "show", "resnet50", "--verbose")
    assert sum("Conv2d" in line for line in every.out.splitlines()) == 53


def test_the_unit_of_googlenets_table(capsys: pytest.CaptureFixture[str]) -> None:
    """112K for 114,688 weights: K is 1024 there, and biases are not counted."""
    text = run(capsys, "show", "googlenet", "--kilo", "1024", "--without-biases").out
    line = next(line for line in text.splitlines() if line.startswith("conv2 "))
    assert "112.0K" in line
    assert "359,661,568" in line
    assert "for training only" in text


def test_another_form_of_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["show", "lenet5", "--set", "model_options.output=linear", "--json"]
    model = json.loads(run(capsys, *words).out)["model"]
    assert (model["parameters"], model["options"]) == (60_850, {"output": "linear"})
    wide = json.loads(run(capsys, "show", "resnet18", "--input", "96x160x3", "--json").out)["model"]
    assert wide["input"] == [3, 96, 160]
    assert wide["layers"][0]["output"] == [64, 48, 80]


@pytest.mark.parametrize("suffix", [".md", ".csv", ".json", ".svg"])
def test_written_files(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("lenet" + suffix)
    ran = run(capsys, "show", "lenet5", "--write", str(path))
    assert (ran.status, f"wrote {path}" in ran.err) == (0, True)
    text = path.read_text()
    if suffix == ".md":
        assert "| c3.conv | ConnectionTableConv2d | 5x5 | 16 x 10 x 10 | 1,516 | 14 | 150,000 |" in text
    elif suffix == ".csv":
        assert [r["parameters"] for r in csv.DictReader(text.splitlines()) if r["name"] == "c3.conv"] == [
            "1516"
        ]
    elif suffix == ".json":
        assert json.loads(text)["parameters"] == 60_000
    else:
        assert {"c1", "s2", "c3", "s4", "c5", "f6", "output"} <= set(ElementTree.fromstring(text).itertext())
    assert run(capsys, "show", "lenet5", "--write", str(path)).status == 0  # its own file may be replaced


def test_no_other_file_is_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("README.md").write_text("# Mine\n")
    ran = run(capsys, "show", "lenet5", "--write", "README.md")
    assert (ran.status, Path("README.md").read_text()) == (2, "# Mine\n")
    assert "error[U006]" in ran.err
    assert "--write new-README.md" in ran.err
    Path("other.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"></svg>')
    assert run(capsys, "show", "lenet5", "--write", "other.svg").status == 2


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["lenet5", "--write", "lenet.doc"], "U181", "--write lenet.svg"),
        (["lenet5", "--set", "optimizer.lr=1"], "U180", "--set model_options.lr=1"),
        (["lenet5", "--input", "784"], "U184", "--input 224x224x3"),
        (["lenet5", "--input", "32x32x1", "--size", "32"], "U184", "--input 224x224x3"),
        (["vgg_f"], "U101", "convworks show vgg_"),
        (["resnet18", "--write", "no/such/folder/x.svg"], "R503", ""),
    ],
)
def test_mistakes(words: list[str], code: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "show", *words)
    assert ran.status == (5 if code[0] == "R" else 2)
    assert f"error[{code}]" in ran.err
    assert hint in ran.err


def test_a_run_shows_its_network(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", RUN, "--write", "run.svg").out
    assert "fc1.linear" in text
    found = json.loads(run(capsys, "show", RUN, "--json").out)
    assert found["architecture"]["classes"] == 2
    assert found["architecture"]["name"] == "photos-mlp128-01"
    assert (world / "run.svg").exists()
    ran = run(capsys, "show", RUN, "--size", "8")
    assert "error[U151]" in ran.err


def test_a_run_that_was_stopped_early_has_no_network_yet(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / RUN / "geometry.json").unlink()
    assert run(capsys, "show", RUN).status == 0
    assert "error[U182]" in run(capsys, "show", RUN, "--write", "x.svg").err
