"""Writing files so that they are whole or absent after a crash, and reading small JSON files with a cap.

Everything that must survive a power cut goes through these functions: the order is always
write -> fsync(file) -> fsync(folder) -> rename -> fsync(parent).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convworks.errors import ConvworksError

MANIFEST = "MANIFEST.json"
TEMPORARY = ".tmp-"
JSON_CAP = 64 * 2**20  # bytes; a manifest of a million images is the largest that we write


def fsync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable. Not every platform can; there it does nothing."""
    if os.name == "posix":
        fsync_file(path)


def rename(source: Path, target: Path) -> None:
    os.rename(source, target)


def replace(source: Path, target: Path) -> None:
    os.replace(source, target)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a new file inside a folder that nobody reads yet, and fsync it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` in one step: readers see the old bytes or the new ones, never a part."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        write_bytes(temporary, content)
        replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def to_json(value: Any, *, indent: int | None = 2) -> bytes:
    """JSON as this project writes it: UTF-8, sorted keys, no NaN."""
    text = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text.encode() + b"\n"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def read_json(path: Path, *, cap: int = JSON_CAP) -> Any:
    """Read a JSON file with a size cap; duplicate keys, NaN and deep nesting are refused.

    Raises ConvworksError A401 (unreadable) with the path and the reason.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")  # a named pipe would wait for ever
        if status.st_size > cap:
            raise ValueError(f"it has {status.st_size:,} bytes, more than the limit of {cap:,}")
        return json.loads(
            path.read_bytes(),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (OSError, ValueError, RecursionError) as problem:
        raise ConvworksError("A401", f"cannot read {path.name}: {problem}", where=str(path)) from problem


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_folder(target: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Make a folder that is whole or absent: its files, and MANIFEST.json with the sha256 of each.

    `files` may be a generator, so that one file at a time is in memory. A folder of that name is replaced.
    """
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        hashes = {}
        for name, content in files:
            write_bytes(temporary / name, content)
            hashes[name] = hashlib.sha256(content).hexdigest()
        manifest = to_json(hashes)
        write_bytes(temporary / MANIFEST, manifest)
        fsync_folder(temporary)
        if target.exists():
            _make_room(target)
        rename(temporary, target)
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _make_room(target: Path) -> None:
    aside = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    rename(target, aside)
    shutil.rmtree(aside, ignore_errors=True)


def folder_damage(path: Path) -> str:
    """What is wrong with a folder that `write_folder` made, in words; '' where nothing is."""
    try:
        hashes = read_json(path / MANIFEST)
    except ConvworksError as problem:
        return problem.what
    if not isinstance(hashes, dict) or not all(isinstance(v, str) for v in hashes.values()):
        return f"{MANIFEST} is not a table of file names and hashes"
    for name, expected in hashes.items():
        file = path / Path(name).name
        if not file.is_file():
            return f"{name} is missing"
        found = sha256_file(file)
        if found != expected:
            return f"{name} was changed: expected sha256 {expected[:12]}, found {found[:12]}"
    return ""


def remove_leftovers(folder: Path) -> None:
    """Remove what a writer that was killed left half made."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
