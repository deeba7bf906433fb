"""The cache of fitted images on disk, so that a second run decodes nothing.

An entry is a folder `cache/pixels/NAMES-CONTENT/` that never changes once it has its name: NAMES is a hash
of the relative paths, the geometry and the code that makes pixels; CONTENT is a hash of the sha256 of every
file. So an entry is found before any file is read, and is used image by image, only where the bytes agree.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convworks import durable
from convworks.data import decode as decoding
from convworks.data import preprocess
from convworks.data.preprocess import Geometry
from convworks.errors import ConvworksError

FORMAT = 1
CAP = 10 * 10**9  # bytes that the folder keeps; the least recently used entries go first
SPARE_DISK = 64 * 10**6  # bytes that stay free beside an entry
IMAGES, RECORDS, HEADER = "images.u8", "records.jsonl", "header.json"


class Record(NamedTuple):  # made in a third of a frozen dataclass's time, and there is one for every image
    """What reading one file found. `verdict` is "ok" or the reason why the image is left out."""

    sha256: str
    verdict: str
    pixels: str
    height: int
    width: int
    channels: int
    notes: tuple[str, ...]


class Draft:
    """A cache entry that is being built, under a name that nobody trusts, until `publish`."""

    def __init__(self, cache: PixelCache, shape: tuple[int, int, int]) -> None:
        self._cache, self._shape = cache, shape
        self.home = cache.folder
        self._folder = cache.folder / f".tmp-{uuid.uuid4().hex}"
        self._count = 0
        with cache.locked():
            self._folder.mkdir()
            self._file = (self._folder / IMAGES).open("wb")
            _try_lock(self._file.fileno())  # tells the cleaner that this draft is alive

    def append(self, block: NDArray[np.uint8]) -> None:
        self._file.write(np.ascontiguousarray(block).data)
        self._count += len(block)

    def map(self) -> NDArray[np.uint8]:
        """(N, H, W, C) of what was appended, over the file; writing to it does not reach the file."""
        self._file.flush()
        return _mapped(self._folder / IMAGES, (self._count, *self._shape))

    def publish(self, records: Sequence[Record]) -> None:
        """Give the entry its name, durably: a power cut leaves all of it or none."""
        self._file.flush()
        os.fsync(self._file.fileno())
        lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        durable.write_bytes(self._folder / RECORDS, lines.encode("ascii"))
        header = {
            "format": FORMAT,
            "shape": [self._count, *self._shape],
            "records": len(records),
            "records_sha256": hashlib.sha256(lines.encode("ascii")).hexdigest(),
        }
        durable.write_bytes(self._folder / HEADER, durable.to_json(header))
        durable.fsync_folder(self._folder)
        content = hashlib.sha256("\n".join(record.sha256 for record in records).encode()).hexdigest()
        target = self._cache.folder / f"{self._cache.names}-{content[:32]}"
        with self._cache.locked():
            if not target.exists():  # else another run built the same entry meanwhile
                durable.rename(self._folder, target)
                durable.fsync_folder(self._cache.folder)
            self._cache.clean(keep=target)
        self.close()

    def close(self) -> None:
        """Remove what was not published. A mapping that was taken stays valid."""
        self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Cached:
    """A valid cache entry. `images` holds the readable ones of `records`, in order."""

    records: list[Record]
    images: NDArray[np.uint8]  # (N, H, W, C), mapped


class PixelCache:
    """The cached entries of one list of file names under one geometry."""

    def __init__(self, root: Path, *, paths: Sequence[str], geometry: Geometry) -> None:
        self.folder = root / "pixels"
        identity = json.dumps([FORMAT, pixel_code(), asdict(geometry), list(paths)])
        self.names = hashlib.sha256(identity.encode("ascii")).hexdigest()[:32]
        self._shape = (geometry.stored_height, geometry.stored_width, geometry.channels)
        self._count = len(paths)

    def find(self) -> Cached | None:
        """The most recently used entry of these names, or None; a damaged one is removed."""
        try:
            folders = sorted(self.folder.glob(f"{self.names}-*"), key=_last_use, reverse=True)
        except OSError:
            return None
        for folder in folders:
            try:
                found = self._open(folder)
            except (OSError, ValueError, TypeError, LookupError, ConvworksError):
                with contextlib.suppress(OSError), self.locked():
                    shutil.rmtree(folder, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.utime(folder / HEADER)
                return found
        return None

    def _open(self, folder: Path) -> Cached:
        header = durable.read_json(folder / HEADER)
        content = (folder / RECORDS).read_bytes()
        if header["format"] != FORMAT or header["records_sha256"] != hashlib.sha256(content).hexdigest():
            raise ValueError("the header does not fit the records")
        rows = json.loads(b"[" + b",".join(content.splitlines()) + b"]")
        records = [Record(a, b, c, d, e, f, tuple(notes)) for a, b, c, d, e, f, notes in rows]
        readable = sum(record.verdict == "ok" for record in records)
        shape = (readable, *self._shape)
        if len(records) != self._count or header["shape"] != list(shape):
            raise ValueError("the header does not fit the names")
        if (folder / IMAGES).stat().st_size != int(np.prod(shape)):
            raise ValueError("the file of images has another size")
        return Cached(records=records, images=_mapped(folder / IMAGES, shape))

    def start(self, *, needed: int) -> Draft:
        """Begin an entry of up to `needed` bytes. Raises OSError: read-only, disk full, no such place."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.locked():
            self.clean()
        free = shutil.disk_usage(self.folder).free
        if free < needed + SPARE_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        return Draft(self, self._shape)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time creates, names and removes entries. Raises OSError."""
        with (self.folder / ".lock").open("ab") as file:
            if sys.platform != "win32":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def clean(self, *, keep: Path | None = None) -> None:
        """Under the lock: remove drafts of dead processes, and old entries over the cap."""
        for draft in self.folder.glob(".tmp-*"):
            if not _is_alive(draft / IMAGES):
                shutil.rmtree(draft, ignore_errors=True)
        entries = sorted(
            (p for p in self.folder.glob("*-*") if p.name[0] != "."), key=_last_use, reverse=True
        )
        total = 0
        for entry in entries:
            total += sum(file.stat().st_size for file in entry.iterdir())
            if total > CAP and entry != keep:
                shutil.rmtree(entry, ignore_errors=True)


def pixel_code() -> str:
    """Hash of what turns bytes into pixels: the text of decoder and resizer, and the libraries below them."""
    parts = [f"{name} {version(name)}" for name in ("convworks", "numpy", "pillow", "simplejpeg", "torch")]
    with contextlib.suppress(OSError):  # no source text is at hand: the versions must do
        parts += [inspect.getsource(module) for module in pixel_modules()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def pixel_modules() -> list[ModuleType]:
    """Decoder, resizer, and the modules of this package that they take something from; by name."""
    found: dict[str, ModuleType] = {}
    open_ends: list[ModuleType] = [decoding, preprocess]
    while open_ends:
        module = open_ends.pop()
        found[module.__name__] = module
        for value in vars(module).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if name not in found and str(name).startswith("convworks.data."):
                open_ends.append(sys.modules[str(name)])
    return [found[name] for name in sorted(found)]


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A private mapping: pages come from the file, changes stay in this process."""
    if shape[0] == 0:  # an empty file cannot be mapped
        return np.empty(shape, dtype=np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="c", shape=shape))


def _last_use(folder: Path) -> float:
    try:
        return (folder / HEADER).stat().st_mtime
    except OSError:
        return 0.0


def _try_lock(handle: int) -> bool:
    """Lock an open file for this process; False where another holds it."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(images: Path) -> bool:
    """Whether a process still writes this file of a draft."""
    try:
        with images.open("rb") as file:
            return not _try_lock(file.fileno())
    except FileNotFoundError:  # killed between the folder and the file: both are made under the lock
        return False
    except OSError:
        return True
