"""`convworks check` from words to lines, files and exit status."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from convworks.cli.check import VERB
from tests.cli.helpers import photos, run
from tests.data.test_doctor import scenes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVWORKS_CACHE", str(tmp_path / "cache"))
    folder = scenes(tmp_path / "photos", ("daisy", "rose"), each=12)
    Image.open(folder / "daisy/000.jpg").resize((150, 112)).save(folder / "rose/near.jpg")
    return folder


def test_the_whole_story(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "check", "photos/")
    assert ran.status == 0
    assert ran.out.startswith("Looked at photos/   25 images in ")
    rows = [line.split("  ") for line in ran.out.splitlines() if line.startswith("  near")]
    assert [row[1] for row in rows] == ["near duplicates", "nearly the same picture, two labels"]
    assert "! please look" in ran.out
    assert "daisy/000.jpg ~ rose/near.jpg" in ran.out
    said = ran.err.splitlines()
    assert said[-2:] == [
        "Nothing in photos/ was changed.   Details with pictures: photos-check.html",
        "next:  convworks train photos/",
    ]
    assert Path("photos-check.html").is_file()


def test_the_files_that_were_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quarantine", "list.csv", "--splits", "my splits.csv", "--out", "look.html", "--seed", "4"]
    ran = run(capsys, "check", "photos", *words)
    assert ran.status == 0
    assert "quarantine list.csv" in ran.err
    assert "seed 4" in ran.err
    assert ran.err.splitlines()[-1] == "next:  convworks train photos --labels 'my splits.csv'"
    assert sorted(path.name for path in Path().iterdir() if path.is_file()) == [
        "list.csv",
        "look.html",
        "my splits.csv",
    ]
    with Path("list.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert set(paths) == {"daisy/000.jpg", "rose/near.jpg"}
    trained = ["--labels", "my splits.csv", "--model", "mlp128", "--epochs", "1", "--threads", "1", "--quiet"]
    assert run(capsys, "train", "photos", *trained, "--size", "8", "--name", "r").status == 0


def test_without_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "check", "photos", "--no-page", "--no-near")
    assert "near" not in ran.out
    assert not list(Path().glob("*.html"))
    assert "Nothing in photos was changed.\n" in ran.err


def test_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "check", "photos", "--json", "--splits", "s.csv").out)
    assert found["written"] == {"page": "photos-check.html", "splits": "s.csv"}
    kinds = {each["kind"]: each["count"] for each in found["findings"]}
    assert kinds == {"near": 1, "near-conflict": 1}
    assert found["refused"] is None


def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, status in (
        (("--splits", "photos/s.csv"), "D220", 3),
        (("--model", "runs/none"), "A410", 4),
        (("--out", "nowhere/x.html"), "R503", 5),
        (("--seed", "-1"), "U003", 2),
    ):
        ran = run(capsys, "check", "photos", *words)
        assert ran.status == status, words
        assert f"error[{code}]" in ran.err
        assert ran.out == ""
    for path in (folder / "rose").iterdir():
        path.unlink()
    for i in range(3):
        (folder / f"rose/{i}.jpg").write_bytes((folder / "daisy/001.jpg").read_bytes())
    ran = run(capsys, "check", "photos", "--splits", "s.csv")
    assert ran.status == 3
    assert "error[D143]" in ran.err
    assert "exact duplicates" in ran.out  # the rest was said first
    assert Path("photos-check.html").is_file()


def test_a_check_inside_the_data_writes_no_page(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    ran = run(capsys, "check", ".")
    assert ran.status == 0
    assert "no page with pictures" in ran.err
    assert sorted(path.name for path in folder.iterdir()) == ["daisy", "rose"]


def test_labels_that_a_run_doubts(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "check", "photos", "--model", "runs/photos-mlp128-01")
    assert ran.status == 0
    assert "  labels     4 images have probabilities of the run, out of sample" in ran.out
    assert "             20 images were trained on" in ran.out


def test_every_line_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "photos" / "rose" / "a\x1b[31m\n.png").write_bytes(b"<html>")
    ran = run(capsys, "check", "photos")
    assert not any(c < " " for c in (ran.out + ran.err).replace("\n", ""))


def test_the_flags_are_those_of_the_brief() -> None:
    assert {"model", "out", "quarantine", "splits", "labels"} <= set(VERB.main)
