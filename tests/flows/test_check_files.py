"""Where a check may write, known before anything is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convworks.errors import ConvworksError
from convworks.flows import check as module
from convworks.flows.check import CheckOptions, CheckReport, check
from convworks.flows.check_files import Targets
from convworks.flows.prepare import DataRequest
from tests.flows.helpers import write_images

KINDS = ("page", "quarantine", "splits")


def run(work: Path, *, location: str = "photos", labels: Path | None = None, **targets: Path) -> CheckReport:
    request = DataRequest(location=location, cache=work / "cache", labels=labels)
    return check(request, options=CheckOptions(targets=Targets(**targets)))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(work: Path, monkeypatch: pytest.MonkeyPatch, **targets: Path) -> ConvworksError:
    """The error, which must come before any image is read."""
    monkeypatch.setattr(module, "scan", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(ConvworksError) as caught:
        run(work, **targets)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["photos/x.csv", "photos/red/x.csv", "photos/../photos/x.csv", "link/x.csv"])
def test_never_into_the_data(work: Path, monkeypatch: pytest.MonkeyPatch, kind: str, path: str) -> None:
    (work / "link").symlink_to(work / "photos")
    problem = refused(work, monkeypatch, **{kind: Path(path)})
    assert problem.code == "D220"
    assert "never written to" in problem.what
    assert problem.try_.endswith("x.csv")
    assert str(work / "photos") not in problem.try_


@pytest.mark.parametrize("kind", KINDS)
def test_never_over_a_file_of_another_kind(work: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mine = work / "labels.csv"
    mine.write_text("path,label,split\nred/1.png,red,train\n")
    problem = refused(work, monkeypatch, **{kind: mine})
    assert problem.code == "U006"
    assert "new-labels.csv" in problem.try_
    assert mine.read_text().startswith("path,label,split\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_its_own_is_replaced(work: Path, kind: str) -> None:
    target = work / "file"
    run(work, **{kind: target})
    first = target.read_bytes()
    target.write_bytes(first + b"\n")
    run(work, **{kind: target})
    assert len(target.read_bytes()) <= len(first) + 8
    assert [path.name for path in work.iterdir() if path.name.startswith(".tmp")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_and_a_place_that_refuses(work: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (work / "there").mkdir()
    assert refused(work, monkeypatch, **{kind: work / "there"}).code == "U006"
    problem = refused(work, monkeypatch, **{kind: work / "nowhere" / "x"})
    assert (problem.code, problem.why) == ("R503", "nothing was computed")


def test_two_files_of_one_name(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(work, monkeypatch, splits=Path("a.csv"), quarantine=work / "a.csv").code == "U006"


def test_a_split_file_needs_files(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "scan", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(ConvworksError, match="no files of their own") as caught:
        run(work, location="digits", splits=work / "splits.csv")
    assert caught.value.code == "D221"


def test_the_folder_of_a_table_is_data_too(work: Path) -> None:
    (work / "photos" / "labels.csv").write_text(
        "path,label\n" + "".join(f"{c}/{i}.png,{c}\n" for c in ("red", "blue") for i in range(9))
    )
    with pytest.raises(ConvworksError) as caught:
        run(work, location="photos/labels.csv", splits=work / "photos" / "splits.csv")
    assert caught.value.code == "D220"
    report = run(work, location="photos/labels.csv", splits=work / "splits.csv")
    assert set(report.written or {}) == {"splits"}
    again = run(work, labels=work / "splits.csv", quarantine=work / "list.csv")
    assert again.split_rule == "train and val as given"


def test_the_page_that_nobody_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run(work, folder=Path())
    assert report.written == {"page": "photos-check.html"}
    assert (work / "photos-check.html").is_file()
    (work / "photos-check.html").write_text("<p>mine</p>")
    report = run(work, folder=Path())
    assert report.written == {}
    assert report.written_notes[0].startswith("no page with pictures: photos-check.html exists")
    assert (work / "photos-check.html").read_text() == "<p>mine</p>"
    monkeypatch.chdir(work / "photos")
    report = run(work, location=".", folder=Path())
    assert "lies inside the data" in report.written_notes[0]
    assert sorted(os.listdir(work / "photos")) == ["blue", "green", "red"]
