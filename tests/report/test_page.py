"""The page as a browser and a reader get it: self-contained, escaped, complete, small, always the same."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from convworks.report import page as page_module
from convworks.report.page import render, write_report
from convworks.report.pictures import Picture
from convworks.report.read import read_run
from tests.report.helpers import (
    fake_answers,
    fake_manifest,
    fake_run,
    painter,
    write_evaluation,
    write_recipe,
)

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Elements with their attributes, the text, and whatever is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is given twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def source(run: Path) -> str:
    return write_report(run, thumbnail=painter()).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_it_is_written_into_the_run(run: Path, source: str) -> None:
    assert (run / "report.html").is_file()
    assert source.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert len(source.encode()) < 500_000


def test_nothing_is_asked_of_any_network(source: str, page: Page) -> None:
    for tag, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", source)


def test_the_policy_forbids_everything_else(page: Page) -> None:
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )


def test_the_same_run_gives_the_same_bytes(run: Path, source: str) -> None:
    assert write_report(run, thumbnail=painter()).read_text(encoding="utf-8") == source


def test_ids_are_unique_and_links_arrive(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in page.all("a")]
    assert len(links) > 20
    assert {
        str(link).removeprefix("#") for link in links if not str(link).startswith("data:text/csv;")
    } <= set(ids)
    labels = [attrs["aria-labelledby"] for _, attrs in page.elements if attrs.get("aria-labelledby")]
    assert set(labels) <= set(ids)


def test_tables_and_pictures_are_described(page: Page) -> None:
    assert all(attrs.get("scope") in {"row", "col"} for attrs in page.all("th"))
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in page.all("svg"))
    assert len(page.all("svg")) == 3 * 5 + 2
    assert len(page.all("h1")) == 1


def test_the_verdict_is_there(page: Page) -> None:
    assert "0.908 accuracy on 131 validation images The 95 % interval is 0.847 to 0.947." in page.text
    assert "Balanced accuracy 0.883" in page.text
    assert "Gap, training to validation +0.067" in page.text
    assert 'The weakest class is "tulip": 0.50 recall (4 images), often taken for rose.' in page.text
    assert "Measured with the averaged weights after epoch 18 of 20." in page.text
    assert "Small validation set" in page.text
    assert "The best epoch was chosen on these same images" in page.text


def test_every_section_is_there(run: Path, page: Page) -> None:
    sections = [attrs["id"] for attrs in page.all("section")]
    assert sections == [
        "verdict", "data", "curves", "errors", "suspects", "slices", "calibration", "recipe", "reproduce"
    ]  # fmt: skip
    manifest = fake_manifest()
    assert manifest.sha256 in page.text
    assert "an HTML page, not an image" in page.text
    assert manifest.warnings[0] in page.text
    assert "Thumbs.db" in page.text
    assert "convworks train flowers/ --model resnet18 --epochs 20 --name 'my run'" in page.text
    assert "memory allocator: keeps its pages" in page.text


def test_every_picture_has_its_path(page: Page) -> None:
    wrong = wrong_paths()
    assert len(mistake_pictures(page)) == len(wrong)
    for path in wrong:
        assert path in page.text


def mistake_pictures(page: Page) -> list[dict[str, str | None]]:
    return [attrs for attrs in page.all("img") if "taken for" in str(attrs["alt"])]


def test_numbers_stay_where_a_section_is_missing(run: Path, page: Page) -> None:
    assert [attrs["value"] for attrs in page.all("li") if "value" in attrs] == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "9",
        "10",
    ]
    assert "9 Recipe and deviations" in page.text


def test_forms_have_labels(source: str, page: Page) -> None:
    for tag in ("input", "select", "textarea"):
        assert page.all(tag)
    controls = len(page.all("input")) + len(page.all("select")) + len(page.all("textarea"))
    assert len(page.all("label")) == controls


def wrong_paths() -> list[str]:
    manifest = fake_manifest()
    answers = fake_answers(manifest)
    wrong = answers["probabilities"].argmax(axis=1) != answers["labels"]
    return [manifest.samples[row].path for row in answers["rows"][wrong]]


def test_a_cell_leads_to_its_mistakes(page: Page) -> None:
    cells = {attrs["data-cell"] for _, attrs in page.elements if attrs.get("data-cell")}
    links = {str(attrs["href"]).removeprefix("#") for attrs in page.all("a")}
    assert cells == {link for link in links if link.startswith("cell-")}
    assert len(cells) > 5


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "'}; alert(1); {{ 7*7 }} {% raw %}",
    "esc\x1b[31m \u202eevil",
    b"latin \xe9\xff".decode("utf-8", "surrogateescape"),
    "=cmd|' /C calc'!A0",
    "long " + "x" * 5000,
    "</title></style><b>",
)


def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path) -> None:
    manifest = fake_manifest(HOSTILE, sizes=[12] * len(HOSTILE))
    manifest = replace(
        manifest,
        name=HOSTILE[0],
        location=HOSTILE[1],
        layout=HOSTILE[0],
        split_rule=HOSTILE[1],
        warnings=HOSTILE,
        ignored=tuple(type(manifest.ignored[0])(name, name) for name in HOSTILE),
        samples=tuple(s._replace(verdict=s.verdict if s.sha256 else HOSTILE[1]) for s in manifest.samples),
    )
    run = fake_run(tmp_path, manifest=manifest, name="<b>run & 'co'")
    hostile = dict.fromkeys(HOSTILE, HOSTILE[0])
    write_recipe(
        run,
        recipe={**hostile, "model": HOSTILE[4]},
        provenance=hostile,
        command=list(HOSTILE),
        environment={"a": hostile},
    )
    (run / "plan.json").write_text(
        json.dumps({**hostile, "reasons": HOSTILE, "measured": dict.fromkeys(HOSTILE, 1)})
    )
    for split in HOSTILE[:2]:
        write_evaluation(run, manifest, split="val")
        record = json.loads((run / "evaluation/val.json").read_text())
        name = "test" if split == HOSTILE[0] else "other"
        (run / f"evaluation/{name}.json").write_text(json.dumps({**record, "split": split, "weights": split}))
    text = write_report(run, thumbnail=painter()).read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= KNOWN_TAGS
    assert len(page.all("script")) == 1
    assert all(set(attrs) <= {"src", "width", "height", "alt", "class"} for attrs in page.all("img"))
    assert HOSTILE[0] in page.text
    assert "&lt;" not in page.text, "something was escaped twice"
    assert "esc\\x1b[31m \\u202eevil" in page.text
    assert "latin \\xe9\\xff · 120 images" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff]", text)


KNOWN_TAGS = {
    *("html", "head", "meta", "title", "link", "style", "script", "body", "header", "nav", "main", "footer"),
    *(
        "section",
        "div",
        "span",
        "p",
        "h1",
        "h2",
        "h3",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "small",
        "b",
        "a",
        "button",
    ),
    *("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "details", "summary", "code", "pre"),
    *("fieldset", "legend", "label", "input", "select", "option", "textarea", "ol", "br"),
    *("figure", "figcaption", "img", "svg", "g", "path", "text", "use", "defs", "clippath", "rect"),
}


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("manifest.jsonl", {"data", "suspects", "slices"}),
        ("plan.json", set()),
        ("metrics.jsonl", {"curves"}),
        ("timing.jsonl", set()),
        ("model", set()),
        ("evaluation", {"errors", "suspects", "slices", "calibration"}),
        ("evaluation/val.safetensors", {"suspects", "slices", "calibration"}),
    ],
)
def test_what_is_missing_is_left_out(
    run: Path, page: Page, tmp_path: Path, missing: str, gone: set[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / missing) if (copy / missing).is_dir() else (copy / missing).unlink()
    found = Page(write_report(copy).read_text(encoding="utf-8"))
    whole = {str(attrs["id"]) for attrs in page.all("section")}
    assert {str(attrs["id"]) for attrs in found.all("section")} == whole - gone
    ids = {attrs["id"] for _, attrs in found.elements if attrs.get("id")}
    links = {str(attrs["href"]) for attrs in found.all("a")}
    assert {link.removeprefix("#") for link in links if not link.startswith("data:text/csv;")} <= ids


def test_a_run_that_was_not_evaluated_says_how_far_it_is(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run one"))
    shutil.rmtree(copy / "evaluation")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[: 13 * 4]))
    text = Page(write_report(copy).read_text(encoding="utf-8")).text
    assert "4 epochs done, not evaluated yet. Best validation accuracy so far: 0.5" in text
    assert (
        f"4 of 20 epochs are done. To continue a run that was interrupted: convworks resume '{copy}'" in text
    )
    (copy / "finished.json").write_text("{}")
    assert "convworks resume" not in Page(write_report(copy).read_text(encoding="utf-8")).text


def test_only_a_recipe_makes_a_page(tmp_path: Path) -> None:
    write_recipe(tmp_path, recipe={}, provenance={}, command=[], environment={})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [attrs["id"] for attrs in page.all("section")] == ["verdict"]
    assert "0 epochs done, not evaluated yet." in page.text


def test_the_test_set_is_the_headline_where_there_is_one(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    manifest = fake_manifest()
    seen = tuple(s._replace(split="test" if s.split == "val" else s.split) for s in manifest.samples)
    write_evaluation(copy, replace(manifest, samples=seen), split="test", seed=9)
    text = Page(write_report(copy).read_text(encoding="utf-8")).text
    assert "accuracy on 131 test images" in text
    assert "The best epoch was chosen on these same images" not in text
    assert "All evaluations of this network" in text
    assert "test centre one view of each image one, averaged weights no 131" in text


def test_a_page_that_would_be_too_large_shows_fewer_pictures(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy = Picture("data:image/png;base64," + "A" * 900_000, 10, 10, pixelated=True)
    monkeypatch.setattr("convworks.report.pictures.small_copy", lambda pixels: heavy)
    record = read_run(run)
    text = render(record, thumbnail=painter())
    assert len(text.encode()) <= page_module.LARGEST
    page = Page(text)
    assert page.all("img") == []
    assert len([1 for _, attrs in page.elements if attrs.get("data-cell")]) == len(wrong_paths())


def test_a_hundred_classes_and_long_paths_stay_small(tmp_path: Path) -> None:
    names = [f"class number {i} with a rather long name" for i in range(100)]
    manifest = fake_manifest(names, sizes=[60] * 100)
    longer = tuple(s._replace(path=f"{'folder/' * 30}{s.path}") for s in manifest.samples)
    run = fake_run(tmp_path, manifest=replace(manifest, samples=longer))
    pixels = np.random.default_rng(0).integers(0, 256, size=(300, 300, 3), dtype=np.uint8)
    text = write_report(run, thumbnail=lambda path: pixels).read_text(encoding="utf-8")
    page = Page(text)
    assert len(text.encode()) < 3_000_000
    assert len(mistake_pictures(page)) == 40
    assert any("dense" in str(attrs.get("class")) for attrs in page.all("table"))


def test_the_page_speaks_of_no_pictures_where_there_are_none(run: Path) -> None:
    page = Page(render(read_run(run)))
    assert page.all("img") == []
    assert {attrs.get("open", "closed") for attrs in page.all("details")} == {None, "closed"}
    assert "12 mistakes as a list" in page.text
