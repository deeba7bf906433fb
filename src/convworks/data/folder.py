"""A folder on disk: what lies in it, however links, junk and special files are arranged. Only ever read."""

from __future__ import annotations

import os
import shlex
import stat
from collections import Counter
from pathlib import Path

from convworks.data.container import MEMBER_LIMIT, Container
from convworks.data.layout import Found
from convworks.data.recognise import junk_reason, read_head
from convworks.data.sources import Ignored, shown
from convworks.errors import ConvworksError

MAX_DEPTH = 64  # folders
MAX_VISITS = 16  # times that one folder is read through links: links into each other would multiply

_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Folder(Container):
    """The files below a folder. Names are kept as bytes, so that any name and any locale work."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self._root = os.fsencode(self.root)
        self._names: dict[str, set[str]] = {}  # folder -> its files, for `has`

    def _local(self, path: str) -> bytes:
        return os.path.join(self._root, path.encode("utf-8", "surrogateescape"))

    def find(self) -> Found:
        """Walk the tree, following links. Raises ConvworksError D115 if the folder itself cannot be read."""
        found = Found()
        try:
            with os.scandir(self._root):
                pass
        except OSError as problem:
            name = os.fsdecode(self._root)
            raise ConvworksError(
                "D115",
                f"cannot read the folder '{shown(name)}': {_reason(problem)}",
                try_=f"ls -ld {shlex.quote(name)}",
            ) from problem
        self._scan("", (), found, Counter())
        for items in (found.files, found.folders):
            items.sort()
        found.ignored.sort(key=lambda item: item.path)
        return found

    def _scan(
        self,
        folder: str,
        above: tuple[tuple[int, int], ...],
        found: Found,
        visits: Counter[tuple[int, int]],
    ) -> None:
        """Add what lies in `folder` ('' or ending in '/'); `above` are the (dev, inode) on the way here."""
        try:
            status = os.stat(self._local(folder))
            identity = (status.st_dev, status.st_ino)
            visits[identity] += 1
            if reason := _endless(identity, above, visits):
                found.ignored.append(Ignored(folder, reason))
                return
            with os.scandir(self._local(folder)) as scan:
                items = list(scan)
        except OSError as problem:
            found.ignored.append(Ignored(folder, _reason(problem)))
            found.warnings.append(f"the folder '{shown(folder)}' cannot be read: {_reason(problem)}")
            return
        if folder:
            found.folders.append(folder[:-1])
        for item in items:
            path = folder + item.name.decode("utf-8", "surrogateescape")
            kind, reason = _kind(item)
            junk = junk_reason(path.rpartition("/")[2])
            if kind == "folder" and junk:
                found.ignored.append(Ignored(path + "/", junk + _count(item.path)))
            elif junk or kind == "other":
                found.ignored.append(Ignored(path, junk or reason))
            elif kind == "folder":
                self._scan(path + "/", (*above, identity), found, visits)
            else:
                found.files.append(path)

    def has(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        if parent not in self._names:
            try:
                with os.scandir(self._local(parent)) as scan:
                    # one listing for each folder: a question for each of a million rows would take minutes
                    files = {e.name.decode("utf-8", "surrogateescape") for e in scan if _kind(e)[0] == "file"}
            except (OSError, ValueError):  # ValueError: a NUL in the name
                return False
            self._names[parent] = files
        # not every file system tells upper from lower case, or one Unicode form from another
        return name in self._names[parent] or os.path.isfile(self._local(path))

    def head(self, path: str) -> bytes:
        return read_head(self._local(path))

    def read(self, path: str, *, limit: int = MEMBER_LIMIT) -> bytes:
        from convworks.data.decode import TRAIN_LIMITS, Limits, read_file

        limits = Limits(max_pixels=TRAIN_LIMITS.max_pixels, max_bytes=limit)
        return read_file(self._local(path), limits=limits)


def _endless(
    identity: tuple[int, int], above: tuple[tuple[int, int], ...], visits: Counter[tuple[int, int]]
) -> str | None:
    """Why a folder is not entered: it lies in itself, too deep, or was reached by too many ways."""
    if identity in above:
        return "a link to a folder above it"
    if len(above) >= MAX_DEPTH:
        return f"more than {MAX_DEPTH} folders deep"
    if visits[identity] > MAX_VISITS:
        return f"linked more than {MAX_VISITS} times"
    return None


def _kind(item: os.DirEntry[bytes]) -> tuple[str, str]:
    """'file', 'folder' or 'other' with the reason. Nothing is opened, so a named pipe cannot block."""
    try:
        if item.is_dir():
            return "folder", ""
        if item.is_file():
            return "file", ""
        mode = item.stat().st_mode
    except FileNotFoundError:
        return "other", "a broken link"
    except OSError as problem:
        return "other", _reason(problem)
    return "other", next((words for test, words in _SPECIAL if test(mode)), "not a regular file")


def _reason(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()


def _count(folder: bytes) -> str:
    """', 4 files' for the things directly in a folder that is left out; '' where it cannot be read."""
    try:
        count = len(os.listdir(folder))
    except OSError:
        return ""
    return f", {count} file{'s' * (count != 1)}"
