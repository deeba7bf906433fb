"""Fetching one file of a known size and hash. The only module of the project that opens the network.

The file is received as NAME.part, continued where an earlier try stopped (HTTP Range, RFC 9110 section 14),
compared with the pinned hashes, and renamed in one step: a file under its final name is whole and is the
published one. The hash, not the server, decides; so any mirror may serve the bytes, but only by https.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Literal
from urllib import request as urlrequest
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from convworks import durable
from convworks.data.remote import Remote, manual_command, megabytes, mismatch
from convworks.errors import ConvworksError

if sys.platform != "win32":
    import fcntl

Say = Callable[[str], None]
Kind = Literal["network", "page", "hash"]

CHUNK = 1 << 18  # bytes read at once
SPARE = 16 * 2**20  # bytes of the disk that a download leaves free
MIN_RATE = 100  # bytes a second over one timeout; slower counts as stalled
PROGRESS = 2**20  # bytes after which a dropped connection does not count as a failed attempt
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml")


@dataclass(frozen=True, slots=True)
class _Terms:
    """How patient a download is, whom it tells, and whether http to this machine is fine."""

    timeout: float
    attempts: int
    pause: float
    say: Say
    loopback: bool


class _TransferError(Exception):
    """Why one try at one mirror brought no file. `again`: the same mirror may still bring it."""

    def __init__(self, reason: str, *, kind: Kind = "network", again: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.kind, self.again = reason, kind, again


def fetch(
    remote: Remote,
    target: Path,
    *,
    offline: bool = False,
    reserve: int = 0,
    timeout: float = 30.0,
    attempts: int = 3,
    pause: float = 1.0,
    wait: float = 3600.0,
    say: Say | None = None,
    allow_loopback: bool = False,
) -> Path:
    """Bring `remote` to `target` unless the verified file is there already. Returns `target`.

    reserve: bytes of disk needed beside the file (for unpacking it). timeout: seconds without data before a
    mirror is given up. attempts: tries at one mirror that drops the connection, `pause` seconds apart. wait:
    seconds that another process may take with the same file. allow_loopback: http to this machine is fine.

    Raises ConvworksError D160 (no mirror brought it), D161 (offline), D162 (other bytes than the published
    ones), D163 (a web page in its place), D164 (another process holds it), R504 (disk full), R503 (the folder
    cannot be written).
    """
    if target.is_file() and not mismatch(target, remote):
        return target
    if offline:
        what = f"{remote.name} is not on this machine, and working offline forbids downloading it"
        where = f"wanted: {target} ({megabytes(remote.size)})"
        raise ConvworksError("D161", what, where=where, try_=manual_command(remote, target))
    terms = _Terms(timeout, attempts, pause, say or (lambda _: None), allow_loopback)
    make_folder(target.parent)
    with exclusive(target.with_name(target.name + ".lock"), wait=wait, say=say):
        if target.is_file() and not mismatch(target, remote):  # another process has just brought it
            return target
        part = _part(target)
        needed, free = remote.size - _size(part) + reserve, shutil.disk_usage(target.parent).free
        if free < needed + SPARE:
            raise disk_full(target, f"{megabytes(needed)} are needed and {megabytes(free)} are free")
        failures: list[tuple[str, _TransferError]] = []
        for url in remote.urls:
            terms.say(_announce(remote, url, target, have=_size(part)))
            failure = _from_mirror(url, part, remote, terms)
            if failure is None:
                durable.fsync_file(part)
                durable.replace(part, target)
                durable.fsync_folder(target.parent)
                return target
            failures.append((url, failure))
            terms.say(f"{urlsplit(url).hostname}: {failure.reason}")
        if _size(part) == 0:
            part.unlink(missing_ok=True)
        raise _gave_up(remote, target, failures)


def announced_size(url: str, *, timeout: float = 30.0, allow_loopback: bool = False) -> int | None:
    """Bytes that a server announces for a file, asked with HEAD; None where no answer says it."""
    if not _allowed(url, loopback=allow_loopback):
        return None
    asked = urlrequest.Request(url, headers={"User-Agent": "convworks"}, method="HEAD")
    try:
        with _opener(loopback=allow_loopback).open(asked, timeout=timeout) as answer:
            length = answer.headers.get("Content-Length", "")
    except (OSError, http.client.HTTPException, _TransferError):  # `fetch` then says what is wrong
        return None
    return int(length) if length.isdigit() else None


@contextmanager
def exclusive(lock: Path, *, wait: float = 3600.0, say: Say | None = None) -> Iterator[None]:
    """Hold the lock file, alone among threads and processes; the kernel frees it when a process dies.

    Raises ConvworksError D164 after `wait` seconds. Windows has no flock(2): there the names of unfinished
    files differ by process instead, and nobody waits.
    """
    if sys.platform == "win32":
        yield
        return
    end, told = time.monotonic() + wait, False
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(lock.stat(), os.fstat(handle)):
                break
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(handle)
                what = f"another process has been bringing the same file for more than {wait:g} s"
                raise ConvworksError("D164", what, where=str(lock), try_=f"fuser {lock}") from None
            if say is not None and not told:
                say(f"another process is bringing {lock.name.removesuffix('.lock')}; waiting for it")
                told = True
            time.sleep(0.05)
        except FileNotFoundError:  # its last holder has just removed it
            pass
        os.close(handle)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the close: a waiter sees that its file has gone, and opens anew
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder of the cache, or raise R503."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
    except OSError as problem:
        raise unwritable(folder, problem) from problem


def unwritable(path: Path, problem: OSError) -> ConvworksError:
    what = f"cannot write: {problem.strerror or problem}"
    why = "data sets given by name are kept in the cache folder"
    return ConvworksError("R503", what, where=str(path), why=why, try_="convworks doctor")


def disk_full(target: Path, detail: str) -> ConvworksError:
    what, where = f"no room for {target.name}: {detail}", str(target.parent)
    why = "what has arrived is kept; the next try goes on from there"
    return ConvworksError("R504", what, where=where, why=why, try_=f"df -h {shlex.quote(where)}")


def _part(target: Path) -> Path:
    own = f".{os.getpid()}" if sys.platform == "win32" else ""
    return target.with_name(f"{target.name}{own}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _announce(remote: Remote, url: str, target: Path, *, have: int) -> str:
    rest = f" (goes on after {megabytes(have)})" if 0 < have < remote.size else ""
    host = urlsplit(url).hostname
    return f"downloading {remote.name}, {megabytes(remote.size)}, from {host} to {target.parent}{rest}"


def _from_mirror(url: str, part: Path, remote: Remote, terms: _Terms) -> _TransferError | None:
    """Fill `part` with the verified file from one mirror, or say why not."""
    tries, best = 0, _size(part)
    while True:
        began = _size(part)
        try:
            _transfer(url, part, remote, terms)
            if problem := mismatch(part, remote):
                part.unlink()
                # Bytes of an earlier try may be the wrong ones: then once more, from the start.
                reason = f"other bytes than the published file: {problem}"
                raise _TransferError(reason, kind="hash", again=began > 0)
        except _TransferError as failure:
            tries += 1
            if _size(part) >= best + PROGRESS:
                tries, best = 0, _size(part)
            moved = _size(part) > began
            if not (failure.again or moved) or tries >= terms.attempts:
                return failure
            time.sleep(terms.pause)
        else:
            return None


class _Redirects(urlrequest.HTTPRedirectHandler):
    """Follows a redirect only to where the first address could have pointed."""

    def __init__(self, *, loopback: bool) -> None:
        self.loopback = loopback

    def redirect_request(
        self, req: urlrequest.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urlrequest.Request | None:
        if not _allowed(newurl, loopback=self.loopback):
            fp.close()
            reason = f"redirected to {newurl}, which is not https (the login page of a network?)"
            raise _TransferError(reason, kind="page")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _allowed(url: str, *, loopback: bool) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (loopback and parts.scheme == "http" and parts.hostname in LOOPBACK)


def _opener(*, loopback: bool) -> urlrequest.OpenerDirector:
    """An opener without file:, ftp: and data:, and without http: unless it is for this machine."""
    opener = urlrequest.OpenerDirector()
    opener.add_handler(urlrequest.HTTPSHandler(context=ssl.create_default_context()))
    opener.add_handler(urlrequest.HTTPDefaultErrorHandler())
    opener.add_handler(urlrequest.HTTPErrorProcessor())
    opener.add_handler(_Redirects(loopback=loopback))
    opener.add_handler(urlrequest.HTTPHandler() if loopback else urlrequest.ProxyHandler())
    return opener


def _transfer(url: str, part: Path, remote: Remote, terms: _Terms) -> None:
    """One request: appends to `part` what is missing. Returns when it has the published size."""
    if not _allowed(url, loopback=terms.loopback):
        raise _TransferError("the address is not https")
    have = _size(part)
    if have > remote.size:
        part.unlink()
        have = 0
    if have == remote.size:
        return
    headers = {"User-Agent": "convworks", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urlrequest.Request(url, headers=headers)
        answer = _opener(loopback=terms.loopback).open(request, timeout=terms.timeout)
    except HTTPError as problem:
        with problem:
            raise _http_failure(problem.code, part) from problem
    except (OSError, http.client.HTTPException) as problem:
        raise _network_failure(problem, terms) from problem
    with answer as response:
        start = _accept(response, part, have=have, size=remote.size)
        _receive(response, part, remote, terms, start=start)


def _http_failure(code: int, part: Path) -> _TransferError:
    if code == 416:  # Range Not Satisfiable: the server has fewer bytes than `part`
        part.unlink(missing_ok=True)
    phrase = http.client.responses.get(code, "an unknown status")
    return _TransferError(f"the server answers {code} {phrase}", again=code in (416, 429) or code >= 500)


def _network_failure(problem: Exception, terms: _Terms) -> _TransferError:
    cause = problem.reason if isinstance(problem, URLError) else problem
    if isinstance(cause, TimeoutError):
        return _TransferError(f"no data for {terms.timeout:g} s")
    if isinstance(cause, socket.gaierror):
        return _TransferError("the host name is not known: no network, or no name server")
    if isinstance(cause, ssl.SSLError):  # a certificate that is not valid is one of these
        return _TransferError(f"no secure connection: {cause}")
    again = not isinstance(cause, ConnectionRefusedError)
    return _TransferError(f"the connection failed ({type(cause).__name__}: {cause})", again=again)


def _accept(response: http.client.HTTPResponse, part: Path, *, have: int, size: int) -> int:
    """Where in the file the body starts: an answer is judged before a byte of it is written."""
    if response.headers.get("Content-Type", "").startswith(("text/html", "application/xhtml+xml")):
        raise _TransferError("a web page came in place of the file", kind="page")
    start = 0
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if span is None or int(span[1]) != have or span[2] not in ("*", str(size)):
            part.unlink(missing_ok=True)
            raise _TransferError("the server continues the download at another place", again=have > 0)
        start = have
    elif response.status != 200:  # a server may ignore Range: then the whole file comes again
        raise _TransferError(f"an answer without a file (HTTP {response.status})")
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) != size - start:
        raise _TransferError(f"the server announces {int(length):,} bytes, not {size - start:,}")
    return start


def _receive(
    response: http.client.HTTPResponse, part: Path, remote: Remote, terms: _Terms, *, start: int
) -> None:
    done = start
    window, window_done = time.monotonic(), start
    try:
        with part.open("r+b" if part.exists() else "wb") as file:
            while block := _read(response, terms):
                _check_block(block, done=done, remote=remote)
                if done == start:  # only now: a bad answer leaves what an earlier try brought
                    file.seek(start)
                    file.truncate()
                file.write(block)
                done, now = done + len(block), time.monotonic()
                if now - window > terms.timeout:
                    if done - window_done < MIN_RATE * terms.timeout and done < remote.size:
                        raise _TransferError(f"only {done - window_done:,} bytes came in {terms.timeout:g} s")
                    window, window_done = now, done
                    terms.say(f"{remote.name}: {megabytes(done)} of {megabytes(remote.size)}")
    except OSError as problem:  # of the disk: those of the network are failures already
        raise disk_full(part, str(problem.strerror)) from problem
    if done < remote.size:
        raise _TransferError(f"the connection closed after {done:,} of {remote.size:,} bytes", again=True)


def _read(response: http.client.HTTPResponse, terms: _Terms) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as problem:
        raise _network_failure(problem, terms) from problem


def _check_block(block: bytes, *, done: int, remote: Remote) -> None:
    if done == 0 and block.lstrip()[:16].lower().startswith(PAGE_STARTS):
        raise _TransferError("a web page came in place of the file", kind="page")
    if done + len(block) > remote.size:
        raise _TransferError(f"the server sends more than the published {remote.size:,} bytes")


def _gave_up(remote: Remote, target: Path, failures: list[tuple[str, _TransferError]]) -> ConvworksError:
    """The error after the last mirror: a wrong hash says most, then a web page, then the network."""
    kinds = {failure.kind for _, failure in failures}
    why = "what has arrived is kept, and the next try goes on from there"
    code, what = "D160", f"{remote.name} ({megabytes(remote.size)}) cannot be downloaded"
    if "hash" in kinds:
        code, what = "D162", f"{remote.name} is not the published file and was removed"
        why = "numbers on other data cannot be compared; a proxy or the mirror may have changed it"
    elif "page" in kinds:
        code, what = "D163", f"a web page came in place of {remote.name}"
        why = "many networks answer everything with their login page: open a browser and log in first"
    lines = [f"{url}: {failure.reason}" for url, failure in failures]
    where = "\n         ".join([*lines, f"wanted: {target}"])
    return ConvworksError(code, what, where=where, why=why, try_=manual_command(remote, target))
