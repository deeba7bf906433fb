"""Folders on disk: links, junk, special files, odd names; and that nothing is ever written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from convworks.data.folder import MAX_VISITS, Folder
from convworks.errors import ConvworksError
from tests.data.trees import PNG, failure, left_out, opened, picture, plant, rows

posix = pytest.mark.skipif(os.name != "posix", reason="links and special files of POSIX")


def test_entries_and_bytes(tmp_path: Path) -> None:
    plant(tmp_path / "photos", ["cat/1.png", "dog/2.png"])
    (tmp_path / "photos/dog/10.png").write_bytes(content := picture(7))
    with opened(tmp_path / "photos") as source:
        assert (source.name, source.kind, source.encoded, source.array) == ("photos", "folder", True, None)
        assert source.location == str(tmp_path / "photos")
        assert rows(source) == [
            ("cat/1.png", "cat", None),
            ("dog/2.png", "dog", None),
            ("dog/10.png", "dog", None),
        ]
        assert source.read(2) == content
        with pytest.raises(ValueError, match="decode"):
            source.pixels(0)


def test_junk_is_listed_and_not_entered(tmp_path: Path) -> None:
    junk = [
        ".ipynb_checkpoints/a-checkpoint.png",
        ".ipynb_checkpoints/b.png",
        "__MACOSX/cat/._1.png",
        "cat/@eaDir/1.png",
        "cat/.DS_Store",
        "Thumbs.db",
        "cat/._1.png",
        "dog/notes.txt",
    ]
    plant(tmp_path, ["cat/1.png", "dog/2.png", *junk])
    source = opened(tmp_path)
    assert source.classes == ("cat", "dog")
    assert len(source.entries) == 2
    assert left_out(source) == {
        ".ipynb_checkpoints/": "notebook checkpoints, 2 files",
        "__MACOSX/": "left by macOS, 1 file",
        "cat/@eaDir/": "left by a NAS, 1 file",
        "cat/.DS_Store": "hidden",
        "cat/._1.png": "hidden",
        "Thumbs.db": "left by Windows",
        "dog/notes.txt": "not an image (.txt)",
    }


@posix
def test_links(tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", ["x/1.png", "y.png"])
    root = plant(tmp_path / "root", ["cat/1.png", "dog/1.png"])
    (root / "cat/2.png").symlink_to(outside / "y.png")
    (root / "fox").symlink_to(outside / "x")
    (root / "cat/gone.png").symlink_to(root / "nowhere.png")
    (root / "cat/self.png").symlink_to("self.png")
    (root / "cat/up").symlink_to(root)
    (root / "dog/here").symlink_to(root / "dog")
    os.link(root / "dog/1.png", root / "dog/2.png")
    source = opened(root)
    paths = [path for path, _, _ in rows(source)]
    assert paths == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "fox/1.png"]
    assert source.read(1) == PNG
    assert left_out(source) == {
        "cat/gone.png": "a broken link",
        "cat/self.png": os.strerror(40).lower()
        if sys.platform == "linux"
        else left_out(source)["cat/self.png"],
        "cat/up/": "a link to a folder above it",
        "dog/here/": "a link to a folder above it",
    }


@posix
def test_links_into_each_other_do_not_multiply(tmp_path: Path) -> None:
    plant(tmp_path, [f"level{n:02d}/{n}.png" for n in range(16)])
    for n in range(15):
        for side in ("a", "b"):
            (tmp_path / f"level{n:02d}" / side).symlink_to(tmp_path / f"level{n + 1:02d}")
    found = Folder(tmp_path).find()
    assert len(found.files) <= 16 * MAX_VISITS
    assert any("linked more than" in item.reason for item in found.ignored)


@posix
def test_special_files_are_listed_and_never_opened(tmp_path: Path) -> None:
    plant(tmp_path, ["cat/1.png", "dog/1.png"])
    os.mkfifo(tmp_path / "cat/pipe.png")
    os.mkfifo(tmp_path / "cat/pipe")  # without an ending: the first bytes would be looked at
    here = Path.cwd()
    os.chdir(tmp_path)  # the name of a socket may have 107 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("dog/s.png")
            source = opened(tmp_path)
    finally:
        os.chdir(here)
    assert left_out(source) == {
        "cat/pipe": "a named pipe",
        "cat/pipe.png": "a named pipe",
        "dog/s.png": "a socket",
    }


@posix
def test_an_image_that_became_a_pipe_is_an_error_and_no_wait(tmp_path: Path) -> None:
    plant(tmp_path, ["cat/1.png", "dog/1.png"])
    source = opened(tmp_path)
    (tmp_path / "cat/1.png").unlink()
    os.mkfifo(tmp_path / "cat/1.png")
    with pytest.raises(ConvworksError):
        source.read(0)
    (tmp_path / "dog/1.png").unlink()
    with pytest.raises(ConvworksError):
        source.read(1)


@posix
def test_names_that_are_not_text(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    names = [b"caf\xe9", b"new\nline", b"quote'\";", b"x" * 255, "名".encode(), b"back\\slash", b"=1+1"]
    for name in names:
        os.mkdir(os.path.join(root, name))
        with open(os.path.join(root, name, name[:250] + b".png"), "wb") as file:
            file.write(PNG)
    source = opened(tmp_path)
    assert {label.encode("utf-8", "surrogateescape") for label in source.classes} == set(names)
    assert all(source.read(i) == PNG for i in range(len(names)))


@posix
@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_any_locale_gives_the_same_names(tmp_path: Path, locale: str) -> None:
    for name in ("é".encode(), b"\xff\xfe"):
        plant(tmp_path / os.fsdecode(name), ["1.png"])
    program = (
        "import sys; from pathlib import Path; from convworks.data.sources import open_source\n"
        "source = open_source(sys.argv[1], cache=Path('unused'))\n"
        "print(ascii([e.path for e in source.entries]), [len(source.read(i)) for i in range(2)])"
    )
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, check=True
    )
    assert run.stdout.decode().strip() == rf"['\xe9/1.png', '\udcff\udcfe/1.png'] [{len(PNG)}, {len(PNG)}]"


def test_a_folder_without_permission_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, ["cat/1.png", "dog/1.png", "fox/1.png"])
    scandir = os.scandir

    def guarded(path: bytes) -> object:  # root may read everything, so the refusal is made here
        if path.endswith(b"fox/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    source = opened(tmp_path)
    assert left_out(source) == {"fox/": "permission denied"}
    assert source.warnings == ("the folder 'fox/' cannot be read: permission denied",)
    assert source.classes == ("cat", "dog")


def test_the_folder_itself_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: bytes) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    error = failure(tmp_path, "D115")
    assert error.what.endswith("permission denied")


def test_nothing_is_written(tmp_path: Path) -> None:
    root = plant(tmp_path / "root", ["cat/1.png", "dog/1.png", "fox/", "note.txt"])

    def state() -> list[tuple[str, int, int, int]]:
        places = [root, *sorted(root.rglob("*"))]
        return [(str(p), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for p in places for s in [p.stat()]]

    before = state()
    source = opened(root)
    for i in range(len(source.entries)):
        source.read(i)
    source.close()
    assert state() == before


def test_keep_empty(tmp_path: Path) -> None:
    plant(tmp_path, ["cat/1.png", "dog/1.png", "fox/"])
    assert opened(tmp_path).classes == ("cat", "dog")
    assert opened(tmp_path, keep_empty=True).classes == ("cat", "dog", "fox")


def test_images_at_the_root_point_to_the_table_that_is_there(tmp_path: Path) -> None:
    plant(tmp_path, ["1.png", "2.png", "annotations.csv"])
    error = failure(tmp_path, "D104")
    assert error.try_ == f"convworks train {tmp_path} --labels {tmp_path}/annotations.csv"


def test_splits_on_disk(tmp_path: Path) -> None:
    plant(tmp_path, ["Train/a/1.png", "Train/b/1.png", "VALID/a/2.png", "VALID/b/2.png"])
    assert rows(opened(tmp_path)) == [
        ("Train/a/1.png", "a", "train"),
        ("Train/b/1.png", "b", "train"),
        ("VALID/a/2.png", "a", "val"),
        ("VALID/b/2.png", "b", "val"),
    ]
