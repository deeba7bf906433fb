"""Tar files: hostile headers, and compressed ones, which are unpacked once into the cache."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from convworks.errors import ConvworksError
from tests.data.trees import FILES, PNG, failure, left_out, opened, packed, rows, tarred


def test_only_compressed_tars_need_the_cache_and_once(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    opened(packed(tmp_path / "a.zip", FILES), cache=cache).close()
    opened(packed(tmp_path / "a.tar", FILES), cache=cache).close()
    assert not cache.exists()
    archive = packed(tmp_path / "a.tgz", FILES)
    opened(archive, cache=cache).close()
    (unpacked,) = (cache / "archives").iterdir()
    before = unpacked.stat().st_mtime_ns
    opened(archive, cache=cache).close()
    assert [p.stat().st_mtime_ns for p in (cache / "archives").iterdir()] == [before]
    packed(archive, {**FILES, "cat/11.png": PNG})  # another archive in its place is unpacked anew
    with opened(archive, cache=cache) as source:
        assert len(source.entries) == 7
    status = archive.stat()
    os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # perhaps other bytes of the same size
    opened(archive, cache=cache).close()
    assert len(list((cache / "archives").iterdir())) == 3


def test_a_compressed_tar_out_of_proportion_leaves_nothing(tmp_path: Path) -> None:
    path = tarred(tmp_path / "a.tgz", {"cat/bomb.bmp": bytes(64 * 2**20)}, mode="w:gz")
    failure(path, "D109", cache=tmp_path / "cache")
    assert list((tmp_path / "cache/archives").iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.tgz", FILES)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConvworksError) as caught:
        opened(path, cache=tmp_path / "cache")
    assert caught.value.code == "R503"


def test_a_tar_with_a_broken_header_is_no_shorter_tar(tmp_path: Path) -> None:
    path = tarred(tmp_path / "a.tar", FILES)
    content = bytearray(path.read_bytes())
    place = content.index(b"dog/2.png")
    content[place] ^= 1
    path.write_bytes(content)
    assert f"it breaks off at byte {place:,}" in failure(path, "D108").what


def tar_with(path: Path, **fields: object) -> Path:
    with tarfile.open(tarred(path, FILES), "a") as archive:
        info = tarfile.TarInfo("cat/evil.png")
        for key, value in fields.items():
            setattr(info, key, value)
        archive.addfile(info)
    return path


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc"}, "a link"),
        ({"type": tarfile.LNKTYPE, "linkname": "../../x"}, "a link"),
        ({"type": tarfile.CHRTYPE}, "not a regular file"),
        ({"type": tarfile.FIFOTYPE}, "not a regular file"),
        ({"name": "../evil.png"}, "a name that climbs out of the archive"),
        ({"name": "/evil.png"}, "an absolute name"),
        ({"name": "cat/" + "x" * 300 + "/../../../evil.png"}, "a name that climbs out of the archive"),
    ],
)
def test_hostile_tar_members(tmp_path: Path, fields: dict[str, object], reason: str) -> None:
    with opened(tar_with(tmp_path / "a.tar", **fields)) as source:
        assert list(left_out(source).values()) == [reason]
        assert len(source.entries) == len(FILES)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_link_and_a_file_through_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("cat")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "victim")
        archive.addfile(link)
        for name in ("cat/1.png", "dog/1.png"):
            info = tarfile.TarInfo(name)
            info.size = len(PNG)
            archive.addfile(info, io.BytesIO(PNG))
    with opened(path) as source:
        assert [source.read(i) for i in range(2)] == [PNG, PNG]
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_negative_sizes_do_not_lead_backwards(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("cat/" + "x" * 200 + ".png"))
    content = bytearray(path.read_bytes())
    content[124:136] = b"\xff" * 12  # the size of the long name's own header, -1 in base 256
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    assert "a header has a negative size" in failure(path, "D108").what
    with tarfile.open(tarred(path, FILES), "a", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("cat/evil.png")
        info.pax_headers = {"size": "-1536"}  # back to the header before this one, for ever
        archive.addfile(info)
    assert "a header points backwards" in failure(path, "D108").what


def test_long_and_odd_names_in_tar(tmp_path: Path) -> None:
    names = ["cat/" + "x" * 200 + "/1.png", "dog/caf\udce9.png", "dog/名.png"]
    path = tmp_path / "a.tar"
    with tarfile.open(
        path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(PNG)
            tar.addfile(info, io.BytesIO(PNG))
    with opened(path) as source:
        assert sorted(p for p, _, _ in rows(source)) == sorted(names)
        assert [source.read(i) for i in range(3)] == [PNG] * 3
