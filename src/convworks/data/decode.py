"""The one image decoder: bytes of a file -> uint8 pixels as a person would see them.

Content decides, never the extension. Every image is decoded in full: a look at the header misses files that
were cut off. Sizes are checked before pixels are allocated. What each format needs first is in `frames.py`;
here are the names of formats, the reading of files, and the meaning of pixels: depth, palette, transparency,
inks, orientation. All functions are thread-safe; the heavy part of decoding releases the interpreter lock.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import stat
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from convworks.data.frames import (
    CUT_OFF,
    DAMAGED,
    EMPTY,
    FOREIGN,
    NOT_A_FILE,
    REDUCE,
    TOO_LARGE,
    UNSUPPORTED,
    Frame,
    Refused,
    check_pixels,
)
from convworks.errors import ConvworksError

NOTES = ("exif-rotated", "16-bit", "cmyk", "alpha", "palette", "1-bit", "animated", "wrong-extension")
MAGIC = {  # leading bytes -> format
    b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"RIFF": "WEBP",
}  # fmt: skip
FOREIGN_MAGIC = {  # what else is found under the name of an image
    b"%PDF": "a PDF document", b"%!PS": "a PostScript file", b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"PK\3\4": "a zip archive", b"\x1f\x8b": "a gzip archive", b"Rar!": "a RAR archive",
    b"\0\0\0\x0cjP": "a JPEG 2000 image", b"\xff\x0a": "a JPEG XL image", b"8BPS": "a Photoshop file",
    b"version https://git-lfs": "a Git LFS pointer", b"<?xml": "an XML file", b"{": "a JSON file",
    b"\x93NUMPY": "a NumPy array",
}  # fmt: skip
EXTENSIONS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "mpo": "JPEG", "png": "PNG", "apng": "PNG",
    "webp": "WEBP", "bmp": "BMP", "dib": "BMP", "gif": "GIF", "tif": "TIFF", "tiff": "TIFF", "heic": "HEIC",
    "heif": "HEIC", "avif": "AVIF", "jp2": "JPEG 2000", "jxl": "JPEG XL", "svg": "SVG",
}  # fmt: skip
PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile, "PNG": PngImageFile, "WEBP": WebPImageFile, "BMP": BmpImageFile,
    "GIF": GifImageFile, "TIFF": TiffImageFile,
}  # fmt: skip
WHY = {
    EMPTY: "it holds no picture; a copy or a download stopped before it began",
    FOREIGN: "only JPEG, PNG, WEBP, BMP, GIF and TIFF are read, recognised by their content",
    CUT_OFF: "the missing part would be filled with grey or noise",
    DAMAGED: "its pixels cannot be trusted",
    TOO_LARGE: "the limit protects memory and is checked before any pixel is decoded",
    UNSUPPORTED: "it cannot be turned into 8-bit grey or RGB without guessing",
    NOT_A_FILE: "only regular files that can be opened are read",
}


class UnreadableImage(ConvworksError):  # noqa: N818
    """An image that cannot be used; `reason` is a few words for lists and reports: "cut off at 61 %"."""

    def __init__(self, reason: str, *, code: str = DAMAGED, name: str = "") -> None:
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
        what = f"cannot read the image '{shown}': {reason}" if name else f"cannot read the image: {reason}"
        look = "ls -ld" if code == NOT_A_FILE else "file"
        try_ = f"{look} -- {shlex.quote(name)}" if name and shown == name else ""
        super().__init__(code, what, why=WHY[code], try_=try_)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Decoded:
    """Pixels (H, W, 1) grey or (H, W, 3) RGB, contiguous and writable; a format of MAGIC; some of NOTES."""

    pixels: NDArray[np.uint8]
    format: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image that is decoded and the largest file that is read."""

    max_pixels: int
    max_bytes: int


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

    EXIF orientation is applied, 16 bits are scaled by range, CMYK goes through its profile (else it is
    multiplied out), transparent pixels are laid over `background`. 16-bit grey is rounded; 16-bit colour
    keeps the high byte, less than one level off. Raises UnreadableImage for all else, whatever a parser
    raised.
    """
    try:
        _check_bytes(len(content), limits)
        kind = _format(content)
        frame = REDUCE[kind](content, limits.max_pixels)
        pixels, notes = frame.pixels, ["animated"] if frame.animated else []
        if pixels is None:
            pixels, notes = _pillow(kind, frame, background, limits.max_pixels)
        if frame.orientation > 1:
            pixels, notes = _upright(pixels, frame.orientation), ["exif-rotated", *notes]
    except Exception as error:
        reason, code = _explain(error)
        raise UnreadableImage(reason, code=code, name=name) from error
    if EXTENSIONS.get(name.rpartition(".")[2].lower(), kind) != kind:
        notes.append("wrong-extension")
    return Decoded(pixels=pixels, format=kind, notes=tuple(notes))


def _explain(error: Exception) -> tuple[str, str]:
    """The reason and the error code for what was raised on the way; parsers raise nearly anything."""
    if isinstance(error, Refused):
        return error.reason, error.code
    if isinstance(error, MemoryError):
        return "too large for the free memory", TOO_LARGE
    message = str(error)
    if isinstance(error, struct.error | IndexError) or re.search(
        "(?i)truncat|not enough image data", message
    ):
        return "cut off", CUT_OFF
    if re.search("^Unsupported|^unknown (pixel mode|data organization)|not yet supported", message):
        return f"of a kind that is not supported ({message})", UNSUPPORTED
    # ValueError and OSError were written for readers; of others only the kind is known.
    return f"damaged ({message})" if type(error) in (ValueError, OSError) else "damaged (header)", DAMAGED


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise Refused(f"too large: {size:,} bytes, the limit is {limits.max_bytes:,}", TOO_LARGE)


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
                raise Refused(f"{kind}, not a file", NOT_A_FILE)
            _check_bytes(status.st_size, limits)
            return io.FileIO(handle, closefd=False).readall()
        finally:
            os.close(handle)
    except Refused as error:
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


def _format(content: bytes) -> str:
    """The format, by content; raises Refused that says in words what a non-image is."""
    for magic, kind in MAGIC.items():
        if content.startswith(magic):
            # "BM" and "RIFF" begin other things too; the length of a BMP's second header is one of few.
            if kind == "BMP" and len(content) > 17 and content[14] not in (12, 40, 52, 56, 64, 108, 124):
                break
            if kind == "WEBP" and not b"WEBP".startswith(content[8:12]):
                break
            return kind
    if not content.strip(b"\0"):
        raise Refused("only zero bytes" if content else "empty file", EMPTY)
    if any(magic.startswith(content) for magic in MAGIC):
        raise Refused(f"cut off after {len(content)} bytes", CUT_OFF)
    raise Refused(f"{_foreign(content[:1024])}, not an image", FOREIGN)


def _foreign(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.lower().startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "an HTML page"
    if b"<svg" in start:
        return "an SVG drawing"
    if head[4:8] == b"ftyp":
        return {b"avi": "an AVIF image", b"hei": "a HEIC photo"}.get(head[8:11], "a HEIC photo or a video")
    for magic, words in FOREIGN_MAGIC.items():
        if start.startswith(magic):
            return words
    text = all(byte > 31 or byte in b"\t\n\r\f" for byte in head)
    return "a text file" if text else "data of an unknown kind"


def _pillow(
    kind: str, frame: Frame, background: tuple[int, int, int], max_pixels: int
) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels and notes of a reduced frame."""
    image: Image.Image = PLUGINS[kind](io.BytesIO(frame.content))
    check_pixels(*image.size, max_pixels)
    if kind == "TIFF":  # left to allocate it, Pillow would compare the size with a limit of its own, and warn
        image.im = Image.new(image.mode, image.size).im
    image.load()
    notes = {"CMYK": ["cmyk"], "P": ["palette"], "PA": ["palette"], "1": ["1-bit"]}.get(image.mode, [])
    if frame.bits > 8:
        notes = ["16-bit", *notes]
    image = _eight_bits(image, frame)
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            notes = [*notes, "alpha"]
        image = _over(image, background)
    if frame.animated:
        notes = [*notes, "animated"]
    pixels = np.array(image)
    return pixels.reshape(*pixels.shape[:2], -1), notes


def _eight_bits(image: Image.Image, frame: Frame) -> Image.Image:
    """Any mode that can be understood -> L, LA, RGB or RGBA."""
    if image.mode.startswith("I;16"):
        return _sixteen_bits(image, frame)
    if image.mode == "CMYK":
        return _from_inks(image)
    target = {"1": "L", "La": "LA", "YCbCr": "RGB", "P": "RGBA", "PA": "RGBA"}.get(image.mode, image.mode)
    if target not in ("L", "LA", "RGB", "RGBA"):
        kinds = {"F": "floating-point numbers", "I": "32-bit integers", "LAB": "CIE Lab colours"}
        raise Refused(f"an image of {kinds.get(image.mode, image.mode)}", UNSUPPORTED)
    if target != image.mode:
        image = image.convert(target)
    if frame.grey and image.mode == "RGBA":
        image = Image.merge("LA", (image.getchannel("R"), image.getchannel("A")))
    if frame.key:
        top = (1 << frame.bits) - 1
        key = [value >> 8 if frame.bits == 16 else value * 255 // top for value in frame.key]
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        image.putalpha(_mask((pixels != key).any(axis=2)))
    return image


def _sixteen_bits(image: Image.Image, frame: Frame) -> Image.Image:
    """Grey of 12 or 16 bits -> 8 bits, by range: 65535 is white, and v / 257 is rounded."""
    values = np.asarray(image).astype(np.uint16)
    opaque = _mask(values != frame.key[0]) if frame.key else None
    if frame.bits == 12:
        values <<= 4
        values |= values >> 12
    if frame.white_is_zero:
        values ^= 0xFFFF
    # round(v / 257) without leaving 16 bits; all from 65407 on are white
    values = np.minimum(values, 65407) + np.uint16(128)
    grey = Image.fromarray(((values - (values >> 8)) >> 8).astype(np.uint8))
    return Image.merge("LA", (grey, opaque)) if opaque else grey


def _mask(opaque: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))


def _from_inks(image: Image.Image) -> Image.Image:
    """CMYK -> RGB through the embedded profile, else R = (1 - C)(1 - K) and so on."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            found = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a broken profile, or one for other inks
            found = None
        if found is not None:
            return found
    return image.convert("RGB")


def _over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """LA or RGBA over a plain background; grey stays grey over grey."""
    grey = image.mode == "LA" and len(set(background)) == 1
    canvas = Image.new("L" if grey else "RGB", image.size, background[0] if grey else background)
    canvas.paste(image.convert(canvas.mode), mask=image.getchannel("A"))
    return canvas


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(H, W, C) as stored -> as seen, for EXIF orientation 2 to 8; 5 and above exchange height and width."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    rows, columns = (-1 if orientation in which else 1 for which in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(pixels[::rows, ::columns])
