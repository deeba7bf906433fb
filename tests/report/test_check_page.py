"""The page of a check: complete, self-contained, escaped, described, small, and drawn from right numbers."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convworks.data.doctor import Diagnosis
from convworks.data.near_duplicates import NearPair
from convworks.report import check_page as module
from convworks.report.check_charts import histogram, size_scatter
from convworks.report.check_facts import Facts
from convworks.report.check_page import difference, reduced, render
from convworks.report.check_words import EXPLANATIONS
from tests.data.defects import jpeg, plant_defects
from tests.data.doctor_proof import look
from tests.data.test_doctor import scenes
from tests.data.test_doctor_near import photograph
from tests.report.test_page import Page

HOSTILE = (
    "<script>alert(1)<",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
    "esc\x1b[31m\u202e",
    "latin\udce9",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits, every kind of defect, leaks, and names that would do harm."""
    folder = tmp_path_factory.mktemp("check") / "photos"
    classes = ("cat", "dog", "<script>alert(1)<script>")
    scenes(folder, tuple(f"{split}/{name}" for split in ("train", "test") for name in classes), each=22)
    plant_defects(folder, sorted((folder / "train/cat").glob("*.jpg")), folder / "train/dog")
    source = Image.open(folder / "train/dog/003.jpg")
    for number, name in enumerate(HOSTILE):
        content = jpeg(source.resize((150 + 3 * number, 112)), 70 + number, exif=exif())
        (folder / "test/cat" / f"{name.replace('/', '-')}.jpg").write_bytes(content)
    (folder / "test/dog/same.jpg").write_bytes((folder / "train/dog/005.jpg").read_bytes())
    return folder


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x010E] = "SECRET-PLACE"
    return found


@pytest.fixture(scope="module")
def diagnosis(folder: Path) -> Diagnosis:
    return look(folder, folder.parent / "cache")


def facts(**more: object) -> Facts:
    base = {
        "name": "photos",
        "location": "photos/",
        "layout": "folders",
        "split_rule": "as given",
        "seconds": 1.0,
    }
    return Facts(**{**base, **more})  # type: ignore[arg-type]


def picture_of(folder: Path, diagnosis: Diagnosis) -> module.Look:
    def picture(index: int) -> module.Pixels | None:
        with Image.open(folder / diagnosis.entries[index].path) as image:
            return np.asarray(image.convert("RGB"))

    return picture


@pytest.fixture(scope="module")
def source(folder: Path, diagnosis: Diagnosis) -> str:
    words = facts(
        ignored=[("Thumbs.db", "left by Windows"), (HOSTILE[0], HOSTILE[1])],
        warnings=[HOSTILE[1]],
        suspects=[(0, f"label suspect: cat, looks like {HOSTILE[0]}"), (2, "label suspect")],
        label_notes=["labels of 9 images were compared"],
    )
    return render(words, diagnosis, picture_of(folder, diagnosis))


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_every_kind_has_its_section(page: Page, diagnosis: Diagnosis) -> None:
    sections = [attrs["id"] for attrs in page.all("section")]
    kinds = [problem.kind for problem in diagnosis.problems]
    assert len(kinds) >= 16
    assert sections[:4] == ["problems", "classes", "sizes", "looks"]
    assert set(sections[4:]) == {*kinds, "label-suspect"}
    assert sections[4:] == sorted(sections[4:], key=list(EXPLANATIONS).index)
    for problem in diagnosis.problems:
        assert EXPLANATIONS[problem.kind] in page.text


def test_it_asks_for_nothing_and_runs_nothing(source: str, page: Page) -> None:
    assert page.all("script") == []
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "href", "action", "srcset"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert "http" not in re.sub(r'http-equiv="', "", source)
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )


def test_hostile_names_are_text(source: str, page: Page) -> None:
    assert "<script" not in source
    assert "onerror=alert(1)>" in page.text
    assert "<script>alert(1)<script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "esc\\x1b[31m\\u202e" in page.text
    assert "latin\\xe9" in page.text
    assert "&lt;" not in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff]", source)
    assert all(set(attrs) <= {"src", "width", "height", "alt", "class"} for attrs in page.all("img"))


def test_it_can_be_read_by_everybody(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.elements
    assert len(page.all("h1")) == 1
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in page.all("svg"))
    assert all(attrs.get("scope") in {"row", "col"} for attrs in page.all("th"))
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {str(attrs["href"])[1:] for attrs in page.all("a")} <= set(ids)
    labels = {attrs["aria-labelledby"] for _, attrs in page.elements if attrs.get("aria-labelledby")}
    assert labels <= set(ids)


def test_pictures_are_small_copies_without_metadata(source: str, page: Page) -> None:
    contents = [base64.b64decode(str(attrs["src"]).split(",", 1)[1]) for attrs in page.all("img")]
    assert len(contents) > 30
    for content in set(contents):
        assert b"SECRET" not in content
        assert b"Exif" not in content
        with Image.open(io.BytesIO(content)) as image:
            assert max(image.size) <= max(module.SIDE, module.DIFFERENCE)
            assert not image.getexif()


def test_every_picture_has_its_path(source: str, diagnosis: Diagnosis) -> None:
    for figure in re.findall(r"<figure>.*?</figure>", source, flags=re.S):
        if "<img" in figure:
            assert '<span class="path">' in figure


def test_near_copies_stand_side_by_side_with_their_difference(source: str) -> None:
    pairs = re.findall(r'<div class="trio">.*?</figure>', source, flags=re.S)
    assert pairs
    for pair in pairs:
        assert pair.count("<img") == 3
        assert "difference between the two" in pair
        assert re.search(r"\d\d\.\d % alike", pair)


def test_the_counts_are_those_of_the_diagnosis(page: Page, diagnosis: Diagnosis) -> None:
    for problem in diagnosis.problems:
        title = problem.title[0].upper() + problem.title[1:]
        assert f"{title} {problem.count:,} {EXPLANATIONS[problem.kind][:20]}" in page.text
    readable = len(diagnosis.readable)
    assert f"{readable} of {len(diagnosis.entries)} images readable · 3 classes" in page.text


def test_a_page_that_is_too_large_loses_pictures_first(
    folder: Path, diagnosis: Diagnosis, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 120_000)
    small = render(facts(), diagnosis, picture_of(folder, diagnosis))
    assert len(small.encode()) < len(source.encode())
    monkeypatch.setattr(module, "LARGEST", 1)
    bare = Page(render(facts(), diagnosis, picture_of(folder, diagnosis)))
    assert bare.all("img") == []
    assert {attrs["id"] for attrs in bare.all("section")} >= {problem.kind for problem in diagnosis.problems}


def test_a_file_that_vanished_meanwhile(diagnosis: Diagnosis) -> None:
    page = Page(render(facts(), diagnosis, lambda _: None))
    assert page.all("img") == []
    assert "not readable" in page.text


def test_nothing_wrong(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=20)
    clean = look(folder, tmp_path / "cache")
    page = Page(render(facts(no_split="class 'x' has 1 image"), clean, picture_of(folder, clean)))
    assert "No problems were found." in page.text
    assert "Training would stop: class 'x' has 1 image" in page.text
    assert "All pictures have 200 × 150 pixels." in page.text


def test_the_difference_is_white_where_nothing_differs() -> None:
    one = np.asarray(photograph(0))
    same = NearPair(0, 1, 1.0, False, (0.0, 0.0), (1.0, 1.0))
    assert difference(one, one, same).min() > 250
    darker = (one * 0.7 + 20).astype(np.uint8)
    assert difference(one, darker, same).min() > 235
    changed = one.copy()
    changed[60:90, 80:110] = 255 - changed[60:90, 80:110]
    found = difference(one, changed, same)
    assert found.shape == (128, 128, 1)
    assert found[55:70, 50:70].mean() < 150 < 200 < found[:30].mean()
    mirrored = NearPair(0, 1, 1.0, True, (0.0, 0.0), (1.0, 1.0))
    assert difference(one, np.ascontiguousarray(one[:, ::-1]), mirrored).mean() > 245


def test_small_copies() -> None:
    assert reduced(np.zeros((400, 200, 3), np.uint8), 100).shape == (100, 50, 3)
    assert reduced(np.zeros((4, 2, 1), np.uint8), 100).shape == (4, 2, 1)
    assert reduced(np.zeros((1, 5000, 3), np.uint8), 100).shape == (1, 100, 3)


def test_the_scatter_has_a_dot_for_each_size() -> None:
    svg = size_scatter([(100, 200)] * 5 + [(200, 100), (1000, 1000)])
    assert svg.count("<circle") == 3
    radii = [float(r) for r in re.findall(r' r="([\d.]+)"', svg)]
    assert radii[0] == max(radii)
    assert "widths from 100 to 1,000, heights from 100 to 1,000" in svg
    assert size_scatter([]) == ""
    assert size_scatter([(1, 1)]).count("<circle") == 1


def test_the_histogram_has_the_counts() -> None:
    values = np.array([0.0, 1.0, 128.0, 300.0])
    svg = histogram(values, name="brightness", low=0, high=255)
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)]
    wanted, _ = np.histogram(values.clip(0, 255), bins=32, range=(0, 255))
    np.testing.assert_allclose(np.array(heights) / max(heights), wanted / wanted.max(), atol=0.01)
    assert histogram(np.zeros(0), name="x", low=0, high=1) == ""
    for text in (svg, size_scatter([(10, 20)])):
        Page(f"<html>{text}</html>")
