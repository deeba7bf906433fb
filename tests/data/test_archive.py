"""Archives: the same layouts as folders, hostile members, damage, and nothing written outside the cache."""

from __future__ import annotations

import io
import random
import stat
import struct
import tarfile
import threading
import warnings
import zipfile
from pathlib import Path

import pytest

from convworks.data import members
from convworks.data.archive import archive_kind
from convworks.data.members import PositionedFile, clean_name, unpacked_limit
from convworks.errors import ConvworksError
from tests.data.trees import (
    FILES,
    PNG,
    failure,
    left_out,
    opened,
    packed,
    picture,
    plant,
    rows,
    tarred,
    zipped,
)

KINDS = {"photos.zip": "zip", "photos.tar": "tar", "photos.tar.gz": "tar", "photos.tgz": "tar"}
KINDS |= {"photos.tar.bz2": "tar", "photos.tar.xz": "tar"}


@pytest.mark.parametrize("name", KINDS)
def test_the_same_as_the_folder(tmp_path: Path, name: str) -> None:
    folder = plant(tmp_path / "photos", [])
    for path, content in FILES.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)
    archive = packed(tmp_path / name, FILES)
    with opened(archive, cache=tmp_path / "cache") as source, opened(folder) as expected:
        assert rows(source) == rows(expected)
        assert (source.classes, source.layout) == (expected.classes, expected.layout)
        assert (source.name, source.kind) == ("photos", KINDS[name])
        assert [source.read(i) for i in range(6)] == [expected.read(i) for i in range(6)]


def test_a_folder_around_everything_and_junk(tmp_path: Path) -> None:
    files = {f"photos/{path}": content for path, content in FILES.items()}
    files |= {"__MACOSX/photos/cat/._1.png": b"x", "photos/.DS_Store": b"x", "photos/read me.txt": b"x"}
    files |= {"__MACOSX/._photos": b"x"}
    source = opened(zipped(tmp_path / "p.zip", files))
    assert source.classes == ("cat", "dog")
    assert source.layout == "one folder per class, no split folders (inside photos/)"
    assert left_out(source) == {
        "__MACOSX/": "left by macOS, 2 files",
        "photos/.DS_Store": "hidden",
        "photos/read me.txt": "not an image (.txt)",
    }
    source.close()


def test_empty_class_folders_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path, content in FILES.items():
            archive.writestr(path, content)
        archive.writestr("fox/", b"")
    with opened(tmp_path / "a.zip") as source:
        assert "fox" in source.warnings[0]
    with opened(tmp_path / "a.zip", keep_empty=True) as source:
        assert source.classes == ("cat", "dog", "fox")


def test_reading_from_many_threads(tmp_path: Path) -> None:
    files = {f"{'ab'[i % 2]}/{i}.png": picture(i) for i in range(60)}
    with opened(zipped(tmp_path / "a.zip", files)) as source:
        wrong: list[int] = []

        def reader(first: int) -> None:
            for step in range(300):
                index = (first * 7 + step) % 60
                if source.read(index) != files[source.entries[index].path]:
                    wrong.append(index)

        threads = [threading.Thread(target=reader, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
    with pytest.raises(ValueError, match="closed"):
        source.read(0)


def test_positions_past_the_end(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    file = PositionedFile(tmp_path / "f")
    assert [file.read_at(3, 4), file.read_at(8, 10**15), file.read_at(99, 1)] == [b"3456", b"89", b""]
    assert [file.read_at(-5, 20), file.read_at(2**70, 5)] == [b"", b""]
    file.close()


@pytest.mark.parametrize(
    ("name", "clean", "problem"),
    [
        ("a/b.png", "a/b.png", None),
        ("./a//b.png", "a/b.png", None),
        ("a/..b/c..png", "a/..b/c..png", None),
        ("a/../../b.png", "a/../../b.png", "a name that climbs out of the archive"),
        ("../photos_evil/b.png", "../photos_evil/b.png", "a name that climbs out of the archive"),
        ("/etc/b.png", "/etc/b.png", "an absolute name"),
        ("C:\\a\\b.png", "C:\\a\\b.png", "an absolute name"),
        ("C:/b.png", "C:/b.png", "an absolute name"),
        ("\\\\host\\b.png", "\\\\host\\b.png", "an absolute name"),
        ("a\0.png", "a\0.png", "a malformed name"),
        ("./", "", "a malformed name"),
        ("a/" * 70 + "b", "a/" * 70 + "b", "more than 64 folders deep"),
    ],
)
def test_member_names(name: str, clean: str, problem: str | None) -> None:
    assert clean_name(name) == (clean, problem)


def special_zip(path: Path, name: str, **attributes: int) -> Path:
    zipped(path, FILES)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.writestr(info, PNG)
    return path


@pytest.mark.parametrize(
    ("name", "attributes", "reason"),
    [
        ("../../cat/evil.png", {}, "a name that climbs out of the archive"),
        ("/tmp/evil.png", {}, "an absolute name"),
        ("cat/link.png", {"external_attr": (stat.S_IFLNK | 0o777) << 16, "create_system": 3}, "a link"),
        (
            "cat/d.png",
            {"external_attr": (stat.S_IFCHR | 0o666) << 16, "create_system": 3},
            "not a regular file",
        ),
    ],
)
def test_hostile_zip_members(tmp_path: Path, name: str, attributes: dict[str, int], reason: str) -> None:
    source = opened(special_zip(tmp_path / "a.zip", name, **attributes))
    assert left_out(source) == {name: reason}
    assert source.warnings == (f"1 member of the archive left out: {reason}",)
    assert len(source.entries) == len(FILES)
    source.close()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def patched(path: Path, name: str, offset: int, value: bytes, *, local: int | None = None) -> Path:
    """Overwrite a field of the directory record of a member (and of its own header)."""
    content = bytearray(path.read_bytes())
    record = content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode()))
    content[record + offset : record + offset + len(value)] = value
    if local is not None:
        header = content.rindex(b"PK\x03\x04", 0, content.index(name.encode()))
        content[header + local : header + local + len(value)] = value
    path.write_bytes(content)
    return path


def test_encrypted_and_unknown_methods(tmp_path: Path) -> None:
    path = patched(zipped(tmp_path / "a.zip", FILES), "cat/1.png", 8, b"\x01\x00", local=6)
    path = patched(path, "dog/2.png", 10, b"\x62\x00", local=8)
    with opened(path) as source:
        reasons = {"cat/1.png": "encrypted", "dog/2.png": "packed by a method that is not read (number 98)"}
        assert left_out(source) == reasons
        assert len(source.entries) == len(FILES) - 2


def unreadable(path: Path, name: str) -> str:
    with opened(path) as source:
        index = [entry.path for entry in source.entries].index(name)
        with pytest.raises(ConvworksError) as caught:
            source.read(index)
        others = [i for i in range(len(source.entries)) if i != index]
        assert [source.read(i) for i in others] == [FILES[source.entries[i].path] for i in others]
    assert caught.value.code == "D110"
    assert str(path) in caught.value.where
    return caught.value.what


def test_members_that_are_not_what_the_directory_says(tmp_path: Path) -> None:
    size = len(FILES["cat/2.png"])

    def fresh() -> Path:
        return zipped(tmp_path / "a.zip", FILES)

    what = "cannot read 'cat/2.png': "
    path = patched(fresh(), "cat/2.png", 16, b"\1\2\3\4")
    assert unreadable(path, "cat/2.png") == what + "damaged (its checksum is another one)"
    path = patched(fresh(), "cat/2.png", 24, struct.pack("<I", size - 5))
    assert unreadable(path, "cat/2.png") == what + "longer than it says"
    path = patched(fresh(), "cat/2.png", 24, struct.pack("<I", size + 5))
    assert unreadable(path, "cat/2.png") == what + "cut off"
    path = patched(fresh(), "cat/2.png", 42, struct.pack("<I", 3))
    assert unreadable(path, "cat/2.png") == what + "damaged (not where the archive's directory says)"
    path = patched(fresh(), "cat/2.png", 42, struct.pack("<I", 2**31))
    assert unreadable(path, "cat/2.png") == what + "cut off"
    path = fresh()  # the packed bytes themselves
    content = bytearray(path.read_bytes())
    place = content.index(b"cat/2.png") + len("cat/2.png")
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    assert unreadable(path, "cat/2.png") == what + "damaged"


def test_a_member_above_the_limit_is_not_read(tmp_path: Path) -> None:
    from convworks.data.archive import Zip

    archive = Zip(zipped(tmp_path / "a.zip", FILES))
    with pytest.raises(ConvworksError, match="more than the limit of 10"):
        archive.read("cat/1.png", limit=10)
    archive.close()


def test_doubles_and_names_in_either_case(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile itself warns of the double that is made here
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name, content in [
                ("a/1.png", b"old"),
                ("A/1.png", b"c"),
                ("b/1.png", b"b"),
                ("a/1.png", b"new"),
            ]:
                archive.writestr(name, content)
    with opened(tmp_path / "a.zip") as source:
        assert sorted(source.read(i) for i in range(3)) == [b"b", b"c", b"new"]
        assert left_out(source) == {"a/1.png": "an earlier member of the same name"}
        assert "the classes 'A', 'a' differ only in upper and lower case" in source.warnings
    tarred(tmp_path / "a.tar", {"a/1.png": b"old", "b/1.png": b"b"})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        info = tarfile.TarInfo("./a/1.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"new"))
    with opened(tmp_path / "a.tar") as source:
        assert [source.read(i) for i in range(2)] == [b"new", b"b"]


def test_a_bomb_is_left_out_or_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {**FILES, "cat/bomb.bmp": bytes(3 * 2**20)})
    assert unpacked_limit(path.stat().st_size) < 3 * 2**20
    error = failure(path, "D109")
    assert error.what.startswith("the archive 'a.zip' is refused: ")
    noise = random.Random(0).randbytes(2**20)  # the whole archive in proportion, one member not
    path = zipped(tmp_path / "a.zip", {**FILES, "cat/bomb.bmp": bytes(3 * 2**20), "dog/noise.bmp": noise})
    with opened(path) as source:
        assert left_out(source) == {"cat/bomb.bmp": "packed more than 200 : 1"}
    path = zipped(tmp_path / "a.zip", {**FILES, "cat/blank.bmp": bytes(150_000)})  # a black photograph
    with opened(path) as source:
        assert len(source.entries) == len(FILES) + 1


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = packed(tmp_path / name, FILES)
    for module in (members, __import__("convworks.data.archive", fromlist=["archive"])):
        monkeypatch.setattr(module, "MAX_MEMBERS", 5)
    assert "more than 5 members" in failure(path, "D109", cache=tmp_path / "cache").what


def test_names_in_old_and_windows_zips(tmp_path: Path) -> None:
    files = {"k-tt/1.png": PNG, "dog\\2.png": PNG, "dog/3.png": PNG}
    path = zipped(tmp_path / "a.zip", files)
    content = path.read_bytes().replace(b"k-tt", "ké".encode() + b"t")
    for number in range(content.count(b"PK\x01\x02")):  # made on DOS, without the flag for UTF-8
        place = [i for i in range(len(content)) if content.startswith(b"PK\x01\x02", i)][number]
        content = content[: place + 5] + b"\0" + content[place + 6 :]
    path.write_bytes(content)
    with opened(path) as source:
        assert [p for p, _, _ in rows(source)] == ["dog/2.png", "dog/3.png", "két/1.png"]
        assert [source.read(i) for i in range(3)] == [PNG] * 3
    path.write_bytes(content.replace("ké".encode() + b"t", b"k\x82tt"))  # code page 437
    with opened(path) as source:
        assert source.classes == ("dog", "kétt")
        assert source.read(2) == PNG


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    page = b"<!DOCTYPE html><html>404</html>"
    for name in ("a.zip", "a.tar", "a.tar.gz", "a.tar.bz2"):
        (tmp_path / name).write_bytes(page)
        error = failure(tmp_path / name, "D108", cache=tmp_path / "cache")
        assert error.what == (
            f"cannot open the archive '{name}': it is a web page, perhaps of a download that failed"
        )
        (tmp_path / name).write_bytes(b"")
        assert "it is empty" in failure(tmp_path / name, "D108", cache=tmp_path / "cache").what


@pytest.mark.parametrize("name", KINDS)
def test_cut_off_archives(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name, FILES)
    content = path.read_bytes()
    end = len(content) if path.suffix != ".tar" else content.rindex(PNG[-8:]) + 8  # zeros follow in a tar
    for part in (0.2, 0.6, 0.95):
        path.write_bytes(content[: int(end * part)])
        failure(path, "D108", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_kind_by_content(tmp_path: Path) -> None:
    for name, kind in (("a.zip", "zip"), ("a.tar", "tar"), ("a.tgz", "compressed tar")):
        path = packed(tmp_path / name, FILES).rename(tmp_path / "download")
        assert archive_kind(path) == kind
        opened(path, cache=tmp_path / "cache").close()
    (tmp_path / "download").write_bytes(b"hello")
    assert archive_kind(tmp_path / "download") is None


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_random_damage_is_an_error_or_no_matter(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name, {p: FILES[p] for p in ("cat/1.png", "dog/1.png")})
    content = path.read_bytes()
    dice = random.Random(name)
    outcomes = set()
    for turn in range(150):
        changed = bytearray(content)
        for _ in range(dice.choice((1, 3, 20))):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        target = tmp_path / f"{turn}-{name}"
        target.write_bytes(changed)
        try:
            with opened(target, cache=tmp_path / "cache") as source:
                for index in range(len(source.entries)):
                    source.read(index)
            outcomes.add("read")
        except ConvworksError as error:
            outcomes.add(error.code)
        target.unlink()
    assert outcomes <= {"read", "D103", "D104", "D105", "D108", "D109", "D110"}
    assert "D108" in outcomes
