"""The hostile corpus, end to end: every verb ends as it should, and the data folder stays as it was."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from convworks.errors import ConvworksError
from convworks.flows.check import check
from convworks.flows.evaluate import EvaluateRequest, evaluate
from convworks.flows.events import Finished, Found
from convworks.flows.predict import load, predict_paths
from convworks.flows.prepare import DataRequest
from tests.data.hostile import write_corpus
from tests.flows.helpers import train_all, write_images


def snapshot(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Name -> (kind, size, mtime, link or hash) of all below a folder, links not followed."""
    found: dict[bytes, tuple[object, ...]] = {}
    for root, folders, files in os.walk(os.fsencode(folder)):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            status = os.lstat(path)
            content: object = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images in two classes, and every kind of hostile file in the first."""
    folder = tmp_path_factory.mktemp("hostile") / "photos"
    write_images(folder, classes=("one", "two"), each=30)
    (folder / "one" / "odd").mkdir()
    write_corpus(folder / "one" / "odd")
    return folder


def data(work: Path, folder: Path) -> DataRequest:
    return DataRequest(location=str(folder), cache=work / "cache")


def test_no_verb_changes_the_data(tmp_path: Path, corpus: Path) -> None:
    before = snapshot(corpus)
    found = check(data(tmp_path, corpus))
    assert found.readable + len(found.left_out) == found.files
    assert found.left_out
    with pytest.raises(ConvworksError, match=r"D141.*cannot be read"):  # far more than one in a hundred
        train_all(tmp_path, corpus)
    good = tmp_path / "good"
    write_images(good, classes=("one", "two"), each=30)
    assert isinstance(train_all(tmp_path, good, epochs=1)[-1], Finished)
    model = tmp_path / "runs" / "run"
    with pytest.raises(ConvworksError, match="D149"):
        evaluate(EvaluateRequest(model=model, data=data(tmp_path, corpus)))
    result = evaluate(EvaluateRequest(model=model, data=data(tmp_path, corpus), skip_unreadable=True))
    assert result.metrics.n == found.readable
    rows = list(predict_paths(load(model), [corpus]))
    assert sum(bool(row.error) for row in rows) == len(found.left_out)
    assert all(row.label for row in rows if not row.error)
    assert snapshot(corpus) == before


def test_a_few_unreadable_files_are_quarantined(tmp_path: Path, corpus: Path) -> None:
    folder = tmp_path / "photos"
    write_images(folder, classes=("one", "two"), each=120)
    bad = next(
        p for p in sorted((corpus / "one" / "odd").rglob("*.jpg")) if b"<html" in p.read_bytes()[:200].lower()
    )
    shutil.copy(bad, folder / "one" / "page.jpg")
    before = snapshot(folder)
    found = train_all(tmp_path, folder, epochs=1)[0]
    assert isinstance(found, Found)
    assert [path for path, _ in found.left_out] == ["one/page.jpg"]
    assert snapshot(folder) == before


def test_a_read_only_data_folder_is_enough(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", each=8)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert isinstance(train_all(tmp_path, folder, epochs=1)[-1], Finished)
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
