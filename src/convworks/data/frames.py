"""The first frame of an image file, reduced to what makes its pixels; sizes are checked first.

JPEG files are decoded here. Of PNG, GIF and TIFF files only the header, palette, transparency and data of the
first frame are kept, for Pillow to decode: text bombs, metadata and lists of frames never reach a parser, and
Pillow has nothing left to warn about, so no filter of warnings (which threads would share) is needed. Every
function takes the bytes of a file and the largest number of pixels, and raises Refused, or struct.error or
IndexError where the bytes end too early.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

EMPTY, FOREIGN, CUT_OFF, DAMAGED = "D120", "D121", "D122", "D123"
TOO_LARGE, UNSUPPORTED, NOT_A_FILE = "D124", "D125", "D126"


# Segments, chunks or extensions of one file: 500 MB of PNG are 65,000 chunks of 8 kB. More only waste time.
_PARTS = 200_000


class Refused(Exception):  # noqa: N818
    """Why an image is not used: an error code and a few words."""

    def __init__(self, reason: str, code: str = DAMAGED) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


@dataclass(slots=True)
class Frame:
    """The first frame: decoded pixels (H, W, 1) or (H, W, 3), or else a file of this one frame for Pillow."""

    content: bytes
    pixels: NDArray[np.uint8] | None = None
    animated: bool = False  # more frames follow
    orientation: int = 1  # EXIF, 1 to 8
    bits: int = 8  # of a sample, in PNG and TIFF
    white_is_zero: bool = False  # 16-bit TIFF
    grey: bool = False  # grey with alpha, which Pillow opens as colour
    key: tuple[int, ...] = ()  # the one transparent grey or colour of a PNG without palette


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise Refused(f"no pixels ({width} x {height})")
    if width * height > max_pixels:
        limit = f"the limit is {max_pixels / 1e6:,.4g} megapixels"
        raise Refused(f"too large: {width:,} x {height:,} pixels, {limit}", TOO_LARGE)


def cut_off(present: int = 0, needed: int = 0) -> Refused:
    """`needed` 0 where it is not known how much there should be."""
    return Refused(f"cut off at {100 * present // needed} %" if needed else "cut off", CUT_OFF)


def orientation(exif: bytes) -> int:
    """The Orientation tag, 1 to 8, of a TIFF structure (EXIF 2.3, section 4.6.4); 1 if missing or broken."""
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


# ---- JPEG (ITU-T T.81, annex B) ----------------------------------------------------------------------------

_MARKER = re.compile(rb"\xff+([^\xff\0])")
# Complaints that leave the picture whole, and layouts the fast decoder does not know: Pillow decides. About
# most others (wrong codes, lost restart markers) libjpeg would only warn, and fill in.
_HARMLESS = re.compile(
    "extraneous bytes|JFIF revision|Adobe color transform|bad ICC|Invalid SOS parameters for sequential"
    "|determine subsampling|color conversion|colorspace"
)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the payload of each segment, up to and with the first start of scan."""
    position = 2
    for _ in range(_PARTS):
        found = _MARKER.search(content, position)
        if not found:
            return
        marker, position = found.group(1)[0], found.end()
        if marker != 0x01 and not 0xD0 <= marker <= 0xD9:  # those stand alone
            position += int.from_bytes(content[position : position + 2], "big")
            yield marker, found.end() + 2, position
        if marker in (0xD9, 0xDA):
            return
    raise Refused(f"damaged (more than {_PARTS:,} segments)")


def jpeg(content: bytes, max_pixels: int) -> Frame:
    frame, exif, scan, progressive = Frame(content), b"", len(content), False
    for marker, start, end in _segments(content):
        if marker == 0xE1 and content.startswith(b"Exif\0\0", start):
            exif = exif or content[start + 6 : end]
        elif marker == 0xE2 and content.startswith(b"MPF\0", start):
            frame.animated = True
        elif marker in (0xC2, 0xC6, 0xCA, 0xCE):
            progressive = True
        elif marker == 0xDA:
            scan = end
    frame.orientation = orientation(exif) if exif else 1
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        check_pixels(width, height, max_pixels)
        # Every scan of a progressive file passes over the whole picture: thousands of them take for ever.
        if progressive and content.count(b"\xff\xda", scan) * width * height > 20 * max_pixels:
            raise Refused("too large: too many scans in a progressive JPEG", TOO_LARGE)
        target = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(space, "RGB")
        pixels = simplejpeg.decode_jpeg(content, target)
        if target != "CMYK":
            frame.pixels = pixels
    except ValueError as error:
        if content.find(b"\xff\xd9", scan) < 0 or "remature end" in str(error):
            raise _jpeg_cut_off(content) from error
        if not _HARMLESS.search(str(error)):
            raise Refused(f"damaged ({error})") from error
    if frame.pixels is None:
        frame.content = _plain_jpeg(content, scan)
    return frame


def _plain_jpeg(content: bytes, scan: int) -> bytes:
    """Without EXIF and other notes: left are the JFIF and Adobe markers, colour profile, tables and scans."""
    kept = [
        content[start - 4 : end]
        for marker, start, end in _segments(content)
        if not 0xE1 <= marker <= 0xED or content.startswith(b"ICC_PROFILE\0", start)
    ]
    return b"\xff\xd8" + b"".join(kept) + content[scan:]


def _jpeg_cut_off(content: bytes) -> Refused:
    """libjpeg fills what is missing of a sequential file with grey 128: the rows above that are there."""
    try:
        grey = simplejpeg.decode_jpeg(content, "GRAY", strict=False)
    except ValueError:
        return cut_off()
    rows = np.flatnonzero((grey != 128).any(axis=(1, 2)))
    missing = rows.size and rows[-1] + 1 < len(grey)
    return cut_off(int(rows[-1]) + 1, len(grey)) if missing else cut_off()


# ---- PNG (third edition, section 5) ------------------------------------------------------------------------

_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, whole chunk) up to IEND; checksums are compared where they guard pixels."""
    kind, end = b"", 8
    for _ in range(_PARTS):
        size, kind = struct.unpack_from(">I4s", content, end)
        if size >= 2**31 or not kind.isalpha() or (end == 8) != (kind == b"IHDR"):
            raise Refused("damaged (not a chunk of a PNG)")
        chunk = content[end : end + 12 + size]
        end += 12 + size
        if end > len(content):
            raise cut_off()
        if kind in _PNG_KEPT and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise Refused(f"damaged (checksum of {kind.decode()})")
        yield kind, chunk
        if kind == b"IEND":
            return
    raise Refused(f"damaged (more than {_PARTS:,} chunks)")


def png(content: bytes, max_pixels: int) -> Frame:
    frame, kept, colour, data_seen = Frame(content), [content[:8]], 0, False
    for kind, chunk in _png_chunks(content):
        if kind == b"IHDR":
            width, height, frame.bits, colour = struct.unpack_from(">IIBB", chunk, 8)
            check_pixels(width, height, max_pixels)
        data_seen = data_seen or kind == b"IDAT"
        if kind == b"eXIf":
            frame.orientation = orientation(chunk[8:-4])
        elif kind == b"acTL" and not data_seen:
            frame.animated = chunk[8:12] > b"\0\0\0\1"
        elif kind == b"tRNS" and colour != 3:
            frame.key = struct.unpack_from(">H" if colour == 0 else ">HHH", chunk, 8)
        elif kind in _PNG_KEPT:
            kept.append(chunk)
    frame.grey = colour == 4
    frame.content = b"".join(kept)
    return frame


# ---- GIF (89a, section 20 and following) -------------------------------------------------------------------

_GIF_BLOCKS = 1_000_000  # of up to 255 bytes: more is an attempt to keep the reader busy


def _after_blocks(content: bytes, at: int) -> int:
    """Where the chain of sub-blocks that starts at `at` ends."""
    for _ in range(_GIF_BLOCKS):
        size = content[at]
        at += size + 1
        if not size:
            return at
    raise Refused(f"damaged (more than {_GIF_BLOCKS:,} blocks)")


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_extensions(content: bytes, at: int) -> tuple[int, bytes]:
    """Where the next frame or the end is, and the graphic control before it: only transparency is kept."""
    control = b""
    for _ in range(_PARTS):
        if content[at] != 0x21:
            return at, control
        if content[at + 1] == 0xF9:
            control = b"!\xf9\4" + bytes((content[at + 3] & 1, 0, 0, content[at + 6], 0))
        at = _after_blocks(content, at + 2)
    raise Refused(f"damaged (more than {_PARTS:,} extensions)")


def gif(content: bytes, max_pixels: int) -> Frame:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    start = 13 + _palette_bytes(flags)
    at, control = _after_extensions(content, start)
    if content[at] != 0x2C:
        raise Refused("damaged (no picture in the GIF)")
    left, top, columns, rows, flags = struct.unpack_from("<HHHHB", content, at + 1)
    check_pixels(columns, rows, max_pixels)
    width, height = max(width, left + columns), max(height, top + rows)
    check_pixels(width, height, max_pixels)
    end = _after_blocks(content, at + 11 + _palette_bytes(flags))
    screen = content[:6] + struct.pack("<HH", width, height) + content[10:start]
    frame = Frame(screen + control + content[at:end] + b";")
    with contextlib.suppress(IndexError):  # cut off after the first frame
        frame.animated = content[_after_extensions(content, end)[0]] == 0x2C
    return frame


# ---- TIFF (revision 6, section 2; BigTIFF) -----------------------------------------------------------------

_TIFF_SIZES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8), start=1)) | {16: 8}  # bytes of a type
_TIFF_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
_TIFF_SINGLE = (256, 257, 259, 262, 266, 274, 277, 278, 284, 292, 293, 317, 322, 323)
_TIFF_LISTS = (258, 273, 279, 320, 324, 325, 338, 339, 347, 529, 530, 532)
_TIFF_PROFILE = 34675
_TIFF_TAG_BYTES = 16_000_000


def _tiff_tags(content: bytes, order: str, big: bool) -> tuple[list[bytes], dict[int, list[int]], int]:
    """Of the first directory: the entries that make pixels, their integers, where the next directory is."""
    word, counter, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    (at,) = struct.unpack_from(order + word, content, 8 if big else 4)
    (count,) = struct.unpack_from(order + counter, content, at)
    at += struct.calcsize(counter)
    entries, values = [], {}
    for entry in range(at, at + min(count, 65536) * entry_bytes, entry_bytes):
        tag, kind, number = struct.unpack_from(order + "HH" + word, content, entry)
        if tag not in _TIFF_SINGLE and tag not in _TIFF_LISTS and tag != _TIFF_PROFILE:
            continue
        size = number * _TIFF_SIZES.get(kind, 0)
        place = entry + entry_bytes - struct.calcsize(word)
        if size > struct.calcsize(word):
            (place,) = struct.unpack_from(order + word, content, place)
        if not 0 < size <= _TIFF_TAG_BYTES or (tag in _TIFF_SINGLE and number > 1):
            raise Refused(f"damaged (tag {tag} of the TIFF)")
        if place + size > len(content):
            raise cut_off()
        if tag != 274:  # the orientation is applied here, not by Pillow
            entries.append(content[entry : entry + entry_bytes])
        if kind in _TIFF_INTEGERS and tag != _TIFF_PROFILE:
            values[tag] = np.frombuffer(content, order + _TIFF_INTEGERS[kind], number, place).tolist()
    (following,) = struct.unpack_from(order + word, content, at + count * entry_bytes)
    return entries, values, following


def _check_strips(
    content: bytes, values: dict[int, list[int]], height: int, width: int, max_pixels: int
) -> None:
    """Every strip or tile must be listed and lie inside the file: what is missing would be left black."""
    if 324 in values:
        columns, rows = values[322][0], values[323][0]
        check_pixels(columns, rows, max_pixels)
        offsets, sizes = values[324], values.get(325, [])
    else:
        columns, rows = width, min(values.get(278, [height])[0], height) or height
        offsets, sizes = values.get(273, []), values.get(279, [])
    planes = values.get(277, [1])[0] if values.get(284) == [2] else 1
    if len(offsets) < -(-width // columns) * -(-height // rows) * planes:
        raise Refused("damaged (strips of the TIFF are missing)")
    end = max((offset + size for offset, size in zip(offsets, sizes, strict=False)), default=max(offsets))
    if end > len(content):
        raise cut_off(len(content), end)


def tiff(content: bytes, max_pixels: int) -> Frame:
    order, big = "<" if content[:1] == b"I" else ">", b"+" in content[2:4]
    if big and order == ">":
        raise Refused("a big-endian BigTIFF", UNSUPPORTED)
    entries, values, following = _tiff_tags(content, order, big)
    width, height = values.get(256, [0])[0], values.get(257, [0])[0]
    check_pixels(width, height, max_pixels)
    if 3 in values.get(339, []):
        raise Refused("a floating-point TIFF: its values have no fixed range", UNSUPPORTED)
    if 2 in values.get(339, []):
        raise Refused("a TIFF of signed integers: its values have no fixed range", UNSUPPORTED)
    if values.get(262) == [6] and values.get(259) == [1] and values.get(530) != [1, 1]:
        raise Refused("a TIFF of uncompressed, subsampled YCbCr", UNSUPPORTED)
    if values.get(277, [1])[0] > 6:
        raise Refused(f"a TIFF of {values[277][0]:,} channels", UNSUPPORTED)
    _check_strips(content, values, height, width, max_pixels)
    # The reduced directory goes to the end, at an even place; all other offsets stay as they are.
    word, counter = ("Q", "Q") if big else ("I", "H")
    padding = b"\0" * (len(content) % 2)
    header = content[: 8 if big else 4] + struct.pack(order + word, len(content) + len(padding))
    directory = struct.pack(order + counter, len(entries)) + b"".join(entries) + struct.pack(order + word, 0)
    return Frame(
        header + content[len(header) :] + padding + directory,
        animated=following != 0,
        orientation=min(max(values.get(274, [1])[0], 1), 8),
        bits=max(values.get(258, [1])),
        white_is_zero=values.get(262, [0]) == [0],
    )


# ---- WEBP (RFC 9649) and BMP -------------------------------------------------------------------------------


def webp(content: bytes, max_pixels: int) -> Frame:
    size, kind = struct.unpack_from("<I4x4s", content, 4)
    if size + 8 > len(content):
        raise cut_off(len(content), size + 8)
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        packed = int.from_bytes(content[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    check_pixels(width, height, max_pixels)
    frame, frames, parts, at = Frame(content), 0, 0, 12
    while at + 8 <= len(content) and parts < _PARTS:
        kind, size = struct.unpack_from("<4sI", content, at)
        parts, frames = parts + 1, frames + (kind == b"ANMF")
        if kind == b"EXIF":
            frame.orientation = orientation(content[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0"))
        at += 8 + size + size % 2
    frame.animated = frames > 1
    return frame


_BMP_RUN_LENGTH_BYTES = 8_000_000  # Pillow decodes these in Python, about 0.2 microseconds a byte


def bmp(content: bytes, max_pixels: int) -> Frame:
    offset, header = struct.unpack_from("<II", content, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    check_pixels(width, abs(height), max_pixels)
    if compression in (1, 2) and len(content) > _BMP_RUN_LENGTH_BYTES:
        raise Refused(f"too large: a run-length BMP of {len(content):,} bytes", TOO_LARGE)
    needed = offset + (width * bits + 31) // 32 * 4 * abs(height) - 3  # the last padding may be missing
    if compression in (0, 3) and needed > len(content):
        raise cut_off(len(content), needed)
    return Frame(content)


REDUCE: dict[str, Callable[[bytes, int], Frame]] = {
    "JPEG": jpeg, "PNG": png, "GIF": gif, "TIFF": tiff, "WEBP": webp, "BMP": bmp,
}  # fmt: skip
