"""One pass over a source: right pixels and hashes, the same for any number of threads, safe to stop."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convworks.data import scan as module
from convworks.data.decode import decode
from convworks.data.preprocess import Geometry
from convworks.data.scan import Scan, fitted_batch, scan
from convworks.data.store import ScanInterrupted
from convworks.errors import ConvworksError
from tests.data.fakes import GEOMETRY, FakeSource, photos, picture, png


def run(
    source: FakeSource,
    *,
    geometry: Geometry = GEOMETRY,
    cache: Path | None = None,
    threads: int = 2,
    strict: bool = False,
    ram_limit: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Scan:
    return scan(
        source,
        indices=range(len(source.entries)),
        geometry=geometry,
        cache=cache,
        threads=threads,
        strict=strict,
        ram_limit=ram_limit,
        should_stop=should_stop,
    )


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_IMAGES", 4)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    names: list[str] = []

    def spy(content: bytes, *, name: str) -> object:
        names.append(name)
        return decode(content, name=name)

    monkeypatch.setattr(module, "decode", spy)
    return names


def mixed() -> dict[str, bytes | None]:
    """Twenty files: stored size, other sizes, grey, a copy, unreadable ones, one that vanished."""
    files = photos({"a": 6, "b": 5})
    files |= {f"c/{n}.png": png(picture(90 + n, height=9 + n, width=30 - n)) for n in range(4)}
    files["c/grey.png"] = png(picture(77, height=12, width=10, channels=1))
    files["c/copy.png"] = files["a/001.png"]
    files["c/page.jpg"] = b"<html><body>not found</body></html>"
    files["c/gone.png"] = None
    files["c/last.png"] = png(picture(99))
    return files


def expected_images(files: dict[str, bytes | None], geometry: Geometry) -> NDArray[np.uint8]:
    kept = []
    for path, content in files.items():
        if path not in ("c/page.jpg", "c/gone.png"):
            assert content is not None
            kept.append(geometry.fitted(decode(content).pixels))
    return np.stack(kept)


def test_records_and_pixels() -> None:
    files = mixed()
    found = run(FakeSource(files))
    np.testing.assert_array_equal(found.images, expected_images(files, GEOMETRY))
    by_path = dict(zip(files, found.records, strict=True))
    for path, record in by_path.items():
        content = files[path]
        assert record.sha256 == (hashlib.sha256(content).hexdigest() if content is not None else "")
    assert by_path["c/page.jpg"].verdict.lower().startswith("an html page")
    assert by_path["c/gone.png"].verdict == "no such file"
    assert (by_path["c/gone.png"].pixels, by_path["c/gone.png"].height) == ("", 0)
    grey = by_path["c/grey.png"]
    assert (grey.verdict, grey.height, grey.width, grey.channels) == ("ok", 12, 10, 1)
    assert by_path["c/copy.png"].pixels == by_path["a/001.png"].pixels
    hashes = [record.pixels for record in by_path.values() if record.verdict == "ok"]
    assert len(set(hashes)) == len(hashes) - 1
    assert (found.mapped, found.notices) == (False, ())


def test_hash_is_that_of_shape_and_pixels() -> None:
    pixels = picture(1, height=4, width=9)
    files = {"a/1.png": png(pixels), "a/2.png": png(np.ascontiguousarray(pixels.reshape(9, 4, 3)))}
    one, two = run(FakeSource(files)).records
    assert one.pixels == hashlib.blake2b(b"4x9x3" + pixels.tobytes(), digest_size=16).hexdigest()
    assert two.pixels == hashlib.blake2b(b"9x4x3" + pixels.tobytes(), digest_size=16).hexdigest()


@pytest.mark.parametrize("cached", [False, True])
def test_the_number_of_threads_changes_nothing(tmp_path: Path, cached: bool) -> None:
    files = mixed()
    results = [
        run(FakeSource(files), threads=threads, cache=tmp_path / f"{threads}" if cached else None)
        for threads in (1, 2, 4)
    ]
    for other in results[1:]:
        assert other.records == results[0].records
        np.testing.assert_array_equal(other.images, results[0].images)
    if cached:
        entries = [sorted((tmp_path / f"{threads}/pixels").glob("*-*/*")) for threads in (1, 2, 4)]
        contents = [[path.read_bytes() for path in paths] for paths in entries]
        assert contents[0] == contents[1] == contents[2]
        assert len(contents[0]) == 3


@pytest.mark.parametrize("ram_limit", [None, 0])
def test_a_second_pass_decodes_nothing(tmp_path: Path, decoded: list[str], ram_limit: int | None) -> None:
    files = mixed()
    first = run(FakeSource(files), cache=tmp_path, ram_limit=ram_limit)
    assert first.mapped == (ram_limit == 0)
    assert len(decoded) == len(files) - 1
    decoded.clear()
    source = FakeSource(files, location="moved/elsewhere")
    second = run(source, cache=tmp_path, ram_limit=ram_limit)
    assert decoded == []
    assert source.reads.total() == len(files)  # every byte is read again and compared
    assert second.mapped
    assert second.records == first.records
    np.testing.assert_array_equal(second.images, first.images)
    assert len(list((tmp_path / "pixels").glob("*-*"))) == 1


@pytest.mark.parametrize("path", ["a/000.png", "b/001.png", "c/page.jpg", "c/gone.png", "c/last.png"])
def test_only_a_changed_file_is_decoded_again(tmp_path: Path, decoded: list[str], path: str) -> None:
    files = mixed()
    run(FakeSource(files), cache=tmp_path)
    files[path] = png(picture(123))
    decoded.clear()
    again = run(FakeSource(files), cache=tmp_path)
    assert decoded == [path]
    fresh = run(FakeSource(files))
    assert again.records == fresh.records
    np.testing.assert_array_equal(again.images, fresh.images)
    decoded.clear()
    third = run(FakeSource(files), cache=tmp_path)
    assert decoded == []
    np.testing.assert_array_equal(third.images, fresh.images)


def test_a_file_that_vanished_leaves_the_others_cached(tmp_path: Path, decoded: list[str]) -> None:
    files = mixed()
    run(FakeSource(files), cache=tmp_path)
    files["b/001.png"] = None
    decoded.clear()
    again = run(FakeSource(files), cache=tmp_path)
    assert decoded == []
    fresh = run(FakeSource(files))
    assert again.records == fresh.records
    np.testing.assert_array_equal(again.images, fresh.images)


def test_a_swapped_pair_of_files_is_noticed(tmp_path: Path) -> None:
    files = mixed()
    run(FakeSource(files), cache=tmp_path)
    files["a/000.png"], files["b/000.png"] = files["b/000.png"], files["a/000.png"]
    np.testing.assert_array_equal(
        run(FakeSource(files), cache=tmp_path).images, run(FakeSource(files)).images
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("after", [0, 1, 7, 15])
@pytest.mark.parametrize("ram_limit", [None, 0])
def test_stopping_leaves_nothing_behind(
    tmp_path: Path, threads: int, after: int, ram_limit: int | None
) -> None:
    source, asked = FakeSource(mixed()), [0]

    def should_stop() -> bool:
        asked[0] += 1
        return asked[0] > after

    before = threading.active_count()
    with pytest.raises(ScanInterrupted):
        run(source, cache=tmp_path, threads=threads, ram_limit=ram_limit, should_stop=should_stop)
    assert source.reads.total() <= after + 1
    assert threading.active_count() == before
    pixels = tmp_path / "pixels"
    assert not pixels.exists() or [path.name for path in pixels.iterdir()] == [".lock"]
    np.testing.assert_array_equal(run(source, cache=tmp_path).images, run(source).images)


def test_a_crash_in_the_middle_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = mixed()

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Geometry, "fitted", crash)
        with pytest.raises(KeyboardInterrupt):
            run(FakeSource(files), cache=tmp_path)
    assert [path.name for path in (tmp_path / "pixels").iterdir()] == [".lock"]
    np.testing.assert_array_equal(
        run(FakeSource(files), cache=tmp_path).images, run(FakeSource(files)).images
    )


@pytest.mark.parametrize("count", [9, 100])
@pytest.mark.parametrize(("together", "threads"), [(2.9, 2), (3.1, 1)])  # of four chunks; one: 0.75
def test_small_files_are_read_by_one_thread_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, count: int, together: float, threads: int
) -> None:
    """Memory stays bounded when storing is slower than decoding, and the order is kept."""
    clock = iter([10, 10.75, 20, 20 + together])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    started: list[str] = []

    def work(span: range) -> module._Chunk:
        started.append(threading.current_thread().name)
        images = np.full((1, 8, 8, 3), span.start, dtype=np.uint8)
        return module._Chunk(records=[], images=images, as_cached=False)

    spans = [range(n, n + 1) for n in range(count)]
    for n, chunk in enumerate(module._in_order(work, spans, threads=2)):
        assert chunk.images.max() == n
        assert n < len(started) <= n + 6
    assert (n, len(started)) == (count - 1, count)
    in_pool = [name.startswith("convworks-scan") for name in started]
    if count == 9:  # too few to find out
        assert all(in_pool)
    else:
        assert in_pool == [False] + [True] * 4 + [threads == 2] * 95


def test_an_error_that_is_not_about_one_file_ends_the_pass() -> None:
    class Broken(FakeSource):
        def read(self, index: int) -> bytes:
            raise ConvworksError("R503", "the archive's disk is gone")

    with pytest.raises(ConvworksError, match="R503"):
        run(Broken(photos({"a": 3})))


def test_an_operating_system_error_is_about_one_file() -> None:
    class Denied(FakeSource):
        def read(self, index: int) -> bytes:
            if index == 1:
                raise PermissionError(13, "Permission denied", "a/001.png")
            return super().read(index)

    assert [record.verdict for record in run(Denied(photos({"a": 3}))).records] == [
        "ok",
        "permission denied",
        "ok",
    ]


@pytest.mark.parametrize("threads", [1, 4])
def test_strict_stops_at_the_first_in_order(threads: int) -> None:
    files = photos({"a": 20})
    files["a/006.png"] = b""
    files["a/007.png"] = b"<html>"
    with pytest.raises(ConvworksError, match="a/006.png") as caught:
        run(FakeSource(files), strict=True, threads=threads)
    assert caught.value.code == "D140"
    run(FakeSource(photos({"a": 20})), strict=True)


def test_the_data_folder_is_no_place_for_a_cache(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    found = run(FakeSource(mixed(), location=str(data)), cache=data / "cache")
    assert found.notices == (
        f"nothing is cached: {data / 'cache'} lies inside the data, which is never written to",
    )
    assert list(data.iterdir()) == []


# Arrays


def array_source(array: NDArray[np.uint8]) -> FakeSource:
    return FakeSource({f"{n % 3}/{n}": b"" for n in range(len(array))}, array=array)


ARRAYS = [(10, 6, 6, 1), (10, 5, 8, 1), (10, 8, 8, 3), (10, 8, 8, 1), (10, 7, 4, 3), (10, 20, 9, 3)]


@pytest.mark.parametrize("shape", ARRAYS)
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_fitted_like_single_images(shape: tuple[int, ...], fit: str, channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    geometry = Geometry(8, 8, channels, fit, 8, 8, fill=9)  # type: ignore[arg-type]
    one_by_one = np.stack([geometry.fitted(pixels) for pixels in array])
    np.testing.assert_array_equal(fitted_batch(array, geometry), one_by_one)
    np.testing.assert_array_equal(run(array_source(array), geometry=geometry).images, one_by_one)


def test_arrays_are_hashed_like_single_images_and_not_cached(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 1), dtype=np.uint8)
    source = array_source(array)
    found = run(source, geometry=Geometry(8, 8, 1, "pad", 8, 8), cache=tmp_path)
    for record, pixels in zip(found.records, array, strict=True):
        assert record.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert record.pixels == hashlib.blake2b(b"6x5x1" + pixels.tobytes(), digest_size=16).hexdigest()
        assert (record.verdict, record.height, record.width, record.channels) == ("ok", 6, 5, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_large_array_goes_through_a_file_that_does_not_stay(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    found = run(array_source(array), cache=tmp_path, ram_limit=0)
    assert found.mapped
    np.testing.assert_array_equal(found.images, array)
    assert [path.name for path in (tmp_path / "pixels").iterdir()] == [".lock"]


def test_an_array_can_be_stopped_and_taken_in_part() -> None:
    array = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(ScanInterrupted):
        run(array_source(array), should_stop=lambda: True)
    array.flags.writeable = False
    part = scan(array_source(array), indices=[1, 7, 3], geometry=GEOMETRY, cache=None)
    np.testing.assert_array_equal(part.images, array[[1, 7, 3]])
    assert part.images.flags.writeable


def test_a_source_without_images() -> None:
    found = run(FakeSource({}))
    assert found.images.shape == (0, 8, 8, 3)
    assert found.records == []
