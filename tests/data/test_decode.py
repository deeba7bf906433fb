"""The decoder against the hostile corpus, against Pillow where Pillow is right, and against mutated files."""

from __future__ import annotations

import io
import os
import random
import resource
import socket
import struct
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from convworks.data import decode as module
from convworks.data.decode import NOTES, SERVE_LIMITS, Limits, UnreadableImage, decode, read_file
from tests.data.hostile import (
    EXTENSION,
    GROUPS,
    Case,
    Pixels,
    encode,
    exif,
    lossless,
    over,
    picture,
    png_chunk,
    png_file,
    quarters,
    stored_for,
    tiff_file,
    write_corpus,
)


@pytest.fixture(autouse=True)
def no_warning_leaks() -> Iterator[None]:
    """A warning must not reach anybody, and must not turn a good image into an error either."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(warning.message) for warning in caught] == []


def reason(content: bytes, **options: Any) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(content, **options)
    return caught.value.reason


def by_pillow(content: bytes) -> Pixels:
    pixels = np.array(Image.open(io.BytesIO(content)))
    return pixels.reshape(*pixels.shape[:2], -1)


# ---- The corpus --------------------------------------------------------------------------------------------


def problem(case: Case) -> str:
    """What is wrong with the outcome of a case, in words; empty where all is right."""
    try:
        found = decode(read_file(case.path), name=str(case.path))
    except UnreadableImage as error:
        if case.expected == "unreadable" and any(words in error.reason for words in case.words):
            return ""
        return f"unreadable: {error.reason}"
    if case.pixels is None:
        return "was decoded"
    if found.pixels.shape != case.pixels.shape:
        return f"shape {found.pixels.shape}, not {case.pixels.shape}"
    error = int(np.abs(found.pixels.astype(int) - case.pixels).max())
    if error > case.tolerance:
        return f"{error} levels off"
    return "" if found.notes == case.notes else f"notes {found.notes}, not {case.notes}"


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_the_corpus_is_decoded_or_named_for_what_it_is(group: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problems, slowest = {}, 0.0
    for case in write_corpus(tmp_path, [group]):
        start = time.perf_counter()
        if words := problem(case):
            problems[case.path.name] = words
        slowest = max(slowest, time.perf_counter() - start)
    assert problems == {}
    assert slowest < 2.0
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * (1 if sys.platform == "darwin" else 1024) < 256e6


# ---- Cut off -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXTENSION)
def test_a_file_cut_near_its_end_is_whole_or_refused(kind: str) -> None:
    content = lossless(picture(), kind)
    whole = decode(content).pixels
    refused = 0
    for missing in range(1, 60):
        try:
            np.testing.assert_array_equal(decode(content[:-missing]).pixels, whole)
        except UnreadableImage as error:
            assert "cut off" in error.reason
            refused += 1
    assert refused > 40


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
    content = bytearray(encode(picture(32, 32), "JPEG", subsampling=0))
    frame = content.index(b"\xff\xc0")
    content[frame + 11 : frame + 19 : 3] = (
        b"\x22\x22\x22"  # all components 2x2: the same blocks in another order
    )
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


# ---- Meaning of pixels -------------------------------------------------------------------------------------


def test_every_16_bit_value_is_rounded_to_the_nearest_of_256() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = (2 * values.astype(int) + 257) // 514  # v / 257 is never half-way
    for content in (png_file(values[:, :, None], bits=16, colour=0), tiff_file(values, {})):
        np.testing.assert_array_equal(decode(content).pixels[:, :, 0], expected)


def test_the_background_is_chosen_and_grey_stays_grey_over_grey() -> None:
    colours, alpha = picture(), picture(channels=1, seed=5)[:, :, 0]
    grey = picture(channels=1)
    found = decode(encode(np.dstack([colours, alpha]), "PNG"), background=(10, 200, 0)).pixels
    assert np.abs(found.astype(int) - over(colours, alpha, (10, 200, 0))).max() <= 1
    content = encode(np.dstack([grey, alpha]), "PNG")
    assert decode(content, background=(7, 7, 7)).pixels.shape == (48, 64, 1)
    found = decode(content, background=(0, 0, 255)).pixels
    assert np.abs(found.astype(int) - over(np.repeat(grey, 3, axis=2), alpha, (0, 0, 255))).max() <= 1


def test_pixels_are_writable_contiguous_bytes(tmp_path: Path) -> None:
    for case in write_corpus(tmp_path, ["orientations", "depths", "modes"]):
        if case.expected == "decoded":
            found = decode(case.path.read_bytes())
            assert found.pixels.flags.c_contiguous
            assert found.pixels.flags.writeable
            assert found.pixels.dtype == np.uint8
            assert set(found.notes) <= set(NOTES)


def test_further_frames_are_never_read() -> None:
    frames = [Image.fromarray(picture(16, 24, seed=i)) for i in range(500)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        whole = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        start = time.perf_counter()
        assert "animated" in decode(whole).notes
        assert time.perf_counter() - start < 0.25
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(content[: len(content) // 2]).pixels, decode(content).pixels)


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


# ---- Limits, files, messages -------------------------------------------------------------------------------


def test_limits_are_exact_and_named() -> None:
    for kind in EXTENSION:
        content = lossless(picture(20, 30), kind)
        assert decode(content, limits=Limits(max_pixels=600, max_bytes=len(content))).pixels.shape[:2] == (
            20,
            30,
        )
        found = reason(content, limits=Limits(max_pixels=599, max_bytes=len(content)))
        assert found == "too large: 30 x 20 pixels, the limit is 0.000599 megapixels"
        found = reason(content, limits=Limits(max_pixels=600, max_bytes=len(content) - 1))
        assert found == f"too large: {len(content):,} bytes, the limit is {len(content) - 1:,}"
    assert "25 megapixels" in reason(
        png_file(picture(8, 8), bits=8, colour=2, size=(5001, 5000)), limits=SERVE_LIMITS
    )


def test_read_file_takes_only_regular_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(path: Any, **options: Any) -> tuple[str, str]:
        with pytest.raises(UnreadableImage) as caught:
            read_file(path, **options)
        return caught.value.reason, caught.value.code

    (tmp_path / "a.jpg").write_bytes(b"12345")
    assert read_file(tmp_path / "a.jpg") == b"12345"
    assert read_file(os.fsencode(tmp_path / "a.jpg")) == b"12345"
    small = Limits(max_pixels=1, max_bytes=4)
    assert refusal(tmp_path / "a.jpg", limits=small) == ("too large: 5 bytes, the limit is 4", "D124")
    assert refusal(tmp_path / "gone.jpg") == ("no such file: moved or deleted", "D126")
    assert refusal("/dev/null") == ("a device, not a file", "D126")
    assert refusal("a\0b") == ("embedded null byte", "D126")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("s.jpg")
        assert refusal("s.jpg") == ("a socket, not a file", "D126")

    def denied(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    assert refusal("a.jpg") == ("permission denied", "D126")


def test_the_message_names_the_file_whatever_its_name() -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode(b"<html>", name="rose/a b.jpg")
    assert str(caught.value).splitlines() == [
        "error[D121]: cannot read the image 'rose/a b.jpg': an HTML page, not an image",
        "  why:   only JPEG, PNG, WEBP, BMP, GIF and TIFF are read, recognised by their content",
        "  try:   file -- 'rose/a b.jpg'",
    ]
    with pytest.raises(UnreadableImage) as caught:
        decode(b"", name=os.fsdecode(b"caf\xe9\n.jpg"))
    assert (
        str(caught.value)
        .encode("ascii")
        .startswith(b"error[D120]: cannot read the image 'caf\\udce9\\n.jpg'")
    )
    assert caught.value.try_ == ""
    assert caught.value.exit_status == 3


RAISED = [
    struct.error(),
    SyntaxError("x"),
    ValueError("x"),
    MemoryError(),
    RecursionError(),
    KeyError(1),
    OSError(),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_parser_raises_is_an_unreadable_image(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setitem(module.REDUCE, "PNG", broken)
    assert reason(encode(picture(), "PNG"))


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    cases = write_corpus(tmp_path, ["depths", "modes", "inks", "animations", "foreign"]) * 4
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=barrier.wait) as pool:
        assert [words for words in pool.map(problem, cases) if words] == []


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
            tiff_file(picture(16, 24, 1)[:, :, 0].astype(np.uint16), {}, order=">", big=big)
            for big in (False, True)
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
        content = mutate(files[number % len(files)], draw)
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
    outcome = fuzz(kind, count=400)
    assert outcome.decoded > 20
    assert outcome.unreadable > 100
    assert outcome.slowest < 2.0
