"""Arrays in .npz files, under the names of Keras, MedMNIST and plain ones."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convworks.data.sources import Source
from convworks.errors import ConvworksError
from tests.data.trees import failure, left_out, opened, rows

GREY = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def saved(folder: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]
    return folder / "set.npz"


def load(folder: Path, **arrays: NDArray[Any]) -> Source:
    return opened(saved(folder, **arrays))


def wrong(folder: Path, **arrays: NDArray[Any]) -> str:
    return failure(saved(folder, **arrays), "D112").what.removeprefix("cannot use 'set.npz': ")


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("X", "Y")])
def test_plain_names(tmp_path: Path, names: tuple[str, str]) -> None:
    source = load(tmp_path, **{names[0]: GREY, names[1]: Y})
    assert (source.kind, source.name, source.layout) == ("npz", "set", "arrays, 5x4 grey, no split")
    assert source.classes == ("0", "1", "2")
    assert rows(source)[4] == ("images/4", "1", None)
    np.testing.assert_array_equal(source.array, GREY[..., None])
    assert source.read(2) == GREY[2].tobytes()


@pytest.mark.parametrize("form", ["x_{}/y_{}", "{}_images/{}_labels"])
def test_names_with_splits(tmp_path: Path, form: str) -> None:
    arrays = {}
    for n, split in enumerate(("train", "val", "test")):
        images, labels = form.format(split, split).split("/")
        arrays[images], arrays[labels] = COLOUR[2 * n : 2 * n + 2], np.array([[0], [1]])
    source = load(tmp_path, **arrays)
    assert source.layout == "arrays, 5x4 colour, train 2, val 2, test 2"
    assert [e.split for e in source.entries] == ["train", "train", "val", "val", "test", "test"]
    np.testing.assert_array_equal(source.array, COLOUR)


def test_class_names_and_texts(tmp_path: Path) -> None:
    names = np.array(["zebra", "ant", "bee", "unused"])
    source = load(tmp_path, x=GREY, y=Y.astype(np.uint8), class_names=names, extra=Y)
    assert source.classes == ("ant", "bee", "unused", "zebra")
    assert [e.label for e in source.entries][:3] == ["zebra", "ant", "bee"]
    assert left_out(source) == {"extra": "an array of another name"}
    assert load(tmp_path, x=GREY, y=names[Y]).classes == ("ant", "bee", "zebra")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (GREY[..., None], GREY[..., None]),
        (np.asfortranarray(GREY), GREY[..., None]),
        (GREY[:, None], GREY[..., None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (COLOUR / 255, COLOUR),
        ((COLOUR / 255).astype(np.float32), COLOUR),
        (np.full((6, 2, 2), 0.999), np.full((6, 2, 2, 1), 255)),
    ],
)
def test_shapes_and_types(tmp_path: Path, images: NDArray[Any], expected: NDArray[np.uint8]) -> None:
    array = load(tmp_path, x=images, y=Y).array
    assert array is not None
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"x": GREY}, "there is no array 'y' (it has x)"),
        ({"a": GREY, "b": Y}, "no arrays x and y, or images and labels, or x_train and y_train: a, b"),
        ({"x": GREY, "y": Y[:-1]}, "'x' has 6 images, 'y' 5 labels"),
        ({"x": GREY.reshape(6, 20), "y": Y}, "'x' has the shape (6, 20)"),
        ({"x": np.zeros((6, 5, 4, 4), np.uint8), "y": Y}, "'x' has the shape (6, 5, 4, 4)"),
        ({"x": GREY[:0], "y": Y[:0]}, "'x' has the shape (0, 5, 4, 1)"),
        (
            {"x": np.zeros((6, 3, 9, 3), np.uint8), "y": Y},
            "the shape (6, 3, 9, 3) of 'x' does not tell channels from rows",
        ),
        ({"x": GREY.astype(int), "y": Y}, "'x' is int64, not uint8"),
        ({"x": np.full((6, 5, 4), 2.5), "y": Y}, "'x' has numbers from 2.5 to 2.5, not 0 to 1"),
        ({"x": np.where(GREY > 9, 0.5, np.nan), "y": Y}, "'x' has numbers from nan to nan, not 0 to 1"),
        ({"x": GREY, "y": Y / 1}, "'y' is float64 of shape (6,), not one whole number or text each"),
        ({"x": GREY, "y": np.eye(6)}, "'y' is float64 of shape (6, 6), not one whole number or text each"),
        ({"x": GREY, "y": np.array(["a", ""] * 3)}, "'y' has an empty label at 1"),
        (
            {"x": GREY, "y": Y, "class_names": np.array(["a", "b"])},
            "'y' has labels from 0 to 2, and there are 2 class names",
        ),
        ({"x": GREY, "y": Y - 1, "class_names": np.array(list("abc"))}, None),
        ({"x": GREY, "y": Y, "class_names": np.array(["a", "a", "b"])}, "'class_names' has a name twice"),
        ({"x": GREY, "y": Y, "class_names": Y}, "'class_names' is int64 of shape (6,), not a list of texts"),
        ({"x": GREY, "y": Y, "images": GREY, "labels": Y}, None),
    ],
)
def test_mistakes(tmp_path: Path, arrays: dict[str, NDArray[Any]], what: str | None) -> None:
    found = wrong(tmp_path, **arrays)
    assert what is None or found == what


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "opened"),)

    path = tmp_path / "set.npz"
    np.savez(path, x=GREY, y=np.array([Canary()] * 6, dtype=object))
    assert "pickled" in failure(path, "D112").what
    assert not (tmp_path / "opened").exists()


def test_damaged_files(tmp_path: Path) -> None:
    path = saved(tmp_path, x=GREY, y=Y)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cut off" in failure(path, "D108").what
    place = content.index(GREY.tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ConvworksError, match="checksum"):
        opened(path)
    path.write_bytes(b"")
    failure(path, "D108")


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    path = saved(tmp_path, x=GREY, y=Y)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["x.npy"] = members["x.npy"].replace(b"(6, 5, 4)", b"(9**9,)  ")  # not a literal: refused
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    failure(path, "D112")
    members["x.npy"] = members["x.npy"].replace(b"(9**9,)  ", b"(999, 5, 4)")[: len(members["x.npy"])]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    failure(path, "D112")


def test_members_that_are_no_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path, x=GREY, y=Y)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")
    assert len(opened(path).entries) == 6


def test_a_bomb(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", x=np.zeros((4000, 32, 32), np.uint8), y=np.arange(4000) % 2)
    assert "would unpack to" in failure(tmp_path / "set.npz", "D109").what
