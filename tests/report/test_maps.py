"""Strips of maps, the patches of units and the table of their health on the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from convworks.bundle import Bundle, load_bundle
from convworks.insight.activations import map_layers, record_maps, top_images
from convworks.report import activations as module
from convworks.report.activations import (
    OUTSIDE,
    TILE,
    Seen,
    cut,
    images_for,
    look_at,
    looks,
    network_input,
    seen_pixels,
)
from convworks.report.page import write_report
from convworks.report.read import read_run
from tests.report.helpers import fake_run, painter
from tests.report.test_inside import with_model

PIXELS = painter(height=40, width=40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = fake_run(tmp_path_factory.mktemp("runs"))
    with_model(path, stored=40)
    return path


def seen_of(run: Path, bundle: Bundle, most: int = 50) -> Seen:
    record = read_run(run)
    return look_at(bundle, record, record.evaluations[0], thumbnail=PIXELS, most=most)


def opened(uri: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_images_are_those_of_the_network_with_their_classes(run: Path) -> None:
    bundle, record = load_bundle(run), read_run(run)
    seen = seen_of(run, bundle, most=5)
    evaluation = record.evaluations[0]
    assert evaluation.rows is not None
    assert evaluation.labels is not None
    assert record.manifest is not None
    rows = [evaluation.rows[at] for at in (0, 33, 65, 98, 130)]
    for pixels, name, path, row in zip(seen.pixels, seen.classes, seen.paths, rows, strict=True):
        sample = record.manifest.samples[row]
        assert path == sample.path
        stored = PIXELS(sample.path)
        assert stored is not None
        np.testing.assert_array_equal(pixels, stored[4:36, 4:36])
        assert name == sample.label
    assert look_at(bundle, record, None, thumbnail=PIXELS, most=5).pixels == []
    assert look_at(bundle, record, evaluation, thumbnail=None, most=5).pixels == []
    assert seen_pixels(bundle, np.zeros((9, 9, 3), dtype=np.uint8)) is None


def test_fewer_images_for_larger_networks() -> None:
    assert images_for(0) == 256
    assert images_for(20_000_000) == 256
    assert images_for(1_814_000_000) == 66
    assert images_for(15_500_000_000) == 8
    assert images_for(10**15) == 8


def test_a_strip_holds_the_image_and_its_maps(run: Path) -> None:
    bundle = load_bundle(run)
    seen = seen_of(run, bundle)
    found = looks(bundle, seen)
    assert found is not None
    assert (len(found.strips), found.all_layers, found.images) == (6, 7, 50)
    assert found.examples == tuple(seen.classes[at] for at in (0, 25, 49))
    examples = [seen.pixels[at] for at in (0, 25, 49)]
    with torch.no_grad():
        maps = bundle.network.stem(network_input(bundle, examples)).numpy()[:, :12]  # type: ignore[operator]
    strip = found.strips[0]
    assert (strip.name, strip.shown, strip.maps, strip.size) == ("stem.relu", 12, 32, "16×16")
    sheet = opened(strip.picture.uri)
    assert sheet.shape == (3 * 66 - 2, 13 * 66 - 2, 3)
    for row in range(3):
        np.testing.assert_array_equal(sheet[66 * row : 66 * row + 64 : 2, 0:64:2], examples[row])
        for column in range(12):
            largest = maps[:, column].max() or 1
            top, left = 66 * row, 66 * (column + 1)
            tile = sheet[top : top + 64 : 4, left : left + 64 : 4]
            expected = np.round(255 * maps[row, column] / largest)
            np.testing.assert_allclose(tile, np.repeat(expected[..., None], 3, axis=2), atol=1)


def test_a_unit_shows_the_patches_of_its_strongest_places(run: Path) -> None:
    bundle = load_bundle(run)
    seen = seen_of(run, bundle)
    found = looks(bundle, seen)
    assert found is not None
    layers = {layer.name: layer for layer in map_layers(bundle.network, (3, 32, 32))}
    assert [len(each.units) for each in found.units] == [4, 4, 8]
    first = found.units[0]
    assert (first.field, first.whole, first.maps) == ("10×10", False, 64)
    assert [each.whole for each in found.units] == [False, True, True]
    layer = layers[first.name]
    (recorded,) = record_maps(bundle.network, [network_input(bundle, seen.pixels)], [layer])
    row = first.units[1]
    images = top_images(recorded, row.unit)
    assert len(images) == row.patches == 9
    sheet = opened(row.picture.uri)
    shown = []
    for place in range(9):
        top, left = 66 * (place // 3) + 2, 66 * (place % 3) + 2
        shown.append(sheet[top : top + 60 : 6, left : left + 60 : 6])
    for image, patch in zip(images, shown, strict=True):
        i, j = divmod(int(recorded.place[image, row.unit]), layer.width)
        # a 4 x 4 window at stride 2 with padding 1, a 3 x 3 window on it, and pooling by 2
        y, x = (4 * at - 3 for at in (i, j))
        padded = np.full((52, 52, 3), OUTSIDE, dtype=np.uint8)
        padded[10:42, 10:42] = seen.pixels[image]
        assert any(
            np.array_equal(patch, padded[10 + y + dy : 20 + y + dy, 10 + x + dx : 20 + x + dx])
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        )
    names = [seen.classes[image] for image in images]
    assert row.of_it == names.count(row.most) == max(map(names.count, names))


def test_a_patch_at_the_edge_is_grey_outside() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    found = cut(pixels, (slice(-1, 2), slice(4, 8)))[..., 0]
    assert found.tolist() == [[128] * 4, [4, 5, 128, 128], [10, 11, 128, 128]]
    assert (cut(pixels, (slice(9, 11), slice(0, 3))) == OUTSIDE).all()


def test_the_chart_has_a_row_for_each_unit(run: Path) -> None:
    bundle = load_bundle(run)
    seen = seen_of(run, bundle)
    found = looks(bundle, seen)
    assert found is not None
    assert found.chart is not None
    levels = opened(found.chart.uri)
    assert levels.shape == (found.chart_units, found.chart_images) == (96, 50)
    assert (levels.max(axis=1) == 255).all()
    layer = map_layers(bundle.network, (3, 32, 32))[-1]
    (recorded,) = record_maps(bundle.network, [network_input(bundle, seen.pixels)], [layer])
    live = (recorded.largest.amax(0) > recorded.largest.amin(0)).nonzero().flatten()
    expected = recorded.response[:, live[0]] / recorded.response[:, live[0]].max()
    np.testing.assert_allclose(levels[0], 255 * expected.numpy(), atol=1)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_are_enough(run: Path, count: int) -> None:
    bundle = load_bundle(run)
    found = looks(bundle, seen_of(run, bundle, most=count))
    assert found is not None
    assert len(found.examples) == count
    assert (found.chart is None) == (count == 1)


def test_a_network_without_maps_has_none(tmp_path: Path) -> None:
    path = fake_run(tmp_path)
    with_model(path, model="mlp128", channels=1, side=28)
    text = write_report(path, thumbnail=painter_of_grey).read_text()
    assert 'id="inside"' in text
    assert 'class="strip"' not in text
    assert 'class="heats"' not in text


def painter_of_grey(path: str) -> NDArray[np.uint8]:
    found = painter(height=28, width=28)(path)
    assert found is not None
    return found[..., :1]


def test_the_page_has_them_with_words_and_the_same_bytes(run: Path) -> None:
    first = write_report(run, thumbnail=PIXELS).read_bytes()
    torch.rand(3)
    assert write_report(run, thumbnail=PIXELS).read_bytes() == first
    text = first.decode()
    for words in ("Feature maps", "What excites a unit most", "Health of the maps", "Dead units"):
        assert f"<h3>{words}</h3>" in text
    assert text.count('class="strip"') == 6
    assert text.count("that excite unit") == 16
    told = re.findall(r'alt="(\d+) patch[^"]* unit .*?<summary>files</summary>(.*?)</details>', text)
    assert len(told) == 16
    assert [files.count('class="path"') for _, files in told] == [int(count) for count, _ in told]
    assert "6 of 7 layers, at equal distances, make of 3 images" in text
    assert all(alt.strip() for alt in re.findall(r'<img[^>]* alt="([^"]*)"', text))
    bare = write_report(run).read_text()
    assert "<h3>Feature maps</h3>" not in bare
    assert "<h3>Weights</h3>" in bare


def test_a_page_that_is_too_large_leaves_the_pictures_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convworks.report import page

    whole = write_report(run, thumbnail=PIXELS).read_text()
    steps = []
    for limit in (len(whole.encode()) - 1, 1):
        monkeypatch.setattr(page, "LARGEST", limit)
        steps.append(write_report(run, thumbnail=PIXELS).read_text())
    assert whole.count('<div class="heats">') == 12
    assert steps[0].count('<div class="heats">') == 0
    assert steps[0].count("<figure data-cell") == 12
    assert 'class="strip"' in steps[0]
    assert 'class="strip"' not in steps[1]
    assert 'class="heats"' not in steps[1]
    assert "data:image/jpeg" not in steps[1]


def test_large_maps_and_patches_are_shrunk() -> None:
    found = module._tile(np.full((100, 50, 1), 7, dtype=np.uint8))
    assert found.shape == (TILE, TILE, 3)
    assert (found[:, 16:48] == 7).all()
    assert (found[:, :16] == 255).all()
    smooth = module._tile(np.full((40, 40, 3), 9, dtype=np.uint8), smooth=True)
    assert (smooth == 9).all()
