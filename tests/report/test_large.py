"""A test set of 10,000 images with 100 classes: the page stays small, and is written in a moment."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from convworks.report.page import LARGEST, write_report
from tests.report.helpers import fake_manifest, fake_run, write_evaluation


def test_ten_thousand_images(tmp_path: Path) -> None:
    names = [f"class {i:03d}" for i in range(100)]
    manifest = fake_manifest(names, sizes=[400] * 100)
    copied = tuple(s._replace(path=f"folder {i % 40}/{s.path}") for i, s in enumerate(manifest.samples))
    manifest = replace(manifest, samples=copied)
    run = fake_run(tmp_path, manifest=manifest)
    seen = tuple(s._replace(split="test" if s.split == "val" else s.split) for s in manifest.samples)
    write_evaluation(run, replace(manifest, samples=seen), split="test", seed=3)
    pixels = np.random.default_rng(0).integers(0, 256, size=(224, 224, 3), dtype=np.uint8)
    start = time.perf_counter()
    text = write_report(run, thumbnail=lambda path: pixels).read_text(encoding="utf-8")
    took = time.perf_counter() - start
    assert "10,000 test images" in text
    assert len(text.encode()) <= LARGEST
    assert text.count("<img") == 40 + 24
    assert took < 60
