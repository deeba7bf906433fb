"""`convworks compare-models`: facts side by side, with ratios and a picture."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.helpers import run


def table(text: str) -> dict[str, list[str]]:
    """The first words of a line up to two spaces -> the cells after them."""
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_vgg_beside_plain_and_residual(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "compare-models", "vgg_e", "plain34", "resnet34", "--write", "three.svg")
    found = table(ran.out)
    assert found["layers with weights"][:3] == ["19", "34", "37"]  # three projections
    assert found["multiply-adds (MACs)"][:3] == ["19,632,062,464", "3,644,493,824", "3,663,761,408"]
    assert found["multiply-adds (MACs)"][3] == "0.19x"
    assert found["in dense layers"] == ["86.06 %", "2.37 %", "2.35 %"]
    assert found["receptive field"][:3] == ["268 of 224", "899 of 224", "899 of 224"]
    sizes = [found[f"MACs at {n}x{n}"][2] for n in (112, 56, 28, 14, 7)] + [found["MACs on vectors"][2]]
    assert sum(int(n.replace(",", "")) for n in sizes) == 3_663_761_408
    assert "3.66 G multiply-adds" in Path("three.svg").read_text()


def test_as_data_and_as_files(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare-models", "lenet5", "lenet5_modern"]
    found = json.loads(run(capsys, *words, "--json").out)
    assert [model["parameters"] for model in found["models"]] == [60_000, 61_706]
    assert found["facts"]["parameters"] == [60_000, 61_706]
    assert run(capsys, *words, "--write", "two.csv").status == 0
    rows = {row["what"]: row for row in csv.DictReader(Path("two.csv").read_text().splitlines())}
    assert rows["parameters"]["lenet5_modern"] == "61,706"
    assert run(capsys, *words, "--write", "two.md").status == 0
    assert "| parameters | 60,000 | 61,706 | 1.03x |" in Path("two.md").read_text()


@pytest.mark.parametrize(
    ("names", "hint"),
    [(["lenet5"], "compare-models lenet5 resnet34"), (["a", "b", "c", "d"], "compare-models a b c")],
)
def test_two_or_three(names: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "compare-models", *names)
    assert (ran.status, "error[U183]" in ran.err, hint in ran.err) == (2, True, True)


def test_a_run_beside_a_model(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "compare-models", "runs/photos-mlp128-01", "mlp128", "--json").out)
    assert [model["classes"] for model in found["models"]] == [2, 10]
