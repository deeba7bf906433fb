"""`convworks report`: the page again, the card, the comparison, and what does not go together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from convworks.cli import main
from tests.cli.helpers import run

QUICK = ["--threads", "1", "--precision", "fp32", "--workers", "0", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CONVWORKS_CACHE", str(folder / "cache"))
        train = ["train", "digits", "--model", "mlp128", "--epochs", "2", *QUICK]
        assert main([*train, "--name", "a"]) == 0
        assert main([*train, "--name", "b", "--seed", "1", "--lr", "0.003"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CONVWORKS_CACHE", str(place / "cache"))


def test_written_again_it_has_the_same_bytes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = (place / "runs/a/report.html").read_text()
    assert "As the network saw it" in trained
    assert run(capsys, "report", "runs/a").out == "wrote runs/a/report.html\n"
    again = (place / "runs/a/report.html").read_text()
    run(capsys, "report", "runs/a")
    assert (place / "runs/a/report.html").read_text() == again
    assert again.count("<img") == trained.count("<img")
    assert again.count("<section") == 10


def test_people_are_named_where_they_are_given(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "report", "runs/a", "--human-error", "0.0116")
    page = (place / "runs/a/report.html").read_text()
    assert "People get 1.16 % of such images wrong (given with --human-error)" in page
    assert run(capsys, "report", "runs/a", "--human-error", "1.16").status == 2


def test_a_card(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "report", "runs/a", "--card", "--json")
    assert json.loads(found.out)["report"].endswith("runs/a/model-card.md")
    assert 'model: "mlp128"' in (place / "runs/a/model-card.md").read_text()


def test_a_comparison(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "report", "runs/a", "runs/b").out == "wrote comparison.html\n"
    page = (place / "comparison.html").read_text()
    assert page.index("What was set differently") < page.index("What came out") < page.index("Whether it is")
    assert run(capsys, "report", "runs/a", "runs/b").status == 0
    (place / "mine.html").write_text("mine")
    for name, code in (("mine.html", "U286"), ("mine.txt", "U285")):
        found = run(capsys, "report", "runs/a", "runs/b", "--out", name)
        assert found.status == 2
        assert code in found.err
    assert (place / "mine.html").read_text() == "mine"


@pytest.mark.parametrize(
    "words",
    [
        ("runs/a", "--out", "x.html"),
        ("runs/a", "runs/b", "--card"),
        ("runs/a", "runs/b", "--human-error", "0.1"),
    ],
)
def test_what_does_not_go_together(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    found = run(capsys, "report", *words)
    assert found.status == 2
    assert "U287" in found.err
