"""Files cut off, odd and hostile JPEG and GIF files, and mutated files of all formats."""

from __future__ import annotations

import io
import random
import struct
import time
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from convworks.data.decode import Limits, UnreadableImage, decode
from tests.data.hostile import (
    EXTENSION,
    Pixels,
    encode,
    exif,
    lossless,
    picture,
    png_chunk,
    quarters,
    stored_for,
    tiff_file,
)


def reason(content: bytes, **options: Any) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(content, **options)
    return caught.value.reason


def by_pillow(content: bytes) -> Pixels:
    pixels = np.array(Image.open(io.BytesIO(content)))
    return pixels.reshape(*pixels.shape[:2], -1)


# ---- Cut off -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXTENSION)
def test_a_file_cut_near_its_end_is_whole_or_refused(kind: str) -> None:
    content = lossless(picture(), kind)
    whole = decode(content).pixels
    reasons = []
    for missing in range(1, 60):
        try:
            np.testing.assert_array_equal(decode(content[:-missing]).pixels, whole)
        except UnreadableImage as error:
            reasons.append(error.reason)
    assert len(reasons) > 40
    assert all("cut off" in words for words in reasons)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_cut_jpeg_with_an_end_marker_put_back_is_not_filled_with_grey(options: dict[str, Any]) -> None:
    content = encode(picture(), "JPEG", **options)
    scan = content.index(b"\xff\xda") + 20
    for cut in range(scan, len(content) - 4, 97):
        assert reason(content[:cut] + b"\xff\xd9").startswith(("cut off", "damaged"))


def test_how_much_is_there_is_said() -> None:
    tall = picture(800, 40)
    for kind, low, high in (("JPEG", 40, 60), ("WEBP", 49, 51), ("BMP", 49, 51), ("TIFF", 49, 51)):
        content = encode(tall, kind)
        found = reason(content[: len(content) // 2])
        assert found.startswith("cut off at ")
        assert low <= int(found.removeprefix("cut off at ").removesuffix(" %")) <= high


# ---- JPEG --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_jpeg_pixels_are_those_of_libjpeg(subsampling: str) -> None:
    content = simplejpeg.encode_jpeg(picture(37, 53), colorsubsampling=subsampling)
    np.testing.assert_array_equal(decode(content).pixels, by_pillow(content))


def test_jpeg_of_a_layout_unknown_to_the_fast_decoder_goes_to_pillow() -> None:
    content = bytearray(encode(picture(32, 32), "JPEG", keep_rgb=True, subsampling=0))
    frame = content.index(b"\xff\xc0")
    # The 48 blocks of three equal components become those of 32 x 48 pixels whose green is the finest.
    content[frame + 7 : frame + 9] = b"\0\x30"
    content[frame + 14] = 0x21
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(bytes(content))
    np.testing.assert_array_equal(decode(bytes(content)).pixels, by_pillow(bytes(content)))


def test_jpeg_with_harmless_oddities_is_decoded() -> None:
    content = encode(picture(), "JPEG")
    whole = decode(content).pixels
    stuffed = content[:-2] + b"\0\0\0" + content[-2:]
    trailing = content + b"<!-- served by proxy -->"
    fill = content[:2] + b"\xff\xff" + content[2:]
    version = content.replace(b"JFIF\0\1\1", b"JFIF\0\7\1")
    for odd in (stuffed, trailing, fill, version):
        assert odd != content
        np.testing.assert_array_equal(decode(odd).pixels, whole)


def test_jpeg_with_a_lost_restart_marker_is_refused() -> None:
    content = encode(picture(), "JPEG", restart_marker_rows=1)
    first = content.index(b"\xff\xd0", content.index(b"\xff\xda"))
    assert reason(content[:first] + b"\xff\xd3" + content[first + 2 :]).startswith("damaged")


def test_a_progressive_jpeg_of_endless_scans_is_refused() -> None:
    content = encode(picture(64, 64), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    bomb = content[:last] + content[last:-2] * 30 + content[-2:]
    limits = Limits(max_pixels=64 * 64, max_bytes=10**6)
    np.testing.assert_array_equal(decode(content, limits=limits).pixels, decode(content).pixels)
    assert "too many scans" in reason(bomb, limits=limits)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_both_byte_orders_and_broken_exif(order: str) -> None:
    content = lossless(stored_for(quarters(), 6), "JPEG")
    plain = decode(content).pixels
    mark = b"II*\0" if order == "<" else b"MM\0*"

    def with_exif(*entry: int, count: int = 1) -> Pixels:
        body = mark + struct.pack(order + "IH", 8, count) + struct.pack(order + "HHIHxx", *entry)
        payload = b"Exif\0\0" + body
        return decode(
            content[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + content[2:]
        ).pixels

    assert np.abs(with_exif(0x112, 3, 1, 6).astype(int) - quarters()).max() <= 4
    for entry, count in (((0x112, 3, 1, 9), 1), ((0x112, 2, 1, 6), 1), ((0x111, 3, 1, 6), 65535)):
        np.testing.assert_array_equal(with_exif(*entry, count=count), plain)


# ---- Frames -----------------------------------------------------------------------------------------------


def test_further_frames_are_never_read() -> None:
    frames = [Image.fromarray(picture(16, 24, seed=i)) for i in range(100)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        whole = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        start = time.perf_counter()
        assert "animated" in decode(whole).notes
        assert time.perf_counter() - start < 0.1
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(content[: len(content) // 2]).pixels, decode(content).pixels)


def test_the_limit_of_pillow_itself_is_never_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 * 6 // 10)  # Pillow would warn of these as bombs
    gif = lossless(picture(), "GIF")
    files = [lossless(picture(), kind) for kind in EXTENSION] + [gif[:6] + b"\1\0\1\0" + gif[10:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [decode(content).pixels.shape for content in files] == [(48, 64, 3)] * 7


def test_png_with_a_changed_byte_is_refused() -> None:
    content = encode(picture(), "PNG", compress_level=0)
    for place in range(100, len(content) - 20, 500):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        assert reason(changed) == "damaged (checksum of IDAT)"


def test_files_of_countless_parts_are_refused_soon() -> None:
    jpeg, gif = encode(picture(8, 8), "JPEG"), encode(picture(8, 8), "GIF")
    screen = 13 + 3 * (2 << (gif[10] & 7))
    start = time.perf_counter()
    assert "segments" in reason(jpeg[:2] + b"\xff\xfe\0\2" * 10**6 + jpeg[2:])
    assert "extensions" in reason(gif[:screen] + b"!\xfe\0" * 10**6 + gif[screen:])
    assert "chunks" in reason(encode(picture(8, 8), "PNG")[:33] + png_chunk(b"tEXt", b"") * 10**6)
    assert time.perf_counter() - start < 2.0


def test_gif_of_tiny_blocks_and_of_a_frame_beyond_the_screen() -> None:
    content = encode(picture(16, 24), "GIF")
    start = 13 + 3 * 256
    comment = b"!\xfe" + b"\1x" * 900_000 + b"\0"
    begun = time.perf_counter()
    np.testing.assert_array_equal(
        decode(content[:start] + comment + content[start:]).pixels, decode(content).pixels
    )
    assert "blocks" in reason(content[:start] + comment[:-1] + comment[2:-1] + comment[2:] + content[start:])
    assert time.perf_counter() - begun < 2.0
    small = content[:6] + struct.pack("<HH", 2, 3) + content[10:]
    np.testing.assert_array_equal(decode(small).pixels, decode(content).pixels)


# ---- Fuzzing -----------------------------------------------------------------------------------------------


def seeds(kind: str) -> list[bytes]:
    """Small valid files of a format, of different make."""
    colours, grey, alpha = picture(16, 24), picture(16, 24, 1), picture(16, 24, 4)
    options: dict[str, list[tuple[Pixels, dict[str, Any]]]] = {
        "JPEG": [
            (colours, {"exif": exif(6)}),
            (colours, {"progressive": True}),
            (grey, {"restart_marker_rows": 1}),
        ],
        "PNG": [(colours, {}), (alpha, {"exif": exif(8)}), (grey, {"mode": "P"}), (grey, {"mode": "I;16"})],
        "WEBP": [(colours, {}), (alpha, {"lossless": True}), (colours, {"exif": exif(3)})],
        "BMP": [(colours, {}), (grey, {"mode": "1"}), (colours, {"mode": "P"}), (alpha, {})],
        "GIF": [(colours, {}), (grey, {"transparency": 3}), (colours, {"interlace": 1})],
        "TIFF": [
            (colours, {"compression": c})
            for c in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")
        ],
    }
    found = [encode(pixels, kind, **extra) for pixels, extra in options[kind]]
    if kind == "TIFF":
        found += [
            tiff_file(picture(16, 24, 1)[:, :, 0].astype(np.uint16), {}, order=order, big=big)
            for order, big in ((">", False), ("<", True))
        ]
    if kind == "JPEG":
        found.append(simplejpeg.encode_jpeg(alpha, colorspace="CMYK"))
    return found


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three of: flipped bits, overwritten or inserted bytes, a piece cut out, repeated or swapped."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        near = draw.randrange(min(len(data), 80)) if data else 0  # headers are small and matter most
        action = draw.randrange(7)
        if action == 0 and data:
            data[draw.choice((near, draw.randrange(len(data))))] ^= 1 << draw.randrange(8)
        elif action == 1:
            data[near : near + 4] = draw.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", draw.randbytes(4))
            )
        elif action == 2:
            data[a:a] = draw.randbytes(draw.randrange(1, 9))
        elif action == 3:
            del data[a : min(b, a + 64)]
        elif action == 4:
            data[b:b] = data[a : min(b, a + 64)]
        elif action == 5:
            middle = (a + b) // 2
            data[a:b] = data[middle:b] + data[a:middle]
        else:
            del data[b:]
    return bytes(data)


def mutate_png(content: bytes, draw: random.Random) -> bytes:
    """One chunk changed, dropped, repeated or moved, with the checksums made right again."""
    chunks, at = [], 8
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        chunks.append((kind, content[at + 8 : at + 8 + size]))
        at += 12 + size
    index, action = draw.randrange(len(chunks)), draw.randrange(6)
    kind, data = chunks.pop(index)
    if action == 0 and kind == b"IDAT":  # the filtered rows, not their compression
        data = zlib.compress(mutate(zlib.decompress(data), draw))
    elif action < 3:
        data = mutate(data, draw)
    repeats = draw.choice((0, 2)) if action == 3 else 1
    place = draw.randrange(len(chunks) + 1) if action == 4 else index
    chunks[place:place] = [(kind, data)] * repeats
    return content[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


@dataclass(slots=True)
class Outcome:
    decoded: int = 0
    unreadable: int = 0
    slowest: float = 0.0  # seconds


def fuzz(kind: str, *, count: int, seed: int = 0) -> Outcome:
    """Decode `count` mutants of the seeds of a format; anything but pixels or UnreadableImage is raised."""
    outcome, files = Outcome(), seeds(kind)
    for number in range(count):
        draw = random.Random(f"{seed} {kind} {number}")
        change = mutate_png if kind == "PNG" and draw.random() < 0.7 else mutate
        content = change(files[number % len(files)], draw)
        start = time.perf_counter()
        try:
            decode(content)
            outcome.decoded += 1
        except UnreadableImage:
            outcome.unreadable += 1
        outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
    return outcome


@pytest.mark.parametrize("kind", EXTENSION)
def test_mutated_files_are_decoded_or_refused(kind: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = fuzz(kind, count=400)
    assert [str(warning.message) for warning in caught] == []
    assert outcome.decoded > 20
    assert outcome.unreadable > 100
    assert outcome.slowest < 2.0
