"""Defects to plant in a folder of class folders: each kind with the files it concerns."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

Planted = dict[str, set[str]]  # kind of problem -> paths that must be named with it


def jpeg(image: Image.Image, quality: int = 88, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


def plant_defects(root: Path, sources: list[Path], other: Path) -> Planted:
    """One file of every kind, made of `sources` and put beside them; `other` is a folder of another class."""
    planted: Planted = {}
    images = [Image.open(path).convert("RGB") for path in sources]

    def put(kind: str, name: str, content: bytes, folder: Path | None = None) -> None:
        path = (folder or sources[0].parent) / name
        path.write_bytes(content)
        planted.setdefault(kind, set()).add(path.relative_to(root).as_posix())

    def saved(image: Image.Image, form: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    whole = sources[0].read_bytes()
    put("unreadable", "zz-cut.jpg", whole[: len(whole) * 6 // 10])
    put("unreadable", "zz-page.jpg", b"<!doctype html><html><body>404</body></html>")
    put("unreadable", "zz-empty.png", b"")
    put("too-large", "zz-bomb.png", bomb(20_000, 20_000))
    put("wrong-extension", "zz-named.jpg", saved(images[1].crop((5, 5, 95, 85)), "PNG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    put("exif-rotated", "zz-turned.jpg", jpeg(images[2].transpose(Image.Transpose.ROTATE_90), exif=exif))
    deep = np.asarray(images[3].convert("L")).astype(np.uint16) * 257
    put("16-bit", "zz-deep.png", saved(Image.fromarray(deep[:90, :90]), "PNG"))
    put("cmyk", "zz-inks.jpg", jpeg(images[4].crop((0, 0, 110, 70)).convert("CMYK")))
    clear = images[5].crop((10, 0, 120, 100)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    put("alpha", "zz-clear.png", saved(clear, "PNG"))
    put("palette", "zz-palette.png", saved(images[6].crop((0, 20, 100, 110)).quantize(40), "PNG"))
    put("1-bit", "zz-bits.png", saved(images[7].crop((0, 0, 90, 90)).convert("1"), "PNG"))
    frames = [images[8].crop((k, 0, 80 + k, 80)).quantize(60) for k in (0, 9)]
    put("animated", "zz-frames.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    put("tiny", "zz-tiny.png", saved(images[9].resize((6, 5)), "PNG"))
    put("long", "zz-long.jpg", jpeg(images[10].resize((600, 90)).crop((0, 0, 600, 100))))
    put("blank", "zz-blank.jpg", jpeg(Image.new("RGB", (120, 90), (90, 140, 60))))
    noise = np.random.default_rng(0).normal(120, 1.2, (90, 120, 3)).clip(0, 255).astype(np.uint8)
    put("near-blank", "zz-nearly.png", saved(Image.fromarray(noise), "PNG"))
    put("exact", "zz-copy.jpg", sources[11].read_bytes())
    put("exact", "zz-copy.png", saved(Image.open(sources[12]), "PNG"))
    put("conflict", "zz-torn.jpg", sources[13].read_bytes(), other)
    return planted


def bomb(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds hardly anything."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _cut(image: Image.Image, random: np.random.Generator, most: float) -> Image.Image:
    """Up to `most` of the side cut off at each of the four sides."""
    left, top, right, bottom = random.uniform(0, most, 4)
    w, h = image.size
    return image.crop((int(left * w), int(top * h), w - int(right * w), h - int(bottom * h)))


def _everything(image: Image.Image, random: np.random.Generator) -> bytes:
    cut = ImageEnhance.Brightness(_cut(image, random, 0.05)).enhance(random.uniform(0.75, 1.3))
    return jpeg(cut.resize((max(1, cut.width * 6 // 10), max(1, cut.height * 6 // 10))), 50)


NEAR: dict[str, Callable[[Image.Image, np.random.Generator], bytes]] = {
    "resized": lambda i, r: jpeg(
        i.resize([max(8, int(s * f)) for f in (r.choice([0.4, 0.6, 1.5]),) for s in i.size])
    ),
    "recompressed": lambda i, r: jpeg(i, int(r.integers(20, 60))),
    "cropped": lambda i, r: jpeg(_cut(i, r, 0.07)),
    "brightened": lambda i, r: jpeg(ImageEnhance.Brightness(i).enhance(r.uniform(0.65, 1.4))),
    "contrast": lambda i, r: jpeg(ImageEnhance.Contrast(i).enhance(r.uniform(0.7, 1.3))),
    "all of these": _everything,
    "mirrored": lambda i, r: jpeg(i.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "grey": lambda i, r: jpeg(i.convert("L")),
}


def plant_near_copies(root: Path, sources: list[Path], *, seed: int) -> dict[str, set[frozenset[str]]]:
    """One near copy of every kind of each source, beside it; returns the pairs of paths by kind."""
    random = np.random.default_rng(seed)
    planted: dict[str, set[frozenset[str]]] = {kind: set() for kind in NEAR}
    for path in sources:
        image = Image.open(path).convert("RGB")
        for kind, make in NEAR.items():
            copy = path.with_name(f"{path.stem}--{kind.replace(' ', '-')}.jpg")
            copy.write_bytes(make(image, random))
            planted[kind].add(
                frozenset((path.relative_to(root).as_posix(), copy.relative_to(root).as_posix()))
            )
    return planted


def copy_tree(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
