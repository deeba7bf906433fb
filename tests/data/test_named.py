"""Data sets by name: where they are looked for, what is believed, and what an interruption leaves."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from convworks.data import named
from convworks.data.download import Remote
from convworks.data.named import NamedFile, NamedSet, find_named, info, names, title
from convworks.errors import ConvworksError

from .server import Server, find, find_fails, held, md5, put, serving, sha256, status

CONTENTS = {f"{part}.gz": part.encode() * 5000 for part in ("train-images", "train-labels", "t10k-images")}
PACKED = {name: gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}


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


@pytest.fixture
def tiny(server: Server) -> NamedSet:
    """A set of three .gz files, served from this machine."""
    files = tuple(
        NamedFile(
            Remote(
                name,
                (server.on(f"/{name}", serving(PACKED[name])),),
                len(PACKED[name]),
                sha256=sha256(PACKED[name]),
            ),
            len(content),
            md5(content),
        )
        for name, content in CONTENTS.items()
    )
    return replace(info("mnist"), name="tiny", title="Tiny", files=files, folders=("tiny", "Tiny/raw"))


# the table


def test_names_and_unknown_name(tmp_path: Path) -> None:
    assert names() == ("mnist", "fashion-mnist", "cifar10")
    with pytest.raises(ConvworksError, match="did you mean 'fashion-mnist'") as caught:
        find_named("fashion_mnist", data_root=None, cache=tmp_path)
    assert caught.value.code == "U101"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_rows_pin_every_file(name: str) -> None:
    row = info(name)
    assert row.citation
    assert row.licence
    for file in row.files:
        assert len(file.remote.urls) >= 2  # a mirror
        assert all(url.startswith("https://") and url.endswith(file.remote.name) for url in file.remote.urls)
        assert len(bytes.fromhex(file.remote.sha256)) == 32
        if not row.members:
            assert len(bytes.fromhex(file.content_md5)) == 16


def test_published_sizes() -> None:
    assert info("mnist").size == 11_594_722  # "11.06 MiB" in the catalogue of TensorFlow Datasets
    assert info("fashion-mnist").size == 30_878_645  # "29.45 MiB"
    assert info("cifar10").size == 170_052_171  # "162.17 MiB"
    assert [file.content_size for file in info("mnist").files] == [47_040_016, 60_008, 7_840_016, 10_008]
    assert info("cifar10").member_size == 30_730_000


def test_titles() -> None:
    assert title(Path("/d/mnist")) == "MNIST"
    assert title(Path("mnist")) == "MNIST"
    assert title(Path("/d/MNIST/raw")) == "MNIST"
    assert title(Path("/c/datasets/fashion-mnist")) == "Fashion-MNIST"
    assert title(Path("/c/datasets/cifar10/cifar-10-batches-bin")) == "CIFAR-10"
    assert title(Path("/d/cifar10-jpeg.zip")) == "CIFAR-10 (JPEG copy)"
    assert title(Path("/d/photos")) == "photos"


@pytest.mark.skipif(
    "CONVWORKS_DATA" not in os.environ, reason="CONVWORKS_DATA names no folder with real data"
)
def test_real_files(cache: Path) -> None:
    root = Path(os.environ["CONVWORKS_DATA"])
    assert find_named("mnist", data_root=root, cache=cache, offline=True) == root / "mnist"
    if not (root / "cifar-10-batches-bin").exists() and not (root / "cifar-10-binary.tar.gz").exists():
        found = find_named("cifar10", data_root=root, cache=cache, offline=True)
        assert found == root / "cifar10-jpeg.zip"
    assert not cache.exists()


# the data root


@pytest.mark.parametrize("place", ["tiny", "Tiny/raw"])
@pytest.mark.parametrize("packing", ["published", "recompressed", "uncompressed"])
def test_copy_in_the_data_root(tiny: NamedSet, root: Path, cache: Path, place: str, packing: str) -> None:
    files = {
        "published": PACKED,
        "recompressed": {name: gzip.compress(content, 1, mtime=7) for name, content in CONTENTS.items()},
        "uncompressed": {name.removesuffix(".gz"): content for name, content in CONTENTS.items()},
    }[packing]
    folder = put(root / place, files)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert find(tiny, data_root=root, cache=cache, offline=True) == folder
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not cache.exists()


def wrong_bytes(name: str) -> bytes:
    return gzip.compress(b"?" + CONTENTS[name][1:])


def test_other_bytes_in_the_data_root(tiny: NamedSet, root: Path, cache: Path, server: Server) -> None:
    name = "t10k-images.gz"
    put(root / "tiny", PACKED | {name: wrong_bytes(name)})
    error = find_fails("D165", tiny, data_root=root, cache=cache)
    assert error.what == "t10k-images.gz is not the published file of Tiny"
    assert md5(b"?" + CONTENTS[name][1:]) in error.where
    assert f"expected {md5(CONTENTS[name])}" in error.where
    assert error.try_ == f"convworks train {root / 'tiny'}"
    assert server.seen == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PACKED["train-labels.gz"][:-9], "not to be had"),
        (b"<html>no</html>", "not to be had"),
        (b"", "md5 of its content is d41d8cd98f00b204e9800998ecf8427e"),  # md5 of nothing
        (gzip.compress(bytes(50_000_000)), "more than 60,000 bytes"),
    ],
    ids=["cut off", "a page", "empty", "bomb"],
)
def test_damaged_copy(tiny: NamedSet, root: Path, cache: Path, content: bytes, reason: str) -> None:
    put(root / "tiny", PACKED | {"train-labels.gz": content})
    assert reason in find_fails("D165", tiny, data_root=root, cache=cache).where


def test_wrong_file_beside_a_right_one(tiny: NamedSet, root: Path, cache: Path) -> None:
    put(root / "tiny", PACKED | {"train-labels": b"?"})  # which of the two a reader takes is not known here
    find_fails("D165", tiny, data_root=root, cache=cache)


def test_incomplete_copy_is_named_and_passed_over(tiny: NamedSet, root: Path, cache: Path) -> None:
    put(root / "tiny", {name: PACKED[name] for name in list(PACKED)[:2]})
    said: list[str] = []
    found = find(tiny, data_root=root, cache=cache, say=said.append)
    assert found == cache / "datasets" / "tiny"
    assert said[0] == f"{root / 'tiny'} is not used for Tiny: it lacks t10k-images.gz"


# the cache and the network


def test_download_then_cache(tiny: NamedSet, cache: Path, server: Server) -> None:
    said: list[str] = []
    folder = find(tiny, cache=cache, say=said.append)
    assert held(folder) == PACKED
    assert said[0].startswith("Tiny is not on this machine: downloading")
    asked = [path for path, _ in server.seen]
    assert asked == [f"/{name}" for name in PACKED]
    assert find(tiny, cache=cache, offline=True) == folder
    assert len(server.seen) == 3


def test_damaged_file_of_the_cache_comes_again(tiny: NamedSet, cache: Path, server: Server) -> None:
    name = "train-labels.gz"
    folder = find(tiny, cache=cache)
    (folder / name).write_bytes(wrong_bytes(name))
    find_fails("D161", tiny, cache=cache, offline=True)
    server.seen.clear()
    assert held(find(tiny, cache=cache)) == PACKED
    assert [path for path, _ in server.seen] == [f"/{name}"]


def test_interrupted_set_is_not_believed(tiny: NamedSet, cache: Path, server: Server) -> None:
    server.on("/t10k-images.gz", status(404))
    find_fails("D160", tiny, cache=cache)
    error = find_fails("D161", tiny, cache=cache, offline=True)
    assert "wanted: t10k-images.gz from" in error.why
    server.on("/t10k-images.gz", serving(PACKED["t10k-images.gz"]))
    server.seen.clear()
    assert held(find(tiny, cache=cache)) == PACKED
    assert [path for path, _ in server.seen] == ["/t10k-images.gz"]


def test_offline(tiny: NamedSet, root: Path, cache: Path, server: Server) -> None:
    error = find_fails("D161", tiny, data_root=root, cache=cache, offline=True)
    assert str(root / "tiny") in error.where
    assert str(cache / "datasets" / "tiny") in error.where
    assert error.try_.startswith("curl --fail --location")
    assert server.seen == []
    assert not cache.exists()


def test_find_named_passes_everything_on(
    tiny: NamedSet, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "TABLE", (tiny,))
    assert names() == ("tiny",)
    said: list[str] = []
    with pytest.raises(ConvworksError, match="D161"):
        find_named("tiny", data_root=root, cache=cache, offline=True)
    with pytest.raises(ConvworksError, match="D160"):  # http, even to this machine, is not for users
        find_named("tiny", data_root=root, cache=cache, say=said.append)
    assert said
    folder = put(root / "tiny", PACKED)
    assert find_named("tiny", data_root=root, cache=cache) == folder
    with pytest.raises(ConvworksError, match="D161"):
        find_named("tiny", data_root=None, cache=cache, offline=True)
