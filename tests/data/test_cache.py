"""The cache on disk: found again, never trusted when damaged or half-made, and kept small."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convworks.data import cache as module
from convworks.data.cache import Draft, PixelCache, Record
from tests.data.fakes import GEOMETRY, picture

PATHS = ["a/1.png", "a/2.png", "b/caf\udce9.png"]
IMAGES = np.stack([picture(0), picture(1)])
RECORDS = [
    Record("aa" * 32, "ok", "11" * 16, 8, 8, 3, ("cmyk", "alpha")),
    Record("bb" * 32, "cut off", "", 0, 0, 0, ()),
    Record("cc" * 32, "ok", "22" * 16, 8, 8, 3, ()),
]


def entry(root: Path, *, first: str = "aa", published: bool = True) -> Draft:
    """An entry with two images, written in two blocks."""
    draft = PixelCache(root, paths=PATHS, geometry=GEOMETRY).start(needed=IMAGES.nbytes)
    draft.append(IMAGES[:1])
    draft.append(IMAGES[1:])
    if published:
        draft.publish([RECORDS[0]._replace(sha256=first * 32), *RECORDS[1:]])
    return draft


def find(root: Path) -> module.Cached | None:
    return PixelCache(root, paths=PATHS, geometry=GEOMETRY).find()


def folders(root: Path) -> list[Path]:
    return sorted(path for path in (root / "pixels").iterdir() if path.is_dir())


def test_an_entry_is_found_again(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    entry(tmp_path)
    found = find(tmp_path)
    assert found is not None
    assert found.records == RECORDS
    np.testing.assert_array_equal(found.images, IMAGES)
    found.images[:] = 0  # a private mapping: the file keeps its bytes
    again = find(tmp_path)
    assert again is not None
    np.testing.assert_array_equal(again.images, IMAGES)


@pytest.mark.parametrize("change", ["paths", "order", "geometry", "fill", "code"])
def test_other_names_geometry_or_code_find_nothing(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry(tmp_path)
    paths, geometry = list(PATHS), GEOMETRY
    if change == "paths":
        paths[0] = "a/other.png"
    elif change == "order":
        paths.reverse()
    elif change == "geometry":
        geometry = replace(GEOMETRY, stored_height=9)
    elif change == "fill":
        geometry = replace(GEOMETRY, fill=1)
    else:
        monkeypatch.setattr(module, "pixel_code", lambda: "another decoder")
    assert PixelCache(tmp_path, paths=paths, geometry=geometry).find() is None


def test_the_code_that_makes_pixels_is_part_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    was = module.pixel_code()
    assert was == module.pixel_code()
    monkeypatch.setattr(module, "version", lambda name: "99.0" if name == "pillow" else "1.0")
    assert module.pixel_code() != was
    monkeypatch.setattr(module.inspect, "getsource", lambda found: f"{found.__name__} in another version")
    changed = module.pixel_code()
    monkeypatch.setattr(module.inspect, "getsource", lambda found: f"{found.__name__} again another")
    assert module.pixel_code() != changed
    monkeypatch.setattr(module.inspect, "getsource", lambda _: (_ for _ in ()).throw(OSError("no source")))
    assert len(module.pixel_code()) == 64


def test_modules_behind_the_decoder_are_seen() -> None:
    names = [found.__name__ for found in module.pixel_modules()]
    assert {"convworks.data.decode", "convworks.data.preprocess"} < set(names)
    assert "convworks.data.frames" in names  # decode takes its parsers from there
    assert names == sorted(set(names))
    assert "convworks.data.manifest" not in names


def damage(folder: Path, how: str) -> None:
    images, records, header = (folder / name for name in ("images.u8", "records.jsonl", "header.json"))
    if how == "images short":
        images.write_bytes(images.read_bytes()[:-1])
    elif how == "images long":
        images.write_bytes(images.read_bytes() + b"x")
    elif how == "records changed":
        records.write_text(records.read_text().replace("cmyk", "gray"))
    elif how == "records cut":
        records.write_bytes(records.read_bytes()[:-20])
    elif how == "header cut":
        header.write_bytes(header.read_bytes()[:-20])
    elif how == "header list":
        header.write_text("[]")
    elif how == "header shape":
        content = json.loads(header.read_text())
        header.write_text(json.dumps({**content, "shape": [2, 8, 8, 1]}))
    elif how == "header format":
        content = json.loads(header.read_text())
        header.write_text(json.dumps({**content, "format": 0}))
    else:
        (folder / how).unlink()


@pytest.mark.parametrize(
    "how",
    [
        "images short", "images long", "records changed", "records cut", "header cut", "header list",
        "header shape", "header format", "images.u8", "records.jsonl", "header.json",
    ],
)  # fmt: skip
def test_a_damaged_entry_is_not_used_but_removed(tmp_path: Path, how: str) -> None:
    entry(tmp_path)
    (folder,) = folders(tmp_path)
    damage(folder, how)
    assert find(tmp_path) is None
    assert folders(tmp_path) == []
    entry(tmp_path)
    assert find(tmp_path) is not None


def test_a_damaged_entry_does_not_hide_an_older_whole_one(tmp_path: Path) -> None:
    entry(tmp_path, first="aa")
    (old,) = folders(tmp_path)
    os.utime(old / "header.json", (1, 1))
    entry(tmp_path, first="dd")
    (new,) = [path for path in folders(tmp_path) if path != old]
    damage(new, "images short")
    found = find(tmp_path)
    assert found is not None
    assert found.records[0].sha256 == "aa" * 32
    assert folders(tmp_path) == [old]


def test_a_draft_is_never_found_and_goes_with_its_process(tmp_path: Path) -> None:
    draft = entry(tmp_path, published=False)
    assert find(tmp_path) is None
    entry(tmp_path, first="dd")  # another run cleans up, but not what is still being written
    assert len(folders(tmp_path)) == 2
    draft._file.close()  # as if the process had been killed: its lock is gone, its files stay
    (tmp_path / "pixels" / ".tmp-killed-between-folder-and-file").mkdir()
    entry(tmp_path, first="ee")
    assert not [path for path in folders(tmp_path) if path.name.startswith(".tmp")]
    assert len(folders(tmp_path)) == 2


def test_closing_removes_the_draft_but_not_a_mapping(tmp_path: Path) -> None:
    draft = entry(tmp_path, published=False)
    images = draft.map()
    draft.close()
    assert folders(tmp_path) == []
    np.testing.assert_array_equal(images, IMAGES)


def test_two_runs_that_build_the_same_entry(tmp_path: Path) -> None:
    first, second = entry(tmp_path, published=False), entry(tmp_path, published=False)
    first.publish(RECORDS)
    second.publish(RECORDS)
    assert len(folders(tmp_path)) == 1
    assert find(tmp_path) is not None


@pytest.mark.parametrize("step", ["write_bytes", "rename", "fsync_folder"])
def test_publishing_that_fails_leaves_nothing_to_trust(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = entry(tmp_path, published=False)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.durable, step, fail)
        with pytest.raises(OSError, match="No space"):
            draft.publish(RECORDS)
    draft.close()
    assert folders(tmp_path) == []
    assert find(tmp_path) is None


def test_the_data_is_durable_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write -> fsync(files) -> fsync(folder) -> rename -> fsync(parent)."""
    steps: list[str] = []
    draft = entry(tmp_path, published=False)
    real_fsync, real_rename = os.fsync, module.durable.rename

    def fsync(handle: int) -> None:
        steps.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{handle}')).name.split('-')[0]}")
        real_fsync(handle)

    def rename(source: Path, target: Path) -> None:
        steps.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(module.durable, "rename", rename)
    draft.publish(RECORDS)
    files = ["fsync images.u8", "fsync records.jsonl", "fsync header.json"]
    assert steps == [*files, "fsync .tmp", "rename", "fsync pixels"]


def test_the_least_recently_used_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cache(name: str) -> PixelCache:
        return PixelCache(tmp_path, paths=[name], geometry=GEOMETRY)

    def add(name: str, *, time: int) -> None:
        draft = cache(name).start(needed=0)
        draft.append(IMAGES[:1])
        draft.publish(RECORDS[:1])
        (folder,) = (tmp_path / "pixels").glob(f"{cache(name).names}-*")
        os.utime(folder / "header.json", (time, time))

    for time, name in enumerate(("first", "second", "third")):
        add(name, time=time + 1)
    size = sum(file.stat().st_size for file in folders(tmp_path)[0].iterdir())
    assert cache("first").find() is not None  # now it is the one used last
    monkeypatch.setattr(module, "CAP", 3 * size)
    add("fourth", time=4)
    assert [cache(name).find() is not None for name in ("first", "second", "third", "fourth")] == [
        True,
        False,
        True,
        True,
    ]


def test_an_entry_over_the_cap_is_kept_while_it_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAP", 1)
    entry(tmp_path)
    assert find(tmp_path) is not None


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=module.SPARE_DISK + 99))
    cache = PixelCache(tmp_path, paths=PATHS, geometry=GEOMETRY)
    with pytest.raises(OSError, match="No space left"):
        cache.start(needed=100)
    assert folders(tmp_path) == []
    cache.start(needed=99).close()


def test_no_image_at_all_can_be_cached(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, paths=["a"], geometry=GEOMETRY)
    draft = cache.start(needed=0)
    draft.publish([RECORDS[1]])
    found = cache.find()
    assert found is not None
    assert found.images.shape == (0, 8, 8, 3)


def test_a_cache_that_cannot_be_written_can_still_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry(tmp_path)

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", fail)
    assert find(tmp_path) is not None
