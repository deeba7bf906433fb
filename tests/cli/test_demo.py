"""`convworks demo`: the list, a table, JSON, a wrong name."""

from __future__ import annotations

import json

import pytest

from convworks.demos import DEMOS
from tests.cli.helpers import run


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "demo", "list")
    assert ran.status == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == ["name", *DEMOS]
    assert [row["name"] for row in json.loads(run(capsys, "demo", "list", "--json").out)] == list(DEMOS)


def test_a_table_and_what_it_is_held_against(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "demo", "equivariance", "--quick", "--seed", "3")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("layer ")
    assert lines[1].split()[-2:] == ["0.000", "0.000"]
    assert "lecture    convolution is equivariant to translation" in ran.out
    assert "found      exact at stride 1 (difference 0)" in ran.out
    assert "seed 3" in ran.err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "demo", "pooling", "--quick", "--json")
    tree = json.loads(ran.out)
    assert (tree["name"], tree["seed"], tree["quick"]) == ("pooling", 0, True)
    assert tree["rows"][-1]["receptive field"] == 18
    assert tree["rows"][-1]["unchanged"] is None


def test_a_wrong_name(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "demo", "shift")
    assert ran.status == 2
    assert "try:   convworks demo shifts" in ran.err


def test_help_names_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    page = run(capsys, "demo", "--help-all").out
    assert all(name in page for name in DEMOS)
