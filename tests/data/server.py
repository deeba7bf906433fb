"""A web server on this machine whose answers are scripted, and the answers that several tests use."""

from __future__ import annotations

import hashlib
import http.server
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convworks.data.download import Remote, fetch
from convworks.data.named import NamedSet, locate
from convworks.errors import ConvworksError

CONTENT = random.Random(0).randbytes(300_000)
PAGE = b"<!DOCTYPE html><html><body>Welcome to the hotel network</body></html>"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.seen.append((self.path, asked))
        script = self.server.scripts[self.path]
        answer = script.pop(0) if len(script) > 1 else script[0]
        self.start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        answer(self)

    def reply(self, status: int, body: bytes = b"", *, length: int | None = -1, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


Answer = Callable[[Handler], None]


class Server:
    """A web server on 127.0.0.1; `on(path, answers...)` scripts it, the last answer repeats."""

    def __enter__(self) -> Server:
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False
        self.scripts: dict[str, list[Answer]] = {}
        self.seen: list[tuple[str, str]] = []
        self.http.scripts, self.http.seen = self.scripts, self.seen  # type: ignore[attr-defined]
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    @property
    def port(self) -> int:
        return int(self.http.server_address[1])

    def on(self, path: str, *answers: Answer) -> str:
        self.scripts[path] = list(answers)
        return f"http://127.0.0.1:{self.port}{path}"

    def ranges(self) -> list[str]:
        return [asked for _, asked in self.seen]


def whole(handler: Handler, content: bytes = CONTENT) -> None:
    """What a good server does: 206 for a range, 200 otherwise."""
    if handler.start:
        end = len(content)
        handler.reply(
            206, content[handler.start :], Content_Range=f"bytes {handler.start}-{end - 1}/{end}", Etag='"x"'
        )
    else:
        handler.reply(200, content)


def serving(content: bytes) -> Answer:
    return lambda handler: whole(handler, content)


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.reply(code, b"no", length=-1, **headers)


def page(handler: Handler) -> None:
    handler.reply(200, PAGE, Content_Type="text/html; charset=utf-8")


def cut(count: int) -> Answer:
    """Announces everything that is missing, sends `count` bytes of it, and closes."""

    def answer(handler: Handler) -> None:
        rest, end = CONTENT[handler.start :], len(CONTENT)
        span = f"bytes {handler.start}-{end - 1}/{end}"
        handler.reply(206 if handler.start else 200, rest[:count], length=len(rest), Content_Range=span)

    return answer


def reset(handler: Handler) -> None:
    """Sends the first half, then resets the connection."""
    handler.reply(200, CONTENT[:150_000], length=len(CONTENT))
    handler.wfile.flush()
    time.sleep(0.1)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.rfile.close()
    handler.connection.close()


def remote(*urls: str, content: bytes = CONTENT, **pins: str) -> Remote:
    pins = pins or {"sha256": hashlib.sha256(content).hexdigest()}
    return Remote("set.bin", urls, len(content), **pins)


def get(wanted: Remote, target: Path, **options: Any) -> Path:
    options = {"timeout": 5.0, "attempts": 2, "pause": 0.0, "allow_loopback": True} | options
    return fetch(wanted, target, **options)


def fails(code: str, wanted: Remote, target: Path, **options: Any) -> ConvworksError:
    with pytest.raises(ConvworksError) as caught:
        get(wanted, target, **options)
    assert caught.value.code == code, caught.value
    assert not target.exists()
    assert not target.with_name("set.bin.lock").exists()
    return caught.value


def part_of(target: Path) -> Path:
    return target.with_name("set.bin.part")


def leave_part(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part_of(target).write_bytes(content)


def check(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["set.bin"]  # no part, no lock


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def find(row: NamedSet, *, data_root: Path | None = None, cache: Path, **options: Any) -> Path:
    return locate(row, data_root=data_root, cache=cache, allow_loopback=True, **options)


def find_fails(
    code: str, row: NamedSet, *, data_root: Path | None = None, cache: Path, **options: Any
) -> ConvworksError:
    with pytest.raises(ConvworksError) as caught:
        find(row, data_root=data_root, cache=cache, **options)
    assert caught.value.code == code, caught.value
    return caught.value
