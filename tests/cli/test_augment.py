"""`convworks augment`: the sheet, what is printed, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.helpers import photos, run


@pytest.fixture(autouse=True)
def _photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVWORKS_CACHE", str(tmp_path / "cache"))
    photos(tmp_path / "photos")


def test_a_sheet_and_what_was_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "augment", "photos", "--recipe", "fastnet", "--count", "3")
    assert ran.status == 0
    assert ran.out.startswith("augment    shift 3, flip\npixels     stored as")
    assert "daisy/0.png      0  window from " in ran.out
    assert len([line for line in ran.out.splitlines() if line.startswith(("daisy/", "rose/"))]) == 3
    assert ran.err.endswith("wrote augment.png: 3 images in epochs 0 to 3\n")
    with Image.open(tmp_path / "augment.png") as sheet:
        assert sheet.format == "PNG"
    before = (tmp_path / "augment.png").read_bytes()
    assert run(capsys, "augment", "photos", "--recipe", "fastnet", "--count", "3").status == 0
    assert (tmp_path / "augment.png").read_bytes() == before


def test_settings_epochs_and_verbose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["augment", "photos", "--set", "augment.mixup=0.4", "--set", "augment.shift=0", "--out", "s.png"]
    words += ["--epoch", "5", "--across", "2", "--count", "2", "--seed", "1", "--size", "16"]
    ran = run(capsys, *words, "--verbose")
    assert ran.status == 0
    assert "augment    flip, mixup 0.4\n" in ran.out
    assert "the network sees 16x16" in ran.out
    rows = [line for line in ran.out.splitlines() if line.startswith(("daisy/", "rose/"))]
    assert [line.split()[1] for line in rows] == ["5", "6", "5", "6"]
    assert ran.out.count(" + ") == 4
    assert "in epochs 5 to 6" in ran.err
    one = run(capsys, *words[:-8], "--across", "1", "--count", "1")
    assert one.err.endswith("wrote s.png: 1 image in epoch 5\n")


def test_json_has_everything_but_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "augment", "photos", "--set", "augment.cutmix=1", "--json", "--count", "2")
    found = json.loads(ran.out)
    assert found["sheet"] == "augment.png"
    assert found["policy"]["cutmix"] == 1.0
    assert len(found["views"]) == 2 * 4
    assert {"path", "label", "epoch", "changes", "share", "other", "other_label"} == set(found["views"][0])


def test_a_recipe_without_changes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "augment", "photos", "--model", "mlp128", "--count", "2")
    assert ran.status == 0
    assert "augment    no changes\n" in ran.out
    assert "images stay as they are in every epoch" in ran.out
    assert np.asarray(Image.open(tmp_path / "augment.png")).size


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--out", "sheet.jpg"), "U181", "cannot tell from 'sheet.jpg' what to write"),
        (("--set", "augment.hue=0.1"), "U202", "grey images cannot be changed in hue"),
        (("--set", "augment.scale_jitter=[8,16]"), "U200", "smaller than the network's input"),
        (("--set", "augment.cutout=1000"), "U203", "a cutout of 1000 pixels is too large"),
        (("--set", "augment.mixup=11"), "U112", "augment.mixup"),
        (("--set", "augment.area=[0.5,0.1]"), "U170", "the smaller first"),
        (("--count", "0"), "U003", "--count"),
        (("--recipe", "fastnett"), "U101", "fastnet"),
    ],
)
def test_mistakes(words: tuple[str, ...], code: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "augment", "photos", *words)
    assert ran.status == 2
    assert f"error[{code}]" in ran.err
    assert said in ran.err
    assert not Path("augment.png").exists()


def test_a_file_of_the_users_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "photos" / "daisy" / "0.png"
    before = mine.read_bytes()
    ran = run(capsys, "augment", "photos", "--out", str(mine))
    assert ran.status == 2
    assert "error[U006]" in ran.err
    assert mine.read_bytes() == before
