"""Downloads against a server on this machine: whole and continued files, wrong bytes, pages, redirects."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from convworks.data import download

from .server import (
    CONTENT,
    PAGE,
    Answer,
    Handler,
    Server,
    check,
    cut,
    fails,
    get,
    leave_part,
    page,
    part_of,
    remote,
    reset,
    serving,
    status,
    whole,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "set.bin"


def no_length(handler: Handler) -> None:
    handler.reply(200, CONTENT, length=None)


def chunked(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.close_connection = True
    handler.reply(200, length=None, Transfer_Encoding="chunked", Connection="close")
    for at in range(0, len(CONTENT), 70_000):
        block = CONTENT[at : at + 70_000]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
    handler.wfile.write(b"0\r\n\r\n")


@pytest.mark.parametrize("answer", [whole, no_length, chunked])
def test_whole_file_arrives(server: Server, target: Path, answer: Answer) -> None:
    assert get(remote(server.on("/a", answer)), target) == target
    check(target)


def test_request_says_nothing_about_the_machine(server: Server, target: Path) -> None:
    sent: list[dict[str, str]] = []

    def keep_headers(handler: Handler) -> None:
        sent.append(dict(handler.headers.items()))
        whole(handler)

    get(remote(server.on("/a", keep_headers)), target)
    host = f"127.0.0.1:{server.port}"
    expected = {"Host": host, "User-Agent": "convworks", "Accept-Encoding": "identity", "Connection": "close"}
    assert sent == [expected]


def test_mismatch_shows_expected_and_found(tmp_path: Path) -> None:
    path, wanted = tmp_path / "a", remote("https://example.invalid/a")
    path.write_bytes(CONTENT[:5])
    assert download.mismatch(path, wanted) == "it has 5 bytes, not 300,000"
    path.write_bytes(bytes(len(CONTENT)))
    found = hashlib.sha256(bytes(len(CONTENT))).hexdigest()
    assert download.mismatch(path, wanted) == f"its sha256 is {found}, expected {wanted.sha256}"
    path.write_bytes(CONTENT)
    assert download.mismatch(path, wanted) == ""


def test_verified_file_asks_nobody(server: Server, target: Path) -> None:
    wanted = remote(server.on("/a", whole))
    get(wanted, target)
    assert get(wanted, target, offline=True) == target
    assert len(server.seen) == 1


def test_damaged_file_is_replaced(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT[:-1] + b"?")
    get(remote(server.on("/a", whole)), target)
    check(target)


def test_md5_is_enough_where_no_sha256_is_published(server: Server, target: Path) -> None:
    get(remote(server.on("/a", whole), md5=hashlib.md5(CONTENT).hexdigest()), target)
    check(target)
    error = fails("D162", remote(server.on("/a", whole), md5="0" * 32), target.with_name("b") / "set.bin")
    assert "md5" in error.where


def test_size_is_said_before_the_first_request(server: Server, target: Path) -> None:
    said: list[tuple[str, int]] = []
    get(remote(server.on("/a", whole)), target, say=lambda line: said.append((line, len(server.seen))))
    assert said == [(f"downloading set.bin, 0.3 MB, from 127.0.0.1 to {target.parent}", 0)]


# interrupted, and continued


@pytest.mark.parametrize("answer", [cut(120_000), reset], ids=["closed", "reset"])
def test_dropped_connection_is_continued(server: Server, target: Path, answer: Answer) -> None:
    get(remote(server.on("/a", answer, whole)), target)
    check(target)
    first, second = server.ranges()
    assert first == ""
    assert second.startswith("bytes=")
    assert second != "bytes=0-"


def test_next_call_goes_on_where_the_last_one_stopped(server: Server, target: Path) -> None:
    wanted = remote(server.on("/a", cut(100_000), status(404)))
    error = fails("D160", wanted, target)
    assert "the next try goes on from there" in error.why
    assert part_of(target).read_bytes() == CONTENT[:100_000]
    server.on("/a", whole)
    said: list[str] = []
    get(wanted, target, say=said.append)
    check(target)
    assert server.ranges()[-1] == "bytes=100000-"
    assert "goes on after 0.1 MB" in said[0]


def test_next_mirror_goes_on_where_the_first_one_stopped(server: Server, target: Path) -> None:
    get(remote(server.on("/a", cut(50_000), status(404)), server.on("/b", whole)), target)
    check(target)
    assert server.seen[-1] == ("/b", "bytes=50000-")


def test_progress_earns_more_attempts(server: Server, target: Path) -> None:
    content = random.Random(1).randbytes(5 * 2**20)

    def a_piece(handler: Handler) -> None:
        rest = content[handler.start :]
        span = {"Content_Range": f"bytes {handler.start}-{len(content) - 1}/{len(content)}"}
        handler.reply(206 if handler.start else 200, rest[: 2**20 + 1000], length=len(rest), **span)

    get(remote(server.on("/a", a_piece), content=content), target)
    assert target.read_bytes() == content
    assert len(server.seen) == 5


def test_no_progress_ends(server: Server, target: Path) -> None:
    error = fails("D160", remote(server.on("/a", cut(10))), target, attempts=4)
    assert len(server.seen) == 4
    assert "closed after 40 of 300,000 bytes" in error.where


def test_server_that_ignores_range(server: Server, target: Path) -> None:
    leave_part(target, b"x" * 1000)  # not even the right bytes: they are dropped
    get(remote(server.on("/a", lambda handler: handler.reply(200, CONTENT))), target)
    check(target)
    assert server.ranges() == ["bytes=1000-"]


def test_part_of_a_server_that_ignores_range_holds_only_its_bytes(server: Server, target: Path) -> None:
    leave_part(target, b"x" * 1000)
    url = server.on("/a", lambda handler: handler.reply(200, CONTENT[:10], length=len(CONTENT)))
    fails("D160", remote(url), target, attempts=1)
    assert part_of(target).read_bytes() == CONTENT[:10]


@pytest.mark.parametrize("span", ["bytes 0-299999/300000", "bytes 1000-299999/400000", "nonsense", ""])
def test_continuation_at_another_place_starts_again(server: Server, target: Path, span: str) -> None:
    leave_part(target, CONTENT[:1000])

    def other_place(handler: Handler) -> None:
        handler.reply(206, CONTENT[1000:], Content_Range=span)

    get(remote(server.on("/a", other_place, whole)), target)
    check(target)
    assert server.ranges() == ["bytes=1000-", ""]


def test_range_not_satisfiable_starts_again(server: Server, target: Path) -> None:
    leave_part(target, CONTENT[:1000])
    get(remote(server.on("/a", status(416), whole)), target)
    check(target)
    assert server.ranges() == ["bytes=1000-", ""]


def test_part_longer_than_the_file_is_dropped(server: Server, target: Path) -> None:
    leave_part(target, CONTENT + b"more")
    get(remote(server.on("/a", whole)), target)
    check(target)
    assert server.ranges() == [""]


def test_complete_part_asks_nobody(server: Server, target: Path) -> None:
    leave_part(target, CONTENT)
    get(remote(server.on("/a", status(404))), target)
    check(target)
    assert server.seen == []


def test_wrong_bytes_of_an_earlier_try_start_again(server: Server, target: Path) -> None:
    leave_part(target, b"x" * 1000)
    get(remote(server.on("/a", whole)), target)
    check(target)
    assert server.ranges() == ["bytes=1000-", ""]


# other bytes than the published ones


def test_wrong_hash_removes_the_part_and_shows_both(server: Server, target: Path) -> None:
    other = bytes(len(CONTENT))
    error = fails("D162", remote(server.on("/a", serving(other))), target)
    assert hashlib.sha256(other).hexdigest() in error.where
    assert hashlib.sha256(CONTENT).hexdigest() in error.where
    assert list(target.parent.iterdir()) == []
    assert len(server.seen) == 1  # a whole wrong file is the mirror's own: no second request


def test_second_mirror_after_a_wrong_hash(server: Server, target: Path) -> None:
    said: list[str] = []
    urls = server.on("/a", serving(bytes(len(CONTENT)))), server.on("/b", whole)
    get(remote(*urls), target, say=said.append)
    check(target)
    assert any("other bytes than the published file" in line for line in said)


@pytest.mark.parametrize("length", [-1, None], ids=["announced", "unannounced"])
def test_longer_file_is_refused(server: Server, target: Path, length: int | None) -> None:
    url = server.on("/a", lambda handler: handler.reply(200, CONTENT * 3, length=length))
    error = fails("D160", remote(url), target, attempts=1)
    assert ("announces 900,000 bytes" if length else "more than the published 300,000") in error.where
    assert download._size(part_of(target)) <= len(CONTENT)


def test_shorter_file_is_refused_before_it_is_read(server: Server, target: Path) -> None:
    error = fails("D160", remote(server.on("/a", serving(b""))), target)
    assert "announces 0 bytes, not 300,000" in error.where
    assert list(target.parent.iterdir()) == []


# web pages, portals, redirects


def untyped_page(handler: Handler) -> None:
    handler.reply(200, b"\n " + PAGE, length=None)


@pytest.mark.parametrize("answer", [page, untyped_page])
def test_page_with_status_200(server: Server, target: Path, answer: Answer) -> None:
    error = fails("D163", remote(server.on("/a", answer)), target)
    assert "log in first" in error.why
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("answer", [page, untyped_page])
def test_page_leaves_what_an_earlier_try_brought(server: Server, target: Path, answer: Answer) -> None:
    leave_part(target, CONTENT[:1000])
    fails("D163", remote(server.on("/a", answer)), target)
    assert part_of(target).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("where", ["http://portal.example/login", "ftp://ftp.example/a"])
def test_redirect_away_from_https(server: Server, target: Path, where: str) -> None:
    error = fails("D163", remote(server.on("/a", status(302, Location=where))), target)
    assert f"redirected to {where}, which is not https" in error.where
    assert len(server.seen) == 1


@pytest.mark.parametrize("where", ["file:///etc/passwd", "data:,x"])
def test_redirect_to_no_network_address(server: Server, target: Path, where: str) -> None:
    fails("D160", remote(server.on("/a", status(302, Location=where))), target)
    assert list(target.parent.iterdir()) == []


def test_good_redirect_keeps_the_range(server: Server, target: Path) -> None:
    leave_part(target, CONTENT[:1000])
    there = server.on("/there", whole)
    get(remote(server.on("/a", status(302, Location=there))), target)
    check(target)
    assert server.seen[-1] == ("/there", "bytes=1000-")


def test_redirect_loop_ends(server: Server, target: Path) -> None:
    url = server.on("/a", status(302, Location="/a"))
    error = fails("D160", remote(url), target, attempts=1)
    assert "answers 302" in error.where


def test_only_https_without_loopback(server: Server, target: Path) -> None:
    error = fails("D160", remote(server.on("/a", whole)), target, allow_loopback=False)
    assert "the address is not https" in error.where
    assert server.seen == []


def test_loopback_permits_no_other_host(target: Path) -> None:
    error = fails("D160", remote("http://example.invalid/a"), target)
    assert "the address is not https" in error.where
