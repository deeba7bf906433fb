"""What most tests of the flows leave out: see `tests/pages.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import pages

# Modules whose pages or curves are drawn.
DRAWN = ("test_learning_curve", "test_learning_rate", "test_report")


@pytest.fixture(autouse=True, scope="module")
def _pages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pages without drawings."""
    if request.module.__name__.rpartition(".")[2] in DRAWN:
        yield
        return
    with pages.undrawn():
        yield
