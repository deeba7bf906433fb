"""Zip and tar files, read where they lie: nothing is ever extracted, so no member name can reach the disk.

Members are read by position through one handle, which several threads share. A compressed tar has no
positions of its own; it is unpacked once into one plain .tar below the cache. Names that would escape a
folder, links, devices and encrypted members are listed as left out; an archive that is damaged or out of
proportion is refused.
"""

from __future__ import annotations

import bz2
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convworks.data.container import MEMBER_LIMIT, Container, MemberError
from convworks.data.layout import Found
from convworks.data.members import (
    MAX_MEMBERS,
    MAX_RATIO,
    RATIO_FROM,
    Members,
    PositionedFile,
    damaged,
    refused,
    unpacked_limit,
)
from convworks.data.recognise import HEAD_BYTES
from convworks.data.sources import COMPRESSED_TARS, shown
from convworks.data.unpack import unpacked_tar
from convworks.errors import ConvworksError

_MAGIC = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b", "compressed tar"),
    (b"BZh", "compressed tar"),
    (b"\xfd7zXZ\0", "compressed tar"),
)
# The fixed part of a member's own header (APPNOTE 4.3.7): signature, lengths of the name and the extra field.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_UTF8_NAME, _ENCRYPTED = 0x800, 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


def archive_kind(path: Path) -> str | None:
    """'zip', 'tar' or 'compressed tar' by the file's name, else by its first bytes; None if it is neither."""
    lowered = path.name.lower()
    if lowered.endswith((".zip", ".tar")):
        return lowered[-3:]
    if lowered.endswith(COMPRESSED_TARS):
        return "compressed tar"
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except PermissionError as problem:
        raise _no_permission(path) from problem
    if head[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


def open_archive(path: Path, *, kind: str, cache: Path) -> Container:
    """Raises ConvworksError D108 (damaged), D109 (out of proportion), D115 (no permission), R503 (cache)."""
    try:
        if kind == "zip":
            return Zip(path)
        return Tar(path) if kind == "tar" else Tar(unpacked_tar(path, cache=cache))
    except PermissionError as problem:
        raise _no_permission(path) from problem


def _no_permission(path: Path) -> ConvworksError:
    return ConvworksError(
        "D115",
        f"cannot read '{shown(path.name)}': permission denied",
        where=shown(str(path)),
        try_="convworks train digits",
    )


@dataclass(frozen=True, slots=True)
class _Zipped:
    offset: int  # of the member's own header
    packed: int
    size: int
    method: int
    crc: int
    name: bytes  # as it must stand in that header


class Zip(Container):
    """A zip file. The directory is read by zipfile, the members by position."""

    kind = "zip"

    def __init__(self, path: Path) -> None:
        self._path = path
        members: Members[_Zipped] = Members(path)
        infos = _directory(path)
        size, total = path.stat().st_size, sum(info.file_size for info in infos)
        if total > unpacked_limit(size):
            raise refused(path, f"{size:,} bytes that would unpack to {total:,}")
        for info in infos:
            name, raw = _zip_name(info)
            if name.endswith("/"):
                members.add_folder(name)
                continue
            member = _Zipped(
                info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC, raw
            )
            members.add(name, member, reason=_why_not_zip(info))
        self._members = members.files
        self._found = members.found()
        self._file = PositionedFile(path)

    def find(self) -> Found:
        return self._found

    def has(self, path: str) -> bool:
        return path in self._members

    def head(self, path: str) -> bytes:
        member = self._members[path]
        packed = self._packed(path, member, most=2**20)  # a block of bzip2 has up to 900 kB
        return self._unpack(path, member, packed, most=HEAD_BYTES)[:HEAD_BYTES]

    def read(self, path: str, *, limit: int = MEMBER_LIMIT) -> bytes:
        member = self._members[path]
        if member.size > limit:
            raise self._unreadable(path, f"{member.size:,} bytes, more than the limit of {limit:,}")
        packed = self._packed(path, member, most=member.packed)
        content = self._unpack(path, member, packed, most=member.size + 1)
        if len(content) != member.size:
            raise self._unreadable(path, "cut off" if len(content) < member.size else "longer than it says")
        if zlib.crc32(content) != member.crc:
            raise self._unreadable(path, "damaged (its checksum is another one)")
        return content

    def _packed(self, path: str, member: _Zipped, *, most: int) -> bytes:
        """The packed bytes, after the check that the member's own header tells of the same file."""
        header = self._file.read_at(member.offset, _LOCAL_HEADER.size + len(member.name))
        if len(header) < _LOCAL_HEADER.size + len(member.name):
            raise self._unreadable(path, "cut off")
        signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
        if signature != b"PK\x03\x04" or header[_LOCAL_HEADER.size :] != member.name:
            raise self._unreadable(path, "damaged (not where the archive's directory says)")
        start = member.offset + _LOCAL_HEADER.size + name_length + extra_length
        return self._file.read_at(start, min(member.packed, most))

    def _unpack(self, path: str, member: _Zipped, packed: bytes, *, most: int) -> bytes:
        try:
            if member.method == zipfile.ZIP_DEFLATED:
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
            if member.method == zipfile.ZIP_BZIP2:
                return bz2.BZ2Decompressor().decompress(packed, most)
        except (zlib.error, OSError) as problem:
            raise self._unreadable(path, "damaged") from problem
        return packed[:most]

    def _unreadable(self, path: str, reason: str) -> MemberError:
        return MemberError(path, reason, where=f"in {shown(str(self._path))}")

    def close(self) -> None:
        self._file.close()


def _directory(path: Path) -> list[zipfile.ZipInfo]:
    """The records of the zip's directory. Raises ConvworksError D108, D109 (more members than allowed)."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, EOFError) as problem:
        reason = "it is cut off, or no zip file" if "not a zip" in str(problem) else problem
        raise damaged(path, reason) from problem
    if len(infos) > MAX_MEMBERS:
        raise refused(path, f"it has more than {MAX_MEMBERS:,} members")
    return infos


def _zip_name(info: zipfile.ZipInfo) -> tuple[str, bytes]:
    """The name as text and as the bytes in the file.

    Without the UTF-8 flag the format says code page 437, but most programs wrote UTF-8; some for Windows
    wrote backslashes.
    """
    raw = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = info.orig_filename
    return name.replace("\\", "/") if info.create_system == 0 else name, raw


def _why_not_zip(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
    if kind == stat.S_IFLNK:
        return "a link"
    if kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if info.compress_type not in _METHODS:
        return f"packed by a method that is not read (number {info.compress_type})"
    if info.file_size > max(RATIO_FROM, MAX_RATIO * info.compress_size):
        return f"packed more than {MAX_RATIO} : 1"
    return None


class Tar(Container):
    """A plain tar file, its members read by position."""

    kind = "tar"

    def __init__(self, path: Path) -> None:
        self._path = path
        members: Members[tuple[int, int]] = Members(path)
        for info in _headers(path):
            if info.isdir():
                members.add_folder(info.name)
            else:
                members.add(info.name, (info.offset_data, info.size), reason=_why_not_tar(info))
        self._members = members.files
        self._found = members.found()
        self._file = PositionedFile(path)

    def find(self) -> Found:
        return self._found

    def has(self, path: str) -> bool:
        return path in self._members

    def head(self, path: str) -> bytes:
        offset, size = self._members[path]
        return self._file.read_at(offset, min(size, HEAD_BYTES))

    def read(self, path: str, *, limit: int = MEMBER_LIMIT) -> bytes:
        offset, size = self._members[path]
        where = f"in {shown(str(self._path))}"
        if size > limit:
            raise MemberError(path, f"{size:,} bytes, more than the limit of {limit:,}", where=where)
        content = self._file.read_at(offset, size)
        if len(content) < size:
            raise MemberError(path, "cut off", where=where)
        return content

    def close(self) -> None:
        self._file.close()


class _Header(tarfile.TarInfo):
    """A tar header that may not point backwards: tarfile before 3.11.14 reads such an archive for ever."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0:
            raise tarfile.ReadError("a header has a negative size")
        return header


def _headers(path: Path) -> Iterator[tarfile.TarInfo]:
    """Every member's header. Raises ConvworksError D108 where the archive is damaged or ends too early."""
    broken = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError, LookupError)
    try:
        with (
            path.open("rb") as file,
            tarfile.TarFile(
                fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
            ) as archive,
        ):
            last = -1
            while (info := archive.next()) is not None:
                if info.size < 0 or info.offset <= last:
                    raise tarfile.ReadError("a header points backwards")
                last = info.offset
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                yield info
            # tarfile ends silently at a header it cannot read, so look for the mark that ends a whole archive
            file.seek(archive.offset)
            if file.read(512) != bytes(512):
                raise tarfile.ReadError(f"it breaks off at byte {archive.offset:,}")
    except broken as problem:
        raise damaged(path, problem) from problem


def _why_not_tar(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "a link"
    if not info.isreg() or info.issparse():
        return "not a regular file"
    return None
