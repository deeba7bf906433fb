"""Downloads where servers fall silent, networks are missing, disks fill up, and processes meet or die."""

from __future__ import annotations

import fcntl
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from convworks.data import download
from convworks.data.download import Remote, exclusive
from convworks.errors import ConvworksError

from .server import (
    CONTENT,
    Answer,
    Handler,
    Server,
    check,
    cut,
    fails,
    get,
    leave_part,
    part_of,
    remote,
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


@pytest.mark.parametrize("code", [403, 404, 410, 500, 503, 204])
def test_error_status(server: Server, target: Path, code: int) -> None:
    error = fails("D160", remote(server.on("/a", status(code))), target)
    assert f"HTTP {code}" in error.where or f"answers {code}" in error.where
    assert len(server.seen) == (2 if code >= 500 else 1)  # a busy server is asked again


def test_busy_server_answers_the_second_time(server: Server, target: Path) -> None:
    get(remote(server.on("/a", status(503), whole)), target)
    check(target)


def test_every_mirror_is_named_with_its_reason(server: Server, target: Path) -> None:
    urls = server.on("/a", status(403)), server.on("/b", cut(5)), server.on("/c", status(404))
    error = fails("D160", remote(*urls), target, attempts=1)
    for url, reason in zip(urls, ("answers 403", "closed after 5", "answers 404"), strict=True):
        assert any(url in line and reason in line for line in error.where.splitlines())


def hang(handler: Handler) -> None:
    handler.server.release.wait(5)


def hang_in_the_middle(handler: Handler) -> None:
    handler.reply(200, CONTENT[:1000], length=len(CONTENT))
    handler.wfile.flush()
    handler.server.release.wait(5)


def drip(handler: Handler) -> None:
    handler.reply(200, length=len(CONTENT))
    try:
        for at in range(60):
            handler.wfile.write(CONTENT[at : at + 1])
            time.sleep(0.03)
    except OSError:  # the client has gone, as it should
        pass


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(hang, "no data for 0.3 s"), (hang_in_the_middle, "no data for 0.3 s"), (drip, "bytes came in 0.3 s")],
)
def test_silence_ends_in_time(server: Server, target: Path, answer: Answer, reason: str) -> None:
    server.http.release = threading.Event()  # type: ignore[attr-defined]
    try:
        error = fails("D160", remote(server.on("/a", answer)), target, timeout=0.3, attempts=1)
    finally:
        server.http.release.set()  # type: ignore[attr-defined]
    assert reason in error.where


def test_silence_in_the_middle_is_continued(server: Server, target: Path) -> None:
    server.http.release = threading.Event()  # type: ignore[attr-defined]
    try:
        get(remote(server.on("/a", hang_in_the_middle, whole)), target, timeout=0.3)
    finally:
        server.http.release.set()  # type: ignore[attr-defined]
    check(target)
    assert server.ranges() == ["", "bytes=1000-"]


def test_answer_that_is_not_http(server: Server, target: Path) -> None:
    def mail(handler: Handler) -> None:
        handler.wfile.write(b"220 smtp ready\r\n")

    url = server.on("/a", mail)
    assert "the connection failed" in fails("D160", remote(url), target).where


def test_nobody_listens(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a"
        assert "ConnectionRefusedError" in fails("D160", remote(url), target).where


def test_no_name_server(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    error = fails("D160", remote("https://data.example/set.bin"), target, allow_loopback=False)
    assert "no network, or no name server" in error.where


def test_https_to_a_server_without_tls(server: Server, target: Path) -> None:
    error = fails("D160", remote(f"https://127.0.0.1:{server.port}/a"), target)
    assert "no secure connection" in error.where


def test_offline_asks_nobody_and_gives_the_command(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "my cache" / "set.bin"
    url = server.on("/a", whole)
    error = fails("D161", remote(url), target, offline=True)
    assert error.try_ == f"curl --fail --location --create-dirs --output '{target}' {url}"
    assert server.seen == []
    assert not target.parent.exists()


# the disk


def test_disk_is_measured_before_the_first_request(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_part(target, CONTENT[:100_000])
    room = download.SPARE + 250_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, room))
    wanted = remote(server.on("/a", whole))
    error = fails("R504", wanted, target, reserve=60_000)
    assert "0.3 MB are needed and 17.0 MB are free" in error.what
    assert server.seen == []
    get(wanted, target, reserve=40_000)  # 200 kB are missing: they and the reserve fit
    check(target)


def test_disk_full_in_the_middle(server: Server, target: Path) -> None:
    wanted = remote(server.on("/a", whole))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        error = fails("R504", wanted, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the next try goes on from there" in error.why
    assert 0 < part_of(target).stat().st_size <= 200_000
    get(wanted, target)
    check(target)
    assert server.ranges()[-1] != ""


@pytest.mark.parametrize("folder", ["file/cache", "file"])
def test_folder_that_cannot_be_made(server: Server, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    error = fails("R503", remote(server.on("/a", whole)), tmp_path / folder / "set.bin")
    assert error.exit_status == 5
    assert server.seen == []


# several at once, and killed


def test_threads_download_once(server: Server, target: Path) -> None:
    wanted = remote(server.on("/a", whole))
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: get(wanted, target), range(12)))
    assert results == [target] * 12
    check(target)
    assert len(server.seen) == 1


PROGRAM = """
import sys
from pathlib import Path
from convworks.data.download import Remote, fetch
url, target, size, sha256 = sys.argv[1:]
wanted = Remote("set.bin", (url,), int(size), sha256=sha256)
print(fetch(wanted, Path(target), timeout=20, allow_loopback=True))
"""


def start(wanted: Remote, target: Path) -> subprocess.Popen[str]:
    arguments = [wanted.urls[0], str(target), str(wanted.size), wanted.sha256]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)


def test_processes_download_once(server: Server, target: Path) -> None:
    def slowly(handler: Handler) -> None:
        time.sleep(0.5)
        whole(handler)

    wanted = remote(server.on("/a", slowly))
    processes = [start(wanted, target) for _ in range(3)]
    answers = [process.communicate(timeout=30)[0].strip() for process in processes]
    assert answers == [str(target)] * 3
    check(target)
    assert len(server.seen) == 1


def test_killed_process_leaves_no_trusted_half(server: Server, target: Path) -> None:
    server.http.release = threading.Event()  # type: ignore[attr-defined]
    sent = 200_000

    def half(handler: Handler) -> None:
        handler.reply(200, CONTENT[:sent], length=len(CONTENT))
        handler.wfile.flush()
        handler.server.release.wait(20)

    wanted = remote(server.on("/a", half, whole))
    process = start(wanted, target)
    try:
        end = time.monotonic() + 20
        while download._size(part_of(target)) < sent // 2 and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        server.http.release.set()  # type: ignore[attr-defined]
    assert not target.exists()
    kept = part_of(target).stat().st_size
    get(wanted, target)  # the lock of the dead process does not stand in the way
    check(target)
    assert server.ranges()[-1] == f"bytes={kept}-"


def test_held_lock_is_waited_for_and_then_named(server: Server, target: Path) -> None:
    wanted = remote(server.on("/a", whole))
    target.parent.mkdir()
    lock = target.with_name("set.bin.lock")
    said: list[str] = []
    with exclusive(lock), pytest.raises(ConvworksError, match="another process") as caught:
        get(wanted, target, wait=0.2, say=said.append)
    assert caught.value.code == "D164"
    assert caught.value.where == str(lock)
    assert said == ["another process is bringing set.bin; waiting for it"]
    assert server.seen == []
    get(wanted, target)
    check(target)


def test_lock_excludes(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work(_: int) -> None:
        nonlocal inside, most
        with exclusive(tmp_path / "lock", wait=30):
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)
            inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_lock_that_was_removed_before_it_was_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, real = tmp_path / "lock", fcntl.flock
    calls: list[int] = []

    def flock(handle: int, operation: int) -> None:
        if not calls:
            lock.unlink()  # what the last holder does between our open and our flock
        calls.append(operation)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive(lock):
        assert lock.exists()
    assert len(calls) == 2
