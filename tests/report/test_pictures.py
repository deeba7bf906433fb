"""Which mistakes are the worst, and what a small copy holds."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convworks.evaluation.metrics import measure
from convworks.report.pictures import SIDE, mistakes, small_copy
from convworks.report.read import Evaluation
from tests.report.helpers import fake_answers, fake_manifest, painter

MANIFEST = fake_manifest()
ANSWERS = fake_answers(MANIFEST)


def evaluation() -> Evaluation:
    metrics = measure(ANSWERS["probabilities"], ANSWERS["labels"], MANIFEST.classes)
    return Evaluation("val", metrics, "ema", 3, **ANSWERS)


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_worst_mistakes_come_first() -> None:
    found = mistakes(evaluation(), MANIFEST, most=100, pictures=0, thumbnail=None)
    expected = []
    for p, y, row in zip(ANSWERS["probabilities"], ANSWERS["labels"], ANSWERS["rows"], strict=True):
        if p.argmax() != y:
            expected.append(
                (float(p[y]), MANIFEST.samples[row].path, int(y), int(p.argmax()), float(p.max()))
            )
    expected.sort(key=lambda each: each[0])
    assert [(m.true_probability, m.path, m.true, m.answer, m.probability) for m in found] == expected
    assert len(found) > 5


def test_the_number_of_mistakes_and_pictures_is_bounded() -> None:
    found = mistakes(evaluation(), MANIFEST, most=6, pictures=4, thumbnail=painter())
    assert [each.picture is not None for each in found] == [True] * 4 + [False] * 2


def test_each_cell_has_one_anchor_at_its_first_mistake() -> None:
    found = mistakes(evaluation(), MANIFEST, most=100, pictures=0, thumbnail=None)
    seen: set[tuple[int, int]] = set()
    for each in found:
        cell = (each.true, each.answer)
        assert each.anchor == ("" if cell in seen else f"cell-{each.true}-{each.answer}")
        seen.add(cell)


def test_without_answers_or_pictures_there_is_less() -> None:
    bare = replace(evaluation(), probabilities=None)
    assert mistakes(bare, MANIFEST, most=9, pictures=9, thumbnail=painter()) == []
    found = mistakes(evaluation(), MANIFEST, most=9, pictures=9, thumbnail=lambda path: None)
    assert {each.picture for each in found} == {None}
    nameless = mistakes(evaluation(), None, most=1, pictures=1, thumbnail=painter())
    assert nameless[0].path.startswith("image ")
    assert nameless[0].picture is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_picture_is_kept_exactly(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(28, 20, channels), dtype=np.uint8)
    picture = small_copy(pixels)
    assert picture is not None
    assert (picture.width, picture.height, picture.pixelated) == (20, 28, True)
    again = np.asarray(opened(picture.uri)).reshape(28, 20, channels)
    np.testing.assert_array_equal(again, pixels)


@pytest.mark.parametrize("shape", [(600, 400, 3), (97, 10, 1), (120, 2000, 3)])
def test_a_large_picture_becomes_a_small_jpeg_without_metadata(shape: tuple[int, int, int]) -> None:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    pixels = np.repeat(((x + y) % 256).astype(np.uint8)[..., None], shape[2], axis=2)
    picture = small_copy(pixels)
    assert picture is not None
    image = opened(picture.uri)
    assert image.format == "JPEG"
    assert max(image.size) <= SIDE
    assert not image.getexif()
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert len(picture.uri) < 40_000


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 2), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_other_pixels_are_refused(pixels: NDArray) -> None:
    with pytest.raises(ValueError, match="a thumbnail is uint8"):
        small_copy(pixels)
