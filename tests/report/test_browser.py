"""The page in a real browser: it asks for nothing, says no error, filters by a click, and can be used by all.

Driven by Playwright with the system's Chromium. Skipped where either is missing, but not in CI.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convworks.report.page import write_report
from tests.report.helpers import fake_run, painter

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
WIDTHS = {"wide": 1280, "narrow": 480}

CHECK = Path(__file__).with_name("accessibility.js").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    missing = "" if Path(CHROMIUM).is_file() else "there is no Chromium"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "Playwright is not installed"
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must look at the page in a browser: {missing}")
        pytest.skip(missing)
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(fake_run(tmp_path_factory.mktemp("runs")), thumbnail=painter())


class Visit:
    """An open page, with what it asked for and what it complained about."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(file.as_uri())


@pytest.fixture
def visit(browser: Any, page_file: Path) -> Iterator[Visit]:
    found = Visit(browser, page_file, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield found
    found.context.close()


def test_nothing_is_asked_for_and_nothing_goes_wrong(visit: Visit, page_file: Path) -> None:
    visit.page.wait_for_timeout(300)
    assert [url for url in visit.asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert visit.said == []


def test_the_listener_hears_a_request_and_an_error(browser: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://127.0.0.1:9/x.png"><script>throw Error("planted")</script>')
    found = Visit(browser, bad)
    found.page.wait_for_timeout(200)
    assert any("127.0.0.1" in url for url in found.asked)
    assert any("planted" in text for text in found.said)
    found.context.close()


def shown(visit: Visit) -> list[str]:
    script = "() => [...document.querySelectorAll('[data-cell]:not([hidden])')].map(e => e.dataset.cell)"
    cells: list[str] = visit.page.evaluate(script)
    return cells


def test_a_cell_of_the_confusion_shows_its_images_alone(visit: Visit) -> None:
    whole = shown(visit)
    link = visit.page.locator("table.confusion a").first
    cell = str(link.get_attribute("href")).removeprefix("#")
    number = int(link.inner_text())
    link.click()
    assert shown(visit) == [cell] * number
    said = visit.page.locator("#filter-said").inner_text()
    assert said.startswith(f"{number} image")
    assert "taken for" in said
    assert visit.page.evaluate("document.activeElement.id") == "mistakes"
    visit.page.get_by_role("button", name="Show all").click()
    assert shown(visit) == whole


def test_the_keyboard_does_what_the_mouse_does(visit: Visit) -> None:
    visit.page.locator("table.confusion a").first.focus()
    visit.page.keyboard.press("Enter")
    assert len(set(shown(visit))) == 1


def test_paths_are_filtered_ordered_and_copied(visit: Visit) -> None:
    paths = "() => [...document.querySelectorAll('[data-cell]:not([hidden])')].map(e => e.dataset.path)"
    visit.page.get_by_label("Path contains").fill("TULIP/")
    found = visit.page.evaluate(paths)
    assert found
    assert all(path.startswith("tulip/") for path in found)
    visit.page.get_by_label("Order").select_option("path")
    assert visit.page.evaluate(paths) == sorted(found)
    visit.page.get_by_role("button", name="Copy paths").click()
    assert visit.page.get_by_label("Paths of the images shown").input_value().split("\n") == sorted(found)


def test_tables_are_sorted(visit: Visit) -> None:
    table = visit.page.locator("table.sortable", has_text="Most often taken for")
    table.get_by_role("button", name="Recall").click()
    cells = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert [float(each) for each in cells] == sorted(float(each) for each in cells)


def test_the_axis_is_chosen(visit: Visit) -> None:
    assert visit.page.locator(".by-epoch").is_visible()
    assert not visit.page.locator(".by-step").is_visible()
    visit.page.get_by_label("steps").check()
    assert visit.page.locator(".by-step").is_visible()
    assert not visit.page.locator(".by-epoch").is_visible()


def test_marks_come_out_as_csv(browser: Any, tmp_path: Path) -> None:
    file = write_report(fake_run(tmp_path, name="=run"), thumbnail=painter())
    text = file.read_text()
    assert 'id="suspect-table"' in text
    found = Visit(browser, file, accept_downloads=True)
    row = found.page.locator("#suspect-table tbody tr").first
    row.get_by_role("combobox").select_option("relabel")
    with found.page.expect_download() as waiting:
        found.page.get_by_role("button", name="Download marks as CSV").click()
    saved = Path(waiting.value.path()).read_text()
    path = row.get_attribute("data-path")
    assert saved.splitlines()[0] == '"path","set","label","looks_like","mark"'
    assert saved.splitlines()[1].startswith(f'"{path}","val",')
    assert saved.splitlines()[1].endswith('"relabel"')
    assert len(saved.splitlines()) == 2
    found.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", list(WIDTHS))
def test_it_can_be_used_by_all(browser: Any, page_file: Path, scheme: str, width: str) -> None:
    size = {"width": WIDTHS[width], "height": 900}
    found = Visit(browser, page_file, viewport=size, color_scheme=scheme)
    found.page.evaluate("() => { for (const d of document.querySelectorAll('details')) d.open = true }")
    result = found.page.evaluate(CHECK)
    assert result["wrong"] == []
    assert 4.5 <= result["lowest"] < 21
    found.context.close()


PLANTED = {
    "no words for a picture": "document.images[0].alt = ''",
    "contrast": "document.querySelector('main p').style.color = '#999'",
    "no label": "document.body.append(document.createElement('input'))",
    "a head without scope": "document.querySelector('th').removeAttribute('scope')",
    "a heading is left out": "document.querySelector('h2').remove()",
    "an id is there twice": "document.querySelector('p').id = 'data'",
    "no language": "document.documentElement.lang = ''",
}


@pytest.mark.parametrize("what", list(PLANTED))
def test_the_check_sees_what_is_wrong(visit: Visit, what: str) -> None:
    visit.page.evaluate(f"() => {{ {PLANTED[what]} }}")
    assert any(each.startswith(what) for each in visit.page.evaluate(CHECK)["wrong"])


def test_without_scripts_it_is_complete(browser: Any, page_file: Path) -> None:
    found = Visit(browser, page_file, java_script_enabled=False)
    assert found.page.locator("#filter").is_hidden()
    assert found.page.locator("table.confusion").is_visible()
    found.page.get_by_label("minutes").check()
    assert found.page.locator(".by-minute").is_visible()
    found.context.close()
