"""The quarantine list and the split file: what stands in them, and that tables of labels read them back."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from convworks.data.quarantine import (
    counts_of,
    leak_free_splits,
    quarantine_rows,
    quarantine_text,
    split_text,
)
from convworks.data.sources import open_source
from convworks.errors import ConvworksError
from tests.data.defects import jpeg
from tests.data.doctor_proof import look
from tests.data.test_doctor import scenes
from tests.data.test_doctor_near import photograph


def test_what_stands_in_the_list(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=12)
    (folder / "cat/bad.jpg").write_bytes(b"<html>")
    shutil.copy(folder / "cat/000.jpg", folder / "cat/copy.jpg")
    shutil.copy(folder / "cat/001.jpg", folder / "dog/torn.jpg")
    rows = quarantine_rows(look(folder, tmp_path / "cache"), [(3, "label suspect: cat, looks like dog")])
    table = {(path, reason): action for path, reason, action in rows}
    assert table["cat/bad.jpg", "unreadable: an HTML page, not an image"] == "replace or remove"
    assert table["cat/copy.jpg", "exact duplicates: of cat/000.jpg"] == "remove the copy"
    assert table["cat/001.jpg", "same picture, two labels: dog/torn.jpg (cat and dog)"] == "keep one label"
    assert table["dog/torn.jpg", "same picture, two labels: cat/001.jpg (cat and dog)"] == "keep one label"
    assert table["cat/003.jpg", "label suspect: cat, looks like dog"] == "look: is the label right?"
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert not any(path == "cat/000.jpg" for path, _ in table)


def test_the_list_is_safe_in_a_spreadsheet() -> None:
    text = quarantine_text([("=cmd|'/C calc'!A0.jpg", "cut off", "look"), ("a\nb\x1b,.jpg", "-1", "+look")])
    rows = list(csv.reader(io.StringIO(text.decode())))
    assert rows[0] == ["path", "reason", "action"]
    assert rows[1][0] == "'=cmd|'/C calc'!A0.jpg"
    assert rows[2] == ["a\\nb\\x1b,.jpg", "'-1", "'+look"]


NAMES = (
    "a b",
    "=1+1",
    "-x",
    "@y",
    " lead",
    "trail ",
    'quo"te',
    "com,ma",
    "semi;colon",
    "li\nne",
    "ümlaut",
    "p\x1b[31m",
)


@pytest.mark.parametrize("packed", [False, True])
def test_odd_names_come_back_exactly(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "photos"
    for k, label in enumerate(("cat", "=dog")):
        (folder / label).mkdir(parents=True)
        for i, name in enumerate(NAMES):
            (folder / label / f"{name}.jpg").write_bytes(jpeg(photograph(100 * k + i)))
            if name == "trail ":
                (folder / label / f"{name}.jpg").rename(folder / label / f"{name}.jpg ")
    (folder / "cat" / "latin\udce9.jpg").write_bytes(jpeg(photograph(999)))
    location = Path(shutil.make_archive(str(tmp_path / "photos"), "tar", folder)) if packed else folder
    diagnosis = look(folder, tmp_path / "cache")
    table = leak_free_splits(diagnosis, seed=0, val_fraction=0.2)
    (tmp_path / "splits.csv").write_bytes(split_text(table))
    if packed:  # a tar of '.' names its members ./cat/...
        table_paths = {row[0] for row in table.rows}
    with open_source(location, labels=tmp_path / "splits.csv", cache=tmp_path / "cache") as source:
        found = {entry.path: (entry.label, entry.split) for entry in source.entries}
    wanted = {path: (label, split) for path, label, split, _ in table.rows}
    if packed:
        assert {path.removeprefix("./") for path in found} == table_paths
    else:
        assert found == wanted
    assert len(found) == 2 * len(NAMES) + 1


def test_groups_stay_together_and_classes_keep_their_share(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=30)
    for i in range(10):
        image = Image.open(folder / f"cat/{i:03d}.jpg")
        (folder / f"cat/near-{i}.jpg").write_bytes(jpeg(image.resize((150, 112)), 70))
    diagnosis = look(folder, tmp_path / "cache")
    for seed in range(4):
        table = leak_free_splits(diagnosis, seed=seed, val_fraction=0.2)
        places: dict[str, set[str]] = {}
        for _, _, split, group in table.rows:
            places.setdefault(group, set()).add(split)
        assert all(len(splits) == 1 for splits in places.values())
        assert len(places) == 60
        for label, total in (("cat", 40), ("dog", 30)):
            val = sum(row[1] == label and row[2] == "val" for row in table.rows)
            assert abs(val - 0.2 * total) <= 1
        assert sum(counts_of(table).values()) == 70
        assert "copies and near copies together" in table.rule
    assert leak_free_splits(diagnosis, seed=1, val_fraction=0.2) != leak_free_splits(
        diagnosis, seed=2, val_fraction=0.2
    )


def test_given_splits_stay_but_leaks_go_to_train(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("train/cat", "train/dog", "test/cat", "test/dog"), each=15)
    shutil.copy(folder / "train/cat/000.jpg", folder / "test/cat/copy.jpg")
    image = Image.open(folder / "train/dog/001.jpg")
    (folder / "test/dog/near.jpg").write_bytes(jpeg(image.resize((150, 112)), 70))
    table = leak_free_splits(look(folder, tmp_path / "cache"), seed=0, val_fraction=0.2)
    split = {row[0]: row[2] for row in table.rows}
    assert split.pop("test/cat/copy.jpg") == split["train/cat/000.jpg"] != "test"
    assert split.pop("test/dog/near.jpg") == split["train/dog/001.jpg"] != "test"
    assert table.moved == 2
    assert all(value == "test" for path, value in split.items() if path.startswith("test/"))
    assert {value for path, value in split.items() if path.startswith("train/")} == {"train", "val"}


def test_what_cannot_be_split_says_so(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog"), each=5)
    for i in range(1, 5):
        shutil.copy(folder / "cat/000.jpg", folder / f"cat/{i:03d}.jpg")
    with pytest.raises(ConvworksError, match="cat") as caught:
        leak_free_splits(look(folder, tmp_path / "cache"), seed=0, val_fraction=0.2)
    assert caught.value.code == "D143"


def test_a_class_that_is_no_text(tmp_path: Path) -> None:
    folder = scenes(tmp_path / "photos", ("cat", "dog\udce9"), each=5)
    with pytest.raises(ConvworksError, match="not UTF-8") as caught:
        leak_free_splits(look(folder, tmp_path / "cache"), seed=0, val_fraction=0.2)
    assert caught.value.code == "D225"
