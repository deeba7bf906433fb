"""Grad-CAM beside the mistakes: whose heat it is, what the pictures hold, how large the page becomes."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from convworks.bundle import load_bundle
from convworks.data.preprocess import centre_crop
from convworks.insight.grad_cam import grad_cam
from convworks.report import heat as heat_module
from convworks.report.heat import COLOURS, STRENGTH, overlay, with_heat
from convworks.report.page import LARGEST, write_report
from convworks.report.pictures import Mistake, mistakes
from convworks.report.read import RunRecord, read_run
from tests.report.helpers import FLOWERS, fake_manifest, fake_run, painter, write_evaluation
from tests.report.test_inside import with_model

PIXELS = painter(height=40, width=40)  # stored larger than the network's 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = fake_run(tmp_path_factory.mktemp("runs"))
    with_model(path, stored=40)
    return path


def found(record: RunRecord, *, pictures: int = 40) -> list[Mistake]:
    evaluation = record.evaluations[0]
    return mistakes(evaluation, record.manifest, most=400, pictures=pictures, thumbnail=PIXELS)


def opened(uri: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_the_heat_is_that_of_the_answer_and_of_the_true_class(run: Path) -> None:
    record, bundle = read_run(run), load_bundle(run)
    wrong, heats = with_heat(found(record), bundle, record.evaluations[0].metrics.names, thumbnail=PIXELS)
    assert heats is not None
    assert (heats.layer, heats.places, heats.mistakes) == ("block2", "4×4", len(wrong))
    for each in wrong[:3]:
        pixels = PIXELS(each.path)
        assert pixels is not None
        pixels = centre_crop(pixels, 32, 32)
        constants = (torch.from_numpy(part) for part in (bundle.preprocess.mean, bundle.preprocess.std))
        mean, std = constants
        x = (torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 255 - mean) / std
        for picture, of in zip(each.heats, (each.answer, each.true), strict=True):
            expected = grad_cam(bundle.network, x, [of], layer="block2")[0].double().numpy()
            assert (picture is None) == (not expected.any())
            if picture is not None:
                assert (picture.width, picture.height) == (32, 32)
                shown = opened(picture.uri).astype(int)
                np.testing.assert_allclose(shown, opened(overlay(pixels, expected).uri).astype(int), atol=3)


def test_a_class_of_another_place_is_found_by_its_name(run: Path) -> None:
    record, bundle = read_run(run), load_bundle(run)
    wrong, names = found(record)[:4], record.evaluations[0].metrics.names
    plain, _ = with_heat(wrong, bundle, names, thumbnail=PIXELS)
    turned = tuple(reversed(names))
    k = len(names) - 1
    other, _ = with_heat(
        [replace(each, true=k - each.true, answer=k - each.answer) for each in wrong],
        bundle,
        turned,
        thumbnail=PIXELS,
    )
    assert [each.heats for each in plain] == [each.heats for each in other]
    unknown, heats = with_heat(wrong, bundle, [*names[:-1], "cactus"], thumbnail=PIXELS)
    assert (unknown, heats) == (wrong, None)


def test_without_a_model_or_pixels_there_is_none(run: Path) -> None:
    record, bundle = read_run(run), load_bundle(run)
    wrong, names = found(record), record.evaluations[0].metrics.names
    assert with_heat(wrong, None, names, thumbnail=PIXELS) == (wrong, None)
    assert with_heat(wrong, bundle, names, thumbnail=None) == (wrong, None)
    assert with_heat(wrong, bundle, names, thumbnail=painter(height=9, width=9)) == (wrong, None)
    bare = found(record, pictures=0)
    assert with_heat(bare, bundle, names, thumbnail=PIXELS) == (bare, None)


def test_a_costly_network_gives_heat_for_the_first_mistakes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heat_module, "BUDGET", 1)
    record, bundle = read_run(run), load_bundle(run)
    wrong, heats = with_heat(found(record), bundle, record.evaluations[0].metrics.names, thumbnail=PIXELS)
    assert [bool(each.heats) for each in wrong] == [True] * 4 + [False] * (len(wrong) - 4)
    assert heats is not None
    assert heats.mistakes == 4
    text = write_report(run, thumbnail=PIXELS).read_text()
    assert "Under the first 4 stand the evidence" in text
    assert text.count('<div class="heats">') == 4


def test_the_colours_rise_in_lightness_over_black_and_over_white() -> None:
    heat = np.linspace(0, 1, 65)[None]
    for level in (0, 255):
        pixels = np.full((1, 65, 1), level, dtype=np.uint8)
        shown = opened(overlay(pixels, heat).uri).astype(float)
        light = shown @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(light[0]) >= 0).all()
        assert light[0, -1] - light[0, 0] > 90
        ends = [(1 - STRENGTH) * level + STRENGTH * np.array(COLOURS[at]) for at in (0, -1)]
        np.testing.assert_allclose(shown[0, [0, -1]], ends, atol=1)


def test_a_large_image_becomes_a_small_jpeg_and_numbers_that_are_not_finite_are_dark() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 224, 3), dtype=np.uint8)
    picture = overlay(pixels, np.full((7, 7), np.nan))
    assert (picture.width, picture.height, picture.pixelated) == (84, 112, False)
    assert picture.uri.startswith("data:image/jpeg")
    assert opened(picture.uri).mean() < 80


def test_the_page_says_what_it_shows(run: Path) -> None:
    text = write_report(run, thumbnail=PIXELS).read_text()
    assert "Under each image stands the evidence for the answer" in text
    assert "<code>block2</code> there (4×4 places" in text
    alts = re.findall(r'alt="Evidence for (\w+), (the answer|the true class)"', text)
    assert {name for name, _ in alts} <= set(FLOWERS)
    figures = text.split("<figure data-cell")[1:]
    assert all(figure.count('class="of">for ') == 2 for figure in figures)
    for figure in figures:
        true, answer = re.findall(r"<b>(\w+)</b>", figure)
        assert re.findall(r'class="of">for (\w+)', figure) == [answer, true]
    bare = write_report(run).read_text()
    assert "Evidence for" not in bare
    assert 'class="heats"' not in bare


def test_names_are_escaped(tmp_path: Path) -> None:
    names = ["<b>&amp;\u202e", 'a"onerror=x', *FLOWERS[2:]]
    path = fake_run(tmp_path, manifest=fake_manifest(names))
    with_model(path, classes=tuple(names), stored=40)
    text = write_report(path, thumbnail=PIXELS).read_text()
    assert 'class="heats"' in text
    assert "&lt;b&gt;&amp;amp;" in text
    assert "<b>&amp;" not in text
    assert '"onerror' not in text
    assert "\u202e" not in text


def test_ten_thousand_images_with_a_network(tmp_path: Path) -> None:
    names = [f"class {i:03d}" for i in range(100)]
    manifest = fake_manifest(names, sizes=[400] * 100)
    path = fake_run(tmp_path, manifest=manifest)
    with_model(path, classes=tuple(names), side=128, model="tutorial_cnn", channels=1)
    seen = tuple(s._replace(split="test" if s.split == "val" else s.split) for s in manifest.samples)
    write_evaluation(path, replace(manifest, samples=seen), split="test", seed=3)
    pixels = np.random.default_rng(0).integers(0, 256, size=(128, 128, 1), dtype=np.uint8)
    text = write_report(path, thumbnail=lambda _: pixels).read_text(encoding="utf-8")
    assert "10,000 test images" in text
    assert len(text.encode()) <= LARGEST
    assert text.count("<figure data-cell") == 40
    assert text.count('<div class="heats">') == 40
    assert 'class="strip"' in text
