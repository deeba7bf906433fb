"""What train_speed.py compares the two sides on: MNIST, CIFAR-10 (JPEG copy) and photographs, as files."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def make_cases(work: Path, *, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The cases; images are written or extracted into `work`."""
    root = Path(os.environ.get("CONVWORKS_DATA") or work / "nothing")
    common = {"epochs": 10, "kind": "folder", "channels": 3, "flip": True, "shift": 4}
    if (root / "mnist").is_dir():
        case = {
            "kind": "idx",
            "data": str(root / "mnist"),
            "images": 3_200 if quick else 54_000,
            "channels": 1,
        }
        look = {"model": "lenet5_modern", "size": 28, "batch": 64, "shift": 0, "flip": False}
        yield "mnist_lenet", {**common, **case, **look}
    whole = 1_280 if quick else 50_000
    for name, model, most in (
        ("cifar_fastnet", "fastnet", whole),
        ("cifar_three_blocks", "three_blocks", 12_800),
        ("cifar_resnet20", "resnet20_cifar", 512 if quick else 25_600),
    ):
        images = min(whole, most)
        folder = work / f"images-{images}"  # neither side reads a file that is not trained on
        if not folder.exists():
            if (root / "cifar10-jpeg.zip").is_file():
                extract(root / "cifar10-jpeg.zip", folder, images=images)
            else:
                write_shapes(folder, images=images)
        small = {**common, "data": str(folder), "size": 32, "batch": 128}
        yield name, {**small, "model": model, "images": images}
    if (root / "caltech10.zip").is_file():
        photos = work / "photos"
        found = split_photographs(root / "caltech10.zip", photos)
        large = {**common, "data": str(photos), "size": 224, "stored": 256, "batch": 32, "shift": 0}
        for name, model in (("caltech_resnet18", "resnet18"), ("caltech_alexnet", "alexnet")):
            yield name, {**large, "model": model, "images": 32 if quick else found // 32 * 32}


def split_photographs(archive: Path, folder: Path) -> int:
    """Files as train/CLASS/N.jpg, with two of each class as val; returns how many are for training."""
    taken: dict[str, int] = {}
    with zipfile.ZipFile(archive) as source:
        for name in sorted(n for n in source.namelist() if n.endswith(".jpg")):
            label, file = name.split("/")[-2:]
            taken[label] = taken.get(label, 0) + 1
            target = folder / ("val" if taken[label] <= 2 else "train") / label
            target.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(source.read(name))
    return sum(count - 2 for count in taken.values())


def extract(archive: Path, folder: Path, *, images: int) -> None:
    """The first images of every class of cifar10-jpeg.zip, as files: train/CLASS/N.jpg, and a few val/."""
    taken: dict[tuple[str, str], int] = {}
    with zipfile.ZipFile(archive) as source:
        for name in sorted(source.namelist()):
            parts = name.split("/")
            if len(parts) < 3 or not name.endswith(".jpg"):
                continue
            split, label = parts[-3], parts[-2]
            count = taken.get((split, label), 0)
            if count >= (-(-images // 10) if split == "train" else 2):
                continue
            taken[split, label] = count + 1
            target = folder / ("train" if split == "train" else "val") / label
            target.mkdir(parents=True, exist_ok=True)
            (target / parts[-1]).write_bytes(source.read(name))


def write_shapes(folder: Path, *, images: int) -> None:
    """The built-in shapes as JPEG files, repeated until there are enough."""
    from PIL import Image

    from convworks.data.sources import open_source

    source = open_source("shapes", cache=folder)
    for number in range(images + 20):
        index = number % len(source.entries)
        target = folder / ("train" if number < images else "val") / str(source.entries[index].label)
        target.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(source.pixels(index)).save(
            buffer, "JPEG", quality=75 + number // len(source.entries) % 20
        )
        (target / f"{number}.jpg").write_bytes(buffer.getvalue())
