"""The contact sheet: what is on it, that pixels stay pixels, names of any kind, files that are not lost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convworks.errors import ConvworksError
from convworks.report.contact_sheet import (
    GAP,
    SIDE,
    TEXT,
    Tile,
    _font,
    _wrapped,
    check_sheet_target,
    draw_sheet,
    png,
)

NOISE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def test_small_pictures_are_enlarged_by_a_whole_number() -> None:
    sheet = np.asarray(draw_sheet([[Tile(NOISE, "a")]], title="t"))
    times = SIDE // 12
    wanted = NOISE.repeat(times, axis=0).repeat(times, axis=1)
    found = [
        y for y in range(sheet.shape[0] - 8 * times)
        if np.array_equal(sheet[y : y + 8 * times, GAP : GAP + 12 * times], wanted)
    ]  # fmt: skip
    assert len(found) == 1


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 3), (2, 900, 3), (900, 2, 1), (224, 224, 3), (169, 100, 1)]
)
def test_pictures_of_any_shape(shape: tuple[int, ...]) -> None:
    tile = Tile(np.full(shape, 9, dtype=np.uint8), "label", ("a line",))
    sheet = draw_sheet([[tile, tile], [tile]], title="title", notes=("note",), heads=("one", "two"))
    assert sheet.mode == "RGB"
    assert sheet.width == 3 * (SIDE + GAP) + GAP
    assert (np.asarray(sheet) == 9).all(axis=2).any()


def test_more_words_make_it_higher_and_nothing_wider() -> None:
    few = draw_sheet([[Tile(NOISE, "a")]], title="t")
    many = draw_sheet([[Tile(NOISE, "a", ("b c " * 60,))]], title="t " * 200, notes=["n " * 300])
    assert many.width == few.width
    assert many.height > few.height + 200


def test_words_are_wrapped_at_spaces_and_slashes_and_else_anywhere() -> None:
    font = _font(TEXT, False)
    assert _wrapped("", font, 100) == [""]
    assert _wrapped("short", font, 100) == ["short"]
    for text in ("a/very/long/path/to/some/image_0001.jpg", "many short words in a row here", "x" * 200):
        lines = _wrapped(text, font, 90)
        assert all(font.getlength(line) <= 90 for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert len(lines) > 1
    assert _wrapped("wide", font, 1) == list("wide")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\udcff.png", "日本 🙂", "", "=1+1", "<b>", "e\u0301"])
def test_names_of_any_kind_are_drawn(name: str) -> None:
    draw_sheet([[Tile(NOISE, name, (name,))]], title=name, notes=(name,), heads=(name,))


def test_nothing_to_draw() -> None:
    assert draw_sheet([], title="nothing").height > 0


def test_the_file_is_known_again_and_other_files_are_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    check_sheet_target(path)
    data = png(draw_sheet([[Tile(NOISE, "a")]], title="t"))
    assert Image.open(io.BytesIO(data)).format == "PNG"
    path.write_bytes(data)
    check_sheet_target(path)
    Image.fromarray(NOISE).save(tmp_path / "mine.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("mine.png", "text.png"):
        with pytest.raises(ConvworksError, match="is there already, and is no contact sheet") as caught:
            check_sheet_target(tmp_path / name)
        assert caught.value.code == "U006"
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConvworksError, match="is a folder"):
        check_sheet_target(tmp_path / "folder.png")
    with pytest.raises(ConvworksError, match="cannot tell from 'sheet.jpg'") as caught:
        check_sheet_target(tmp_path / "sheet.jpg")
    assert caught.value.code == "U181"
