"""A compressed tar becomes one plain .tar below the cache: once, whole or not at all."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shlex
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from convworks import durable
from convworks.data.members import damaged, refused, unpacked_limit
from convworks.data.sources import short_name, shown
from convworks.errors import ConvworksError

_BLOCK = 2**20


def unpacked_tar(path: Path, *, cache: Path) -> Path:
    """The plain .tar of a .tar.gz, .tar.bz2 or .tar.xz.

    It is known again by the archive's place, size and time. Raises ConvworksError D108 (damaged), D109 (out
    of proportion) and R503 (the cache cannot be written); the cache then holds no part of it.
    """
    status = path.stat()
    facts = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    key = hashlib.sha256(os.fsencode(facts)).hexdigest()[:16]
    target = cache / "archives" / f"{short_name(path.name)}-{key}.tar"
    if target.is_file():
        return target
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}.tar")
    limit = unpacked_limit(status.st_size)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for block in _blocks(path):
                file.write(block)
                if file.tell() > limit:
                    raise refused(path, f"{status.st_size:,} bytes that unpack to more than {limit:,}")
            file.flush()
            os.fsync(file.fileno())
        durable.replace(temporary, target)
        durable.fsync_folder(target.parent)
    except OSError as problem:
        raise ConvworksError(
            "R503",
            f"cannot write to {shown(str(target.parent))}: {(problem.strerror or str(problem)).lower()}",
            why=f"'{shown(path.name)}' has to be unpacked once, which takes more room than the archive",
            try_=f"df -h {shlex.quote(str(cache))}",
        ) from problem
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
    return target


def _blocks(path: Path) -> Iterator[bytes]:
    """The unpacked bytes. Raises ConvworksError D108."""
    with path.open("rb") as file:
        head = file.read(6)
    opener: Callable[[Path], BinaryIO] = gzip.open  # type: ignore[assignment]  # its mode is "rb" by default
    if head.startswith(b"BZh"):
        opener = bz2.open  # type: ignore[assignment]
    elif head.startswith(b"\xfd7zXZ\0"):
        opener = lzma.open  # type: ignore[assignment]
    try:
        with opener(path) as stream:
            while block := stream.read(_BLOCK):
                yield block
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as problem:
        raise damaged(path, str(problem).lower()) from problem
