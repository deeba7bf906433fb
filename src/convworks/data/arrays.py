"""Data sets that are arrays of one image size: IDX files (MNIST) and CIFAR binary files.

Every size is checked against the header before it is believed. Sources:
IDX: http://yann.lecun.com/exdb/mnist; CIFAR: https://www.cs.toronto.edu/~kriz/cifar.html, "binary version".
"""

from __future__ import annotations

import gzip
import io
import math
import os
import posixpath
import re
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convworks.data.container import ARRAY_LIMIT, Container
from convworks.data.layout import Found, check_classes, missing_in_splits
from convworks.data.members import unpacked_limit
from convworks.data.sources import SPLITS, Entry, Ignored, Listing, Source, Split, listed, natural_key, shown
from convworks.errors import ConvworksError

_IDX = re.compile(r"(?P<stem>.*?)(?P<what>images|labels)[-.]idx\d[-.]ubyte(?P<gz>\.gz)?", re.I)
_CIFAR = re.compile(r"(?P<train>data_batch_(?P<number>\d+)|train)\.bin|(?P<test>test_batch|test)\.bin")
_CIFAR_SIDE = 32
_CIFAR_NAMES = {1: "batches.meta.txt", 2: "fine_label_names.txt"}  # by label bytes: CIFAR-10, CIFAR-100


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one split: (N, H, W, C) with N labels. Its entries are called 'train/00007'."""

    name: str
    split: Split | None
    images: NDArray[np.uint8]
    labels: Sequence[str]


class ArraySource(Source):
    """Images that lie in memory as one (N, H, W, C) array, read-only."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        location: str,
        name: str,
        kind: str,
        layout: str,
        class_names: Sequence[str] = (),
        ignored: Sequence[Ignored] = (),
        warnings: Sequence[str] = (),
    ) -> None:
        sizes = sorted({"x".join(map(str, part.images.shape[1:])) for part in parts})
        if len(sizes) > 1:
            raise broken(location, f"its parts have images of different sizes: {', '.join(sizes)}")
        entries: list[Entry] = []
        for part in parts:
            width = len(str(max(len(part.labels) - 1, 0)))
            paths = [f"{part.name}/{i:0{width}d}" for i in range(len(part.labels))]
            entries += map(Entry._make, zip(paths, part.labels, repeat(part.split), strict=False))
        classes, about_names = check_classes(
            {*class_names, *(label for part in parts for label in part.labels)},
            location=location,
            folders=False,
        )
        array = np.concatenate([part.images for part in parts]) if len(parts) > 1 else parts[0].images
        array.flags.writeable = False
        listing = Listing(
            layout=layout,
            entries=tuple(entries),
            classes=classes,
            ignored=tuple(ignored),
            warnings=(*warnings, *about_names, *missing_in_splits(entries)),
        )
        super().__init__(listing, location=location, name=name, kind=kind, array=array)

    def read(self, index: int) -> bytes:
        return self.pixels(index).tobytes()


def broken(location: str, what: str, *, where: str = "") -> ConvworksError:
    """D111."""
    return ConvworksError(
        "D111",
        f"cannot use the array files of {shown(location)}: {what}",
        where=where,
        why="the sizes in a file must agree with its bytes, else images and labels would be shifted",
        try_=f"ls -l {shlex.quote(location)}",
    )


def is_idx_name(name: str) -> bool:
    """Whether a file is called like those of MNIST: train-images-idx3-ubyte, with or without .gz."""
    return _IDX.fullmatch(name) is not None


def open_idx_file(path: Path, *, location: str, name: str) -> Source:
    """One IDX file of images together with the labels beside it (or the other way round)."""
    from convworks.data.folder import Folder

    match = _IDX.fullmatch(path.name)
    assert match is not None, "the caller asks is_idx_name"
    found = Found()
    for beside in sorted(os.listdir(path.parent)):
        other = _IDX.fullmatch(beside)
        if other is not None and other["stem"] == match["stem"]:
            found.files.append(beside)
    source = open_array_files(Folder(path.parent), found, location=location, name=name)
    if source is None:
        raise broken(location, f"there are no images beside the labels '{shown(path.name)}'")
    return source


def open_array_files(container: Container, found: Found, *, location: str, name: str) -> Source | None:
    """IDX or CIFAR binary files among what was found, or None. Raises ConvworksError D106, D111, D113."""
    by_name = {posixpath.basename(path): path for path in found.files}
    if any(match and match["what"].lower() == "images" for match in map(_IDX.fullmatch, by_name)):
        return _open_idx(container, found, location=location, name=name)
    for label_bytes, names_file in _CIFAR_NAMES.items():
        batches = [n for n in by_name if _CIFAR.fullmatch(n) and n.startswith("data_") == (label_bytes == 1)]
        if batches and (label_bytes == 1 or names_file in by_name):
            return _open_cifar(container, found, label_bytes, location=location, name=name)
    if "batches.meta" in by_name and {"data_batch_1", "test_batch"} & set(by_name):
        raise ConvworksError(
            "D113",
            f"{shown(location)} holds the Python version of CIFAR-10, which is pickled",
            why="opening a pickle can run any code; cifar-10-binary.tar.gz holds the same images",
            try_="convworks train cifar10",
        )
    return None


def _open_idx(container: Container, found: Found, *, location: str, name: str) -> Source:
    """Pairs of images and labels that share the beginning of their names."""
    chosen: dict[tuple[str, str], str] = {}  # (folder and stem, what) -> path
    others: list[Ignored] = list(found.ignored)
    for path in sorted(found.files):  # 'x' sorts before 'x.gz': the unpacked file is taken
        match = _IDX.fullmatch(posixpath.basename(path))
        if match is None:
            others.append(Ignored(path, "beside the IDX files"))
            continue
        key = (posixpath.join(posixpath.dirname(path), match["stem"]), match["what"].lower())
        if key in chosen:
            others.append(Ignored(path, "the same file is there unpacked"))
        else:
            chosen[key] = path
    parts = []
    for (stem, what), path in chosen.items():
        if what == "labels":
            continue
        if (stem, "labels") not in chosen:
            raise broken(location, f"there are no labels beside '{shown(path)}'")
        images = _read_idx(container, path, location, ranks=(3, 4))
        labels = _read_idx(container, chosen[stem, "labels"], location, ranks=(1,))
        if len(images) != len(labels):
            raise broken(location, f"'{shown(path)}' has {len(images):,} images and {len(labels):,} labels")
        if images.ndim == 3:
            images = images[..., None]
        split = _split_of_stem(posixpath.basename(stem))
        parts.append(Part(split or "images", split, images, labels.astype(str).tolist()))
    if len({part.split for part in parts}) < len(parts):
        pairs = listed(path for (_, what), path in chosen.items() if what == "images")
        raise ConvworksError(
            "D106",
            f"{shown(location)} holds several sets of IDX files: {pairs}",
            why="only one pair of images and labels for each split can be used at a time",
            try_=f"ls -R {shlex.quote(location)}",
        )
    parts.sort(key=lambda part: SPLITS.index(part.split) if part.split else 0)
    return ArraySource(
        parts,
        location=location,
        name=name,
        kind="idx",
        layout=_in_words("IDX files", parts),
        ignored=others,
        warnings=found.warnings,
    )


def _in_words(kind: str, parts: Sequence[Part]) -> str:
    height, width, channels = parts[0].images.shape[1:]
    counts = ", ".join(f"{part.split} {len(part.labels):,}" for part in parts if part.split)
    colour = "grey" if channels == 1 else "colour"
    return f"{kind}, {height}x{width} {colour}, {counts or 'no split'}"


def _split_of_stem(stem: str) -> Split | None:
    """The split in the name of an IDX file: 'train-', 't10k-', 'emnist-letters-test-'."""
    for mark, split in (("train", "train"), ("t10k", "test"), ("test", "test"), ("val", "val")):
        if mark in stem.lower():
            return next(known for known in SPLITS if known == split)
    return None


def _read_idx(container: Container, path: str, location: str, *, ranks: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array of unsigned bytes; the header gives the type, the rank and the sizes, big-endian."""
    content = container.read(path, limit=ARRAY_LIMIT)
    compressed = path.lower().endswith(".gz")
    try:
        head = gzip.GzipFile(fileobj=io.BytesIO(content)).read(64) if compressed else content[:64]
        rank = head[3] if len(head) > 3 else 0
        if head[:2] != b"\0\0" or rank not in ranks or len(head) < 4 + 4 * rank:
            raise ValueError(f"its first bytes {head[:4].hex(' ')} are not those of such an IDX file")
        if head[2] != 0x08:
            raise ValueError(f"its numbers are of type 0x{head[2]:02x}, only unsigned bytes (0x08) are read")
        shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, 4 + 4 * rank, 4)]
        size, start = math.prod(shape), 4 + 4 * rank
        if compressed:
            if size > unpacked_limit(len(content)):
                raise ValueError(f"{len(content):,} bytes that would unpack to {size:,}")
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(start + size + 1)
        if len(content) != start + size:
            have = "is cut off" if len(content) < start + size else "has bytes left over"
            raise ValueError(f"it {have}: its header says {'x'.join(map(str, shape))}")
        if size == 0:
            raise ValueError("it holds nothing")
    except (ValueError, EOFError, OSError, zlib.error) as problem:
        raise broken(location, f"'{shown(path)}' is no good: {problem}", where=shown(path)) from problem
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _open_cifar(container: Container, found: Found, label_bytes: int, *, location: str, name: str) -> Source:
    """CIFAR-10 (one label byte before each image) or CIFAR-100 (coarse and fine label)."""
    batches: dict[Split, list[str]] = {"train": [], "test": []}
    names: list[str] = []
    ignored = list(found.ignored)
    numbers = []
    for path in sorted(found.files, key=natural_key):
        base = posixpath.basename(path)
        if match := _CIFAR.fullmatch(base):
            batches["train" if match["train"] else "test"].append(path)
            numbers += [int(match["number"])] if match["number"] else []
        elif base == _CIFAR_NAMES[label_bytes]:
            names = container.read(path).decode("utf-8", "replace").split()
        else:
            ignored.append(Ignored(path, "beside the CIFAR files"))
    absent = sorted(set(range(1, 6)) - set(numbers)) if label_bytes == 1 else []
    warnings = [f"data_batch_{number}.bin is missing" for number in absent]
    parts = []
    for split, paths in batches.items():
        if paths:
            read = [_read_cifar(container, path, label_bytes, names, location) for path in paths]
            images = np.concatenate([images for images, _ in read])
            parts.append(Part(split, split, images, [label for _, labels in read for label in labels]))
    return ArraySource(
        parts,
        location=location,
        name=name,
        kind="cifar",
        layout=_in_words("CIFAR binary files", parts),
        class_names=names,
        ignored=ignored,
        warnings=[*found.warnings, *warnings],
    )


def _read_cifar(
    container: Container, path: str, label_bytes: int, names: list[str], location: str
) -> tuple[NDArray[np.uint8], list[str]]:
    """Images (N, 32, 32, 3), stored as three planes, and label names; the last label byte is the fine one."""
    content = container.read(path, limit=ARRAY_LIMIT)
    record = label_bytes + 3 * _CIFAR_SIDE**2
    if not content or len(content) % record:
        what = f"'{shown(path)}' has {len(content):,} bytes, no multiple of {record:,}"
        raise broken(location, what, where=shown(path))
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = rows[:, label_bytes - 1]
    if names and labels.max() >= len(names):
        what = f"'{shown(path)}' has the label {labels.max()}, and there are {len(names)} class names"
        raise broken(location, what, where=shown(path))
    planes = rows[:, label_bytes:].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, [names[i] if names else str(i) for i in labels.tolist()]
