"""What a user types, and what is opened: paths first, then names; and the messages where there is neither."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convworks.data import named
from convworks.data.sources import listed, natural_key, open_source, short_name, shown
from convworks.errors import ConvworksError
from tests.data.trees import PNG, failure, opened, plant, zipped

posix = pytest.mark.skipif(os.name != "posix", reason="links and special files of POSIX")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with one data set beside it."""
    plant(tmp_path / "photos", ["cat/1.png", "dog/1.png"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_natural_order() -> None:
    names = [
        "1",
        "2",
        "10",
        "a1b2",
        "a1b10",
        "a01b3",
        "",
        "a",
        "B",
        "b",
        "c7",
        "C07",
        "7" * 5000,
        "7",
        "٣",
        "é",
    ]
    ordered = sorted(names, key=natural_key)
    assert ordered[:5] == ["", "1", "2", "7", "10"]
    assert [n for n in ordered if n.startswith("a")] == ["a", "a1b2", "a01b3", "a1b10"]
    assert ordered.index("B") + 1 == ordered.index("b") < ordered.index("c7")
    for turn in range(20):
        shuffled = names.copy()
        random.Random(turn).shuffle(shuffled)
        assert sorted(shuffled, key=natural_key) == ordered
    assert natural_key("a1") != natural_key("a01")


def test_names_as_shown() -> None:
    assert shown("dog é 名.png") == "dog é 名.png"
    assert shown("a\nb\x1b[31m\udcff\u202e") == r"a\nb\x1b[31m\xff\u202e"
    assert listed(["a", "b\n"]) == r"'a', 'b\n'"
    assert listed(map(str, range(7))) == "'0', '1', '2', '3', '4' and 2 more"


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("photos/", "photos"),
        ("data/cifar10-jpeg.zip", "cifar10-jpeg"),
        ("x/My Photos (2).tar.gz", "My-Photos-2"),
        ("a.b.tgz", "a.b"),
        ("名前", "data"),
        ("../../", None),
        ("..hidden", "hidden"),
        ("x" * 90, "x" * 40),
        ("caf\udce9\n", "caf"),
    ],
)
def test_short_names(location: str, name: str | None) -> None:
    expected = Path("../..").resolve().name or "data" if name is None else name
    assert short_name(location) == expected


def test_a_path_or_a_text(here: Path) -> None:
    for location in ("photos", "photos/", "./photos", here / "photos", Path("photos")):
        source = open_source(location, cache=here / "cache")
        assert (source.name, source.location) == ("photos", str(location))
        assert len(source.entries) == 2


def test_home_is_understood(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert len(opened("~/photos").entries) == 2


def test_a_folder_wins_over_a_name_and_says_so(here: Path) -> None:
    plant(here / "digits", ["x/1.png", "y/1.png"])
    source = opened("digits")
    assert source.kind == "folder"
    assert source.warnings == ("the folder 'digits' here is used, not the data set",)
    assert opened("./digits").warnings == ()


def test_near_names_on_disk(here: Path) -> None:
    error = failure("photo", "D101")
    assert str(error) == (
        "error[D101]: there is no folder or data set 'photo'\n"
        "  where: did you mean 'photos/' (in the current folder)?\n"
        f"  why:   data sets that go by name: digits, shapes, {', '.join(named.names())}\n"
        "  try:   convworks train photos/"
    )
    zipped(here / "my birds.zip", {"a": b""})
    error = failure("my-birds", "D101")
    assert error.where == "did you mean 'my birds.zip' (in the current folder)?"
    assert error.try_ == "convworks train 'my birds.zip'"
    plant(here / "sets", ["flowers/a/1.png"])
    assert failure("sets/flower", "D101").where == "did you mean 'flowers/' (in sets/)?"
    assert failure("sets/mnis", "D101").where == f"looked in {here}/sets"
    assert failure("stes/flowers", "D101").where == "the folder stes does not exist"


def test_near_names_of_data_sets(here: Path) -> None:
    error = failure("digit", "D101")
    assert (error.where, error.try_) == ("did you mean the data set 'digits'?", "convworks train digits")
    assert failure("mnst", "D101").try_ == "convworks train mnist"
    assert failure("q\n", "D101").what == r"there is no folder or data set 'q\n'"


def test_an_address_is_not_opened(here: Path) -> None:
    error = failure("https://example.org/photos.zip", "D101")
    assert error.what == "'https://example.org/photos.zip' is an address"
    assert "only the named data sets are downloaded" in error.why


def test_files_that_are_no_data_sets(here: Path) -> None:
    plant(here, ["cat.JPG", "picture", "set.rar", "model.pt", "x.npy", "thing.xyz"], content=b"hello")
    (here / "picture").write_bytes(PNG)
    assert failure("cat.JPG", "D102").what == "'cat.JPG' is one image, not a data set"
    assert failure("picture", "D102").what == "'picture' is one image, not a data set"
    error = failure("photos/cat/1.png", "D102")
    assert error.try_ == "convworks train photos"
    assert "pickle" in failure("model.pt", "D102").what
    assert "unpack it" in failure("set.rar", "D102").what
    assert "without labels" in failure("x.npy", "D102").what
    assert failure("thing.xyz", "D102").what == "'thing.xyz' is a file that cannot be opened as a data set"


@posix
def test_what_is_neither_file_nor_folder(here: Path) -> None:
    os.mkfifo(here / "pipe.zip")
    (here / "gone").symlink_to(here / "nowhere")
    (here / "also").symlink_to(here / "photos")
    assert failure("pipe.zip", "D102").what == "'pipe.zip' is neither a folder nor a regular file"
    assert failure("gone", "D102").what == "'gone' is a link to something that does not exist"
    assert len(opened("also").entries) == 2


def test_named_sets_are_found_and_opened(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def find_named(name: str, *, data_root: Path | None, cache: Path, offline: bool) -> Path:
        calls.append((name, data_root, cache, offline))
        return here / "photos"

    monkeypatch.setattr(named, "find_named", find_named)
    source = open_source("MNIST", data_root=here / "root", cache=here / "cache", offline=True)
    assert calls == [("mnist", here / "root", here / "cache", True)]
    assert (source.name, source.location, source.kind) == ("mnist", "mnist", "folder")
    assert source.layout == "photos: one folder per class, no split folders"


def test_a_copy_that_stands_in_is_named_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = zipped(here / "cifar10-jpeg.zip", {"train/cat/1.png": PNG, "train/dog/1.png": PNG})
    monkeypatch.setattr(named, "find_named", lambda name, **options: copy)
    with opened("cifar10") as source:
        assert source.name == "cifar10"
        assert source.layout.startswith("CIFAR-10 (JPEG copy): one folder per class in train/")


def test_a_named_set_has_its_own_labels(here: Path) -> None:
    with pytest.raises(ConvworksError) as caught:
        opened("digits", labels=Path("x.csv"))
    assert caught.value.code == "D189"


def test_sources_close(here: Path) -> None:
    archive = zipped(here / "a.zip", {"cat/1.png": PNG, "dog/1.png": PNG})
    with opened(archive) as source:
        assert source.read(0) == PNG
    with pytest.raises(ValueError, match="closed"):
        source.read(0)
    with opened("shapes") as source:
        pass
    assert source.pixels(0).dtype == np.uint8


@posix
def test_no_handle_stays_open_after_an_error(here: Path) -> None:
    archive = zipped(here / "a.zip", {"cat/1.png": PNG})
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(5):
        failure(archive, "D105")
        failure(archive, "D101", labels=here / "none.csv")
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_what_importing_costs() -> None:
    program = (
        "import sys, convworks.data.sources\n"
        "from pathlib import Path\n"
        "for name in ('digits', 'shapes'):\n"
        "    convworks.data.sources.open_source(name, cache=Path('unused'))\n"
        "print(sorted({'torch', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_sixty_thousand_images_of_a_zip(tmp_path: Path) -> None:
    root = os.environ.get("CONVWORKS_DATA")
    if not root or not Path(root, "cifar10-jpeg.zip").is_file():
        pytest.skip("needs cifar10-jpeg.zip in the folder CONVWORKS_DATA")
    with opened(Path(root, "cifar10-jpeg.zip")) as source:
        assert len(source.entries) == 60_000
        assert [sum(e.split == s for e in source.entries) for s in ("train", "test")] == [50_000, 10_000]
        assert len(source.classes) == 10
        assert source.read(59_999).startswith(b"\xff\xd8\xff")
