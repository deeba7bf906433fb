"""`list recipes`, `show recipe NAME`, `--cite`, and the line in every run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convworks.recipes.defaults import entry, names
from convworks.recipes.registry import PUBLISHED
from tests.cli.helpers import run


def test_the_list_has_every_recipe_with_its_claim_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "list", "recipes", "--json").out)
    assert [row["name"] for row in rows] == sorted(names(), key=lambda name: (name in PUBLISHED, name))
    assert all(row["claim"] and row["model"] and row["data"] for row in rows)
    (line,) = [row for row in rows if row["name"] == "alexnet2012"]
    assert line["source"] == "Krizhevsky et al. 2012"
    assert {row["source"] for row in rows if row["name"] not in PUBLISHED} == {"ours"}
    text = run(capsys, "list", "recipes").out
    assert text.splitlines()[0].split() == ["name", "source", "model", "data", "claim"]


@pytest.mark.parametrize("name", names())
def test_every_recipe_is_shown_with_every_value_that_it_speaks_of(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, "show", "recipe", name)
    assert ran.status == 0
    row, text = entry(name), " ".join(ran.out.split())
    keys = {line.split()[0] for line in ran.out.splitlines() if line.strip()}
    assert {*row.values, *row.chosen} <= keys
    assert row.claim in text
    for sentence in (*row.departures, *row.notes):
        assert sentence in text
    for number in row.expected:
        assert str(number) in text
    assert f"--recipe {name}" in text


def test_a_value_stands_beside_its_place_and_one_of_ours_is_marked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = run(capsys, "show", "recipe", "alexnet2012").out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["batch"] == ["batch", "128", "section", "5"]
    assert rows["schedule.patience"][1:3] == ["3", "ours:"]
    every = run(capsys, "show", "recipe", "alexnet2012", "--verbose").out
    assert "optimizer.beta2" in every
    assert "optimizer.beta2" not in "\n".join(lines)


def test_the_lectures_erratum_stands_beside_the_weight_decay(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "show", "recipe", "resnet2015", "--json").out)["recipe"]
    assert found["optimizer"]["weight_decay"] == 1e-4
    assert "the lectures print 0.001" in found["where"]["optimizer.weight_decay"]


def test_json_has_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "show", "recipe", "vgg2014", "--json").out)["recipe"]
    assert found["batch"] == 256
    assert found["expected"][0]["value"] == 27.0
    assert found["deviations"] == list(entry("vgg2014").deviations)
    assert found["citation"].startswith("@inproceedings{simonyan2015very,")
    assert found["command"] == "convworks train DATA --recipe vgg2014"


def test_citations(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "show", "recipe", "resnet2015", "--cite")
    assert ran.out == entry("resnet2015").citation.bibtex() + "\n"  # type: ignore[union-attr]
    assert run(capsys, "show", "resnet2015", "--cite").out == ran.out
    assert json.loads(run(capsys, "show", "resnet2015", "--cite", "--json").out)["recipe"]["citation"]


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["recipe", "alexnet2013"], "U101", "alexnet2012"),
        (["recipe"], "U004", "convworks show recipe alexnet2012"),
        (["lenet5", "alexnet2012"], "U005", "convworks show recipe NAME"),
        (["recipe", "fast", "--cite"], "U220", "convworks show recipe fast"),
        (["fast", "--cite"], "U220", "no paper"),
        (["vgg_d", "--cite"], "U101", "vgg"),
        (["recipe", "fast", "more"], "U005", ""),
    ],
)
def test_mistakes(words: list[str], code: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "show", *words)
    assert ran.status == 2
    assert f"error[{code}]" in ran.err
    assert hint in ran.err
    assert ran.out == ""


def test_a_run_called_recipe_is_still_shown(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "runs" / "photos-mlp128-01").rename(world / "runs" / "recipe")
    assert "mlp128 on" in run(capsys, "show", "recipe").out


def test_every_run_says_what_it_has_to_do_with_its_recipe(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--threads", "1", "--precision", "fp32", "--workers", "0", "--epochs", "1", "--batch", "8"]
    ran = run(capsys, "train", "photos", "--recipe", "mlp128_l2", *quick, "--name", "l2")
    text = " ".join((ran.out + ran.err).split())
    assert "recipe mlp128_l2: differs from the lectures in epochs (10 -> 1, flag), batch (128 -> 8" in text
    assert "differs from the lectures in epochs" in " ".join(run(capsys, "show", "runs/l2").out.split())
    ran = run(capsys, "train", "photos", "--recipe", "fast", "--dry-run", *quick, "--size", "16")
    assert "recipe     fast: ours, no paper" in ran.out + ran.err


def test_long_values_are_folded(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "show", "recipe", "airbench2024").out.splitlines()
    assert max(map(len, lines)) <= 100
    start = next(number for number, line in enumerate(lines) if line.startswith("optimizer.group_rate"))
    assert [line.split()[-3] for line in lines[start + 4 : start + 6]] == [
        "block3.norm1.bias",
        "block3.norm2.bias",
    ]
