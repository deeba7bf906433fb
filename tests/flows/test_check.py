"""`check` says what training would do with the data, and what a person should look at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from convworks.flows.check import CheckReport, check
from convworks.flows.prepare import DataRequest
from tests.flows.helpers import write_images


def look(work: Path, folder: Path) -> CheckReport:
    return check(DataRequest(location=str(folder), cache=work / "cache"))


def problems(report: CheckReport) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {each.problem: (each.count, each.examples) for each in report.findings}


def test_clean_data_has_no_findings(tmp_path: Path) -> None:
    report = look(tmp_path, write_images(tmp_path / "photos"))
    assert report.findings == ()
    assert report.classes == {"blue": 20, "green": 20, "red": 20}
    assert (report.files, report.readable) == (60, 60)
    assert report.split_rule.startswith("80/20")
    assert report.sizes["median"] == (12, 12)
    json.dumps(report.to_dict())


def test_what_is_wrong_is_counted_and_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", each=24)
    for path in sorted((folder / "red").iterdir())[6:]:
        path.unlink()
    pixels = np.asarray(Image.open(folder / "blue" / "0.png"))
    Image.fromarray(pixels).save(folder / "blue" / "again.png")
    shutil.copy(folder / "blue" / "1.png", folder / "green" / "torn.png")
    (folder / "blue" / "page.jpg").write_text("<!doctype html>")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:, :6]).save(folder / "blue" / "turned.jpg", exif=exif)
    Image.fromarray(np.dstack([pixels, pixels[:, :, :1]])).save(folder / "green" / "alpha.png")
    Image.fromarray(np.full((3, 3), 40_000, np.uint16)).save(folder / "green" / "deep.png")
    Image.fromarray(pixels[::-1]).save(folder / "green" / "named.jpg", format="PNG")
    found = problems(look(tmp_path, folder))
    assert found["unreadable"][0] == 1
    assert "blue/page.jpg" in found["unreadable"][1][0]
    assert found["rotated by EXIF"] == (1, ("blue/turned.jpg",))
    assert found["transparent"][0] == 1
    assert found["16-bit"] == (1, ("green/deep.png",))
    assert found["extension does not fit the content"] == (1, ("green/named.jpg",))
    assert found["exact duplicates"][0] >= 2
    assert found["same picture, two labels"] == (1, ("blue/1.png = green/torn.png",))
    assert any(name.startswith("class imbalance") for name in found)
    assert found["smaller than 8 pixels"][0] >= 1


def test_a_leak_between_given_splits_is_found(tmp_path: Path) -> None:
    write_images(tmp_path / "photos" / "train", each=6)
    (tmp_path / "photos" / "test").mkdir()
    shutil.copytree(tmp_path / "photos" / "train", tmp_path / "photos" / "test", dirs_exist_ok=True)
    found = problems(look(tmp_path, tmp_path / "photos"))
    assert found["same picture in two splits"][0] == 18


def test_data_that_cannot_be_split_is_a_finding_not_a_failure(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", each=6)
    for path in sorted((folder / "red").iterdir())[1:]:
        path.unlink()
    report = look(tmp_path, folder)
    assert report.split_rule == ""
    assert any("red" in each.problem for each in report.findings)
