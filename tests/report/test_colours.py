"""Colour statistics against NumPy over all pixels at once; what is a sample says so."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convworks.data.image_statistics import class_colours, measure
from convworks.data.manifest import OK
from convworks.report import colours as module
from convworks.report.colours import colours
from convworks.report.page import write_report
from tests.report.helpers import digest, fake_manifest, fake_run, painter


def paint(path: str, *, channels: int = 3) -> NDArray[np.uint8]:
    random = np.random.default_rng(int(digest(path)[:8], 16))
    return random.integers(0, 256, (6, 9, channels), dtype=np.uint8) // random.integers(1, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_deviation_of_all_pixels(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10_000)
    manifest = fake_manifest()
    good = [each for each in manifest.samples if each.verdict == OK]
    found = colours(manifest, lambda path: paint(path, channels=channels))
    assert found is not None
    assert found.channels == (("grey",) if channels == 1 else ("red", "green", "blue"))
    assert found.note == f"Of all {len(good):,} images."
    assert [row.name for row in found.splits] == ["train", "val"]
    assert [row.name for row in found.classes] == list(manifest.classes)
    for row in (*found.splits, *found.classes):
        own = [each for each in good if row.name in (each.split, each.label)]
        pixels = np.stack([paint(each.path, channels=channels) for each in own]).astype(np.float64)
        assert row.n == len(own)
        np.testing.assert_allclose(row.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(row.deviation, pixels.std(axis=(0, 1, 2)), rtol=1e-9)


def test_the_mean_of_a_class_is_that_of_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 10_000)
    manifest = fake_manifest()
    good = [each for each in manifest.samples if each.verdict == OK]
    statistics = measure(np.stack([paint(each.path) for each in good]))
    expected = class_colours(statistics, [each.label for each in good], manifest.classes)
    found = colours(manifest, paint)
    assert found is not None
    for row in found.classes:
        np.testing.assert_allclose(row.mean, expected[row.name], rtol=1e-5)  # check sums in float32


def test_a_sample_is_bounded_even_and_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 110)
    manifest = fake_manifest(("a", "b"), sizes=(600, 280))
    asked: list[str] = []

    def thumbnail(path: str) -> NDArray[np.uint8]:
        asked.append(path)
        return paint(path)

    found = colours(manifest, thumbnail)
    assert found is not None
    assert len(asked) == len(set(asked)) == 110
    assert found.note == "A sample: 110 of 1,100 images, the same share of each split and class."
    whole = Counter((each.split, each.label) for each in manifest.samples if each.verdict == OK)
    of = {each.path: (each.split, each.label) for each in manifest.samples}
    for key, n in Counter(of[path] for path in asked).items():
        assert abs(n - whole[key] / 10) <= 1
    assert colours(manifest, paint) == found, "another look finds the same"


def test_what_cannot_be_looked_at_is_left_out() -> None:
    manifest = fake_manifest()
    assert colours(manifest, None) is None
    assert colours(manifest, lambda path: None) is None
    assert colours(replace(manifest, samples=()), paint) is None
    found = colours(manifest, lambda path: paint(path) if path.startswith("iris/") else None)
    assert found is not None
    assert [row.name for row in found.classes] == ["iris"]


def test_it_is_on_the_page(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    text = write_report(run, thumbnail=painter()).read_text()
    assert "<caption>Colour by split</caption>" in text
    assert "<caption>Colour by class</caption>" in text
    assert "A sample: 500 of" in text
    assert "Colour by" not in write_report(run).read_text()
