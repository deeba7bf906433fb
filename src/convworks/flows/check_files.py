"""Where a check may write: never into the data, never over a file of another kind; known before the work."""

from __future__ import annotations

import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from convworks.data.quarantine import QUARANTINE_HEADER, SPLIT_HEADER
from convworks.data.sources import Source, shown
from convworks.durable import write_atomic
from convworks.errors import ConvworksError
from convworks.flows.prepare import DataRequest

MARK = b'<meta name="generator" content="convworks check">'
HEAD = 4096  # bytes of a file that is there, from which its kind is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Files to write. Without `page`, NAME-check.html in `folder`, if it can be; without both, no page."""

    page: Path | None = None
    folder: Path | None = None
    quarantine: Path | None = None
    splits: Path | None = None
    notes: tuple[str, ...] = ()


def require_targets(targets: Targets, source: Source, request: DataRequest) -> Targets:
    """The same with the page's name settled. Nothing is written yet.

    Raises D220 (inside the data), D221 (a split file for images without files), U006 (another file is there)
    and R503 (the folder refuses). A page that nobody asked for by name is left out instead, with a note.
    """
    asked = {"--out": targets.page, "--quarantine": targets.quarantine, "--splits": targets.splits}
    given = [path.absolute() for path in asked.values() if path is not None]
    if len(set(given)) < len(given):
        raise ConvworksError(
            "U006",
            "two of the files to be written have one name",
            where=", ".join(f"{flag} {path}" for flag, path in asked.items() if path is not None),
            try_="give each a name of its own",
        )
    for flag, path in asked.items():
        if path is not None:
            _require(path, flag, source, request)
    if targets.splits is not None and not source.encoded:
        raise ConvworksError(
            "D221",
            f"the images of {shown(source.location)} have no files of their own, so no table can name them",
            where=f"{source.layout}, --splits {targets.splits}",
            why="a split file has one row for each image file",
            try_=f"convworks check {shlex.quote(source.location)}",
        )
    if targets.page is not None or targets.folder is None:
        return targets
    page = targets.folder / f"{source.name}-check.html"
    try:
        _require(page, "--out", source, request)
    except ConvworksError as problem:
        return replace(targets, notes=(f"no page with pictures: {problem.what}; --out FILE elsewhere",))
    return replace(targets, page=page)


def _require(path: Path, flag: str, source: Source, request: DataRequest) -> None:
    name = path.name or "check"
    home = _home(source, request)
    if home is not None and path.resolve().is_relative_to(home):
        raise ConvworksError(
            "D220",
            f"{shown(str(path))} lies inside the data, which is never written to",
            where=f"{flag} {shown(str(path))}",
            why="the next look at the data would find it there",
            try_=f"{flag} {shlex.quote(str(home.parent / name))}",
        )
    if path.is_dir():
        example = {"--out": "check.html", "--quarantine": "list.csv", "--splits": "splits.csv"}[flag]
        raise ConvworksError("U006", f"{shown(str(path))} is a folder", try_=f"{flag} {path / example}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        head = path.read_bytes()[:HEAD] if path.is_file() else b""
    except OSError as problem:
        raise _refused(path, problem, "nothing was computed", f"{flag} {shlex.quote(name)}") from problem
    if path.exists() and head and not _is_ours(head, flag):
        kind = {"--out": "a page", "--quarantine": "a list", "--splits": "a split file"}[flag]
        raise ConvworksError(
            "U006",
            f"{shown(str(path))} exists and is not {kind} that convworks check wrote",
            why="it would be lost",
            try_=f"{flag} {shlex.quote(str(path.with_name('new-' + name)))}",
        )


def _home(source: Source, request: DataRequest) -> Path | None:
    """The folder that holds the images; None for an archive or a data set that goes by name."""
    location = Path(request.location).expanduser()
    if location.is_dir():
        return location.resolve()
    if source.kind == "csv" and request.labels is None and location.is_file():
        return location.resolve().parent  # the paths of a table are relative to its folder
    return None


def _is_ours(head: bytes, flag: str) -> bool:
    if flag == "--out":
        return MARK in head
    header = QUARANTINE_HEADER if flag == "--quarantine" else SPLIT_HEADER
    return head.split(b"\n")[0].strip() == ",".join(header).encode()


def write_target(path: Path, content: bytes) -> None:
    """Write the whole file in one step. Raises R503 where the disk refuses."""
    try:
        write_atomic(path, content)
    except OSError as problem:
        raise _refused(path, problem, "", "") from problem


def _refused(path: Path, problem: OSError, why: str, try_: str) -> ConvworksError:
    what = f"cannot write {shown(str(path))}: {problem.strerror or problem}"
    return ConvworksError("R503", what, why=why, try_=try_)
