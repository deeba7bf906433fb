"""The pixel store: memory, a file, or both; and what happens when the disk does not play along."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convworks.data import store as module
from convworks.data.cache import Draft, PixelCache, Record
from convworks.data.preprocess import Geometry
from convworks.data.store import Probe, available_memory, memory_limit, open_writer, probe
from convworks.errors import ConvworksError
from tests.data.fakes import GEOMETRY, FakeSource, photos, picture, png

IMAGES = np.stack([picture(seed) for seed in range(5)])
RECORDS = [Record(f"{n:02x}" * 32, "ok", f"{n:02x}" * 16, 8, 8, 3, ()) for n in range(5)]


def cache_in(folder: Path) -> PixelCache:
    return PixelCache(folder, paths=[str(n) for n in range(5)], geometry=GEOMETRY)


def fill(
    cache: PixelCache | None, *, ram_limit: int | None, keep: bool = True
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], module.Writer]:
    writer = open_writer(capacity=9, shape=(8, 8, 3), cache=cache, keep=keep, ram_limit=ram_limit)
    writer.append(IMAGES[:2])
    writer.append(IMAGES[2:2])
    writer.append(IMAGES[2:])
    return writer.finish(RECORDS if keep else None), writer


def raising(problem: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise problem

    return fail


NO_SPACE = OSError(28, "No space left on device")
NEEDED = 9 * 8 * 8 * 3  # bytes of nine images


@pytest.mark.parametrize("ram_limit", [None, NEEDED, NEEDED - 1])
def test_memory_or_file_hold_the_same_and_make_a_cache_entry(tmp_path: Path, ram_limit: int | None) -> None:
    images, writer = fill(cache_in(tmp_path), ram_limit=ram_limit)
    np.testing.assert_array_equal(images, IMAGES)
    assert images.flags.c_contiguous
    assert images.flags.writeable  # torch takes no other array without a warning
    assert writer.in_memory == (ram_limit != NEEDED - 1)
    assert writer.notices == []
    found = cache_in(tmp_path).find()
    assert found is not None
    np.testing.assert_array_equal(found.images, IMAGES)


def test_without_a_cache_entry_nothing_stays(tmp_path: Path) -> None:
    images, writer = fill(cache_in(tmp_path), ram_limit=0, keep=False)
    np.testing.assert_array_equal(images, IMAGES)
    assert not writer.in_memory
    assert [path.name for path in (tmp_path / "pixels").iterdir()] == [".lock"]
    fill(cache_in(tmp_path / "unused"), ram_limit=NEEDED, keep=False)
    assert not (tmp_path / "unused").exists()


def test_no_cache_folder_takes_memory_beyond_the_limit() -> None:
    images, writer = fill(None, ram_limit=0)
    np.testing.assert_array_equal(images, IMAGES)
    assert writer.notices == ["the images take 0.0 MB of memory, since there is no cache folder"]
    assert fill(None, ram_limit=None)[1].notices == []


def test_no_cache_folder_and_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 8 * 10**9)
    with pytest.raises(ConvworksError) as caught:
        open_writer(capacity=10**6, shape=(256, 256, 3), cache=None, keep=True, ram_limit=None)
    assert (caught.value.code, caught.value.exit_status) == ("R522", 5)
    assert "196.6 GB of memory" in caught.value.what
    assert "8.0 GB" in caught.value.where
    monkeypatch.setattr(module, "available_memory", lambda: NEEDED)
    with pytest.raises(ConvworksError, match="R522"):
        fill(None, ram_limit=0)
    monkeypatch.setattr(np, "empty", raising(MemoryError()))
    with pytest.raises(ConvworksError, match="R522"):
        open_writer(capacity=1, shape=(8, 8, 3), cache=None, keep=True, ram_limit=None)


def test_a_cache_that_cannot_be_made_costs_a_notice(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    for ram_limit in (None, 0):
        images, writer = fill(cache_in(in_the_way), ram_limit=ram_limit)
        np.testing.assert_array_equal(images, IMAGES)
        (notice,) = writer.notices
        assert notice == f"the images are not cached in {in_the_way / 'pixels'}: Not a directory"


def test_a_full_disk_is_an_error_only_where_memory_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    images, writer = fill(cache_in(tmp_path), ram_limit=0)
    np.testing.assert_array_equal(images, IMAGES)
    assert "No space left on device" in writer.notices[0]
    monkeypatch.setattr(module, "available_memory", lambda: 100)
    with pytest.raises(ConvworksError) as caught:
        fill(cache_in(tmp_path), ram_limit=0)
    assert (caught.value.code, caught.value.exit_status) == ("R521", 5)
    assert caught.value.what == f"cannot store the images in {tmp_path / 'pixels'}: No space left on device"
    assert caught.value.where == "0.0 MB are needed there, 5.0 MB are free"


@pytest.mark.parametrize("step", ["append", "publish"])
def test_a_disk_that_fails_in_between_costs_a_notice_if_memory_holds_the_images(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draft, step, raising(NO_SPACE))
    images, writer = fill(cache_in(tmp_path), ram_limit=None)
    np.testing.assert_array_equal(images, IMAGES)
    assert writer.notices == [f"the images are not cached in {tmp_path / 'pixels'}: No space left on device"]
    assert cache_in(tmp_path).find() is None
    assert [path.name for path in (tmp_path / "pixels").iterdir()] == [".lock"]


@pytest.mark.parametrize("step", ["append", "map"])
def test_a_disk_that_fails_in_between_is_an_error_if_it_is_the_only_place(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draft, step, raising(NO_SPACE))
    with pytest.raises(ConvworksError, match="No space left on device") as caught:
        fill(cache_in(tmp_path), ram_limit=0)
    assert caught.value.code == "R521"
    assert [path.name for path in (tmp_path / "pixels").iterdir()] == [".lock"]


def test_a_mapped_file_that_cannot_be_published_is_still_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Draft, "publish", raising(NO_SPACE))
    images, writer = fill(cache_in(tmp_path), ram_limit=0)
    np.testing.assert_array_equal(images, IMAGES)
    assert len(writer.notices) == 1


def test_the_limit_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < available_memory() < 2**50
    monkeypatch.setattr(module, "available_memory", lambda: 8 * 2**30)
    assert memory_limit(None) == 2 * 2**30
    assert memory_limit(7) == 7
    monkeypatch.setattr(module, "available_memory", lambda: 64 * 2**30)
    assert memory_limit(None) == 4 * 2**30


def test_a_container_has_less_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 2000 kB\n",
        "/sys/fs/cgroup/memory.max": "1000000\n",
        "/sys/fs/cgroup/memory.current": "700000\n",
        "/sys/fs/cgroup/memory.stat": "active_file 5\ninactive_file 100000\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path: files[str(path)])
    assert available_memory() == 400_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert available_memory() == 2_048_000


def test_probe_of_an_array() -> None:
    array = np.zeros((3, 28, 20, 1), dtype=np.uint8)
    source = FakeSource({f"a/{n}": b"" for n in range(3)}, array=array)
    assert probe(source) == Probe(channels=1, size=(28, 20), median_size=(28, 20))


def test_probe_of_files() -> None:
    assert probe(FakeSource(photos({"a": 3}, height=8, width=6))) == Probe(3, (8, 6), (8, 6))
    grey = {f"a/{n}.png": png(picture(n, height=4, width=4 + n, channels=1)) for n in range(3)}
    assert probe(FakeSource(grey)) == Probe(1, None, (4, 5))
    mixed = {**grey, "a/c.png": png(picture(9, height=40, width=40)), "a/bad.png": b"no", "a/gone": None}
    assert probe(FakeSource(mixed)) == Probe(3, None, (4, 5))


def test_probe_reads_some_images_the_same_ones_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (FakeSource(photos({"a": 20, "b": 20})) for _ in range(2))
    probe(first, count=8)
    probe(second, count=8)
    assert first.reads == second.reads
    assert first.reads.total() == 8
    assert {path[0] for path in first.reads} == {"a", "b"}
    monkeypatch.setattr(module, "PROBE_BYTES", 300)  # a file has a little more than 200 bytes
    probe(second, count=8)
    assert second.reads.total() == 8 + 2


@pytest.mark.parametrize("files", [{}, {"a/1.jpg": b"<html>"}])
def test_probe_of_nothing_readable(files: dict[str, bytes | None]) -> None:
    with pytest.raises(ConvworksError, match="no image of photos can be read") as caught:
        probe(FakeSource(files))
    assert caught.value.code == "D144"


def test_geometry_of_the_fakes() -> None:
    assert Geometry(8, 8, 3, "crop", 8, 8).stored_shape == IMAGES.shape[1:]
