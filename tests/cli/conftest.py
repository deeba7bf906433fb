"""One small training, shared by the tests that need a finished run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from convworks.cli import main
from tests import pages
from tests.cli.helpers import photos

_pages = pages.undrawn_but("test_report")  # the training below has drawings


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash file, where there is one, stays out of the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/ and runs/photos-mlp128-01, made by the command line itself."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CONVWORKS_CACHE", str(folder / "cache"))
        photos(folder / "photos")
        words = ["train", "photos", "--model", "mlp128", "--epochs", "2", "--threads", "1", "--quiet"]
        assert main([*words, "--precision", "fp32", "--workers", "0", "--batch", "8"]) == 0
    return folder


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder as the current one."""
    place = tmp_path / "world"
    shutil.copytree(trained, place)
    record = place / "runs" / "photos-mlp128-01" / "recipe.json"
    record.write_text(record.read_text().replace(str(trained), str(place)))
    monkeypatch.chdir(place)
    monkeypatch.setenv("CONVWORKS_CACHE", str(place / "cache"))
    monkeypatch.delenv("CONVWORKS_DATA", raising=False)
    yield place
    assert not list(place.glob("convworks-crash-*"))
