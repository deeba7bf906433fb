"""Trainings without what takes most of their time in a test: the drawing of their page.

A page of a small run takes four seconds, three of them for matplotlib to draw 17 charts. Tests that are not
about pages leave out the drawing, or, where they train the same many times, the page. `tests/report` draws
everything, and so do the tests of the flows and of the command line that look at a page.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

EMPTY = '<svg viewBox="0 0 331.2 208.8" xmlns="http://www.w3.org/2000/svg"><g></g></svg>'


@contextmanager
def undrawn() -> Iterator[None]:
    """Pages are made of all that they are made of, but matplotlib writes an empty drawing for each chart."""
    from matplotlib.figure import Figure

    real = Figure.savefig

    def savefig(self: Figure, target: Any, *, format: str | None = None, **facts: Any) -> None:
        if isinstance(target, io.StringIO) and format == "svg":
            target.write(EMPTY)
        else:
            real(self, target, format=format, **facts)

    savefig.real = real  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


@contextmanager
def drawn() -> Iterator[None]:
    """Drawings after all."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", getattr(Figure.savefig, "real", Figure.savefig))
        yield


@contextmanager
def left_out() -> Iterator[None]:
    """A training ends with a page that says nothing."""
    from convworks.flows import results

    def write_report(run: Path, **facts: Any) -> Path:
        page = run / "report.html"
        page.write_text("a test left this out\n")
        return page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "write_report", write_report)
        yield


def undrawn_but(*names: str) -> Callable[..., Iterator[None]]:
    """A fixture for a folder of tests: no drawings but in the modules of these names."""

    @pytest.fixture(autouse=True, scope="module")
    def _pages(request: pytest.FixtureRequest) -> Iterator[None]:
        if request.module.__name__.rpartition(".")[2] in names:
            yield
            return
        with undrawn():
            yield

    return _pages
