"""IDX and CIFAR binary files: written here byte by byte from their descriptions, then read back."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data.trees import failure, left_out, opened, plant, rows, tarred, zipped

Bytes = NDArray[np.uint8]


def idx(array: Bytes) -> bytes:
    """The IDX format: two zeros, the type, the rank, the sizes in big-endian order, the values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def noise(*shape: int, top: int = 256, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint8)


TRAIN, TRAIN_Y = noise(30, 5, 4), np.arange(30, dtype=np.uint8) % 3
TEST, TEST_Y = noise(12, 5, 4, seed=1), np.arange(12, dtype=np.uint8) % 3
MNIST = {
    "train-images-idx3-ubyte": idx(TRAIN),
    "train-labels-idx1-ubyte": idx(TRAIN_Y),
    "t10k-images-idx3-ubyte": idx(TEST),
    "t10k-labels-idx1-ubyte": idx(TEST_Y),
}


def mnist(folder: Path, *, packed: bool = False, changes: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**MNIST, **(changes or {})}.items():
        suffix = ".gz" if packed else ""
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_idx_folders(tmp_path: Path, packed: bool, below: str) -> None:
    mnist(tmp_path / "digits" / below, packed=packed)
    source = opened(tmp_path / "digits")
    assert (source.kind, source.name, source.encoded) == ("idx", "digits", False)
    assert source.layout == "IDX files, 5x4 grey, train 30, test 12"
    assert source.classes == ("0", "1", "2")
    assert rows(source)[:1] + rows(source)[-1:] == [("train/00", "0", "train"), ("test/11", "2", "test")]
    assert source.array is not None
    np.testing.assert_array_equal(source.array, np.concatenate([TRAIN, TEST])[..., None])
    np.testing.assert_array_equal(source.pixels(31), TEST[1][..., None])
    assert source.read(31) == TEST[1].tobytes()
    assert [int(e.label or -1) for e in source.entries] == [*TRAIN_Y.tolist(), *TEST_Y.tolist()]
    with pytest.raises(ValueError, match="read-only"):
        source.array[0] = 0


def test_idx_inside_an_archive(tmp_path: Path) -> None:
    files = {f"raw/{name}.gz": gzip.compress(content) for name, content in MNIST.items()}
    for path in (zipped(tmp_path / "m.zip", files), tarred(tmp_path / "m.tar", files)):
        source = opened(path)
        assert source.kind == "idx"
        np.testing.assert_array_equal(source.pixels(3), TRAIN[3][..., None])


def test_unpacked_and_packed_side_by_side(tmp_path: Path) -> None:
    mnist(mnist(tmp_path), packed=True)
    plant(tmp_path, ["README.md"])
    source = opened(tmp_path)
    assert len(source.entries) == 42
    assert left_out(source)["README.md"] == "beside the IDX files"
    assert left_out(source)["t10k-images-idx3-ubyte.gz"] == "the same file is there unpacked"


def test_one_idx_file(tmp_path: Path) -> None:
    mnist(tmp_path / "set")
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        source = opened(tmp_path / "set" / name)
        assert (source.name, len(source.entries), source.entries[0].split) == ("set", 12, "test")
    (tmp_path / "set/t10k-images-idx3-ubyte").unlink()
    assert "no images beside" in failure(tmp_path / "set/t10k-labels-idx1-ubyte", "D111").what


def test_idx_in_colour_without_a_split(tmp_path: Path) -> None:
    images = noise(4, 3, 2, 3)
    (tmp_path / "images-idx4-ubyte").write_bytes(idx(images))
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx(np.array([7, 10, 7, 2], np.uint8)))
    source = opened(tmp_path)
    assert source.layout == "IDX files, 3x2 colour, no split"
    assert source.classes == ("2", "7", "10")
    assert rows(source)[1] == ("images/1", "10", None)
    np.testing.assert_array_equal(source.array, images)


def corrupted(content: bytes, offset: int, value: bytes) -> bytes:
    return content[:offset] + value + content[offset + len(value) :]


IMAGES = MNIST["train-images-idx3-ubyte"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (IMAGES[:-1], "it is cut off: its header says 30x5x4"),
        (IMAGES[:7], "its first bytes 00 00 08 03 are not those of such an IDX file"),
        (b"", "its first bytes  are not those of such an IDX file"),
        (IMAGES + b"x", "it has bytes left over: its header says 30x5x4"),
        (corrupted(IMAGES, 2, b"\x0d"), "its numbers are of type 0x0d, only unsigned bytes (0x08) are read"),
        (corrupted(IMAGES, 3, b"\x01"), "its first bytes 00 00 08 01 are not those of such an IDX file"),
        (b"<html>" + IMAGES, "its first bytes 3c 68 74 6d are not those of such an IDX file"),
        (corrupted(IMAGES, 4, bytes(4)), "it has bytes left over: its header says 0x5x4"),
        (corrupted(IMAGES[:16], 4, bytes(4)), "it holds nothing"),
    ],
)
def test_damaged_idx(tmp_path: Path, packed: bool, content: bytes, what: str) -> None:
    mnist(tmp_path, packed=packed, changes={"train-images-idx3-ubyte": content})
    name = "train-images-idx3-ubyte" + ".gz" * packed
    assert failure(tmp_path, "D111").what.endswith(f"'{name}' is no good: {what}")


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    huge = corrupted(IMAGES, 4, b"\xff" * 12)
    mnist(tmp_path / "a", changes={"train-images-idx3-ubyte": huge})
    assert "cut off" in failure(tmp_path / "a", "D111").what
    mnist(tmp_path / "b", packed=True, changes={"train-images-idx3-ubyte": huge})
    assert "would unpack to" in failure(tmp_path / "b", "D111").what


def test_cut_off_gzip(tmp_path: Path) -> None:
    mnist(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-30])
    assert "'train-images-idx3-ubyte.gz' is no good" in failure(tmp_path, "D111").what


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    mnist(tmp_path, changes={"train-labels-idx1-ubyte": idx(TRAIN_Y[:-1])})
    assert "has 30 images and 29 labels" in failure(tmp_path, "D111").what
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert "no labels beside 'train-images-idx3-ubyte'" in failure(tmp_path, "D111").what


def test_parts_of_different_sizes(tmp_path: Path) -> None:
    mnist(tmp_path, changes={"t10k-images-idx3-ubyte": idx(noise(12, 4, 4))})
    assert "images of different sizes: 4x4x1, 5x4x1" in failure(tmp_path, "D111").what


def test_two_sets_in_one_place(tmp_path: Path) -> None:
    mnist(mnist(tmp_path / "MNIST/raw").parents[1] / "Fashion/raw")
    error = failure(tmp_path, "D106")
    assert "'Fashion/raw/t10k-images-idx3-ubyte'" in error.what


CIFAR_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar(images: Bytes, *labels: Bytes) -> bytes:
    """Label bytes, then the red, green and blue plane of each image."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([*(y[:, None] for y in labels), planes], axis=1).tobytes()


def cifar10(folder: Path) -> tuple[Bytes, Bytes]:
    images, labels = noise(60, 32, 32, 3), noise(60, top=10, seed=3)
    plant(folder, ["batches.meta.txt"], content="\n".join(CIFAR_NAMES).encode() + b"\n\n")
    plant(folder, ["readme.html"])
    for n in range(6):
        name = "test_batch.bin" if n == 5 else f"data_batch_{n + 1}.bin"
        part = slice(10 * n, 10 * n + 10)
        (folder / name).write_bytes(cifar(images[part], labels[part]))
    return images, labels


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar10(tmp_path: Path, below: str) -> None:
    images, labels = cifar10(tmp_path / "c" / below)
    source = opened(tmp_path / "c")
    assert (source.kind, source.layout) == ("cifar", "CIFAR binary files, 32x32 colour, train 50, test 10")
    assert source.classes == tuple(CIFAR_NAMES)
    np.testing.assert_array_equal(source.array, images)
    assert [e.label for e in source.entries] == [CIFAR_NAMES[y] for y in labels]
    assert [e.split for e in source.entries] == ["train"] * 50 + ["test"] * 10
    assert (rows(source)[0][0], rows(source)[-1][0]) == ("train/00", "test/9")
    assert source.warnings == tuple(w for w in source.warnings if w.startswith("no image in"))


def test_cifar10_in_its_archive(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    images, _ = cifar10(folder)
    files = {f"{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir()}
    path = tarred(tmp_path / "cifar-10-binary.tar.gz", files, mode="w:gz")
    source = opened(path, cache=tmp_path / "cache")
    assert (source.kind, source.name) == ("cifar", "cifar-10-binary")
    np.testing.assert_array_equal(source.array, images)


def test_cifar10_without_names_or_a_batch(tmp_path: Path) -> None:
    _, labels = cifar10(tmp_path)
    (tmp_path / "batches.meta.txt").unlink()
    (tmp_path / "data_batch_2.bin").unlink()
    source = opened(tmp_path)
    assert "data_batch_2.bin is missing" in source.warnings
    assert [e.label for e in source.entries[:20]] == [str(y) for y in [*labels[:10], *labels[20:30]]]


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    names = [f"fine{i}" for i in range(100)]
    plant(tmp_path, ["fine_label_names.txt"], content="\n".join(names).encode())
    plant(tmp_path, ["coarse_label_names.txt"], content=b"x")
    images, fine = noise(8, 32, 32, 3), np.array([99, 0, 5, 5, 99, 0, 5, 5], np.uint8)
    coarse = np.full(8, 3, np.uint8)
    (tmp_path / "train.bin").write_bytes(cifar(images[:5], coarse[:5], fine[:5]))
    (tmp_path / "test.bin").write_bytes(cifar(images[5:], coarse[5:], fine[5:]))
    source = opened(tmp_path)
    assert source.classes[:3] == ("fine0", "fine1", "fine2")
    assert len(source.classes) == 100
    assert [e.label for e in source.entries] == [names[i] for i in fine]
    np.testing.assert_array_equal(source.array, images)


def test_damaged_cifar(tmp_path: Path) -> None:
    cifar10(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert "'data_batch_3.bin' has 30,729 bytes, no multiple of 3,073" in failure(tmp_path, "D111").what
    path.write_bytes(b"\x0b" + content[1:])
    assert "has the label 11, and there are 10 class names" in failure(tmp_path, "D111").what


def test_the_pickled_cifar_is_not_opened(tmp_path: Path) -> None:
    names = ("data_batch_1", "batches.meta", "test_batch")
    plant(tmp_path, names, content=b"cos\nsystem\n(S'touch ran'\ntR.")
    assert "pickled" in failure(tmp_path, "D113").what
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_mnist_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    root = os.environ.get("CONVWORKS_DATA")
    if not root or not Path(root, "mnist").is_dir():
        pytest.skip("needs MNIST in the folder CONVWORKS_DATA")
    source = opened(Path(root, "mnist"))
    counts = np.bincount([int(e.label or -1) for e in source.entries if e.split == "train"])
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert source.array is not None
    assert source.array.shape == (70_000, 28, 28, 1)
