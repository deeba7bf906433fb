"""Where images come from: one interface over folders, archives, tables, array files and built-in sets.

A source says what it understood before anything is decoded: the entries with their class *names* and splits,
what it left out and why, and in words which layout it saw. The location itself is never written to.
"""

from __future__ import annotations

import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError, closest

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

BUILTIN = ("digits", "shapes")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TABLES = (".csv", ".tsv")
_SUFFIXES = (*COMPRESSED_TARS, ".tar", ".zip", ".npz", *TABLES)
_DIGITS = re.compile(r"([0-9]{1,1000})")  # int() refuses more than 4,300 digits


class Entry(NamedTuple):
    """One image: its posix path inside the location (bytes that are not UTF-8 as surrogate escapes)."""

    path: str
    label: str | None
    split: Split | None


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something in the location that is not used; a folder ends in a slash."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a location was understood to hold. `layout` is in words, `classes` in natural order."""

    layout: str
    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    ignored: tuple[Ignored, ...] = ()
    warnings: tuple[str, ...] = ()


class Source(ABC):
    """The labelled images of one location. Reading is safe from several threads at once.

    `encoded` sources give file bytes for `decode`; the others give pixels, and `array` holds them all as
    (N, H, W, C), aligned with `entries`.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        location: str,
        name: str,
        kind: str,
        array: NDArray[np.uint8] | None = None,
    ) -> None:
        self.location, self.name, self.kind = location, name, kind
        self.layout = listing.layout
        self.entries: Sequence[Entry] = listing.entries
        self.ignored: Sequence[Ignored] = listing.ignored
        self.warnings: Sequence[str] = listing.warnings
        self.classes = listing.classes
        self.array = array
        self.encoded = array is None

    @abstractmethod
    def read(self, index: int) -> bytes:
        """File bytes where `encoded`, else the raw pixel bytes. Raises ConvworksError D110-D139."""

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, C) of an image that is not encoded. Raises ValueError for sources of files."""
        if self.array is None:
            raise ValueError(f"{self.name} holds image files: use decode(source.read({index}))")
        picture: NDArray[np.uint8] = self.array[index]
        return picture

    def close(self) -> None:  # noqa: B027  # arrays have nothing to give back
        """Give file handles back; reading afterwards is an error."""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key of the natural order: "2" before "10", capitals beside small letters; equal only if equal."""
    parts = _DIGITS.split(text.casefold())
    parts[1::2] = map(int, parts[1::2])  # text and numbers alternate
    return tuple(parts), text


def shown(text: str) -> str:
    """A name as it may be printed anywhere: control characters and stray bytes as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape keeps it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def listed(names: Iterable[str], *, most: int = 5) -> str:
    """'a', 'b', 'c' and 4 more."""
    every = [f"'{shown(name)}'" for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def short_name(location: str) -> str:
    """A name for runs: 'cifar10-jpeg' for data/cifar10-jpeg.zip, 'photos' for photos/."""
    base = os.path.basename(os.path.abspath(location))
    suffix = next((s for s in _SUFFIXES if base.lower().endswith(s)), "")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", base[: len(base) - len(suffix)])
    return safe.strip("-._")[:40].rstrip("-._") or "data"


def open_source(
    location: str | Path,
    *,
    data_root: Path | None = None,
    labels: Path | None = None,
    keep_empty: bool = False,
    cache: Path,
    offline: bool = False,
) -> Source:
    """Open what a user typed: an existing path first, then the name of a data set.

    `labels` is a table of path,label[,split] whose paths are relative to `location`. `keep_empty` keeps class
    folders without images as classes. Compressed tar files are unpacked once below `cache`.
    Raises ConvworksError D100-D119 (location, layout, archive, array file), D160-D179 (download),
    D180-D199 (table) and R503 (the cache cannot be written).
    """
    text = os.fspath(location)
    path = Path(text).expanduser()
    if os.path.lexists(path):
        source = _open_path(path, text, labels=labels, keep_empty=keep_empty, cache=cache)
        if text in _known_names():
            note = f"the {'folder' if path.is_dir() else 'file'} '{text}' here is used, not the data set"
            source.warnings = (*source.warnings, note)
        return source
    name = text.lower()
    if name not in _known_names():
        raise _no_such_location(text, path)
    if labels is not None:
        raise ConvworksError(
            "D189",
            f"the data set '{name}' has its own labels",
            where=f"--labels {shown(str(labels))}",
            try_=f"convworks train {name}",
        )
    if name in BUILTIN:
        from convworks.data.builtin import open_builtin

        return open_builtin(name)
    from convworks.data.named import find_named, title

    found = find_named(name, data_root=data_root, cache=cache, offline=offline)
    source = _open_path(found, name, labels=None, keep_empty=keep_empty, cache=cache)
    source.layout = f"{title(found)}: {source.layout}"  # a copy that stands in for the original is named so
    return source


def _known_names() -> tuple[str, ...]:
    from convworks.data.named import names

    return tuple(dict.fromkeys((*BUILTIN, *names())))


def _open_path(path: Path, text: str, *, labels: Path | None, keep_empty: bool, cache: Path) -> Source:
    """A folder, an archive, a table or an array file; `text` is what the user typed."""
    from convworks.data import archive, arrays
    from convworks.data.container import Container, open_container
    from convworks.data.folder import Folder
    from convworks.data.labels import open_table
    from convworks.data.npz import open_npz

    lowered = path.name.lower()
    if path.is_dir():
        container: Container = Folder(path)
    elif not path.is_file():
        raise _not_openable(path, text)
    elif lowered.endswith(TABLES):
        if labels is not None:
            raise ConvworksError(
                "D189",
                f"two tables of labels were given: '{shown(text)}' and '{shown(str(labels))}'",
                why="with --labels, the location is the folder or archive that holds the images",
                try_=f"convworks train {shlex.quote(text)}",
            )
        return open_table(path, Folder(path.parent), location=text, name=_table_name(path))
    elif lowered.endswith(".npz"):
        return open_npz(path, location=text, name=short_name(text))
    elif arrays.is_idx_name(path.name):
        return arrays.open_idx_file(path, location=text, name=short_name(str(path.absolute().parent)))
    elif (kind := archive.archive_kind(path)) is not None:
        container = archive.open_archive(path, kind=kind, cache=cache)
    else:
        raise _not_openable(path, text)
    try:
        if labels is not None:
            return open_table(labels, container, location=text, name=short_name(text))
        return open_container(container, location=text, name=short_name(text), keep_empty=keep_empty)
    except BaseException:
        container.close()
        raise


def _table_name(path: Path) -> str:
    """'photos' for photos/labels.csv, 'flowers' for tables/flowers.csv."""
    generic = path.stem.lower() in ("labels", "label", "metadata", "index", "data")
    return short_name(str(path.absolute().parent if generic else path))


def _not_openable(path: Path, text: str) -> ConvworksError:
    """The error for a file that is no source: says what it is, as far as its name and first bytes tell."""
    from convworks.data.layout import is_image

    what, try_ = "a file that cannot be opened as a data set", ""
    suffix = path.suffix.lower()
    if path.is_symlink() and not path.exists():
        what = "a link to something that does not exist"
    elif not path.is_file():
        what = "neither a folder nor a regular file"
    elif is_image(path):
        what = "one image, not a data set"
        try_ = f"convworks train {shlex.quote(str(path.parent.parent))}"
    elif suffix in (".pkl", ".pickle", ".pt", ".pth"):
        what = "a pickle: opening one can run any code, so it is never read; save the arrays with numpy.savez"
    elif suffix in (".7z", ".rar"):
        what = "an archive of a kind that is not read: unpack it, or make a .zip or .tar of it"
    elif suffix == ".npy":
        what = "one array without labels: save images and labels together with numpy.savez"
    return ConvworksError(
        "D102",
        f"'{shown(text)}' is {what}",
        why="a data set is a folder of class folders, the same in a .zip or .tar, a .csv of path,label, "
        "IDX or CIFAR files, or a .npz",
        try_=try_ or "convworks train digits",
    )


def _no_such_location(text: str, path: Path) -> ConvworksError:
    """D101, with the nearest name among the neighbours on disk and the data sets."""
    if "://" in text:
        return ConvworksError(
            "D101",
            f"'{shown(text)}' is an address",
            why="only the named data sets are downloaded: " + ", ".join(_known_names()),
            try_="convworks train mnist",
        )
    parent = path.parent
    try:
        with os.scandir(parent) as scan:
            beside = {e.name: e.is_dir() for e in scan if e.is_dir() or e.name.lower().endswith(_SUFFIXES)}
    except OSError:
        beside = {}
    names = _known_names() if parent == Path() else ()
    # 'photo' means photos/ and also photo.zip: compare without the suffix as well
    stems = {short_name(name): name for name in beside} | {name: name for name in (*names, *beside)}
    near = stems.get(closest(path.name, stems) or "")
    if near is None:
        where = f"looked in {shown(str(parent.absolute()))}" if parent.is_dir() else ""
        where = where or f"the folder {shown(str(parent))} does not exist"
        try_ = "convworks train digits"
    elif near in beside:
        typed = str(parent / near) + ("/" if beside[near] else "")
        here = "the current folder" if parent == Path() else shown(str(parent)) + "/"
        where = f"did you mean '{shown(near)}{'/' if beside[near] else ''}' (in {here})?"
        try_ = f"convworks train {shlex.quote(typed)}"
    else:
        where, try_ = f"did you mean the data set '{near}'?", f"convworks train {near}"
    return ConvworksError(
        "D101",
        f"there is no folder or data set '{shown(text)}'",
        where=where,
        why="data sets that go by name: " + ", ".join(_known_names()),
        try_=try_,
    )
