"""Accuracy by part: the parts hold every image once, and a part that differs is marked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convworks.data.manifest import Manifest
from convworks.evaluation.metrics import measure, wilson
from convworks.report.read import Evaluation
from convworks.report.slices import Dimension, slices
from tests.report.helpers import fake_manifest


def data(n: int = 90) -> tuple[Manifest, Evaluation]:
    """Half from each of two folders; everything in the second and small ones are wrong."""
    base = fake_manifest(("a", "b"), sizes=(n, 1))
    samples = tuple(
        each._replace(
            path=f"cam{i % 2}/a/{i}.png", width=10 + i, height=(10 + i) * (1 + i % 3) // 2, split="val"
        )
        for i, each in enumerate(base.samples[:n])
    )
    labels = np.zeros(n, dtype=np.int64)
    wrong = np.arange(n) % 2 == 1
    p = np.where(wrong[:, None], [0.2, 0.8], [0.9, 0.1])
    rows = np.arange(n)
    found = Evaluation("val", measure(p, labels, ("a", "b")), "", 1, p, labels, rows)
    return replace(base, samples=samples), found


def named(found: list[Dimension], name: str) -> Dimension:
    return next(each for each in found if each.name == name)


def test_every_image_is_in_one_part() -> None:
    manifest, evaluation = data()
    levels = iter(range(1000))
    found = slices(
        evaluation, manifest, thumbnail=lambda path: np.full((4, 4, 3), next(levels) % 200, np.uint8)
    )
    assert [each.name for each in found] == ["Size", "Shape", "Brightness", "Folder"]
    for each in found:
        assert sum(part.n for part in each.slices) == 90
        right = sum(part.n * part.accuracy for part in each.slices)
        assert right == pytest.approx(45)
    folders = {part.name: part for part in named(found, "Folder").slices}
    assert set(folders) == {"cam0", "cam1"}
    assert folders["cam0"].accuracy == 1.0
    assert folders["cam0"].interval == wilson(45, 45)
    assert all(part.apart for part in folders.values())
    sizes = named(found, "Size").slices
    assert [part.n for part in sizes] == pytest.approx([30, 30, 30], abs=1)
    lows = [int(part.name.split(" to ")[0]) for part in sizes]
    assert lows == sorted(lows)


def test_one_part_alone_is_no_slice() -> None:
    manifest, evaluation = data()
    same = tuple(
        each._replace(path=f"a/{i}.png", width=8, height=8) for i, each in enumerate(manifest.samples)
    )
    assert slices(evaluation, replace(manifest, samples=same), thumbnail=None) == []
    assert slices(evaluation, None, thumbnail=None) == []
    assert slices(replace(evaluation, probabilities=None), manifest, thumbnail=None) == []


def test_many_folders_are_summed() -> None:
    manifest, evaluation = data()
    many = tuple(each._replace(path=f"day{i // 3}/a/{i}.png") for i, each in enumerate(manifest.samples))
    folders = named(slices(evaluation, replace(manifest, samples=many), thumbnail=None), "Folder").slices
    assert len(folders) == 13
    assert sum(part.n for part in folders) == 90
    assert any(part.name == "all 18 others" for part in folders)


def test_brightness_of_many_images_is_measured_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convworks.report.slices.MOST_LOOKED_AT", 30)
    manifest, evaluation = data()
    paths = []

    def pixels(path: str) -> np.ndarray:
        paths.append(path)
        return np.full((2, 2, 1), len(paths), np.uint8)

    found = named(slices(evaluation, manifest, thumbnail=pixels), "Brightness")
    assert len(paths) == 30
    assert found.note == "Of 30 images, evenly taken from all."
    assert Path(paths[0]).name == "0.png"
