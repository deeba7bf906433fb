"""Near duplicates: hashes against scipy's cosine transform, planted copies found, likenesses left alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct

from convworks.data import near_duplicates as module
from convworks.data.near_duplicates import NearPair, hashes, near_duplicates, shrinking
from convworks.data.preprocess import Geometry
from convworks.data.store import ScanInterrupted
from tests.data.defects import NEAR

SQUARE = Geometry(64, 64, 3, "crop", 64, 64)


def photograph(seed: int, *, height: int = 150, width: int = 200) -> Image.Image:
    """A made-up scene: a coloured background that changes slowly, and some thirty discs and bars on it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    scene = np.full((height, width, 3), random.uniform(60, 200, 3))
    scene += np.outer(y.ravel() / height, random.normal(0, 40, 3)).reshape(height, width, 3)
    for _ in range(30):
        cy, cx, size = random.uniform(0, height), random.uniform(0, width), random.uniform(5, 35)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < size**2
        if random.random() < 0.5:
            inside = (abs(y - cy) < size) & (abs(x - cx) < size / 3)
        scene[inside] = random.uniform(0, 255, 3)
    return Image.fromarray(scene.clip(0, 255).astype(np.uint8))


def stored(image: Image.Image | bytes) -> NDArray[np.uint8]:
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image)).convert("RGB")
    return SQUARE.fitted(np.asarray(image))


def places(pairs: list[NearPair]) -> set[tuple[int, int]]:
    return {(pair.one, pair.two) for pair in pairs}


def test_the_hash_has_the_signs_of_the_cosine_transform() -> None:
    small = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    found = hashes(small)
    assert found.shape == (4, 36)
    order = np.argsort(np.add.outer(np.arange(8), np.arange(8)).ravel(), kind="stable")[1:]
    for picture, code in zip(small.astype(float), found[:, 0].tolist(), strict=True):
        values = dct(dct(picture, axis=0), axis=1)[:8, :8].ravel()[order]
        assert code == sum(1 << bit for bit, value in enumerate(values) if value > 0)


def test_a_part_has_the_hash_of_the_picture_cut_to_it() -> None:
    picture = np.asarray(photograph(0).convert("L").resize((640, 640)), dtype=np.float32)
    small = np.rint(shrinking(640, 32) @ picture @ shrinking(640, 32).T).astype(np.uint8)
    cut = picture[32:, :608]  # the parts from 0.05 of the height, and up to 0.95 of the width
    again = np.rint(shrinking(608, 32) @ cut @ shrinking(608, 32).T).astype(np.uint8)
    part = module.SPANS.index((0.05, 1.0)) * 6 + module.SPANS.index((0.0, 0.95))
    distance = np.bitwise_count(hashes(small[None])[0, part] ^ hashes(again[None])[0, 0])
    assert distance <= 3


@pytest.mark.parametrize(("gain", "shift"), [(0.5, 20), (1.0, 40), (0.9, 0)])
def test_the_hash_knows_no_brightness(gain: float, shift: float) -> None:
    small = np.random.default_rng(0).integers(0, 200, (3, 32, 32)).astype(np.int64)
    brighter = (small * 10 * gain + 10 * shift).astype(np.int64)
    assert np.bitwise_count(hashes(small * 10) ^ hashes(brighter)).max() <= 2


def test_shrinking_averages() -> None:
    values = np.arange(12, dtype=np.float32)
    np.testing.assert_allclose(shrinking(12, 4) @ values, values.reshape(4, 3).mean(axis=1))
    np.testing.assert_allclose(shrinking(5, 2) @ np.arange(5, dtype=np.float32), [0.8, 3.2], rtol=1e-6)
    np.testing.assert_allclose(shrinking(3, 3), np.eye(3))


@pytest.mark.parametrize("kind", list(NEAR))
def test_planted_copies_are_found_and_nothing_else(kind: str) -> None:
    random = np.random.default_rng(1)
    originals = [photograph(seed) for seed in range(40)]
    copies = [NEAR[kind](image, random) for image in originals[:20]]
    images = np.stack([stored(image) for image in (*originals, *copies)])
    found = near_duplicates(images)
    wanted = {(i, 40 + i) for i in range(20)}
    assert places(found) <= wanted
    assert len(wanted & places(found)) >= 19
    if kind != "grey":
        assert {pair.mirrored for pair in found} == {kind == "mirrored"}
    assert all(module.SAME <= pair.likeness <= 1.0001 for pair in found)


def test_a_crop_is_laid_where_it_was_cut() -> None:
    image = photograph(3)
    cut = image.crop((0, 12, 200, 150))
    (pair,) = near_duplicates(np.stack([stored(image), stored(cut)]))
    # of 150 rows the first 12 are gone: u = 12 / 150 of the one is 0 of the other, and 1 stays 1
    assert pair.offset[0] + pair.scale[0] * 12 / 150 == pytest.approx(0, abs=0.01)
    assert pair.offset[0] + pair.scale[0] == pytest.approx(1, abs=0.01)


def test_other_colours_are_another_picture() -> None:
    pixels = np.asarray(photograph(5)).astype(int)
    y = pixels @ np.array([0.299, 0.587, 0.114])
    chroma = pixels - y[..., None]
    other = (y[..., None] - chroma).clip(0, 255).astype(np.uint8)
    images = np.stack([stored(Image.fromarray(each.astype(np.uint8))) for each in (pixels, other)])
    assert near_duplicates(images) == []


def test_order_and_rows_change_nothing_else() -> None:
    images = np.stack([stored(photograph(seed)) for seed in (0, 1, 2, 0, 3, 1)])
    assert places(near_duplicates(images)) == {(0, 3), (1, 5)}
    assert places(near_duplicates(images, rows=[0, 1, 2, 4, 5])) == {(1, 5)}
    assert near_duplicates(images) == near_duplicates(images)


def test_grey_images_small_ones_flat_ones_few_ones() -> None:
    grey = np.stack([stored(photograph(seed))[..., :1] for seed in (0, 1, 0)])
    assert places(near_duplicates(grey)) == {(0, 2)}
    assert near_duplicates(grey[:, ::3, ::3]) == []  # 22 pixels
    assert near_duplicates(np.full((5, 64, 64, 3), 200, np.uint8)) == []
    assert near_duplicates(grey[:1]) == []
    assert near_duplicates(np.zeros((0, 64, 64, 3), np.uint8)) == []
    assert places(near_duplicates(np.stack([grey[0, :40, :50], grey[1, :40, :50], grey[0, :40, :50]]))) == {
        (0, 2)
    }


def test_many_copies_of_one_picture_are_one_group_of_pairs() -> None:
    random = np.random.default_rng(0)
    image = photograph(0)
    images = np.stack([stored(NEAR["recompressed"](image, random)) for _ in range(60)])
    pairs = places(near_duplicates(images))
    parent = {i: i for i in range(60)}
    for one, two in sorted(pairs):
        low, high = sorted((parent[one], parent[two]))
        parent = {i: low if group == high else group for i, group in parent.items()}
    assert set(parent.values()) == {0}
    assert len(pairs) < 60 * 2 * module.MOST


def test_it_can_be_stopped() -> None:
    images = np.stack([stored(photograph(seed)) for seed in (0, 1)])
    with pytest.raises(ScanInterrupted):
        near_duplicates(images, should_stop=lambda: True)
