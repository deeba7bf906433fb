"""Files that break image readers, with what must come of each: reused by the tests of the whole program.

`write_corpus(folder)` writes them and returns the cases. Expected pixels come from the arrays the files were
made of, never from the decoder.
"""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Case:
    """`pixels` within `tolerance` levels where decoded; one of `words` in the reason where unreadable."""

    path: Path
    expected: Literal["decoded", "unreadable"]
    pixels: Pixels | None = None
    tolerance: int = 0
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


class Corpus:
    """Collects the cases while their files are written below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cases = folder, list[Case]()
        folder.mkdir(parents=True, exist_ok=True)

    def good(self, name: str, content: bytes, pixels: Pixels, *notes: str, tolerance: int = 0) -> None:
        (self.folder / name).write_bytes(content)
        self.cases.append(Case(self.folder / name, "decoded", pixels, tolerance, notes))

    def bad(self, name: str, content: bytes, *words: str) -> None:
        (self.folder / name).write_bytes(content)
        self.cases.append(Case(self.folder / name, "unreadable", words=words))


# ---- Pictures and files ------------------------------------------------------------------------------------


def picture(height: int = 48, width: int = 64, channels: int = 3, *, seed: int = 0) -> Pixels:
    """(H, W, C) ramps with a little noise: compresses, and no two rows or columns are alike."""
    rows, columns = np.mgrid[:height, :width]
    ramps = (
        columns * 255 // width,
        rows * 255 // height,
        (rows + columns) * 255 // (height + width),
        columns,
    )
    noise = np.random.default_rng(seed).integers(0, 12, (height, width, channels))
    return np.clip(np.stack(ramps[:channels], axis=2) + noise, 0, 255).astype(np.uint8)


def quarters(height: int = 32, width: int = 48) -> Pixels:
    """(H, W, 3) four flat colours: survives JPEG, and shows which way is up."""
    found = np.zeros((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    found[:half, :middle], found[:half, middle:] = (210, 40, 40), (40, 190, 60)
    found[half:, :middle], found[half:, middle:] = (50, 60, 200), (230, 220, 90)
    return found


def encode(picture: Pixels | Image.Image, kind: str, *, mode: str | None = None, **options: Any) -> bytes:
    """A file by Pillow, of (H, W, C) pixels or an image; `mode` converts first."""
    if isinstance(picture, Image.Image):
        image = picture
    else:
        image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def lossless(pixels: Pixels | Image.Image, kind: str, **options: Any) -> bytes:
    """As `encode`; JPEG nearly so, and GIF through a palette."""
    extra: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    return encode(pixels, kind, **extra.get(kind, {}), **options)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    samples: NDArray[Any], *, bits: int, colour: int, extra: bytes = b"", size: tuple[int, int] | None = None
) -> bytes:
    """A PNG by hand of (H, W, C) samples of 8 or 16 bits, unfiltered; `size` (width, height) may lie."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *(size or (width, height)), bits, colour, 0, 0, 0))
    tail = png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + extra + tail


def tiff_file(samples: NDArray[Any], tags: dict[int, int], *, order: str = "<", big: bool = False) -> bytes:
    """An uncompressed (Big)TIFF by hand, one strip of (H, W) samples; `tags` replace or add LONG values."""
    data = samples.astype(f"{order}{samples.dtype.kind}{samples.itemsize}").tobytes()
    start = 16 if big else 8
    entries = {256: samples.shape[1], 257: samples.shape[0], 258: samples.itemsize * 8, 259: 1, 262: 1}
    entries |= {273: start, 277: 1, 278: samples.shape[0], 279: len(data)} | tags
    word, counter = ("Q", "Q") if big else ("I", "H")
    place = start + len(data) + len(data) % 2
    version = struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    head = (b"II" if order == "<" else b"MM") + version + struct.pack(order + word, place)
    entry, kind = order + "HH" + word * 2, 16 if big else 4
    rows = [struct.pack(entry, tag, kind, 1, value) for tag, value in sorted(entries.items())]
    directory = struct.pack(order + counter, len(rows)) + b"".join(rows) + struct.pack(order + word, 0)
    return head + data + b"\0" * (len(data) % 2) + directory


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x112] = orientation
    return found.tobytes()


def stored_for(seen: Pixels, orientation: int) -> Pixels:
    """The array a camera stores for what is seen, by the definition of each value (EXIF 2.3, 4.6.4)."""
    turned = {
        1: seen, 2: np.fliplr(seen), 3: np.rot90(seen, 2), 4: np.flipud(seen), 5: seen.transpose(1, 0, 2),
        6: np.rot90(seen, 1), 7: np.rot90(seen, 2).transpose(1, 0, 2), 8: np.rot90(seen, -1),
    }  # fmt: skip
    return np.ascontiguousarray(turned[orientation])


def over(pixels: NDArray[Any], alpha: NDArray[Any], background: Sequence[int] = WHITE) -> Pixels:
    """(H, W, C) laid over a background with alpha (H, W), in float64."""
    share = alpha[:, :, None] / 255.0
    return np.rint(pixels * share + np.array(background[: pixels.shape[2]]) * (1 - share)).astype(np.uint8)


def cmyk_profile() -> bytes:
    """A valid CMYK profile (ICC.1:2001, 6.5.8) that sees only black: L* falls from 100 to 0 along K."""
    corners = b"".join(
        bytes((0 if corner & 1 else 255, 128, 128)) for corner in range(16)
    )  # K varies fastest
    table = (
        b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    )
    table += bytes(range(256)) * 4 + corners + bytes(range(256)) * 3
    size = 128 + 4 + 12 + len(table)
    header = struct.pack(">I4xI4s4s4s12x4s28x", size, 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    header += struct.pack(">iii", 63190, 65536, 54061)  # the illuminant, D50
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def grey_of_lightness(lightness: NDArray[np.float64]) -> Pixels:
    """(H, W) L* -> (H, W, 3) sRGB grey (CIE 15; IEC 61966-2-1)."""
    cube = (lightness + 16) / 116
    linear = np.where(cube > 6 / 29, cube**3, 3 * (6 / 29) ** 2 * (cube - 4 / 29))
    curved = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.repeat(np.rint(255 * curved).astype(np.uint8)[:, :, None], 3, axis=2)


# ---- The corpus --------------------------------------------------------------------------------------------


def add_truncated(corpus: Corpus, points: int = 50) -> None:
    """Each format cut at equal steps of its length; what is left never holds the whole picture."""
    for kind, extension in EXTENSION.items():
        content = lossless(picture(), kind)
        for point in range(1, points + 1):
            cut = len(content) * point // (points + 1)
            corpus.bad(f"cut-{point:02d}.{extension}", content[:cut], "cut off")


def add_foreign(corpus: Corpus) -> None:
    page = b"\n<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>"
    corpus.bad("empty.jpg", b"", "empty file")
    corpus.bad("zeros.png", bytes(4096), "only zero bytes")
    corpus.bad("page.jpg", page, "an HTML page, not an image")
    corpus.bad("text.jpg", b"image of a cat, to be replaced\n", "a text file, not an image")
    corpus.bad("words.bmp", b"BMW and other makes of cars, a list\n", "a text file, not an image")
    corpus.bad("paper.png", b"%PDF-1.7\n1 0 obj\n", "a PDF document, not an image")
    corpus.bad("script.gif", b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file, not an image")
    corpus.bad("archive.jpg", b"PK\3\4" + bytes(60), "a zip archive, not an image")
    corpus.bad("packed.png", zlib.compress(b"x" * 99, wbits=31), "a gzip archive, not an image")
    corpus.bad("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC photo, not an image")
    corpus.bad("noise.jpg", random.Random(1).randbytes(500), "data of an unknown kind, not an image")
    corpus.bad("sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(20), "data of an unknown kind, not an image")
    corpus.good("really-a-png.jpg", encode(picture(), "PNG"), picture(), "wrong-extension")


def add_orientations(corpus: Corpus) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for value in range(1, 9):
            content = lossless(stored_for(quarters(), value), kind, exif=exif(value))
            notes = ("exif-rotated",) if value > 1 else ()
            corpus.good(f"orientation-{value}.{EXTENSION[kind]}", content, quarters(), *notes, tolerance=4)


def add_depths(corpus: Corpus) -> None:
    """1, 12, 16 bits and floats; a ramp over the whole range, where clipping would show."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    wide = ramp * 16 + 7
    grey = np.rint(wide / 257).astype(np.uint8)[:, :, None]
    colour = np.stack([wide, wide.T, wide[::-1]], axis=2)
    narrow = np.rint(colour / 257).astype(np.uint8)
    corpus.good("16-bit-grey.png", png_file(wide[:, :, None], bits=16, colour=0), grey, "16-bit")
    corpus.good("16-bit-rgb.png", png_file(colour, bits=16, colour=2), narrow, "16-bit", tolerance=1)
    corpus.good("16-bit-little.tif", tiff_file(wide, {}), grey, "16-bit")
    corpus.good("16-bit-big.tif", tiff_file(wide, {}, order=">"), grey, "16-bit")
    corpus.good("16-bit-bigtiff.tif", tiff_file(wide, {}, big=True), grey, "16-bit")
    corpus.good("16-bit-white-is-zero.tif", tiff_file(65535 - wide, {262: 0}), grey, "16-bit")
    bits = ramp[:20, :40] % 7 > 2
    for kind in ("PNG", "TIFF", "BMP", "GIF"):
        notes = () if kind == "GIF" else ("1-bit",)
        content = encode(Image.fromarray(bits), kind)
        corpus.good(f"1-bit.{EXTENSION[kind]}", content, bits[:, :, None] * np.uint8(255), *notes)
    first, second = ramp[:, ::2], ramp[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2)
    content = tiff_file(packed.astype(np.uint8).reshape(64, -1), {256: 64, 258: 12})
    corpus.good("12-bit.tif", content, np.rint(ramp / 4095 * 255).astype(np.uint8)[:, :, None], "16-bit")
    corpus.bad("float.tif", tiff_file(ramp.astype(np.float32), {339: 3}), "floating-point")
    corpus.bad("half-float.tif", tiff_file(ramp.astype(np.float16), {339: 3}), "floating-point")
    corpus.bad("signed.tif", tiff_file(ramp.astype(np.int16), {339: 2}), "signed integers")
    corpus.bad("32-bit.tif", tiff_file(ramp.astype(np.uint32), {}), "32-bit integers", "not supported")
    corpus.bad("no-strips.tif", tiff_file(wide, {278: 8}), "strips of the TIFF are missing")


def add_modes(corpus: Corpus) -> None:
    """Palettes, transparency, grey, inks."""
    colours, grey = picture(), picture(channels=1)
    alpha = picture(channels=1, seed=5)[:, :, 0]
    for kind, tolerance in (("JPEG", 8), ("PNG", 0), ("BMP", 0), ("GIF", 0), ("TIFF", 0)):
        corpus.good(f"grey.{EXTENSION[kind]}", lossless(grey, kind), grey, tolerance=tolerance)
    hidden = np.broadcast_to(np.array([200, 10, 10, 0], np.uint8), (20, 30, 4))
    mixed = np.dstack([colours, alpha])
    for kind in ("PNG", "WEBP", "TIFF"):
        white = np.full((20, 30, 3), 255, np.uint8)
        corpus.good(f"hidden.{EXTENSION[kind]}", lossless(hidden, kind), white, "alpha")
        exact = {"exact": True} if kind == "WEBP" else {}
        content = lossless(mixed, kind, **exact)
        corpus.good(f"alpha.{EXTENSION[kind]}", content, over(colours, alpha), "alpha", tolerance=1)
    corpus.good("opaque.png", encode(np.dstack([colours, alpha | 255]), "PNG"), colours)
    content = encode(np.dstack([grey, alpha]), "PNG")
    corpus.good("grey-alpha.png", content, over(grey, alpha), "alpha", tolerance=1)
    wide = np.dstack([grey, alpha]).astype(np.uint16) * 257
    content = png_file(wide, bits=16, colour=4)
    corpus.good("16-bit-grey-alpha.png", content, over(grey, alpha), "16-bit", "alpha", tolerance=1)
    indexed = Image.fromarray(colours).quantize(16)
    shown = np.array(indexed.convert("RGB"))
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        corpus.good(f"palette.{EXTENSION[kind]}", encode(indexed, kind), shown, "palette")
    for name, levels in (("list", bytes(range(0, 256, 16))), ("one", bytes([255] * 3 + [0] + [255] * 12))):
        content = encode(indexed, "PNG", transparency=levels)
        pixels = over(shown, np.frombuffer(levels, np.uint8)[np.array(indexed)])
        corpus.good(f"palette-{name}.png", content, pixels, "palette", "alpha", tolerance=1)
    corpus.good("palette-one.gif", encode(indexed, "GIF", transparency=3), pixels, "palette", "alpha")
    key = png_chunk(b"tRNS", struct.pack(">HHH", *colours[5, 7].tolist()))
    opaque = (colours != colours[5, 7]).any(axis=2).astype(np.uint8) * 255
    corpus.good("key.png", png_file(colours, bits=8, colour=2, extra=key), over(colours, opaque), "alpha")
    key = png_chunk(b"tRNS", struct.pack(">H", int(grey[3, 3, 0])))
    opaque = (grey[:, :, 0] != grey[3, 3, 0]).astype(np.uint8) * 255
    corpus.good("key-grey.png", png_file(grey, bits=8, colour=0, extra=key), over(grey, opaque), "alpha")


def add_inks(corpus: Corpus) -> None:
    """CMYK as Adobe writes it (inverted), as CMYK and as YCCK, and with a profile of its own."""
    inks = picture(channels=4) // 2
    seen = np.rint((255.0 - inks[:, :, :3]) * (255.0 - inks[:, :, 3:]) / 255).astype(np.uint8)
    image = Image.fromarray(inks, "CMYK")
    corpus.good("cmyk.jpg", lossless(image, "JPEG"), seen, "cmyk", tolerance=12)
    content = simplejpeg.encode_jpeg(255 - inks, quality=97, colorspace="CMYK")
    corpus.good("ycck.jpg", content, seen, "cmyk", tolerance=12)
    for kind, tolerance in (("JPEG", 12), ("TIFF", 2)):
        grey = grey_of_lightness(100 - inks[:, :, 3] / 2.55)
        content = encode(image, kind, icc_profile=cmyk_profile())
        corpus.good(f"cmyk-profile.{EXTENSION[kind]}", content, grey, "cmyk", tolerance=tolerance)
    corpus.good("cmyk.tif", encode(image, "TIFF", compression="tiff_lzw"), seen, "cmyk", tolerance=1)


def add_animations(corpus: Corpus) -> None:
    frames = [Image.fromarray(quarters()), *(Image.fromarray(picture(32, 48, seed=i)) for i in range(3))]
    sharp = {"quality": 95, "subsampling": 0}
    films: dict[str, tuple[str, dict[str, Any]]] = {
        "film.gif": ("GIF", {}), "film.webp": ("WEBP", {"lossless": True}), "film.png": ("PNG", {}),
        "pages.tif": ("TIFF", {}), "stereo.jpg": ("MPO", sharp),
    }  # fmt: skip
    for name, (kind, options) in films.items():
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        notes = ("palette", "animated") if kind == "GIF" else ("animated",)
        corpus.good(name, content, quarters(), *notes, tolerance=4 if kind == "MPO" else 0)


def add_bombs(corpus: Corpus) -> None:
    """Headers that promise more than is there: refused before any pixel is allocated."""
    dot, large = picture(8, 8), ("too large",)
    for name, size in (("60000x60000", (60000, 60000)), ("1x200000000", (1, 200_000_000))):
        corpus.bad(f"{name}.png", png_file(dot, bits=8, colour=2, size=size), *large)
    for name, size in (("0x8", (0, 8)), ("8x0", (8, 0))):
        corpus.bad(f"{name}.png", png_file(dot, bits=8, colour=2, size=size), "no pixels")
    jpeg = lossless(dot, "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    corpus.bad("bomb.jpg", jpeg[:frame] + struct.pack(">HH", 65500, 65500) + jpeg[frame + 4 :], *large)
    gif, bmp, webp = (lossless(dot, kind) for kind in ("GIF", "BMP", "WEBP"))
    corpus.bad("bomb.gif", gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:], *large)
    corpus.bad("bomb.bmp", bmp[:18] + struct.pack("<ii", 30000, 30000) + bmp[26:], *large)
    corpus.bad("bomb.webp", webp[:21] + struct.pack("<I", 0x0FFFFFFF) + webp[25:], *large)
    corpus.bad("bomb.tif", tiff_file(np.zeros((8, 8), np.uint8), {256: 100_000, 257: 100_000}), *large)
    inflated = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))
    texts = b"".join(png_chunk(b"tEXt", b"Comment\0%06d" % i) for i in range(100_000))
    corpus.good("text-bomb.png", png_file(dot, bits=8, colour=2, extra=inflated), dot)
    corpus.good("many-texts.png", png_file(dot, bits=8, colour=2, extra=texts), dot)


def add_sizes(corpus: Corpus) -> None:
    for height, width in ((1, 1), (1, 37), (37, 1), (7, 5)):
        for kind, extension in EXTENSION.items():
            flat = np.full((height, width, 3), (60, 130, 220), np.uint8)
            notes, tolerance = (("palette",), 0) if kind == "GIF" else ((), 4 if kind == "JPEG" else 0)
            name = f"{width}x{height}.{extension}"
            corpus.good(name, lossless(flat, kind), flat, *notes, tolerance=tolerance)
    thread = np.zeros((100_000, 1, 1), np.uint8) + np.arange(100_000, dtype=np.uint8)[:, None, None]
    corpus.good("1x100000.png", encode(thread, "PNG"), thread)


def add_names(corpus: Corpus) -> None:
    """Names as bytes: not UTF-8, with line ends and quotes, like formulas or markup, 255 bytes long."""
    names = (
        b"caf\xe9.png", b"line\nend.png", b"quote'\".png", b"semi;colon.png", b"=1+1.png", b"-flag.png",
        b"<img onerror=alert(1)>.png", "\U0001f33b.png".encode(), b"n" * 251 + b".png", b"tab\t.png",
    )  # fmt: skip
    for name in names:
        corpus.good(os.fsdecode(name), encode(picture(), "PNG"), picture())


def add_special(corpus: Corpus) -> None:
    """Links and a FIFO: reading one must not wait."""
    folder = corpus.folder
    corpus.good("target.png", encode(picture(), "PNG"), picture())
    (folder / "inner").mkdir()
    links = {
        "link.png": "target.png",
        "broken.png": "nowhere.png",
        "loop.png": "loop.png",
        "folder.png": "inner",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo.png")
    corpus.cases.append(Case(folder / "link.png", "decoded", picture()))
    words = {
        "broken.png": "a broken link",
        "loop.png": "a link that leads to itself",
        "folder.png": "a folder",
    }
    for name, reason in {**words, "fifo.png": "a FIFO"}.items():
        corpus.cases.append(Case(folder / name, "unreadable", words=(reason,)))


GROUPS: dict[str, Callable[[Corpus], None]] = {
    "truncated": add_truncated, "foreign": add_foreign, "orientations": add_orientations,
    "depths": add_depths, "modes": add_modes, "inks": add_inks, "animations": add_animations,
    "bombs": add_bombs, "sizes": add_sizes, "names": add_names, "special": add_special,
}  # fmt: skip


def write_corpus(folder: Path, groups: Sequence[str] = tuple(GROUPS)) -> list[Case]:
    """Write the named groups, each into a folder of its name below `folder`."""
    cases = []
    for group in groups:
        corpus = Corpus(folder / group)
        GROUPS[group](corpus)
        cases += corpus.cases
    return cases
