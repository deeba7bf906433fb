"""The one image decoder: bytes of a file -> uint8 pixels as a person would see them.

Content decides, never the extension. Every image is decoded in full: a look at the header misses files that were cut
off. Only what makes pixels reaches a parser: PNG, GIF and TIFF are first reduced to the header, palette, transparency
and data of their first frame, so metadata bombs and frame lists are never parsed and Pillow has nothing to warn about.
Sizes are checked before pixels are allocated. Thread-safe; the heavy part releases the interpreter lock.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from convworks.errors import ConvworksError

NOTES = ("exif-rotated", "16-bit", "cmyk", "alpha", "palette", "1-bit", "animated", "wrong-extension")
PLUGINS = {
    "JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile, "BMP": BmpImageFile, "GIF": GifImageFile,
    "TIFF": TiffImageFile,
}  # fmt: skip
MAGIC = {  # leading bytes -> format
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"RIFF": "WEBP",
}  # fmt: skip
FOREIGN_MAGIC = {  # what else is found under the name of an image
    b"%PDF": "a PDF document", b"%!PS": "a PostScript file", b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"PK\3\4": "a zip archive", b"\x1f\x8b": "a gzip archive", b"BZh": "a bzip2 archive", b"8BPS": "a Photoshop file",
    b"\xfd7zXZ": "an xz archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"\x7fELF": "a program",
    b"\0\0\0\x0cjP": "a JPEG 2000 image", b"\xff\x0a": "a JPEG XL image", b"\0\0\1\0": "an icon file",
    b"SIMPLE  =": "a FITS file", b"\x93NUMPY": "a NumPy array", b"version https://git-lfs": "a Git LFS pointer",
}  # fmt: skip
EXTENSIONS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "mpo": "JPEG", "png": "PNG", "apng": "PNG",
    "webp": "WEBP", "bmp": "BMP", "dib": "BMP", "gif": "GIF", "tif": "TIFF", "tiff": "TIFF", "heic": "HEIC",
    "heif": "HEIC", "avif": "AVIF", "jp2": "JPEG 2000", "jxl": "JPEG XL", "svg": "SVG",
}  # fmt: skip
EMPTY, FOREIGN, CUT_OFF, DAMAGED = "D120", "D121", "D122", "D123"
TOO_LARGE, UNSUPPORTED, NOT_A_FILE = "D124", "D125", "D126"
WHY = {
    EMPTY: "it holds no picture; a copy or a download stopped before it began",
    FOREIGN: "only JPEG, PNG, WEBP, BMP, GIF and TIFF are read, recognised by their content",
    CUT_OFF: "the missing part would be filled with grey or noise",
    DAMAGED: "its pixels cannot be trusted",
    TOO_LARGE: "the limit protects memory and is checked before any pixel is decoded",
    UNSUPPORTED: "it cannot be turned into 8-bit grey or RGB without guessing",
    NOT_A_FILE: "only regular files that can be opened are read",
}


class UnreadableImage(ConvworksError):
    """An image that cannot be used; `reason` is a few words such as "cut off at 61 %", for lists and reports."""

    def __init__(self, reason: str, *, code: str = DAMAGED, name: str = "") -> None:
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
        what = f"cannot read the image '{shown}': {reason}" if name else f"cannot read the image: {reason}"
        look = "ls -ld" if code == NOT_A_FILE else "file"
        try_ = f"{look} -- {shlex.quote(name)}" if name and shown == name else ""
        super().__init__(code, what, why=WHY[code], try_=try_)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Decoded:
    """pixels: (H, W, 1) grey or (H, W, 3) RGB, contiguous and writable; format: "JPEG"; notes: some of NOTES."""

    pixels: NDArray[np.uint8]
    format: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image that is decoded and the largest file that is read."""

    max_pixels: int
    max_bytes: int

    def check_pixels(self, width: int, height: int) -> None:
        if width <= 0 or height <= 0:
            raise UnreadableImage(f"no pixels ({width} x {height})")
        if width * height > self.max_pixels:
            size = f"{width:,} x {height:,} pixels, the limit is {self.max_pixels / 1e6:,.4g} megapixels"
            raise UnreadableImage(f"too large: {size}", code=TOO_LARGE)

    def check_bytes(self, size: int) -> None:
        if size > self.max_bytes:
            reason = f"too large: {size:,} bytes, the limit is {self.max_bytes:,}"
            raise UnreadableImage(reason, code=TOO_LARGE)


TRAIN_LIMITS = Limits(max_pixels=100_000_000, max_bytes=512_000_000)
SERVE_LIMITS = Limits(max_pixels=25_000_000, max_bytes=25_000_000)


def decode(
    content: bytes,
    *,
    name: str = "",
    background: tuple[int, int, int] = (255, 255, 255),
    limits: Limits = TRAIN_LIMITS,
) -> Decoded:
    """Decode the first frame of a JPEG, PNG, WEBP, BMP, GIF or TIFF file.

    EXIF orientation is applied, 16 bits are scaled by range, CMYK goes through its profile (else it is multiplied
    out), transparent pixels are laid over `background`. 16-bit grey is rounded; 16-bit colour keeps the high byte,
    less than one level off. Raises UnreadableImage for everything else, whatever a parser raised.
    """
    try:
        limits.check_bytes(len(content))
        kind = _format(content)
        pixels, notes, orientation = (_jpeg if kind == "JPEG" else _other)(content, kind, background, limits)
        if 2 <= orientation <= 8:
            pixels = _upright(pixels, orientation)
            notes.append("exif-rotated")
    except UnreadableImage as error:
        raise UnreadableImage(error.reason, code=error.code, name=name) from error.__cause__
    except MemoryError as error:
        raise UnreadableImage("too large for the free memory", code=TOO_LARGE, name=name) from error
    except Exception as error:
        code, reason = _explain(str(error))
        raise UnreadableImage(reason, code=code, name=name) from error
    if EXTENSIONS.get(name.rpartition(".")[2].lower(), kind) != kind:
        notes.append("wrong-extension")
    return Decoded(pixels=pixels, format=kind, notes=tuple(notes))


def read_file(path: str | bytes | os.PathLike[str], *, limits: Limits = TRAIN_LIMITS) -> bytes:
    """The bytes of a regular file; raises UnreadableImage for anything else and never waits on a FIFO."""
    name, flags = os.fsdecode(path), os.O_RDONLY
    for flag in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, flag, 0)
    try:
        handle = os.open(path, flags)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO"}
                kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
                raise UnreadableImage(f"{kind}, not a file", code=NOT_A_FILE)
            limits.check_bytes(status.st_size)
            return io.FileIO(handle, closefd=False).readall()
        finally:
            os.close(handle)
    except UnreadableImage as error:
        raise UnreadableImage(error.reason, code=error.code, name=name) from None
    except (OSError, ValueError) as error:
        known = {
            errno.ENOENT: "a broken link" if os.path.islink(name) else "no such file: moved or deleted",
            errno.EACCES: "permission denied",
            errno.ELOOP: "a link that leads to itself",
            errno.ENXIO: "a socket, not a file",
        }
        reason = known.get(getattr(error, "errno", 0)) or getattr(error, "strerror", None) or str(error)
        raise UnreadableImage(reason, code=NOT_A_FILE, name=name) from error


# ---- What is it? -----------------------------------------------------------------------------------------------


def _format(content: bytes) -> str:
    """The format, by content; raises UnreadableImage that says in words what a non-image is."""
    for magic, kind in MAGIC.items():
        if content.startswith(magic):
            # "BM" and "RIFF" begin other things too: the first are told by the length of the next header.
            if kind == "BMP" and len(content) > 17 and content[14] not in (12, 40, 52, 56, 64, 108, 124):
                break
            if kind == "WEBP" and not b"WEBP".startswith(content[8:12]):
                break
            return kind
    if not content.strip(b"\0"):
        raise UnreadableImage("only zero bytes" if content else "empty file", code=EMPTY)
    if any(magic.startswith(content) for magic in MAGIC):
        raise UnreadableImage(f"cut off after {len(content)} bytes", code=CUT_OFF)
    raise UnreadableImage(f"{_foreign(content[:1024])}, not an image", code=FOREIGN)


def _foreign(head: bytes) -> str:
    for magic, words in FOREIGN_MAGIC.items():
        if head.startswith(magic):
            return words
    if head[4:8] == b"ftyp":
        return {b"avi": "an AVIF file", b"hei": "a HEIC photo", b"mif": "a HEIC photo"}.get(head[8:11], "a video")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "an HTML page"
    if start.startswith((b"<?xml", b"{", b"[")):
        return "an XML file" if start[:1] == b"<" else "a JSON file"
    return "a text file" if all(byte > 31 or byte in b"\t\n\r\f" for byte in head) else "data of an unknown kind"


def _explain(message: str) -> tuple[str, str]:
    """The error code and the reason for what a parser said."""
    if re.search("truncat|not enough image data|unexpected end|EOF", message, re.IGNORECASE):
        return CUT_OFF, "cut off"
    if re.search("unsupported|unknown (pixel mode|data org)|not supported", message, re.IGNORECASE):
        return UNSUPPORTED, f"of a kind that is not supported ({message})"
    return DAMAGED, f"damaged ({message})" if message else "damaged"


def _cut_off(present: int, needed: int) -> UnreadableImage:
    return UnreadableImage(f"cut off at {100 * present // max(needed, 1)} %", code=CUT_OFF)


# ---- JPEG ------------------------------------------------------------------------------------------------------

_MARKER = re.compile(rb"\xff+([^\xff\0])")
# What libjpeg only warns about although pixels are wrong. Other warnings (bytes between segments, odd version
# numbers) leave the picture whole, and Pillow is asked.
_WRONG_PIXELS = re.compile("bad Huffman code|bad arithmetic code|instead of RST|Inconsistent progression")


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment's payload, up to and with the first start of scan."""
    position, marker = 2, 0
    while marker != 0xDA and (found := _MARKER.search(content, position)):
        marker, start = found.group(1)[0], found.end() + 2
        if marker == 0xD9:
            return
        position = start - 2
        if marker != 0x01 and not 0xD0 <= marker <= 0xD8:  # the others stand alone
            position += int.from_bytes(content[start - 2 : start], "big")
            yield marker, start, position


def _jpeg(content: bytes, kind: str, background: tuple[int, int, int], limits: Limits) -> Result:
    notes, exif, scan, progressive = [], b"", len(content), False
    for marker, start, end in _segments(content):
        if marker == 0xE1 and content.startswith(b"Exif\0\0", start):
            exif = exif or content[start + 6 : end]
        elif marker == 0xE2 and content.startswith(b"MPF\0", start):
            notes = ["animated"]
        elif marker in (0xC2, 0xC6, 0xCA, 0xCE):
            progressive = True
        elif marker == 0xDA:
            scan = end
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        limits.check_pixels(width, height)
        # Each scan of a progressive file passes over the whole picture: thousands of empty ones would never end.
        if progressive and content.count(b"\xff\xda", scan) * width * height > 20 * limits.max_pixels:
            raise UnreadableImage("too many scans in a progressive JPEG", code=TOO_LARGE)
        target = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(space, "RGB")
        pixels = simplejpeg.decode_jpeg(content, target)
        if target != "CMYK":
            return pixels, notes, _orientation(exif)
    except ValueError as error:
        if content.find(b"\xff\xd9", scan) < 0 or "remature end" in str(error):
            raise _jpeg_cut_off(content) from error
        if _WRONG_PIXELS.search(str(error)):
            raise UnreadableImage(f"damaged ({error})") from error
    # Only what decides pixels: JFIF and Adobe markers, the colour profile, tables and scans.
    kept = [
        content[start - 4 : end]
        for marker, start, end in _segments(content)
        if not 0xE1 <= marker <= 0xEF or marker == 0xEE or content.startswith(b"ICC_PROFILE\0", start)
    ]
    plain = b"\xff\xd8" + b"".join(kept) + content[scan:]
    pixels, more = _pillow(JpegImageFile(io.BytesIO(plain)), background, limits)
    return pixels, notes + more, _orientation(exif)


def _jpeg_cut_off(content: bytes) -> UnreadableImage:
    """libjpeg fills what is missing of a sequential file with grey 128: the rows above are what is there."""
    try:
        grey = simplejpeg.decode_jpeg(content, "GRAY", strict=False)[:, :, 0]
    except ValueError:
        return UnreadableImage("cut off", code=CUT_OFF)
    rows = np.flatnonzero((grey != 128).any(axis=1))
    if rows.size and rows[-1] + 1 < len(grey):
        return _cut_off(int(rows[-1]) + 1, len(grey))
    return UnreadableImage("cut off", code=CUT_OFF)


def _orientation(exif: bytes) -> int:
    """The Orientation tag, 1 to 8, of a TIFF structure (EXIF 2.3, section 4.6.4); 1 where it is missing or broken."""
    order = ">" if exif[:2] == b"MM" else "<"
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == 0x112:
                return int(value) if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows, columns = (-1 if orientation in which else 1 for which in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(pixels[::rows, ::columns])


# ---- The other formats: reduce to the first frame, then Pillow ---------------------------------------------------


@dataclass(slots=True)
class _Frame:
    """One frame for Pillow: `key` is the transparent sample value, `top` the largest value of a 16-bit sample."""

    content: bytes
    exif: int = 1
    animated: bool = False
    key: tuple[int, ...] | None = None
    top: int = 65535
    inverted: bool = False


def _other(content: bytes, kind: str, background: tuple[int, int, int], limits: Limits) -> Result:
    frame = REDUCE[kind](content, limits)
    image = PLUGINS[kind](io.BytesIO(frame.content))
    limits.check_pixels(*image.size)
    image.im = Image.new(image.mode, image.size, None).im
    pixels, notes = _pixels(image, background, frame)
    ...


_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

def _png(content: bytes, limits: Limits) -> _Frame:
    """PNG specification, 3rd edition, section 5: signature, then chunks of length, type, data, CRC."""
    frame, kept, at, kind = _Frame(), [content[:8]], 8, b""
    bits = colour = 0
    while kind != b"IEND":
        if len(content) < at + 12: raise cut off
        size, kind = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + size]
        if size >= 2**31 or at==8 and (kind, size) != (b"IHDR", 13): raise UnreadableImage("damaged (bad chunk)")
        if len(chunk) < size + 12: raise _cut
        if kind in KEPT and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]): raise UnreadableImage("damaged (checksum of KIND)")
        if kind == IHDR:
            w,h,bits,colour = struct.unpack(">IIBB", chunk[8:18])
            limits.check_pixels(w,h)
        elif kind == b"tRNS" and colour != 3: key
            continue
        ...
