"""A file that is published somewhere, and whether a file here is that one; no network."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as its distributor publishes it: where it lies, how long it is, and what it hashes to."""

    name: str
    urls: tuple[str, ...]  # in the order in which they are tried
    size: int  # bytes
    sha256: str = ""  # or its first digits, where no more of it is published
    md5: str = ""  # where no sha256 is known

    def __post_init__(self) -> None:
        assert self.sha256 or self.md5, "a download has a pinned hash"


def megabytes(count: int) -> str:
    """A number of bytes as people read it: 9.9 MB (10^6 bytes), 512 bytes."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def mismatch(path: Path, remote: Remote) -> str:
    """Why the file is not the published one, with expected and found; empty where it is."""
    found_size = path.stat().st_size
    if found_size != remote.size:
        return f"it has {found_size:,} bytes, not {remote.size:,}"
    name, expected = ("sha256", remote.sha256) if remote.sha256 else ("md5", remote.md5)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, name).hexdigest()
    return "" if found.startswith(expected) else f"its {name} is {found}, expected {expected}"


def manual_command(remote: Remote, target: Path) -> str:
    """The command that puts the file in place by hand."""
    return f"curl --fail --location --create-dirs --output {shlex.quote(str(target))} {remote.urls[0]}"
