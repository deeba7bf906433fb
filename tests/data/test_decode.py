"""The decoder against the hostile corpus, against Pillow where Pillow is right, and against mutated files."""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convworks.data import frames
from convworks.data.decode import NOTES, SERVE_LIMITS, Limits, UnreadableImage, decode, read_file
from tests.data.hostile import (
    EXTENSION,
    GROUPS,
    Case,
    encode,
    lossless,
    over,
    picture,
    png_file,
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
    off = int(np.abs(found.pixels.astype(int) - case.pixels).max())
    if off > case.tolerance:
        return f"{off} levels off"
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

    monkeypatch.setitem(frames.REDUCE, "PNG", broken)
    assert reason(encode(picture(), "PNG"))


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    cases = write_corpus(tmp_path, ["depths", "modes", "inks", "animations", "foreign"]) * 4
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=barrier.wait) as pool:
        assert [words for words in pool.map(problem, cases) if words] == []
