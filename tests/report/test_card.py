"""The model card: facts alone, no empty heading, hostile names as text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from convworks.report.card import model_card
from convworks.report.provenance import next_steps, paper
from convworks.report.read import read_run
from tests.report.helpers import fake_manifest, fake_run, write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs"))


def front(card: str) -> dict[str, object]:
    head = card.split("---\n")[1]
    return {key: json.loads(value) for key, _, value in (line.partition(": ") for line in head.splitlines())}


def test_the_front_matter_says_what_was_measured(run: Path) -> None:
    facts = front(model_card(read_run(run)))
    assert facts["model"] == "resnet18"
    assert facts["split"] == "val"
    assert facts["protocol"] == "centre"
    assert facts["images"] == 131
    assert facts["accuracy"] == pytest.approx(119 / 131, abs=1e-6)
    assert facts["manifest_sha256"] == fake_manifest().sha256


def test_the_same_run_gives_the_same_card(run: Path) -> None:
    assert model_card(read_run(run)) == model_card(read_run(run))


def sections(card: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", card, flags=re.MULTILINE)[1:]
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize(
    "missing", ["manifest.jsonl", "metrics.jsonl", "evaluation", "model", "plan.json", "timing.jsonl"]
)
def test_no_heading_is_empty(run: Path, tmp_path: Path, missing: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / missing) if (copy / missing).is_dir() else (copy / missing).unlink()
    found = sections(model_card(read_run(copy)))
    assert all(found.values()), found
    assert ("Results" in found) == (missing != "evaluation")
    assert ("Data" in found) == (missing != "manifest.jsonl")


def test_only_a_recipe_makes_no_headings(tmp_path: Path) -> None:
    write_recipe(tmp_path, recipe={}, provenance={}, command=[], environment={})
    assert sections(model_card(read_run(tmp_path))) == {}


def test_hostile_names_are_text(tmp_path: Path) -> None:
    names = ("a|b", "<script>alert(1)</script>", "[x](http://evil)", "`c`\n# head", "é\x1b")
    manifest = fake_manifest(names, sizes=[12] * len(names))
    run = fake_run(tmp_path, manifest=manifest)
    write_recipe(run, command=["convworks", "train", "``x`` y"])
    card = model_card(read_run(run))
    assert "<script>" not in card
    assert "[x](" not in card
    assert "\x1b" not in card
    assert not re.search(r"^# head", card, re.MULTILINE)
    rows = [line for line in card.splitlines() if line.startswith("| a\\|b")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)
    assert "```convworks train '``x`` y'```" in card


def test_a_named_recipe_brings_its_paper(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    tree = json.loads((copy / "recipe.json").read_text())
    (copy / "recipe.json").write_text(
        json.dumps(tree | {"recipe_name": "resnet2015_cifar", "compliance": "as told"})
    )
    record = read_run(copy)
    found = paper(record)
    assert found is not None
    assert "CVPR" in found.line
    assert found.bibtex.startswith("@inproceedings{")
    assert "- as told" in model_card(record)
    assert paper(read_run(run)) is None


def test_commands_to_go_on(run: Path) -> None:
    steps = dict(next_steps(read_run(run)))
    assert steps["Train longer"] == "convworks train flowers/ --model resnet18 --epochs 40"
    assert steps["Go on after a stop"] == f"convworks resume {run}"
    assert steps["Measure again"] == f"convworks eval {run} flowers/"
