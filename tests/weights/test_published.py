"""Weights by name: pinned by what is public of their hash, brought once, kept as a model folder."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from convworks import models
from convworks.bundle import load_bundle
from convworks.data.download import announced_size
from convworks.errors import ConvworksError
from convworks.weights.export import renamed
from convworks.weights.layouts import layout
from convworks.weights.published import PUBLISHED, Published, bring, find_published, folder_of, names_for
from tests.data.server import Server, page, serving, status

from .oracle import torchvision_models

MODEL, OPTIONS = "mobilenet_v1_025_128", {"activation": "relu6"}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def content() -> bytes:
    """A PyTorch file as a publisher writes it."""
    torch.manual_seed(0)
    network = models.create(MODEL, num_classes=4, **OPTIONS)
    buffer = io.BytesIO()
    torch.save(renamed(network.state_dict(), layout(MODEL, "timm", OPTIONS), MODEL), buffer)
    return buffer.getvalue()


@pytest.fixture
def row(content: bytes) -> Published:
    digits = hashlib.sha256(content).hexdigest()[:8]
    return Published(MODEL, "v1", f"mobile-{digits}.pth", round(len(content) / 2**20, 3), OPTIONS)


def fetched(row: Published, cache: Path, server: Server, *, offline: bool = False) -> Path:
    place = f"http://127.0.0.1:{server.port}"
    return bring(row, cache=cache, offline=offline, place=place, allow_loopback=True)


def fails(code: str, row: Published, cache: Path, server: Server, *, offline: bool = False) -> str:
    with pytest.raises(ConvworksError) as caught:
        fetched(row, cache, server, offline=offline)
    assert caught.value.code == code, caught.value
    assert not folder_of(row, cache).exists()
    return str(caught.value)


def test_the_table_is_torchvision_s() -> None:
    """File, digits and size of every row, as the installed torchvision has them."""
    library = torchvision_models()
    published = {}
    for name in dir(library):
        if name.endswith("_Weights"):
            for each in getattr(library, name):
                published[each.url.rpartition("/")[2]] = (each.name.lower(), each.meta["_file_size"])
    for row in PUBLISHED:
        assert published[row.file] == (row.name, row.mebibytes)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.file)
def test_a_row_fits_its_network(row: Published) -> None:
    assert re.fullmatch(r"[0-9a-f]{8}", row.digits)
    assert find_published(row.model, row.name, row.options) is row
    with torch.device("meta"):
        network = models.create(row.model, num_classes=1000, **row.options)
    weights = 4 * sum(p.numel() for p in network.parameters())
    assert weights < row.size + 4 * 7_000_000  # GoogLeNet's file may lack its two heads
    assert abs(row.size - weights) < 0.6 * weights


def test_an_unknown_name_says_the_known_ones() -> None:
    with pytest.raises(ConvworksError) as caught:
        find_published("resnet50_v1_5", "imagenet1k_v3", {})
    assert caught.value.code == "U195"
    assert "names for resnet50_v1_5: imagenet1k_v1, imagenet1k_v2" in str(caught.value)
    assert "--pretrained imagenet1k_v" in str(caught.value)
    with pytest.raises(ConvworksError, match="none are known for resnet50"):
        find_published("resnet50", "imagenet1k_v1", {})
    assert names_for("fastnet") == ()


def test_batch_norm_decides_between_two_files() -> None:
    assert find_published("vgg_d", "imagenet1k_v1", {}).file == "vgg16-397923af.pth"
    assert find_published("vgg_d", "imagenet1k_v1", {"batch_norm": True}).file == "vgg16_bn-6c64b313.pth"


def test_a_file_is_brought_once_and_becomes_a_folder(
    row: Published, content: bytes, server: Server, tmp_path: Path
) -> None:
    server.on(f"/{row.file}", serving(content))
    assert announced_size(f"http://127.0.0.1:{server.port}/{row.file}", allow_loopback=True) == len(content)
    folder = fetched(row, tmp_path, server)
    assert folder == tmp_path / "weights" / row.file.removesuffix(".pth")
    assert load_bundle(folder).classes == ("class 0", "class 1", "class 2", "class 3")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no .pth, no lock
    asked = len(server.seen)
    assert fetched(row, tmp_path, server, offline=True) == folder
    assert len(server.seen) == asked
    (folder / "weights.safetensors").write_bytes(b"")  # damaged: it is made again
    assert load_bundle(fetched(row, tmp_path, server)).classes[0] == "class 0"


def test_offline_says_what_to_fetch_and_where_to_put_it(
    row: Published, content: bytes, server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "weights" / row.file
    said = fails("D161", row, tmp_path, server, offline=True)
    assert f"curl --fail --location --create-dirs --output {file}" in said
    assert f"wanted: {file}" in said
    assert server.seen == []
    file.write_bytes(content)
    assert load_bundle(fetched(row, tmp_path, server, offline=True)).info["imported"]["file"] == row.file


def test_other_bytes_are_not_taken(row: Published, content: bytes, server: Server, tmp_path: Path) -> None:
    changed = content[:-1] + bytes([content[-1] ^ 1])
    server.on(f"/{row.file}", serving(changed))
    assert "is not the published file and was removed" in fails("D162", row, tmp_path, server)
    (tmp_path / "weights" / row.file).write_bytes(changed)
    fails("D161", row, tmp_path, server, offline=True)


def test_another_size_is_refused_before_a_byte_is_taken(
    row: Published, content: bytes, server: Server, tmp_path: Path
) -> None:
    server.on(f"/{row.file}", serving(content + bytes(2000)))
    assert "the server has" in fails("D162", row, tmp_path, server)
    assert len(server.seen) == 1


@pytest.mark.parametrize("answer", [status(404), page])
def test_no_file_is_one_clear_message(row: Published, server: Server, tmp_path: Path, answer: object) -> None:
    server.on(f"/{row.file}", answer)  # type: ignore[arg-type]
    with pytest.raises(ConvworksError) as caught:
        fetched(row, tmp_path, server)
    assert caught.value.code in {"D160", "D162", "D163"}
    assert row.file in str(caught.value)
