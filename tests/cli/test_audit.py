"""`convworks audit`: tables, groups, files of three kinds, and exit 6 for a number that nothing explains."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

from convworks.cli.audit import Group
from convworks.ledger import findings as module
from convworks.ledger.cell import Cell
from convworks.ledger.findings import GROUPS
from convworks.ledger.sheet import listed
from tests.cli.helpers import run


def test_the_groups_of_the_command_are_those_of_the_ledger() -> None:
    assert get_args(Group) == tuple(GROUPS)


def test_a_group_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "audit", "lectures")
    assert ran.status == 0, ran.err
    assert ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0] == "Layers by hand"
    assert "outputs of the second pooling layer        15/28    16/28     erratum D16" in lines
    assert any(line.startswith("lectures: 60 cells, 23 exact, 2 errata") for line in lines)
    assert any(line.startswith("note D14  MNIST 0.17 %") for line in lines)
    assert not any(line.startswith("all: ") for line in lines)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "audit", "vgg", "lectures", "--json")
    assert ran.status == 0
    found = json.loads(ran.out)
    assert found["groups"] == ["vgg", "lectures"]
    assert found["counts"]["exact"] == 166 + 23
    cells = {each["id"]: each for each in found["cells"]}
    assert cells["vgg/19/parameters"]["value"] == 143_667_240
    assert "VGG configurations" in ran.err


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.md", "a.csv", "a.json"):
        ran = run(capsys, "audit", "lectures", "--write", name)
        assert ran.status == 0, ran.err
        assert ran.err.startswith(f"wrote {name}: 60 cells")
    assert Path("a.md").read_text().startswith("# Published numbers and computed ones\n")
    with Path("a.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 60
    assert json.loads(Path("a.json").read_text())["groups"] == ["lectures"]


def test_files_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "audit", "vgg", "--write", "a.pdf")
    assert ran.status == 2
    assert "error[U190]: an audit cannot be written as 'a.pdf'" in ran.err
    assert "names end in .md, .csv, .json" in ran.err
    assert "convworks audit vgg --write a.md" in ran.err
    Path("a.md").write_text("mine")
    ran = run(capsys, "audit", "--write", "a.md")
    assert ran.status == 2
    assert "error[U143]: a.md is there already" in ran.err
    assert "convworks audit --write a-2.md" in ran.err
    assert Path("a.md").read_text() == "mine"
    ran = run(capsys, "audit", "--write", "nowhere/a.md")
    assert ran.status == 5
    assert "error[R591]: there is no folder nowhere" in ran.err


def test_a_group_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "audit", "googlnet")
    assert ran.status == 2
    assert "did you mean  googlenet" in ran.err


def test_an_unexplained_number_ends_with_exit_6(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = Cell(
        id="lectures/planted",
        what="parameters of mlp128",
        printed="101,777",
        compute=lambda net: net.parameters("mlp128"),
    )
    sheet = listed("lectures/planted", "Planted", "a page", (planted,))
    monkeypatch.setattr(module, "audit", partial(module.audit, tables={"lectures": (sheet,)}))
    ran = run(capsys, "audit")
    assert ran.status == 6
    assert "parameters of mlp128  101,777  101,770   unexplained" in ran.out
    assert "error[N631]: lectures/planted is printed as 101,777 and computed as 101,770" in ran.err
    assert "where: a page" in ran.err
