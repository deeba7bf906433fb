"""The two sliders in a real browser: smoothing against NumPy, thresholds against the numbers of the page."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convworks.report.page import write_report
from convworks.report.read import read_run
from convworks.report.sureness import sureness
from tests.report.helpers import fake_run, painter
from tests.report.test_browser import CHECK, Visit, browser

__all__ = ["browser"]

SLIDE = """([id, value]) => {
  const slider = document.getElementById(id);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fake_run(tmp_path_factory.mktemp("runs"))
    write_report(made, thumbnail=painter())
    return made


@pytest.fixture
def visit(browser: Any, run: Path) -> Iterator[Visit]:
    found = Visit(
        browser, run / "report.html", viewport={"width": 1280, "height": 900}, accept_downloads=True
    )
    yield found
    found.context.close()


def slide(visit: Visit, name: str, value: float) -> None:
    visit.page.evaluate(SLIDE, [name, value])


def paths(visit: Visit, kind: str) -> list[str]:
    """The `d` of the raw or of the smoothed curves of the epoch axis, in their order."""
    which = "path.smooth" if kind == "smooth" else "path:not(.smooth)"
    script = (
        f"() => [...document.querySelectorAll('.by-epoch .smoothed > {which}')].map(e => e.getAttribute('d'))"
    )
    found: list[str] = visit.page.evaluate(script)
    return found


def places(d: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] ?(-?[\d.]+) (-?[\d.]+)", d)])


def test_a_smoothed_curve_is_the_best_line_at_each_place(visit: Visit) -> None:
    raw = paths(visit, "raw")
    assert len(raw) == 8  # loss 3, accuracy 3, gradient norm, speed; not the learning rate
    assert paths(visit, "smooth") == []
    slide(visit, "smooth-width", 7.5)
    assert visit.page.locator("#smooth-said").inner_text() == "7.5 % of the axis"
    assert visit.page.locator("#smooth-width").get_attribute("aria-valuetext") == "7.5 % of the axis"
    smooth = paths(visit, "smooth")
    assert paths(visit, "raw") == raw, "the raw curves stay"
    points = places(raw[0])  # every step of the loss
    assert len(points) == 20 * 12
    whole = np.concatenate([places(each) for each in raw[:3]])[:, 0]
    deviation = 0.075 * (whole.max() - whole.min())
    found = places(smooth[0])
    np.testing.assert_allclose(found[:, 0], points[:, 0])
    for x, y in found[::17]:
        weights = np.exp(-(((points[:, 0] - x) / deviation) ** 2) / 2)
        line = np.polyfit(points[:, 0] - x, points[:, 1], 1, w=np.sqrt(weights))
        assert y == pytest.approx(line[1], abs=0.006)
    assert visit.page.locator(".by-epoch .faint").count() == len(raw)
    slide(visit, "smooth-width", 0)
    assert paths(visit, "smooth") == []
    assert visit.page.locator(".faint").count() == 0
    assert visit.said == []


def test_another_axis_is_smoothed_when_it_is_chosen(visit: Visit) -> None:
    slide(visit, "smooth-width", 5)
    assert visit.page.locator(".by-step path.smooth").count() == 0
    visit.page.get_by_label("steps").check()
    assert visit.page.locator(".by-step path.smooth").count() == 8


def test_a_threshold_is_read_off(visit: Visit, run: Path) -> None:
    record = read_run(run)
    found = sureness(record, record.evaluations[0])
    assert found is not None
    assert found.suggested is not None
    said = visit.page.locator("#read-off-said")
    n, wrong = found.suggested.point.answered, found.suggested.point.wrong
    assert said.inner_text().startswith(
        f"From {found.suggested.point.threshold:.3f} on, {n} of 131 images are answered "
        f"({100 * n / 131:.1f} %), {wrong} of them wrongly: error {100 * wrong / n:.2f} % (95 % "
    )
    slide(visit, "read-off-at", 0)
    assert "131 of 131 images are answered (100.0 %), 12 of them wrongly: error 9.16 %" in said.inner_text()
    dot = visit.page.locator("circle.place")
    right_end = float(str(dot.get_attribute("cx")))
    slider = visit.page.locator("#read-off-at")
    slider.focus()
    visit.page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == said.inner_text()
    assert re.search(r"on, \d of 131 images are answered", said.inner_text())
    assert float(str(dot.get_attribute("cx"))) < right_end
    assert visit.said == []


def test_with_both_sliders_moved_it_can_be_used_by_all(visit: Visit) -> None:
    slide(visit, "smooth-width", 20)
    slide(visit, "read-off-at", 7)
    visit.page.evaluate("() => { for (const d of document.querySelectorAll('details')) d.open = true }")
    assert visit.page.evaluate(CHECK)["wrong"] == []


def test_the_curves_come_out_as_csv(visit: Visit, run: Path) -> None:
    with visit.page.expect_download() as waiting:
        visit.page.get_by_role("link", name="epochs as CSV").click()
    assert waiting.value.suggested_filename == "epochs.csv"
    with Path(waiting.value.path()).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(each["val_loss"]) for each in lines] == [each.val_loss for each in read_run(run).epochs]


def test_without_scripts_there_are_raw_curves_and_a_table(browser: Any, run: Path) -> None:
    found = Visit(browser, run / "report.html", java_script_enabled=False)
    for hidden in ("#smooth", "#smooth-words", "#read-off"):
        assert found.page.locator(hidden).is_hidden()
    assert found.page.locator(".by-epoch svg").count() == 5
    table = found.page.locator("table", has_text="What a threshold does")
    assert table.is_visible()
    assert 5 <= table.locator("tbody tr").count() <= 8
    found.context.close()
