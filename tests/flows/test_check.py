"""`check` says what training would do with the data, and what a person should look at."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convworks.data.manifest import Manifest
from convworks.data.store import ScanInterrupted
from convworks.flows.check import CheckOptions, CheckReport, check
from convworks.flows.check_files import Targets
from convworks.flows.prepare import DataRequest
from convworks.flows.train import train
from tests.data.defects import plant_defects
from tests.data.test_doctor import scenes
from tests.flows.helpers import request, run_all, write_images


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


# What a check writes


def tree_hash(folder: Path) -> str:
    """Of every name, content, size and time below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        digest.update(
            f"{path.relative_to(folder)} {status.st_mode} {status.st_size} {status.st_mtime_ns}".encode()
        )
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def options(work: Path, **more: Any) -> CheckOptions:
    targets = Targets(page=work / "page.html", quarantine=work / "list.csv", splits=work / "splits.csv")
    return CheckOptions(targets=targets, **more)


def test_nothing_in_the_data_changes_and_nothing_is_written_unasked(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=22)
    plant_defects(folder, sorted((folder / "cat").glob("*.jpg")), folder / "dog")
    before = tree_hash(folder)
    look(tmp_path, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "photos"]
    report = check(DataRequest(location=str(folder), cache=tmp_path / "cache"), options=options(tmp_path))
    assert tree_hash(folder) == before
    assert report.refused is None
    names = ["cache", "list.csv", "page.html", "photos", "splits.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert set(report.written or {}) == {"page", "quarantine", "splits"}
    json.dumps(report.to_dict())


def test_a_read_only_folder_is_checked_all_the_same(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=4)
    paths = [folder, *folder.iterdir()]
    for path in paths:
        path.chmod(0o555)
    try:
        assert look(tmp_path, folder).readable == 8
    finally:
        for path in paths:
            path.chmod(0o755)


def test_the_split_file_trains_without_a_leak(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=20)
    for i in range(8):
        image = Image.open(folder / f"cat/{i:03d}.jpg")
        image.resize((150, 112)).save(folder / f"cat/near-{i}.jpg", quality=70)
    (folder / "dog/bad.jpg").write_bytes(b"<html>")
    (folder / "dog/worse.jpg").write_bytes(b"")
    request_ = DataRequest(location=str(folder), cache=tmp_path / "cache")
    found = problems(check(request_, options=options(tmp_path)))
    assert found["near duplicates"][0] == 8
    data = replace(request_, labels=tmp_path / "splits.csv")
    run_all(train(replace(request(tmp_path, folder, epochs=1), data=data)))
    manifest = Manifest.load(tmp_path / "runs" / "run" / "manifest.jsonl")
    table = {
        row["path"]: row
        for row in csv.DictReader(io.StringIO((tmp_path / "splits.csv").read_text(), newline=""))
    }
    assert {sample.path: sample.split for sample in manifest.samples} == {
        p: r["split"] for p, r in table.items()
    }
    assert manifest.split_rule == "train and val as given"
    for i in range(8):
        pair = [table[f"cat/{name}.jpg"] for name in (f"{i:03d}", f"near-{i}")]
        assert len({row["split"] for row in pair}) == 1
        assert len({row["group"] for row in pair}) == 1
    assert len(manifest.samples) == 48


def test_the_same_data_gives_the_same_files(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=10)
    texts = []
    for cache in ("one", "one", "two"):
        check(DataRequest(location=str(folder), cache=tmp_path / cache), options=options(tmp_path, seed=3))
        page = re.sub(r"in [\d.]+ s\.", "", (tmp_path / "page.html").read_text())
        texts.append((page, (tmp_path / "splits.csv").read_bytes(), (tmp_path / "list.csv").read_bytes()))
    assert texts[0] == texts[1] == texts[2]


def test_what_cannot_be_split_loses_nothing_else(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=5)
    for i in range(1, 5):
        shutil.copy(folder / "cat/000.jpg", folder / f"cat/{i:03d}.jpg")
    report = check(DataRequest(location=str(folder), cache=tmp_path / "cache"), options=options(tmp_path))
    assert report.refused is not None
    assert report.refused.error().code == "D143"
    assert set(report.written or {}) == {"page", "quarantine"}
    assert not (tmp_path / "splits.csv").exists()


def test_near_duplicates_can_be_left_out(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=10)
    Image.open(folder / "cat/000.jpg").resize((150, 112)).save(folder / "cat/near.jpg")
    request_ = DataRequest(location=str(folder), cache=tmp_path / "cache")
    assert "near duplicates" in problems(check(request_))
    assert "near duplicates" not in problems(check(request_, options=CheckOptions(near=False)))


def test_arrays_and_small_pictures(tmp_path: Path) -> None:
    request_ = DataRequest(location="digits", cache=tmp_path / "cache")
    targets = Targets(page=tmp_path / "digits.html", quarantine=tmp_path / "list.csv")
    report = check(request_, options=CheckOptions(targets=targets))
    assert [each.kind for each in report.findings] == []
    assert "1,797" in (tmp_path / "digits.html").read_text()


def test_it_can_be_stopped_while_it_looks_for_copies(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=10)
    request_ = DataRequest(location=str(folder), cache=tmp_path / "cache")
    look(tmp_path, folder)
    asked = [0]

    def should_stop() -> bool:
        asked[0] += 1
        return asked[0] > 25

    with pytest.raises(ScanInterrupted):
        check(request_, should_stop=should_stop, options=options(tmp_path))
    assert not (tmp_path / "page.html").exists()
