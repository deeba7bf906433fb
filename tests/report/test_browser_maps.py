"""The page of a run with a network in a real browser: it can be used by all, and asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convworks.report.page import write_report
from tests.report import test_browser
from tests.report.helpers import fake_run, painter
from tests.report.test_browser import CHECK, WIDTHS, Visit
from tests.report.test_inside import with_model

browser = test_browser.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = fake_run(tmp_path_factory.mktemp("runs"))
    with_model(run)
    return write_report(run, thumbnail=painter(height=32, width=32))


@pytest.fixture(params=list(WIDTHS))
def visit(browser: Any, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    found = Visit(browser, page_file, viewport={"width": WIDTHS[request.param], "height": 900})
    yield found
    found.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_used_by_all(visit: Visit, scheme: Any, page_file: Path) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    visit.page.evaluate("() => { for (const d of document.querySelectorAll('details')) d.open = true }")
    result = visit.page.evaluate(CHECK)
    assert result["wrong"] == []
    assert visit.page.locator(".heats img").count() > 4
    assert visit.page.locator(".strip img").count() == 6
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith("data:")] == [page_file.as_uri()]


def test_every_picture_is_shown_as_wide_as_high_as_it_is(visit: Visit) -> None:
    script = """() => [...document.querySelectorAll('.heats img, .strip img, .units img')].map((e) => [
        e.complete && e.naturalWidth / e.naturalHeight, e.clientWidth / e.clientHeight])"""
    ratios = visit.page.evaluate(script)
    assert len(ratios) > 20
    for natural, shown in ratios:
        assert shown == pytest.approx(natural, rel=0.05)
