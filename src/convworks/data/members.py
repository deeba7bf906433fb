"""What zip and tar files share: names that stay inside, limits in proportion, reading by position."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Generic, TypeVar

from convworks.data.layout import Found
from convworks.data.recognise import junk_reason
from convworks.data.sources import Ignored, shown
from convworks.errors import ConvworksError

MAX_MEMBERS = 2_000_000
MAX_BYTES = 50 * 10**9  # unpacked, or ten times the archive if that is more
MAX_RATIO = 200  # unpacked : packed
RATIO_FROM = 2**20  # bytes from which on the ratio counts: small blank images pack better than that
MAX_DEPTH = 64  # folders

Member = TypeVar("Member")


def damaged(path: Path, reason: object) -> ConvworksError:
    """D108. A file that is a web page in truth is said to be one."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        reason = "it is a web page, perhaps of a download that failed"
    elif not head:
        reason = "it is empty"
    return ConvworksError(
        "D108",
        f"cannot open the archive '{shown(path.name)}': {shown(str(reason))}",
        where=shown(str(path)),
        why="it is damaged, or was not copied to its end; nothing of it is used",
        try_="convworks train digits",
    )


def refused(path: Path, reason: str) -> ConvworksError:
    """D109."""
    return ConvworksError(
        "D109",
        f"the archive '{shown(path.name)}' is refused: {reason}",
        where=shown(str(path)),
        why="archives made to fill a disk look like this; a folder of the same images is accepted",
        try_="convworks train digits",
    )


def unpacked_limit(packed: int) -> int:
    """Most bytes that an archive of `packed` bytes may unpack to."""
    return max(RATIO_FROM, min(max(MAX_BYTES, 10 * packed), MAX_RATIO * packed))


def clean_name(name: str) -> tuple[str, str | None]:
    """The name as a relative path ('./a//b' becomes 'a/b'), and why it cannot be one or None."""
    parts = name.split("/")
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name):
        return name, "an absolute name"
    if ".." in parts:
        return name, "a name that climbs out of the archive"
    if "\0" in name:
        return name, "a malformed name"
    if len(parts) > MAX_DEPTH:
        return name, f"more than {MAX_DEPTH} folders deep"
    if "" in parts or "." in parts:
        name = "/".join(part for part in parts if part not in ("", "."))
    return name, None if name else "a malformed name"


class Members(Generic[Member]):
    """Sorts what an archive lists into files to read, folders, junk and what is refused with a reason."""

    def __init__(self, archive: Path) -> None:
        self.files: dict[str, Member] = {}
        self._archive = archive
        self._seen = 0
        self._folders: dict[str, str | None] = {"": None}  # folder -> the junk folder it lies in, or None
        self._junk: dict[str, int] = {}
        self._ignored: list[Ignored] = []
        self._refused: list[Ignored] = []

    def add(self, name: str, member: Member, *, reason: str | None = None) -> None:
        """One file; `reason` says why it cannot be read. Raises ConvworksError D109 for too many members."""
        self._count()
        path, problem = clean_name(name)
        if problem is not None:
            self._refused.append(Ignored(path, problem))
            return
        folder, _, base = path.rpartition("/")
        if (junk := self._enter(folder)) is not None:
            self._junk[junk] += 1
        elif (why := junk_reason(base)) is not None:
            self._ignored.append(Ignored(path, why))
        elif reason is not None:
            self._refused.append(Ignored(path, reason))
        else:
            if path in self.files:  # unpacking would leave the last one
                self._refused.append(Ignored(path, "an earlier member of the same name"))
            self.files[path] = member

    def add_folder(self, name: str) -> None:
        self._count()
        path, problem = clean_name(name)
        if problem is None:
            self._enter(path)

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MAX_MEMBERS:
            raise refused(self._archive, f"it has more than {MAX_MEMBERS:,} members")

    def _enter(self, folder: str) -> str | None:
        """The junk folder that this one is or lies in, or None; every folder on the way becomes known."""
        if folder not in self._folders:
            parent, _, base = folder.rpartition("/")
            junk = self._enter(parent)
            if junk is None and junk_reason(base) is not None:
                junk = folder
                self._junk[junk] = 0
            self._folders[folder] = junk
        return self._folders[folder]

    def found(self) -> Found:
        ignored = [*self._ignored, *self._refused]
        for path, count in self._junk.items():
            why = junk_reason(path.rpartition("/")[2])
            ignored.append(Ignored(path + "/", f"{why}, {count} file{'s' * (count != 1)}"))
        reasons = ", ".join(sorted({item.reason for item in self._refused}))
        some = f"{len(self._refused)} member{'s' * (len(self._refused) > 1)}"
        return Found(
            files=sorted(self.files),
            folders=sorted(path for path, junk in self._folders.items() if junk is None and path),
            ignored=sorted(ignored, key=lambda item: item.path),
            warnings=[f"{some} of the archive left out: {reasons}"] if reasons else [],
        )


class PositionedFile:
    """Reads at an offset, from several threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()
        self.size = os.fstat(self._file.fileno()).st_size

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes, fewer where the file does not reach. Raises ValueError once closed."""
        blocks = []
        # never ask for memory that the file cannot fill; a damaged directory can point before its start
        count = min(count, self.size - offset) if offset >= 0 else 0
        while count > 0 and (block := self._read_some(offset, count)):
            blocks.append(block)
            offset, count = offset + len(block), count - len(block)
        return b"".join(blocks)

    def _read_some(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count)

    def close(self) -> None:
        self._file.close()
