"""Settings for every test: one compute thread, as tests run side by side, no network, an undisturbed host."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores Ctrl-C for what it starts with "&"
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, also in the processes that tests start
os.environ.setdefault("CONVWORKS_OFFLINE", "1")


def pytest_configure(config: pytest.Config) -> None:
    """A folder in which the kernels are compiled once for all processes of this run: `tests/ops/native`."""
    if "KERNELS_OF_THE_TESTS" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="convworks-kernels-")
        os.environ["KERNELS_OF_THE_TESTS"] = folder.name  # the processes that pytest-xdist starts inherit it
        config.add_cleanup(folder.cleanup)


# The files that take longest. They begin, so that no process is left alone with one of them at the end.
LONGEST = ("flows/test_resume.py", "test_docs.py", "models/test_battery.py", "flows/test_plan.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order (`make test` keeps it: --no-loadscope-reorder)."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(autouse=True)
def quiet_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processor is taken away by the host of a virtual machine, so that steps on a test's clock count."""
    monkeypatch.setattr("convworks.machine._ticks", lambda: (0, 0))


@pytest.fixture(scope="module")
def undrawn_pages() -> Iterator[None]:
    """The pages of runs without drawings, for modules that are about something else."""
    with pages.undrawn():
        yield


@pytest.fixture
def drawn_page() -> Iterator[None]:
    """Drawings after all, in a module without them."""
    with pages.drawn():
        yield


@pytest.fixture(scope="module")
def no_pages() -> Iterator[None]:
    """No pages, for modules that train the same many times."""
    with pages.left_out():
        yield


@pytest.fixture
def with_page(no_pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page after all, in a module without them."""
    from convworks.flows import results
    from convworks.report import write_report

    monkeypatch.setattr(results, "write_report", write_report)
