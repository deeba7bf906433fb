"""Data for training: alignment, quarantine, splits, resuming, and a source that is never written to."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convworks.data.dataset import Dataset, build_dataset
from convworks.data.manifest import Manifest
from convworks.data.preprocess import Geometry
from convworks.data.sources import open_source
from convworks.data.store import ScanInterrupted
from convworks.errors import ConvworksError
from tests.data.fakes import GEOMETRY, FakeSource, photos, picture, png

Files = dict[str, bytes | None]


def build(files: Files, *, seed: int = 0, cache: Path | None = None, **options: object) -> Dataset:
    source = FakeSource(files)
    return build_dataset(source, geometry=GEOMETRY, seed=seed, cache=cache, **options)  # type: ignore[arg-type]


def error(files: Files, **options: object) -> ConvworksError:
    with pytest.raises(ConvworksError) as caught:
        build(files, **options)
    return caught.value


def test_everything_is_aligned() -> None:
    files = photos({"cat": 60, "dog": 50})
    files["cat/007.png"] = b""
    data = build(files)
    assert data.images.shape == (109, 8, 8, 3)
    assert data.images.dtype == torch.uint8
    assert data.images.is_contiguous()
    assert data.labels.dtype == torch.int64
    assert (data.classes, data.geometry, data.storage) == (("cat", "dog"), GEOMETRY, "RAM")
    readable = [path for path in files if path != "cat/007.png"]
    assert [data.path_of(row) for row in range(109)] == readable
    for row in (0, 7, 58, 59, 108):
        path = data.path_of(row)
        sample = data.manifest.samples[data.rows[row]]
        assert (sample.path, sample.label) == (path, data.classes[data.labels[row]])
        content = files[path]
        assert content is not None
        assert sample.sha256 == hashlib.sha256(content).hexdigest()
        np.testing.assert_array_equal(data.images[row].numpy(), picture(list(files).index(path)))
    train, val = data.split_rows("train"), data.split_rows("val")
    assert (len(train), len(val), len(data.split_rows("test"))) == (87, 22, 0)
    assert sorted([*train, *val]) == list(range(109))
    assert train.dtype == np.int64
    (bad,) = data.manifest.left_out
    assert (bad.path, bad.split, bad.label) == ("cat/007.png", "", "cat")
    assert data.manifest.split_rule == "80/20 train/val, stratified, seed 0"
    assert data.manifest.warnings == ()


@pytest.mark.parametrize("cached", [False, True])
def test_threads_and_repetition_change_nothing(tmp_path: Path, cached: bool) -> None:
    files = photos({"cat": 30, "dog": 25}, height=11, width=9)
    cache = tmp_path if cached else None
    first = build(files, threads=1, cache=cache)
    for threads in (1, 2, 4):
        other = build(files, threads=threads, cache=cache)
        assert other.manifest == first.manifest
        torch.testing.assert_close(other.images, first.images, rtol=0, atol=0)
        torch.testing.assert_close(other.labels, first.labels, rtol=0, atol=0)
        np.testing.assert_array_equal(other.rows, first.rows)
        assert other.storage == ("memory-mapped cache" if cached else "RAM")
    assert build(files, seed=1).manifest.sha256 != first.manifest.sha256


def test_a_mapped_cache_gives_a_tensor_like_any_other(tmp_path: Path) -> None:
    files = photos({"cat": 3, "dog": 3})
    build(files, cache=tmp_path)
    mapped = build(files, cache=tmp_path)
    mapped.images.zero_()
    torch.testing.assert_close(build(files, cache=tmp_path).images, build(files).images, rtol=0, atol=0)


# What cannot be read


def test_one_file_in_a_hundred_is_left_out_and_one_always() -> None:
    files = photos({"cat": 150, "dog": 150})
    for name in ("000", "001", "002"):
        files[f"cat/{name}.png"] = b"text"
    assert len(build(files).manifest.left_out) == 3
    files["cat/003.png"] = None
    problem = error(files)
    assert (problem.code, problem.exit_status) == ("D141", 3)
    assert problem.what == "4 of 300 images cannot be read (1.3 %)"
    assert problem.where.startswith("cat/000.png (")
    assert problem.where.endswith("cat/003.png (no such file)")
    assert problem.try_ == "convworks check photos"
    few = photos({"cat": 3, "dog": 3})
    few["cat/000.png"] = b""
    assert len(build(few).manifest.left_out) == 1
    few["cat/001.png"] = b""
    assert error(few).code == "D141"


def test_long_lists_name_the_first_files() -> None:
    files = photos({"cat": 20, "dog": 20}) | {f"cat/\udce9{n}.png": b"" for n in range(9)}
    problem = error(files)
    assert problem.where.count("(") == 5
    assert problem.where.startswith("cat/\\xe90.png (")
    assert problem.where.endswith(", and 4 more")


def test_a_class_must_keep_two_images() -> None:
    files = photos({"cat": 150, "dog": 2})
    files["dog/001.png"] = b""
    problem = error(files)
    assert problem.code == "D142"
    assert problem.what == "class 'dog' keeps 1 of 2 images: the rest is unreadable"
    files["dog/002.png"] = png(picture(999))
    assert build(files).manifest.count() == {"cat": 150, "dog": 2}


def test_nothing_readable_at_all() -> None:
    assert error({"cat/1.png": b"", "cat/2.png": b"", "dog/1.png": b"", "dog/2.png": b""}).code == "D144"
    assert error({}).code == "D144"


def test_strict() -> None:
    files = photos({"cat": 150, "dog": 150})
    build(files, strict=True)
    files["dog/003.png"] = b""
    assert error(files, strict=True).code == "D140"


def test_labels_are_required() -> None:
    source = FakeSource(photos({"cat": 3}))
    source.entries = [type(source.entries[0])("a.jpg", None, None)]
    with pytest.raises(ConvworksError, match="'a.jpg' has no label") as caught:
        build_dataset(source, geometry=GEOMETRY, seed=0, cache=None)
    assert caught.value.code == "D148"


@pytest.mark.parametrize(
    ("counts", "prefix", "code"),
    [({"cat": 3, "dog": 1}, [""], "D143"), ({"cat": 3}, ["val/"], "D146"), ({"cat": 3}, ["test/"], "D146")],
)
def test_a_hopeless_split_is_said_before_anything_is_read(
    counts: dict[str, int], prefix: list[str], code: str
) -> None:
    source = FakeSource(photos(counts, prefix=prefix))
    with pytest.raises(ConvworksError) as caught:
        build_dataset(source, geometry=GEOMETRY, seed=0, cache=None)
    assert caught.value.code == code
    assert source.reads.total() == 0


# Splits


def test_given_splits_and_copies_between_them() -> None:
    files = photos({"cat": 20, "dog": 20}, prefix=["train/", "test/"])
    files["train/cat/000.png"] = files["test/cat/000.png"]
    files["train/cat/001.png"] = files["train/cat/002.png"] = files["train/cat/003.png"]
    files["train/dog/019.png"] = files["train/cat/019.png"]
    data = build(files)
    assert Counter(sample.split for sample in data.manifest.samples) == {"train": 36, "val": 4, "test": 40}
    assert {sample.split for sample in data.manifest.samples if sample.path.startswith("test/")} == {"test"}
    split = {sample.path: sample.split for sample in data.manifest.samples}
    assert split["train/cat/001.png"] == split["train/cat/002.png"] == split["train/cat/003.png"]
    assert split["train/cat/019.png"] == split["train/dog/019.png"]
    assert data.manifest.warnings == (
        "same picture, two labels: train/cat/019.png = train/dog/019.png",
        "leak: the same picture in two splits: train/cat/000.png = test/cat/000.png",
    )


def test_copies_of_a_picture_are_never_parted() -> None:
    files = {f"{'ab'[n % 2]}/{n}-{copy}.png": png(picture(n)) for n in range(20) for copy in range(3)}
    data = build(files, val_fraction=0.5)
    assert min(len(data.split_rows("train")), len(data.split_rows("val"))) >= 24
    assert data.manifest.warnings == ()
    for number in range(20):
        copies = [sample for sample in data.manifest.samples if f"/{number}-" in sample.path]
        assert len({sample.split for sample in copies}) == 1


def test_a_class_that_a_given_split_lacks_is_said() -> None:
    files = photos({"cat": 4, "dog": 4}, prefix=["train/"]) | photos({"cat": 4}, prefix=["val/"])
    assert build(files).manifest.warnings[0] == "no val image of class 'dog'"


# Resuming


def test_resuming_on_the_same_data_reuses_the_splits() -> None:
    files = photos({"cat": 30, "dog": 25})
    first = build(files, seed=3)
    again = build(files, seed=99, val_fraction=0.5, expected=first.manifest)
    assert again.manifest == first.manifest
    given = photos({"cat": 30, "dog": 25}, prefix=["train/", "test/"])
    first = build(given)
    assert build(given, expected=first.manifest).manifest == first.manifest


def test_an_unreadable_file_stays_left_out_when_resuming() -> None:
    files = photos({"cat": 30, "dog": 25})
    files["cat/000.png"] = b""
    first = build(files)
    assert build(files, expected=first.manifest).manifest == first.manifest
    files["cat/000.png"] = png(picture(77))
    assert error(files, expected=first.manifest).where.startswith("changed: cat/000.png (was ")


@pytest.mark.parametrize("change", ["edit", "remove", "add", "vanish", "move", "order"])
def test_resuming_on_other_data_is_refused(change: str) -> None:
    files = photos({"cat": 30, "dog": 25})
    expected = build(files).manifest
    if change == "edit":
        files["cat/001.png"] = png(picture(555))
        where = "changed: cat/001.png"
    elif change == "remove":
        del files["cat/001.png"]
        where = "removed: cat/001.png"
    elif change == "add":
        files["cat/new.png"] = png(picture(555))
        where = "added: cat/new.png"
    elif change == "vanish":
        files["cat/001.png"] = None
        where = "changed: cat/001.png (was ok, is no such file)"
    elif change == "move":
        files["dog/001b.png"] = files.pop("cat/001.png")
        where = "removed: cat/001.png; added: dog/001b.png"
    else:
        files = dict(reversed(files.items()))
        where = "order: the images come in another order"
    problem = error(files, expected=expected)
    assert (problem.code, problem.exit_status, problem.where) == ("D145", 3, where)


def test_another_label_or_split_in_a_table_is_refused() -> None:
    files = {f"{n}.png": png(picture(n)) for n in range(8)}
    labels = {path: "ab"[n % 2] for n, path in enumerate(files)}

    def built(split: str | None, *, change: bool, expected: Manifest | None) -> Dataset:
        source = FakeSource(files, labels=labels if not change else {**labels, "0.png": "b"})
        source.entries = [
            type(entry)(entry.path, entry.label, split if n > 5 else "train")  # type: ignore[arg-type]
            for n, entry in enumerate(source.entries)
        ]
        return build_dataset(source, geometry=GEOMETRY, seed=0, cache=None, expected=expected)

    expected = built("test", change=False, expected=None).manifest
    built("test", change=False, expected=expected)
    with pytest.raises(ConvworksError, match=r"split: 6.png was test, is val; split: 7.png was test, is val"):
        built("val", change=False, expected=expected)
    with pytest.raises(ConvworksError, match=r"label: 0.png was a, is b"):
        built("test", change=True, expected=expected)


# With the real sources


def folder_of_photos(root: Path) -> Path:
    for path, content in photos({"cat": 12, "dog": 9}, height=10, width=13).items():
        file = root / "photos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content or b"")
    (root / "photos/cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(png(picture(500)))
    (root / "photos/dog/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "photos/Thumbs.db").write_bytes(b"x")
    return root / "photos"


def state(folder: Path) -> dict[bytes, tuple[int, int, int, bytes]]:
    """Kind, modification time, size and content of everything below a folder."""
    found = {}
    for root, folders, files in os.walk(os.fsencode(folder)):
        for name in [b"", *folders, *files]:
            path = os.path.join(root, name)
            status = os.stat(path)
            content = b"" if os.path.isdir(path) else Path(os.fsdecode(path)).read_bytes()
            found[path] = (status.st_mode, status.st_mtime_ns, status.st_size, content)
    return found


@pytest.mark.parametrize("inside", [False, True])
def test_the_data_folder_is_never_written_to(tmp_path: Path, inside: bool) -> None:
    folder = folder_of_photos(tmp_path)
    before = state(folder)
    cache = folder / "cache" if inside else tmp_path / "cache"
    for ram_limit in (None, 0):
        with open_source(folder, cache=tmp_path / "elsewhere") as source:
            data = build_dataset(source, geometry=GEOMETRY, seed=0, cache=cache, ram_limit=ram_limit)
        assert len(data.labels) == 22
        with open_source(folder, cache=tmp_path / "elsewhere") as source, pytest.raises(ScanInterrupted):
            build_dataset(
                source, geometry=GEOMETRY, seed=0, cache=cache, ram_limit=ram_limit, should_stop=lambda: True
            )
    assert state(folder) == before
    assert cache.exists() is not inside


def test_folder_and_archive_give_the_same_data(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path)
    (folder / "cat" / os.fsdecode(b"caf\xe9.png")).unlink()  # zip names are text
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    found = []
    for location in (folder, tmp_path / "photos.zip"):
        with open_source(location, cache=tmp_path / "cache") as source:
            found.append(build_dataset(source, geometry=GEOMETRY, seed=4, cache=tmp_path / "cache"))
    assert found[0].manifest.sha256 == found[1].manifest.sha256
    torch.testing.assert_close(found[0].images, found[1].images, rtol=0, atol=0)
    assert found[1].storage == "memory-mapped cache"  # the same bytes under the same names


def test_a_manifest_of_strange_names_survives_a_run(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path)
    with open_source(folder, cache=tmp_path) as source:
        data = build_dataset(source, geometry=GEOMETRY, seed=0, cache=None)
        data.manifest.save(tmp_path / "manifest.jsonl")
        loaded = Manifest.load(tmp_path / "manifest.jsonl")
        again = build_dataset(source, geometry=GEOMETRY, seed=0, cache=None, expected=loaded)
    assert again.manifest == data.manifest == loaded
    (folder / "cat" / os.fsdecode(b"caf\xe9.png")).unlink()
    with (
        open_source(folder, cache=tmp_path) as source,
        pytest.raises(ConvworksError, match=r"removed: cat/caf\\xe9.png"),
    ):
        build_dataset(source, geometry=GEOMETRY, seed=0, cache=None, expected=loaded)


def test_builtin_digits() -> None:
    with open_source("digits", cache=Path("unused")) as source:
        data = build_dataset(source, geometry=Geometry(12, 12, 1, "pad", 12, 12), seed=0, cache=None)
    assert data.images.shape[1:] == (12, 12, 1)
    counts: NDArray[np.int64] = np.bincount(data.labels[data.split_rows("val")].numpy(), minlength=10)
    assert counts.min() > 0
