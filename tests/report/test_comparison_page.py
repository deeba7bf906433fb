"""Two runs on one page: what differs comes first, then scores, chance, and the images between them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from convworks.errors import ConvworksError
from convworks.flows.compare import compare_runs
from convworks.flows.report import MAKER, check_page_target
from convworks.report.comparison_page import over_steps, partings, render_comparison
from convworks.report.read import read_run
from tests.report.helpers import fake_manifest, fake_run, painter, write_evaluation
from tests.report.test_page import KNOWN_TAGS, Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    first = fake_run(folder, name="first")
    second = fake_run(folder, name="<b>second")
    write_evaluation(second, fake_manifest(), split="val", seed=5)
    recipe = second / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"lr": 0.05', '"lr": 0.2'))
    return [first, second]


@pytest.fixture(scope="module")
def text(runs: list[Path]) -> str:
    found = compare_runs(runs).to_dict()
    return render_comparison(found, [read_run(each) for each in runs], thumbnail=painter())


def test_the_page_is_whole_and_asks_for_nothing(text: str) -> None:
    page = Page(text)
    assert MAKER in text
    assert {tag for tag, _ in page.elements} <= KNOWN_TAGS
    assert [each["id"] for each in page.all("section")] == ["settings", "scores", "pairs", "disagreement"]
    assert "http:" not in text
    assert "https:" not in text
    assert "optimizer.lr 0.05 0.2" in page.text
    assert all(each.get("alt") for each in page.all("img"))


def test_the_same_runs_give_the_same_bytes(runs: list[Path], text: str) -> None:
    records = [read_run(each) for each in runs]
    assert render_comparison(compare_runs(runs).to_dict(), records, thumbnail=painter()) == text


def test_the_gallery_holds_what_one_has_right(runs: list[Path]) -> None:
    a, b = (read_run(each) for each in runs)
    pair = compare_runs(runs).pairs[0]
    found = partings(a, b, split="val", names=["a", "b"], thumbnail=None, pictures=0)
    assert found.found == pair.counts.only_a + pair.counts.only_b
    assert all((each.answers[0] == each.label) != (each.answers[1] == each.label) for each in found.shown)
    assert all(each.answers[each.right] == each.label for each in found.shown)
    sure = [each.probabilities[1 - each.right] for each in found.shown]
    assert sure == sorted(sure, reverse=True)
    none = partings(a, replace(b, evaluations=()), split="val", names=["a", "b"], thumbnail=None, pictures=0)
    assert none.found == 0


def test_curves_over_equal_steps(runs: list[Path]) -> None:
    charts = over_steps([read_run(each) for each in runs])
    assert [each.title for each in charts] == ["Validation accuracy", "Validation loss"]
    assert "after 240 steps" in charts[0].svg
    assert not re.search(r"#[0-9a-f]{6}\b", charts[0].svg)


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(ConvworksError, match="is an HTML page") as wrong:
        check_page_target(tmp_path / "a.txt")
    assert wrong.value.code == "U285"
    own = tmp_path / "own.html"
    own.write_text(f"<html>{MAKER}")
    check_page_target(own)
    own.write_text("<html>mine")
    with pytest.raises(ConvworksError, match="is no comparison of convworks") as wrong:
        check_page_target(own)
    assert wrong.value.code == "U286"
    (tmp_path / "d.html").mkdir()
    with pytest.raises(ConvworksError, match="is a folder"):
        check_page_target(tmp_path / "d.html")
