"""A data set that comes as one archive: what is unpacked and believed, and what an interruption leaves."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convworks.data import named
from convworks.data.download import Remote
from convworks.data.named import NamedFile, NamedSet, info

from .server import Server, find, find_fails, held, put, serving, sha256

BATCHES = {f"data_batch_{i}.bin": bytes([i]) * 3000 for i in (1, 2)} | {"test_batch.bin": bytes([9]) * 3000}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def tar_of(members: dict[str, bytes], *, extra: list[tarfile.TarInfo] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for odd in extra or []:
            tar.addfile(odd)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def batches_tar(members: dict[str, bytes] = BATCHES) -> bytes:
    inside = {f"batches-bin/{name}": content for name, content in members.items()}
    return tar_of(
        {"../evil": b"x", "/evil": b"x", "batches-bin/readme.html": b"x"}
        | inside
        | {"batches-bin/meta": b"cat"}
    )


def batches_row(server: Server, archive: bytes) -> NamedSet:
    """A set of one tar archive, served from this machine."""
    remote = Remote("b.tar.gz", (server.on("/b", serving(archive)),), len(archive), sha256=sha256(archive))
    return replace(
        info("cifar10"),
        name="blocks",
        title="Blocks",
        files=(NamedFile(remote),),
        folders=("batches-bin",),
        members=tuple(BATCHES),
        member_size=3000,
        extras=("meta",),
        stand_in="blocks-jpeg.zip",
    )


def test_archive_is_unpacked_and_removed(server: Server, tmp_path: Path, cache: Path) -> None:
    row = batches_row(server, batches_tar())
    folder = find(row, cache=cache)
    assert folder == cache / "datasets" / "blocks" / "batches-bin"
    assert held(folder) == BATCHES | {"meta": b"cat"}  # nothing else, and nothing outside
    assert [path.name for path in folder.parent.iterdir()] == ["batches-bin"]
    assert not list(tmp_path.rglob("evil"))
    assert find(row, cache=cache, offline=True) == folder
    assert len(server.seen) == 1


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_member_that_is_no_file(server: Server, cache: Path, kind: bytes) -> None:
    odd = tarfile.TarInfo("batches-bin/data_batch_1.bin")
    odd.type, odd.linkname = kind, "/etc/passwd"
    archive = tar_of({f"batches-bin/{name}": content for name, content in BATCHES.items()}, extra=[odd])
    error = find_fails("D166", batches_row(server, archive), cache=cache)
    assert "lacks data_batch_1.bin" in error.what


@pytest.mark.parametrize(
    "members", [{"data_batch_2.bin": None}, {"test_batch.bin": b"short"}, {"test_batch.bin": bytes(9999)}]
)
def test_archive_without_a_batch(server: Server, cache: Path, members: dict[str, bytes | None]) -> None:
    changed = {name: content for name, content in (BATCHES | members).items() if content is not None}
    error = find_fails("D166", batches_row(server, batches_tar(changed)), cache=cache)
    assert error.exit_status == 3
    assert [path.name for path in (cache / "datasets" / "blocks").iterdir()] == ["b.tar.gz"]


@pytest.mark.parametrize("archive", [b"no archive at all", batches_tar()[:-40]])
def test_archive_that_is_none(server: Server, cache: Path, archive: bytes) -> None:
    find_fails("D166", batches_row(server, archive), cache=cache)


@pytest.mark.parametrize("lost", ["removed", "cut"])
def test_incomplete_batches_are_not_believed(server: Server, cache: Path, lost: str) -> None:
    row = batches_row(server, batches_tar())
    folder = find(row, cache=cache)
    if lost == "removed":
        (folder / "data_batch_2.bin").unlink()
    else:
        (folder / "data_batch_2.bin").write_bytes(b"half")
    find_fails("D161", row, cache=cache, offline=True)
    assert held(find(row, cache=cache)) == BATCHES | {"meta": b"cat"}


@pytest.mark.parametrize(
    ("problem", "code"), [(OSError(28, "No space left on device"), "R504"), (KeyboardInterrupt(), "")]
)
def test_stopped_while_unpacking(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException, code: str
) -> None:
    row, real, calls = batches_row(server, batches_tar()), shutil.copyfileobj, []

    def copy(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise problem
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", copy)
        if code:
            assert "No space left" in find_fails(code, row, cache=cache).what
        else:
            with pytest.raises(KeyboardInterrupt):
                find(row, cache=cache)
    assert [path.name for path in (cache / "datasets" / "blocks").iterdir()] == ["b.tar.gz"]
    folder = find(row, cache=cache, offline=True)  # the archive is whole: no network is needed
    assert held(folder) == BATCHES | {"meta": b"cat"}
    assert len(server.seen) == 1


def test_room_for_unpacking_is_asked_for(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(batches_row(server, batches_tar()), member_size=10**18)
    assert "no room" in find_fails("R504", row, cache=cache).what
    assert server.seen == []


def test_data_root_of_batches(server: Server, root: Path, cache: Path) -> None:
    archive = batches_tar()
    row = batches_row(server, archive)
    find_fails("D161", row, data_root=root, cache=cache, offline=True)
    jpeg = root / "blocks-jpeg.zip"
    jpeg.write_bytes(b"zip")
    folder = put(root / "batches-bin", {"test_batch.bin": BATCHES["test_batch.bin"]})  # not all of them
    assert find(row, data_root=root, cache=cache, offline=True) == jpeg
    (root / "b.tar.gz").write_bytes(archive)
    unpacked = find(row, data_root=root, cache=cache, offline=True)
    assert unpacked == cache / "datasets" / "blocks" / "batches-bin"
    assert held(unpacked) == BATCHES | {"meta": b"cat"}
    assert sorted(path.name for path in root.iterdir()) == ["b.tar.gz", "batches-bin", "blocks-jpeg.zip"]
    put(folder, BATCHES)
    assert find(row, data_root=root, cache=cache, offline=True) == folder
    assert server.seen == []


@pytest.mark.parametrize("place", ["network", "data root"])
def test_several_at_once_unpack_once(
    server: Server, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    archive, real, calls = batches_tar(), named._unpack, []
    if place == "data root":
        (root / "b.tar.gz").write_bytes(archive)

    def unpack(*arguments: Any) -> None:
        calls.append(1)
        time.sleep(0.1)  # so that the others come meanwhile
        real(*arguments)

    monkeypatch.setattr(named, "_unpack", unpack)
    row = batches_row(server, archive)
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(lambda _: find(row, data_root=root, cache=cache), range(8)))
    assert [held(folder) for folder in found] == [BATCHES | {"meta": b"cat"}]
    assert len(calls) == 1
    assert len(server.seen) == (place == "network")


def test_damaged_archive_in_the_data_root(server: Server, root: Path, cache: Path) -> None:
    archive = batches_tar()
    row = batches_row(server, archive)
    (root / "b.tar.gz").write_bytes(archive[:-1] + b"?")
    error = find_fails("D165", row, data_root=root, cache=cache)
    assert sha256(archive) in error.where
    assert not cache.exists()
